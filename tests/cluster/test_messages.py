"""For each cause that people meet, the status names it and the next step in one sentence. More: test_failures.py."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from controller.api.conditions import Reason
from tests.support.cluster.harness import InstalledRelease, running_controller
from tests.support.cluster.namespace import Namespace
from tests.support.messages import NOT_IN_KEY_VAULT
from tools.keyvault_emulator import Emulator
from tools.pods.pod_process import PodProcess

ONE = {"k": "a"}
UNKNOWN = "00000000-0000-0000-0000-0000000000ff"
ANOTHER = "00000000-0000-0000-0000-0000000000fe"


def message(space: Namespace, **parameters: str) -> str:
    """Return what a fresh SecretSync says in the end."""
    account = parameters.pop("serviceAccountName", space.account)
    space.apply(space.provider_class("a", **parameters), space.sync("s", ONE, serviceAccountName=account))
    said = space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert space.secret_values("s") == {}
    return said


Make = Callable[[Namespace, Emulator], dict[str, str] | None]


class Cause(NamedTuple):
    """What is wrong: made so by `make`, which may return parameters of the SecretProviderClass that make it so."""

    name: str
    make: Make
    cause: str
    step: str


def federated(
    issuer: str = "{issuer}", subject: str = "{subject}", **more: str
) -> Callable[[Namespace, Emulator], None]:
    """Return the identity's one federated credential is this instead."""

    def make(space: Namespace, emulator: Emulator) -> None:
        right = f"system:serviceaccount:{space.name}:{space.account}"
        fill = {"issuer": space.installed.plane.issuer, "subject": right, "shouted": right.replace("shop", "Shop")}
        emulator.unfederate(space.client, space.installed.plane.issuer, right)
        if issuer:
            emulator.federate(space.client, issuer.format(**fill), subject.format(**fill), **more)

    return make


def in_another_tenant(space: Namespace, emulator: Emulator) -> dict[str, str]:
    emulator.add_vault(f"{space.vault}-far", ANOTHER)
    emulator.set_secret(f"{space.vault}-far", "a", "x")
    return {"keyvaultName": f"{space.vault}-far"}


def never_there(space: Namespace, emulator: Emulator) -> None:
    emulator.delete_secret(space.vault, "a")
    emulator.purge_secret(space.vault, "a")


def denied_by_policy(space: Namespace, emulator: Emulator, *, on_behalf_of: bool = False) -> None:
    emulator.set_policy(space.client, space.vault, {"secrets": ["list"]})
    emulator.policy_refusals(space.vault, "ForbiddenByPolicy", on_behalf_of=on_behalf_of)


