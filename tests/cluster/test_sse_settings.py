"""Test the defaults and other values of SSE's settings in the form in which Azure Arc passes them."""

from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from controller.config.settings import Settings
from tests.support.cluster.harness import InstalledRelease, install_release, running_controller
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.sse_cases import covers_rows
from tests.support.messages import NOT_IN_KEY_VAULT
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane

TUNED = "tuned"


@pytest.fixture(scope="module")
def tuned(installed: InstalledRelease, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """Provide a namespace of a second release that sets SSE's settings to other values than their defaults."""
    space, name = Namespace(installed), "tuned-home"
    values = {
        "watchNamespaces": space.name,
        "controllerName": TUNED,
        "rotationPollIntervalInSeconds": "1",
        "enablePartialSecretSync": "false",
        "jitterSeconds": "1",
        "validatingAdmissionPolicies": {"applyPolicies": "true", "allowedSecretTypes": "Opaque, example.com/own"},
    }
    second = install_release(installed.plane, installed.emulator, tmp_path_factory.mktemp("tuned"), name, **values)
    with running_controller(second.workload()):
        yield space
    space.remove()


@covers_rows("setting: rotationPollIntervalInSeconds", "setting: jitterSeconds", "setting: enablePartialSecretSync")
@covers_rows("setting: the names of release and namespace")
def test_settings_have_the_defaults_of_sse(installed: InstalledRelease) -> None:
    found = Settings.from_environment(installed.workload().env)
    assert (found.rotation_poll_interval, found.jitter, found.enable_partial_secret_sync) == (3600, 0, True)
    assert installed.release == "azure-secret-store"


def test_new_value_arrives_within_interval_and_jitter(tuned: Namespace) -> None:
    tuned.set_secret("a", "1")
    tuned.apply(tuned.provider_class("a"), tuned.sync("s", {"k": "a"}, secretSyncControllerName=TUNED))
    tuned.wait_secret("s", {"k": "1"})
    tuned.set_secret("a", "2")
    tuned.wait_secret("s", {"k": "2"})


def test_disabled_partial_sync_writes_nothing_while_one_key_fails(tuned: Namespace) -> None:
    tuned.set_secret("there", "1")
    tuned.apply(tuned.provider_class("there", "none", name="halves"))
    given = {"secretProviderClassName": "halves", "secretSyncControllerName": TUNED}
    tuned.apply(tuned.sync("both", {"a": "there", "b": "none"}, **given))
    assert f"secret none {NOT_IN_KEY_VAULT}" in tuned.wait_reason("both", Reason.PROVIDER_ERROR)
    assert tuned.secret_values("both") == {}


def test_only_allowed_secret_types_are_synced(tuned: Namespace) -> None:
    tuned.set_secret("b", "1")
    tuned.apply(tuned.provider_class("b", name="types"))
    for name, kind, key in (("own", "example.com/own", "k"), ("ssh", "kubernetes.io/ssh-auth", "ssh-privatekey")):
        given = {"secretProviderClassName": "types", "secretSyncControllerName": TUNED}
        tuned.apply(tuned.sync(name, {key: "b"}, secretObject={"type": kind}, **given))
    tuned.wait_secret("own", {"k": "1"})
    assert tuned.get("secret", "own")["type"] == "example.com/own"
    message = tuned.wait_reason("ssh", Reason.INPUT_INVALID)
    assert "secretObject.type is 'kubernetes.io/ssh-auth': accepted are Opaque, example.com/own; " in message


@covers_rows("setting: kubectl.image")
@pytest.mark.parametrize(
    "given", ["kubectl.image.tag=1,kubectl.image.repository=x", "secrets-store-csi-driver.syncSecret.enabled=true"]
)
@pytest.mark.parametrize("flag", ["--set", "--set-string"])
def test_settings_that_this_chart_does_not_need_change_no_manifest(given: str, flag: str) -> None:
    plain = helm.run(["template", "mine", str(helm.CHART)])
    assert helm.run(["template", "mine", str(helm.CHART), flag, given]) == plain


def test_azure_iot_operations_command_installs_and_lists_ignored_values(
    plane: ControlPlane, emulator: Emulator
) -> None:
    """Pass the values of `az iot ops init`. Without policies, the chart requires one more value and names it."""
    given = "rotationPollIntervalInSeconds=120,validatingAdmissionPolicies.applyPolicies=false"
    given += ",kubectl.image.tag=1,secrets-store-csi-driver.syncSecret.enabled=true"
    command = ["install", "iot", str(helm.CHART), "--namespace", "iot", "--create-namespace", "--no-hooks"]
    command += ["--kubeconfig", str(plane.kubeconfig), "--set-string", given]
    with pytest.raises(helm.BadValues, match=r"Set watchNamespaces .* or acceptUnrestrictedTokens=true"):
        helm.run(command)
    notes = helm.run([*command, "--set-string", "acceptUnrestrictedTokens=true"])
    for name in ("kubectl", "secrets-store-csi-driver"):
        assert f"{name} is a setting of Microsoft's extension that this chart ignores." in notes
    helm.run(["uninstall", "iot", "--namespace", "iot", "--no-hooks", "--kubeconfig", str(plane.kubeconfig)])
