"""Test that the status names each common cause of a failure, and the next step, in one sentence.

test_failures.py tests further causes.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from controller.api.conditions import Reason
from tests.support.cluster.harness import InstalledRelease, running_controller
from tests.support.cluster.namespace import Namespace
from tests.support.messages import NOT_IN_KEY_VAULT
from tools.keyvault_emulator import Emulator
from tools.pods.pod_process import PodProcess

ONE_KEY = {"k": "a"}
UNKNOWN_ID = "00000000-0000-0000-0000-0000000000ff"
OTHER_TENANT = "00000000-0000-0000-0000-0000000000fe"


def apply_and_read_message(space: Namespace, **parameters: str) -> str:
    """Apply a class and a SecretSync, and return the message of the SecretSync's failure."""
    account = parameters.pop("serviceAccountName", space.account)
    space.apply(space.provider_class("a", **parameters), space.sync("s", ONE_KEY, serviceAccountName=account))
    message = space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert space.secret_values("s") == {}
    return message


InjectCause = Callable[[Namespace, Emulator], dict[str, str] | None]


class FailureCause(NamedTuple):
    """A cause of a failure, and the texts about it in the message.

    `inject` causes the failure. It can return parameters that the SecretProviderClass needs for this.
    """

    name: str
    inject: InjectCause
    cause: str
    next_step: str


def replace_credential(
    issuer: str = "{issuer}", subject: str = "{subject}", **more: str
) -> Callable[[Namespace, Emulator], None]:
    """Return a function that replaces the identity's federated credential, or removes it if `issuer` is empty."""

    def inject(space: Namespace, emulator: Emulator) -> None:
        right = f"system:serviceaccount:{space.name}:{space.account}"
        fields = {
            "issuer": space.installed.plane.issuer,
            "subject": right,
            "subject_in_other_case": right.replace("shop", "Shop"),
        }
        emulator.unfederate(space.client, space.installed.plane.issuer, right)
        if issuer:
            emulator.federate(space.client, issuer.format(**fields), subject.format(**fields), **more)

    return inject


def use_vault_of_another_tenant(space: Namespace, emulator: Emulator) -> dict[str, str]:
    emulator.add_vault(f"{space.vault}-far", OTHER_TENANT)
    emulator.set_secret(f"{space.vault}-far", "a", "x")
    return {"keyvaultName": f"{space.vault}-far"}


def purge_secret(space: Namespace, emulator: Emulator) -> None:
    emulator.delete_secret(space.vault, "a")
    emulator.purge_secret(space.vault, "a")


def deny_by_access_policy(space: Namespace, emulator: Emulator, *, on_behalf_of: bool = False) -> None:
    emulator.set_policy(space.client, space.vault, {"secrets": ["list"]})
    emulator.policy_refusals(space.vault, "ForbiddenByPolicy", on_behalf_of=on_behalf_of)


