"""Test tools/doctor on a real API server and the emulator: it passes a healthy SecretSync and reports each fault."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.certificates import make_slow_pfx
from tests.support.cluster.harness import CANARY, SINCE_POLICIES, TENANT, InstalledRelease
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.cli.doctor import doctor
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import ROOT

ONE_KEY = {"k": "a"}
UNKNOWN_ID = "00000000-0000-0000-0000-0000000000d0"
OTHER_TENANT = "00000000-0000-0000-0000-0000000000d1"
Found = list[dict[str, str]]


@pytest.fixture(scope="module", autouse=True)
def available(installed: InstalledRelease) -> None:
    installed.make_available()


@pytest.fixture
def examine(installed: InstalledRelease, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Found]]:
    """Provide a function that runs the doctor with the emulator's hosts and the namespace of the release under test.

    If `roots` is set, the doctor is a separate process that trusts these certificates, as a machine trusts public ones.
    """

    def run(*arguments: str, kubeconfig: Path | None = None, roots: Path | None = None) -> tuple[int, Found]:
        hosts = (urlsplit(installed.emulator.authority).netloc, "*.invalid")
        known = [word for host in hosts for word in ("--allow-host", host)]
        known += [
            "--release-namespace",
            installed.release,
            "--kubeconfig",
            str(kubeconfig or installed.plane.kubeconfig),
        ]
        words = [*arguments, *known, "-o", "json"]
        if roots:
            code, out, err = run_process(words, {**os.environ, "SSL_CERT_FILE": str(roots)})
        else:
            code = doctor.main(words)
            out, err = capsys.readouterr()
        assert CANARY not in out + err
        return code, json.loads(out)["checks"] if code != 2 else [{"text": err}]

    return run


Examine = Callable[..., tuple[int, Found]]


def run_process(words: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Run the doctor as a user does. Return its exit code, output and error output."""
    command = [str(ROOT / "tools" / "doctor"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def create_sync(space: Namespace, **parameters: str) -> None:
    """Create a class, and a SecretSync `s` of the secret `a`."""
    space.set_secret("a", "1")
    space.apply(space.provider_class("a", **parameters), space.sync("s", ONE_KEY))


def read_failure(found: Found, name: str) -> str:
    """Return the text and the fix of the failed check with this name."""
    texts = [f"{check['text']}; {check['fix']}" for check in found if (check["name"], check["level"]) == (name, "fail")]
    assert texts, found
    return texts[0]


def test_healthy_secretsync_passes_all_checks(space: Namespace, examine: Examine, plane: ControlPlane) -> None:
    create_sync(space)
    space.wait_secret("s", {"k": "1"})
    space.kubectl("wait", "secretsync/s", "--for=condition=Ready", "--timeout=20s")
    code, found = examine("secretsync/s", "--namespace", space.name, roots=plane.ca_file)
    assert [check for check in found if check["level"] != "ok"] == []
    assert code == 0
    names = {check["name"] for check in found}
    assert "leads since" in next(check["text"] for check in found if check["name"] == "leader")
    assert names >= {"controller", "leader", "settings", "policies", "issuer", "clock", "credentials"}
    assert names >= {"class", "account", "token", "entra", "dns", "vault", "object secret/a", "secret", "status"}
    texts = {check["name"]: check["text"] for check in found}
    assert f"subject system:serviceaccount:{space.name}:{space.account}" in texts["token"]
    assert plane.issuer in texts["issuer"]
    assert "a private address" in texts["dns"]
    assert "1 of 1 keys equal" in texts["secret"]


def test_akvsync_is_examined_with_its_generated_objects(space: Namespace, examine: Examine) -> None:
    space.set_secret("a", "1")
    objects = [{"secretInAKV": "a"}, {"secretInAKV": "b"}]
    identity = {"clientID": space.client, "tenantID": TENANT, "serviceAccountName": space.account}
    kind = {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "AKVSync", "metadata": {"name": "both"}}
    space.apply({**kind, "spec": {"keyvaultName": space.vault, **identity, "objects": objects}})
    space.wait_secret("a", {"v0": "1"})
    code, found = examine("akvsync/both", "--namespace", space.name)
    assert code == 1
    assert "secret b is not in" in read_failure(found, "object secret/b")
    read_failure(found, "akvsync")
    assert {check["subject"] for check in found} == {
        "cluster",
        *(f"{space.name}/{name}" for name in ("both", "a", "b")),
    }


def test_missing_service_account_is_reported_with_its_command(space: Namespace, examine: Examine) -> None:
    create_sync(space)
    space.kubectl("delete", "serviceaccount", space.account)
    code, found = examine("secretsync/s", "--namespace", space.name)
    assert code == 1
    assert f"kubectl create serviceaccount {space.account} --namespace {space.name}" in read_failure(found, "account")


@pytest.mark.parametrize(
    ("issuer", "subject", "number"),
    [("https://another.example", None, "700211"), (None, "system:serviceaccount:other:shop", "700213")],
)
def test_wrong_federated_credential_is_reported_with_its_command(
    space: Namespace, examine: Examine, issuer: str | None, subject: str | None, number: str
) -> None:
    emulator, real = space.installed.emulator, space.installed.plane.issuer
    right = f"system:serviceaccount:{space.name}:{space.account}"
    emulator.unfederate(space.client, real, right)
    emulator.federate(space.client, issuer or real, subject or right)
    create_sync(space)
    text = read_failure(examine("secretsync/s", "--namespace", space.name)[1], "entra")
    assert number in text
    line = f"--issuer {real} --subject {right} --audiences api://AzureADTokenExchange"
    assert "az identity federated-credential create" in text
    assert line in text
    assert space.client in text


@pytest.mark.parametrize(
    ("parameters", "known", "number"),
    [
        ({"clientID": UNKNOWN_ID}, False, "700016"),
        ({"tenantID": UNKNOWN_ID}, False, "90002"),
        ({"tenantID": OTHER_TENANT}, True, "700016"),
    ],
)
def test_wrong_client_or_tenant_is_reported(
    space: Namespace, examine: Examine, parameters: dict[str, str], known: bool, number: str
) -> None:
    if known:
        space.installed.emulator.add_tenant(OTHER_TENANT)
    create_sync(space, **parameters)
    found = examine("secretsync/s", "--namespace", space.name)[1]
    assert number in read_failure(found, "entra")
    if "tenantID" in parameters:
        text = read_failure(found, "tenant")
        assert f"is in tenant {TENANT}" in text
        assert "correct tenantID" in text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("revoke_role", ["may not read secret a", "az role assignment create", "az keyvault show --name {vault}"]),
        ("firewall", ["firewall refuses", "networking"]),
        ("public_access", ["public access off", "private endpoint", "DNS zone"]),
        ("perimeter", ["network security perimeter", "inbound access rule"]),
        ("api_versions", ["does not know version 7.4", "clouds.emulator.apiVersion to '7.1'"]),
        ("throttle", ["throttled", "jitterSeconds"]),
        ("disable_secret", ["secret a is disabled", "enable it"]),
        ("delete_secret", ["secret a is not in", "recover it"]),
    ],
)
def test_refusal_of_the_vault_is_reported_with_its_cause(
    space: Namespace, examine: Examine, fault: str, words: list[str]
) -> None:
    create_sync(space)
    arguments: dict[str, tuple[Any, ...]] = {
        "revoke_role": (space.client, space.vault),
        "firewall": (space.vault, True),
        "public_access": (space.vault, False),
        "perimeter": (space.vault, True),
        "api_versions": (space.vault, ["2016-10-01", "7.1"]),
        "throttle": (space.vault, 0, 1),
    }
    getattr(space.installed.emulator, fault)(*arguments.get(fault, (space.vault, "a")))
    code, found = examine("secretsync/s", "--namespace", space.name)
    assert code == 1
    for word in words:
        assert word.format(vault=space.vault) in read_failure(found, "object secret/a")