CREDENTIAL = "issuer {issuer}, subject {subject} and audience api://AzureADTokenExchange"
CAUSES = [
    Cause(
        "service account missing",
        lambda _s, _e: {"serviceAccountName": "missing"},
        "there is no ServiceAccount missing in namespace {namespace}",
        "create it or correct serviceAccountName",
    ),
    Cause(
        "another issuer",
        federated(issuer="https://another.example"),
        "no federated credential of identity {client} names this cluster's issuer",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS700211)",
    ),
    Cause(
        "another subject",
        federated(subject="system:serviceaccount:other:shop"),
        "no federated credential of identity {client} names this ServiceAccount",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS700213)",
    ),
    Cause(
        "subject in another letter case",
        federated(subject="{shouted}"),
        "differs from the subject in letter case",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS7002138)",
    ),
    Cause(
        "another audience",
        federated(audience="api://other"),
        "the federated credential of identity {client} names another audience",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS700212)",
    ),
    Cause(
        "no federated credential",
        federated(issuer=""),
        "identity {client} has no federated credential",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS70025)",
    ),
    Cause(
        "no such tenant",
        lambda _s, _e: {"tenantID": UNKNOWN},
        f"tenant {UNKNOWN} does not exist",
        "correct tenantID (AADSTS90002)",
    ),
    Cause(
        "the vault is another tenant's",
        in_another_tenant,
        "Key Vault {vault}-far does not accept the token of identity {client}",
        "check that tenantID is the vault's tenant (AKV10032)",
    ),
    Cause(
        "unknown client",
        lambda _s, _e: {"clientID": UNKNOWN},
        f"identity {UNKNOWN} is unknown in tenant",
        "correct clientID or tenantID (AADSTS700016)",
    ),
    Cause(
        "no role on the vault",
        lambda space, emulator: emulator.revoke_role(space.client, space.vault),
        "identity {client} may not read secret a in Key Vault {vault}",
        "assign it the role Key Vault Secrets User there",
    ),
    Cause(
        "firewall",
        lambda space, emulator: emulator.firewall(space.vault, True),
        "Key Vault {vault}'s firewall refuses this cluster",
        "allow its address in the vault's networking",
    ),
    Cause(
        "public access is off",
        lambda space, emulator: emulator.public_access(space.vault, False),
        "Key Vault {vault} has its public access off and was not reached by an approved private link",
        "use a private endpoint and check its DNS zone (privatelink), or allow public access in the vault's networking",
    ),
    Cause(
        "network security perimeter",
        lambda space, emulator: emulator.perimeter(space.vault, True),
        "Key Vault {vault}'s network security perimeter refuses this cluster",
        "add an inbound access rule for its address to the perimeter's profile",
    ),
    Cause(
        "no permission in the access policies",
        denied_by_policy,
        "identity {client} may not read secret a in Key Vault {vault}",
        "give it the permission Get for secrets in the vault's access policies",
    ),
    Cause(
        "access policies want another application besides",
        lambda space, emulator: denied_by_policy(space, emulator, on_behalf_of=True),
        "the vault's access policies allow it only together with another application",
        "add one of the vault's access policies for the identity alone",
    ),
    Cause(
        "the vault does not know the api-version",
        lambda space, emulator: emulator.api_versions(space.vault, ["2016-10-01", "7.1"]),
        "Key Vault {vault} does not know version 7.4 of the REST API and knows at most 7.1",
        "set clouds.emulator.apiVersion to '7.1' among the chart's values",
    ),
    Cause(
        "the issuer cannot be read",
        lambda _s, emulator: emulator.refuse_tokens(90061),
        "Entra could not fetch or read the keys of the issuer {issuer}",
        "publish its discovery document and keys there, so that they can be read from the internet (AADSTS90061)",
    ),
    Cause(
        "no service principal",
        lambda _s, emulator: emulator.refuse_tokens(7000229),
        "identity {client} has no service principal in tenant",
        "correct clientID or tenantID (AADSTS7000229)",
    ),
    Cause(
        "a number without a text",
        lambda _s, emulator: emulator.refuse_tokens(123456),
        "Entra refused identity {client}",
        "'Microsoft Entra authentication and authorization error codes' (AADSTS123456)",
    ),
    Cause(
        "the name does not resolve",
        lambda _s, _e: {"cloudName": "nowhere"},
        "Key Vault {vault}: the name {vault}.invalid does not resolve",
        "check that name and the cluster's DNS",
    ),
    Cause(
        "TLS is intercepted",
        lambda _s, emulator: emulator.certificate_flaw("unknown-ca"),
        "the TLS certificate is not trusted",
        "if a proxy inspects TLS, add its CA to the chart's `caBundle`",
    ),
    Cause(
        "throttled",
        lambda space, emulator: emulator.throttle(space.vault, 0, 1),
        "Key Vault {vault} is throttled",
        "raise rotationPollIntervalInSeconds or jitterSeconds if it lasts",
    ),
    Cause(
        "object missing",
        never_there,
        f"secret a {NOT_IN_KEY_VAULT} {{vault}}",
        "create or recover it there, or correct objectName, objectType or objectVersion",
    ),
    Cause(
        "object deleted",
        lambda space, emulator: emulator.delete_secret(space.vault, "a"),
        f"secret a {NOT_IN_KEY_VAULT} {{vault}}",
        "create or recover it there, or correct objectName, objectType or objectVersion",
    ),
    Cause(
        "object disabled",
        lambda space, emulator: emulator.disable_secret(space.vault, "a"),
        "secret a is disabled in Key Vault {vault}",
        "enable it there",
    ),
    Cause(
        "the cluster's clock is six minutes ahead",
        lambda _s, emulator: emulator.set_clock(-360),
        "the ServiceAccount's token is outside its valid time",
        "set the clock of the cluster's nodes (more than five minutes off) (AADSTS700024)",
    ),
    Cause(
        "… and far behind",
        lambda _s, emulator: emulator.set_clock(3600),
        "the ServiceAccount's token is outside its valid time",
        "set the clock of the cluster's nodes (more than five minutes off) (AADSTS700024)",
    ),
]


@pytest.mark.parametrize("wrong", CAUSES, ids=lambda wrong: wrong.name)
def test_status_has_the_cause_and_the_next_step_in_one_sentence(space: Namespace, wrong: Cause) -> None:
    emulator = space.installed.emulator
    space.set_secret("a", "1")
    try:
        said = message(space, **(wrong.make(space, emulator) or {}))
    finally:
        emulator.set_clock(0)
    fill = {
        "namespace": space.name,
        "vault": space.vault,
        "client": space.client,
        "issuer": space.installed.plane.issuer,
        "subject": f"system:serviceaccount:{space.name}:{space.account}",
    }
    assert wrong.cause.format(**fill) in said
    assert said.endswith(wrong.step.format(**fill))
    assert ". " not in said
    assert "\n" not in said


def test_refusal_of_the_proxy_is_reported(installed: InstalledRelease, space: Namespace, refusing_proxy: str) -> None:
    space.set_secret("a", "1")
    settings = {"WATCH_NAMESPACES": space.name, "CONTROLLER_NAME": "proxied", "LEASE_NAME": ""}
    with running_controller(installed.workload(**settings, HTTPS_PROXY=refusing_proxy)):
        space.apply(space.provider_class("a"), space.sync("s", ONE, secretSyncControllerName="proxied"))
        said = space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert said.endswith(": the proxy refuses the connection; check HTTPS_PROXY and the rules of the proxy")
    assert ". " not in said


def test_redirect_is_not_followed(space: Namespace, controller: PodProcess) -> None:
    elsewhere = f"{space.installed.emulator.url}/elsewhere/secrets/a"
    space.installed.emulator.add_vault("elsewhere", "00000000-0000-0000-0000-00000000000a")
    space.set_secret("a", "1")
    space.installed.emulator.fail(status=307, where=space.vault, headers={"Location": elsewhere})
    said = message(space)
    assert "HTTP 307" in said
    assert not any(name.startswith("elsewhere/") for name in space.installed.emulator.counters())