CREDENTIAL = "issuer {issuer}, subject {subject} and audience api://AzureADTokenExchange"
CAUSES = [
    FailureCause(
        "service account missing",
        lambda _s, _e: {"serviceAccountName": "missing"},
        "there is no ServiceAccount missing in namespace {namespace}",
        "create it or correct serviceAccountName",
    ),
    FailureCause(
        "another issuer",
        replace_credential(issuer="https://another.example"),
        "no federated credential of identity {client} names this cluster's issuer",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS700211)",
    ),
    FailureCause(
        "another subject",
        replace_credential(subject="system:serviceaccount:other:shop"),
        "no federated credential of identity {client} names this ServiceAccount",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS700213)",
    ),
    FailureCause(
        "subject in another letter case",
        replace_credential(subject="{subject_in_other_case}"),
        "differs from the subject in letter case",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS7002138)",
    ),
    FailureCause(
        "another audience",
        replace_credential(audience="api://other"),
        "the federated credential of identity {client} names another audience",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS700212)",
    ),
    FailureCause(
        "no federated credential",
        replace_credential(issuer=""),
        "identity {client} has no federated credential",
        "give it a federated credential with " + CREDENTIAL + " (AADSTS70025)",
    ),
    FailureCause(
        "no such tenant",
        lambda _s, _e: {"tenantID": UNKNOWN_ID},
        f"tenant {UNKNOWN_ID} does not exist",
        "correct tenantID (AADSTS90002)",
    ),
    FailureCause(
        "vault of another tenant",
        use_vault_of_another_tenant,
        "Key Vault {vault}-far does not accept the token of identity {client}",
        "check that tenantID is the vault's tenant (AKV10032)",
    ),
    FailureCause(
        "unknown client",
        lambda _s, _e: {"clientID": UNKNOWN_ID},
        f"identity {UNKNOWN_ID} is unknown in tenant",
        "correct clientID or tenantID (AADSTS700016)",
    ),
    FailureCause(
        "no role on the vault",
        lambda space, emulator: emulator.revoke_role(space.client, space.vault),
        "identity {client} may not read secret a in Key Vault {vault}",
        "assign it the role Key Vault Secrets User there",
    ),
    FailureCause(
        "firewall",
        lambda space, emulator: emulator.firewall(space.vault, True),
        "Key Vault {vault}'s firewall refuses this cluster",
        "allow its address in the vault's networking",
    ),
    FailureCause(
        "public access is off",
        lambda space, emulator: emulator.public_access(space.vault, False),
        "Key Vault {vault} has its public access off and was not reached by an approved private link",
        "use a private endpoint and check its DNS zone (privatelink), or allow public access in the vault's networking",
    ),
    FailureCause(
        "network security perimeter",
        lambda space, emulator: emulator.perimeter(space.vault, True),
        "Key Vault {vault}'s network security perimeter refuses this cluster",
        "add an inbound access rule for its address to the perimeter's profile",
    ),
    FailureCause(
        "no permission in the access policies",
        deny_by_access_policy,
        "identity {client} may not read secret a in Key Vault {vault}",
        "give it the permission Get for secrets in the vault's access policies",
    ),
    FailureCause(
        "access policies want another application besides",
        lambda space, emulator: deny_by_access_policy(space, emulator, on_behalf_of=True),
        "the vault's access policies allow it only together with another application",
        "add one of the vault's access policies for the identity alone",
    ),
    FailureCause(
        "the vault does not know the api-version",
        lambda space, emulator: emulator.api_versions(space.vault, ["2016-10-01", "7.1"]),
        "Key Vault {vault} does not know version 7.4 of the REST API and knows at most 7.1",
        "set clouds.emulator.apiVersion to '7.1' among the chart's values",
    ),
    FailureCause(
        "the issuer cannot be read",
        lambda _s, emulator: emulator.refuse_tokens(90061),
        "Entra could not fetch or read the keys of the issuer {issuer}",
        "publish its discovery document and keys there, so that they can be read from the internet (AADSTS90061)",
    ),
    FailureCause(
        "no service principal",
        lambda _s, emulator: emulator.refuse_tokens(7000229),
        "identity {client} has no service principal in tenant",
        "correct clientID or tenantID (AADSTS7000229)",
    ),
    FailureCause(
        "a number without a text",
        lambda _s, emulator: emulator.refuse_tokens(123456),
        "Entra refused identity {client}",
        "'Microsoft Entra authentication and authorization error codes' (AADSTS123456)",
    ),
    FailureCause(
        "the name does not resolve",
        lambda _s, _e: {"cloudName": "nowhere"},
        "Key Vault {vault}: the name {vault}.invalid does not resolve",
        "check that name and the cluster's DNS",
    ),
    FailureCause(
        "TLS is intercepted",
        lambda _s, emulator: emulator.certificate_flaw("unknown-ca"),
        "the TLS certificate is not trusted",
        "if a proxy inspects TLS, add its CA to the chart's `caBundle`",
    ),
    FailureCause(
        "throttled",
        lambda space, emulator: emulator.throttle(space.vault, 0, 1),
        "Key Vault {vault} is throttled",
        "raise rotationPollIntervalInSeconds or jitterSeconds if it lasts",
    ),
    FailureCause(
        "object missing",
        purge_secret,
        f"secret a {NOT_IN_KEY_VAULT} {{vault}}",
        "create or recover it there, or correct objectName, objectType or objectVersion",
    ),
    FailureCause(
        "object deleted",
        lambda space, emulator: emulator.delete_secret(space.vault, "a"),
        f"secret a {NOT_IN_KEY_VAULT} {{vault}}",
        "create or recover it there, or correct objectName, objectType or objectVersion",
    ),
    FailureCause(
        "object disabled",
        lambda space, emulator: emulator.disable_secret(space.vault, "a"),
        "secret a is disabled in Key Vault {vault}",
        "enable it there, or if it belongs to a certificate whose request is pending, merge that"
        " (az keyvault certificate pending merge)",
    ),
    FailureCause(
        "the cluster's clock is six minutes ahead",
        lambda _s, emulator: emulator.set_clock(-360),
        "the ServiceAccount's token is outside its valid time",
        "set the clock of the cluster's nodes (more than five minutes off) (AADSTS700024)",
    ),
    FailureCause(
        "the cluster's clock is an hour behind",
        lambda _s, emulator: emulator.set_clock(3600),
        "the ServiceAccount's token is outside its valid time",
        "set the clock of the cluster's nodes (more than five minutes off) (AADSTS700024)",
    ),
]


@pytest.mark.parametrize("failure", CAUSES, ids=lambda failure: failure.name)
def test_status_names_the_cause_and_the_next_step_in_one_sentence(space: Namespace, failure: FailureCause) -> None:
    emulator = space.installed.emulator
    space.set_secret("a", "1")
    try:
        message = apply_and_read_message(space, **(failure.inject(space, emulator) or {}))
    finally:
        emulator.set_clock(0)
    fields = {
        "namespace": space.name,
        "vault": space.vault,
        "client": space.client,
        "issuer": space.installed.plane.issuer,
        "subject": f"system:serviceaccount:{space.name}:{space.account}",
    }
    assert failure.cause.format(**fields) in message
    assert message.endswith(failure.next_step.format(**fields))
    assert ". " not in message
    assert "\n" not in message


def test_refusal_of_the_proxy_is_reported(installed: InstalledRelease, space: Namespace, refusing_proxy: str) -> None:
    space.set_secret("a", "1")
    settings = {"WATCH_NAMESPACES": space.name, "CONTROLLER_NAME": "proxied", "LEASE_NAME": ""}
    with running_controller(installed.workload(**settings, HTTPS_PROXY=refusing_proxy)):
        space.apply(space.provider_class("a"), space.sync("s", ONE_KEY, secretSyncControllerName="proxied"))
        message = space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert message.endswith(": the proxy refuses the connection; check HTTPS_PROXY and the rules of the proxy")
    assert ". " not in message


def test_redirect_is_not_followed(space: Namespace, controller: PodProcess) -> None:
    elsewhere = f"{space.installed.emulator.url}/elsewhere/secrets/a"
    space.installed.emulator.add_vault("elsewhere", "00000000-0000-0000-0000-00000000000a")
    space.set_secret("a", "1")
    space.installed.emulator.fail(status=307, where=space.vault, headers={"Location": elsewhere})
    message = apply_and_read_message(space)
    assert "HTTP 307" in message
    assert not any(name.startswith("elsewhere/") for name in space.installed.emulator.counters())