def test_missing_object_is_reported(space: Namespace, examine: Examine) -> None:
    space.apply(space.provider_class("a"), space.sync("s", ONE_KEY))
    found = examine("secretsync/s", "--namespace", space.name)[1]
    assert "secret a is not in" in read_failure(found, "object secret/a")
    assert "there is no Secret s" in read_failure(found, "secret")


def test_vault_name_that_does_not_resolve_is_reported(space: Namespace, examine: Examine) -> None:
    create_sync(space, cloudName="nowhere")
    text = read_failure(examine("secretsync/s", "--namespace", space.name)[1], "vault")
    assert f"the name {space.vault}.invalid does not resolve" in text


def test_certificate_of_an_inspecting_proxy_is_reported(space: Namespace, examine: Examine) -> None:
    create_sync(space)
    space.installed.emulator.certificate_flaw("unknown-ca")
    found = examine("secretsync/s", "--namespace", space.name)[1]
    for name in ("entra", "vault"):
        assert "certificate is not trusted" in read_failure(found, name)
        assert "add its CA to the chart's `caBundle`" in read_failure(found, name)


def test_refusal_of_the_proxy_is_reported(
    space: Namespace,
    examine: Examine,
    refusing_proxy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_sync(space)
    monkeypatch.setenv("HTTPS_PROXY", refusing_proxy)
    found = examine("secretsync/s", "--namespace", space.name)[1]
    assert "the proxy refuses the connection" in read_failure(found, "vault")
    assert any("is resolved by the proxy 127.0.0.1" in check["text"] for check in found)


def test_unreachable_vault_is_reported(space: Namespace, examine: Examine) -> None:
    create_sync(space)
    space.installed.emulator.cut_off()
    text = read_failure(examine("secretsync/s", "--namespace", space.name)[1], "vault")
    assert "check route, firewall and proxy to 127.0.0.1" in text


@pytest.fixture
def wrong_clock(installed: InstalledRelease) -> Iterator[None]:
    """Set the clock of the vault and Entra an hour ahead."""
    installed.emulator.set_clock(3600)
    yield
    installed.emulator.set_clock(0)


def test_wrong_clock_is_reported(space: Namespace, examine: Examine, wrong_clock: None) -> None:
    create_sync(space)
    found = examine("secretsync/s", "--namespace", space.name)[1]
    assert "60 minutes off" in read_failure(found, "clock")
    assert "700024" in read_failure(found, "entra")


def test_missing_class_and_missing_object_of_the_class_are_reported(space: Namespace, examine: Examine) -> None:
    space.apply(space.sync("s", ONE_KEY))
    assert "create it or correct" in read_failure(examine("secretsync/s", "--namespace", space.name)[1], "class")
    space.apply(space.provider_class("b"))
    assert "it has: b" in read_failure(examine("secretsync/s", "--namespace", space.name)[1], "mapping")


def test_secret_of_another_owner_is_reported(space: Namespace, examine: Examine) -> None:
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"x": "eA=="}}
    space.apply(theirs)
    create_sync(space)
    assert "does not belong to this SecretSync" in read_failure(
        examine("secretsync/s", "--namespace", space.name)[1], "secret"
    )


def test_outdated_secret_is_reported_with_its_keys(space: Namespace, examine: Examine) -> None:
    create_sync(space)
    space.wait_secret("s", {"k": "1"})
    space.set_secret("a", "2")
    found = examine("secretsync/s", "--namespace", space.name)[1]
    (check,) = [check for check in found if check["name"] == "secret"]
    assert check["level"] == "warn"
    assert "differs from the vault in k" in check["text"]


@pytest.mark.since(*SINCE_POLICIES)
def test_missing_or_unbound_policy_is_reported(installed: InstalledRelease, space: Namespace, examine: Examine) -> None:
    plane = installed.plane
    name = f"no-delete.{installed.deployment}.{installed.release}"
    policy, binding = f"validatingadmissionpolicy/{name}", f"validatingadmissionpolicybinding/{name}"
    held = json.loads(plane.kubectl("get", policy, "--output", "json"))
    for field in ("resourceVersion", "uid", "creationTimestamp"):
        del held["metadata"][field]
    plane.kubectl("patch", binding, "--type=merge", "--patch", '{"spec":{"validationActions":["Audit"]}}')
    assert f"{name} not bound to Deny" in read_failure(examine("--namespace", space.name)[1], "policies")
    plane.kubectl("patch", binding, "--type=merge", "--patch", '{"spec":{"validationActions":["Deny"]}}')
    plane.kubectl("delete", policy)
    try:
        code, found = examine("--namespace", space.name)
    finally:
        plane.kubectl("create", "--filename", "-", stdin=json.dumps(held))
    assert code == 1
    assert f"{name} missing" in read_failure(found, "policies")
    assert examine("--namespace", space.name)[0] == 0


def test_all_secretsyncs_of_a_namespace_are_examined_together(space: Namespace, examine: Examine) -> None:
    create_sync(space)
    space.apply(space.sync("t", {"x": "b"}))
    space.wait_secret("s", {"k": "1"})
    before = space.count_calls()
    code, found = examine("--namespace", space.name)
    assert code == 1
    assert {check["subject"] for check in found} == {"cluster", f"{space.name}/s", f"{space.name}/t"}
    assert space.count_calls() - before == 2  # one call probes the vault, and one reads the object that exists


def test_caller_with_view_rights_gets_warnings_about_missing_rights(space: Namespace, examine: Examine) -> None:
    create_sync(space)
    space.wait_secret("s", {"k": "1"})
    space.kubectl("wait", "secretsync/s", "--for=condition=Ready", "--timeout=20s")
    plane = space.installed.plane
    space.kubectl("create", "serviceaccount", "viewer")
    rules = "--resource=secretsyncs.secret-sync.x-k8s.io,secretproviderclasses.secrets-store.csi.x-k8s.io"
    role = f"viewer-{space.name}"
    plane.kubectl("create", "clusterrole", role, "--verb=get,list", rules)
    for number, bound in enumerate(("view", role)):
        account = f"--serviceaccount={space.name}:viewer"
        plane.kubectl("create", "clusterrolebinding", f"{role}-{number}", f"--clusterrole={bound}", account)
    viewer = plane.service_account_kubeconfig(space.name, "viewer")
    code, found = examine("secretsync/s", "--namespace", space.name, kubeconfig=viewer)
    for number in range(2):
        plane.kubectl("delete", "clusterrolebinding", f"{role}-{number}")
    plane.kubectl("delete", "clusterrole", role)
    assert code == 0
    levels = {check["name"]: check["level"] for check in found}
    assert levels["token"] == levels["policies"] == levels["controller"] == "warn"
    assert "that you may list names it" in next(check["text"] for check in found if check["name"] == "controller")
    assert levels["class"] == levels["vault"] == levels["status"] == "ok"
    assert "serviceaccounts/token" in next(check["fix"] for check in found if check["name"] == "token")


def test_settings_that_the_caller_cannot_read_cause_a_warning(space: Namespace, examine: Examine) -> None:
    create_sync(space, cloudName="emulator")
    plane = space.installed.plane
    space.kubectl("create", "serviceaccount", "narrow")
    resources = "--resource=secretsyncs.secret-sync.x-k8s.io,secretproviderclasses.secrets-store.csi.x-k8s.io"
    space.kubectl("create", "role", "narrow", "--verb=get,list", resources)
    space.kubectl("create", "rolebinding", "narrow", "--role=narrow", f"--serviceaccount={space.name}:narrow")
    narrow = plane.service_account_kubeconfig(space.name, "narrow")
    found = examine("secretsync/s", "--namespace", space.name, kubeconfig=narrow)[1]
    levels = {check["name"]: check["level"] for check in found}
    assert levels["controller"] == levels["class"] == "warn"
    assert "could not be read" in next(check["text"] for check in found if check["name"] == "class")


def test_doctor_stops_opening_a_pfx_that_would_take_an_hour(space: Namespace, examine: Examine) -> None:
    space.installed.emulator.set_secret(space.vault, "slow", make_slow_pfx(), content_type="application/x-pkcs12")
    space.apply(space.provider_class("slow"), space.sync("s", {"k": "slow/tls.crt"}))
    began = time.monotonic()
    code, found = examine("secretsync/s", "--namespace", space.name)
    assert time.monotonic() - began < 60
    assert code == 1
    assert "there is no Secret s" in read_failure(found, "secret")
    assert "ok" in {check["level"] for check in found if check["name"] == "object secret/slow"}


def test_missing_secretsync_as_argument_exits_with_code_2(space: Namespace, examine: Examine) -> None:
    code, found = examine("secretsync/missing", "--namespace", space.name)
    assert code == 2
    assert f"there is no SecretSync missing in namespace {space.name}" in found[0]["text"]


def test_doctor_runs_as_a_kubectl_plugin(plane: ControlPlane, space: Namespace, tmp_path: Path) -> None:
    create_sync(space)
    (tmp_path / "kubectl-akv-doctor").symlink_to(ROOT / "tools" / "doctor")
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "KUBECONFIG": str(plane.kubeconfig)}
    command = [str(plane.kubectl_path), "akv", "doctor", "secretsync/s", "--namespace", space.name]
    command += ["--release-namespace", helm.RELEASE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert f"ok    {space.name}/s  class: Key Vault {space.vault}, 1 objects, cloud emulator" in done.stdout, (
        done.stderr
    )
