"""Judge the collected facts. Pure: no clock, no network.

A text describes the fact, and a fix is the next step: a sentence, or a command that can be copied.
"""

import base64
import enum
import ipaddress
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from controller.api.lease import Lease
from controller.api.meta import ObjectMeta, Wire
from controller.api.secretsync import SecretSync
from controller.config.settings import TOKEN_AUDIENCE, Settings
from controller.domain.decision import SYNC_LABEL, RejectWrite, WaitForGarbageCollection, check_ownership, leftover_keys
from controller.domain.status import ready_condition
from controller.domain.values import Unchanged, VaultValue
from controller.errors import ControllerError
from controller.keyvault.credentials import Identity
from controller.kube.overlap import FIX
from controller.runtime.clock import latest, parse_time
from controller.secretsync.tasks import CONFIRM_EVERY
from tools.cli import adoption
from tools.cli.capacity.fleet import CREDENTIALS_PER_IDENTITY
from tools.cli.common.printable import command, line, word
from tools.cli.releases import ControllerRelease

# Entra accepts no larger difference of the clocks (AADSTS700024).
CLOCK_SECONDS = 300
# A poll that is late by more than this is overdue.
LATE_SECONDS = 600
# A leader renews its Lease more often than this, unless the duration of the Lease is longer.
STALE_LEASE_SECONDS = 60
CLUSTER = "cluster"
# The tenant's id, a UUID, in a vault's challenge.
_CHALLENGED_TENANT = re.compile(r'authorization="[^"]{0,300}/([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})/?"')
SECRETS_USER = "Key Vault Secrets User"
READING_ROLES = (SECRETS_USER, "Key Vault Reader")
"""The Azure roles that the controller's messages name: for secrets, and for certificates and keys."""
_ENTRA_NUMBER = re.compile(r" \(AADSTS\d+\)$")


class CheckLevel(enum.StrEnum):
    """The severity of a check. A warning does not prevent a Secret from being equal."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class CheckResult(msgspec.Struct, frozen=True):
    """One line: the subject, the check, the severity, the fact, and the next step."""

    subject: str
    name: str
    level: CheckLevel
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return line(
            f"{self.level:<4}  {self.subject}  {self.name}: {self.text}" + (f"; {self.fix}" if self.fix else "")
        )


class SecretData(Wire, frozen=True, kw_only=True):
    """A Secret as the caller can read it. `data` is base64, and is only compared."""

    metadata: ObjectMeta
    type: str = ""
    data: dict[str, str] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"SecretData({self.metadata.name})"


def ok(subject: str, name: str, text: str) -> CheckResult:
    """Return a check without problems."""
    return CheckResult(subject, name, CheckLevel.OK, text)


def warn(subject: str, name: str, text: str, fix: str) -> CheckResult:
    """Return a check of something that could be better, or that could not be read."""
    return CheckResult(subject, name, CheckLevel.WARN, text, fix)


def fail(subject: str, name: str, text: str, fix: str) -> CheckResult:
    """Return a check of something that prevents a Secret from being equal to the vault."""
    return CheckResult(subject, name, CheckLevel.FAIL, text, fix)


def failed(subject: str, name: str, error: ControllerError, fix: str = "") -> CheckResult:
    """Return the check for a controller's error: `cause; next step`, with Entra's number last."""
    text, _, step = error.message.partition("; ")
    number = _ENTRA_NUMBER.search(step) if fix else None
    return fail(subject, name, text + (number[0] if number else ""), fix or step or "see the message")


def federated_credential(identity: Identity, issuer: str) -> str:
    """Return the command that gives an identity the necessary credential."""
    client = _by_client(identity)
    name = f"{identity.namespace}-{identity.service_account}".replace(".", "-")[:120]
    where = word(issuer) if issuer else '"$ISSUER"'
    return (
        f"az identity federated-credential create --name {word(name)}"
        f' --identity-name "$(az identity list --query {word(f"{client}.name")} --output tsv)"'
        f' --resource-group "$(az identity list --query {word(f"{client}.resourceGroup")} --output tsv)"'
        f" --issuer {where} --subject {word(identity.subject)} --audiences {word(TOKEN_AUDIENCE)}"
    )


def _by_client(identity: Identity) -> str:
    """Return a JMESPath expression. A raw string in it ends at a quote, and client ids contain none.

    JMESPath distinguishes cases. Azure writes client ids in lower case, and Entra accepts both.
    """
    return f"[?clientId=='{re.sub(r'[^a-z0-9-]', '', identity.client_id.lower())}']"


def role(identity: Identity, vault: str, name: str = SECRETS_USER) -> str:
    """Return the command that assigns an Azure role, of this name, on a vault to an identity."""
    return (
        f'az role assignment create --role "{name}" --assignee {word(identity.client_id)}'
        f' --scope "$(az keyvault show --name {word(vault)} --query id --output tsv)"'
    )


def is_available(release: ControllerRelease) -> bool:
    """Return whether the Deployment of the release has an available pod."""
    return bool(release.deployment.get("status", {}).get("availableReplicas"))


def controller(found: ControllerRelease | None) -> CheckResult:
    """Return whether the controller runs, by its Deployment."""
    if not found:
        text = "no ClusterRoleBinding or admission policy of the cluster names a release whose Deployment is there"
        fix = "install the chart; for a release without either, give --release-namespace NAMESPACE"
        return fail(CLUSTER, "controller", text, fix)
    deployment = f"Deployment {found.namespace}/{found.name}"
    if not is_available(found):
        fix = f"{command('kubectl', '--namespace', found.namespace, 'describe', 'pods')} and their logs show why"
        return fail(CLUSTER, "controller", f"{deployment} has no pod that is ready", fix)
    if not found.verified:
        text = f"{deployment} is available; no ClusterRoleBinding or admission policy that you may list names it"
        return warn(CLUSTER, "controller", text, "check that this is the release's namespace")
    return ok(CLUSTER, "controller", f"{deployment} is available")


def leader(lease: Lease | None, now: datetime) -> CheckResult:
    """Return which replica leads, by the controller's Lease. `now` is this machine's time, in UTC."""
    name = "leader"
    restart = "see the log of the controller's pods; a pod that is not ready says why at /readyz"
    if lease is None:
        return fail(CLUSTER, name, "no replica leads: the controller's Lease is missing and was not created", restart)
    spec = lease.spec
    if not spec.holder_identity:
        return fail(CLUSTER, name, "no replica leads: the controller's Lease has no holder", restart)
    try:
        age = (now - datetime.fromisoformat(spec.renew_time or "")).total_seconds()
    except (ValueError, TypeError):
        return fail(CLUSTER, name, f"{spec.holder_identity} holds the Lease and has never renewed it", restart)
    if age > max(STALE_LEASE_SECONDS, spec.lease_duration_seconds):
        text = f"{spec.holder_identity} holds the Lease and has not renewed it for {age:.0f} s"
        return warn(CLUSTER, name, text, f"{restart}; or set this machine's clock")
    return ok(CLUSTER, name, f"{spec.holder_identity} leads since {spec.acquire_time or 'an unknown time'}")


def overlap(other: ControllerRelease, ours: Collection[str], theirs: Collection[str]) -> list[CheckResult]:
    """Return a check where another release serves some of our namespaces; no namespaces mean all."""
    if ours and theirs and not set(ours) & set(theirs):
        return []
    shared = sorted(set(ours) & set(theirs) or ours or theirs)
    where = f"the namespaces {', '.join(shared)}" if shared else "all namespaces"
    if not is_available(other):
        return [warn(CLUSTER, "overlap", f"release {other} is configured to serve {where}, too, and is not ready", FIX)]
    return [fail(CLUSTER, "overlap", f"release {other} serves {where}, too", FIX)]


def policies(wanted: Iterable[str], found: Iterable[str], bindings: Iterable[Mapping[str, Any]]) -> CheckResult:
    """Return whether every admission policy exists, with a binding that denies. `wanted` are the policies' names."""
    present = set(found)
    denying = {
        binding["spec"]["policyName"] for binding in bindings if "Deny" in binding["spec"].get("validationActions", [])
    }
    wanted = list(wanted)
    if missing := [name for name in wanted if name not in present]:
        text = f"{', '.join(missing)} missing: an attacker with the controller's token can do more than the controller"
        return fail(CLUSTER, "policies", text, "helm upgrade with validatingAdmissionPolicies.applyPolicies=true")
    if idle := [name for name in wanted if name not in denying]:
        return fail(CLUSTER, "policies", f"{', '.join(idle)} not bound to Deny", "helm upgrade restores the bindings")
    return ok(CLUSTER, "policies", f"{len(wanted)} in force")


def issuer(name: str, keys: Iterable[str], document: Mapping[str, Any], published: Iterable[str]) -> CheckResult:
    """Return whether the issuer publishes the keys that the cluster signs with. `keys` and `published` are key ids."""
    if document.get("issuer") != name:
        text = f"the document at {name} names issuer {document.get('issuer')}, the cluster signs as {name}"
        return fail(CLUSTER, "issuer", text, "publish the cluster's own discovery document there")
    if missing := set(keys) - set(published):
        text = f"{len(missing)} of the keys that the cluster signs with are not published at {name}"
        return fail(CLUSTER, "issuer", text, "publish the cluster's key set (kubectl get --raw /openid/v1/jwks) there")
    return ok(CLUSTER, "issuer", f"{name} publishes the keys that the cluster signs with")


def clock(cluster: float, entra: float) -> CheckResult:
    """Return whether the cluster's clock agrees with Entra's, both in seconds since 1970."""
    off = abs(cluster - entra)
    if off > CLOCK_SECONDS:
        text = f"the cluster's clock is {off / 60:.0f} minutes off Entra's, which tolerates {CLOCK_SECONDS // 60}"
        return fail(CLUSTER, "clock", text, "set the clock of the nodes and keep it by NTP")
    return ok(CLUSTER, "clock", f"within {max(1, round(off))} s of Entra's")


def credentials(identities: Iterable[Identity]) -> list[CheckResult]:
    """Return the number of ServiceAccounts that each managed identity must be federated with, against the limit."""
    subjects = defaultdict(set)
    for identity in identities:
        subjects[identity.client_id.lower()].add(identity.subject)
    checks = []
    for client, names in sorted(subjects.items()):
        text = f"identity {client} serves {len(names)} ServiceAccount{'s' if len(names) > 1 else ''} here"
        if len(names) > CREDENTIALS_PER_IDENTITY:
            fix = f"use more identities: one can have {CREDENTIALS_PER_IDENTITY} federated credentials, of all clusters"
            checks.append(fail(CLUSTER, "credentials", text, fix))
        elif len(names) > CREDENTIALS_PER_IDENTITY * 3 // 4:
            fix = f"it can have {CREDENTIALS_PER_IDENTITY} federated credentials, of all clusters: plan a second one"
            checks.append(warn(CLUSTER, "credentials", text, fix))
        else:
            checks.append(ok(CLUSTER, "credentials", f"{text}, of at most {CREDENTIALS_PER_IDENTITY}"))
    return checks


def hosts(subject: str, cloud: str, unnamed: Sequence[str]) -> CheckResult:
    """Return why neither Entra nor the vault was contacted: only the release names these hosts, not the caller."""
    text = (
        f"cloud {cloud} of the release names {', '.join(unnamed)}, which Azure's own clouds do not have;"
        " nothing is sent there"
    )
    flags = " ".join(command("--allow-host", host) for host in unnamed)
    return warn(subject, "hosts", text, f"if you know and trust them, add: {flags}")


def served(subject: str, sync: SecretSync, settings: Settings) -> CheckResult | None:
    """Return why the installed release does not handle this SecretSync, or None if it does."""
    named, namespace = sync.spec.secret_sync_controller_name, sync.metadata.namespace
    if named not in ("", settings.controller_name):
        return warn(subject, "controller", f"it names another controller, {named}", "clear secretSyncControllerName")
    if settings.watch_namespaces and namespace not in settings.watch_namespaces:
        text = f"the controller watches {', '.join(settings.watch_namespaces)} and not {namespace}"
        return fail(subject, "controller", text, "add the namespace to the chart's watchNamespaces")
    return None


def token(subject: str, identity: Identity, claims: Mapping[str, Any], expected: str) -> CheckResult:
    """Return whether a federated credential can match the cluster's token. `expected` is the issuer, if known."""
    audience = claims.get("aud")
    found = (claims.get("iss"), claims.get("sub"), [audience] if isinstance(audience, str) else audience)
    wanted = (expected or found[0], identity.subject, [TOKEN_AUDIENCE])
    if found != wanted:
        text = f"it has issuer, subject, audience {found}, not {wanted}"
        return fail(subject, "token", text, "check the API server's --service-account-issuer")
    seconds = int(claims.get("exp", 0)) - int(claims.get("iat", 0))
    return ok(subject, "token", f"issuer {found[0]}, subject {found[1]}, audience {TOKEN_AUDIENCE}, for {seconds} s")


def token_right(subject: str, identity: Identity) -> CheckResult:
    """Return the check that the controller gets no token of that ServiceAccount, independent of the caller's rights."""
    name = f"{identity.namespace}/{identity.service_account}"
    text = f"the controller may not request a token of ServiceAccount {name}"
    return fail(subject, "right", text, f"add {name} to the chart's tokenRequest.serviceAccounts")


def addresses(subject: str, host: str, found: Iterable[str]) -> CheckResult:
    """Return the addresses of a vault's name. A private address belongs to a private endpoint."""
    listed = sorted(set(found))
    if private := [each for each in listed if ipaddress.ip_address(each).is_private]:
        text = f"{host} is at {', '.join(private)}, a private address: the nodes need a route (Arc gateway has none)"
        return ok(subject, "dns", text)
    return ok(subject, "dns", f"{host} is at {', '.join(listed)}")


def tenant(subject: str, vault: str, challenge: str, named: str) -> CheckResult | None:
    """Return whether the class's tenant is the vault's, according to its challenge. Domains cannot be compared."""
    found = _CHALLENGED_TENANT.search(challenge)
    theirs = found[1] if found else ""
    if not theirs or theirs.lower() == named.lower() or "." in named:
        return None
    return fail(subject, "tenant", f"Key Vault {vault} is in tenant {theirs}, not {named}", "correct tenantID")


def objects(
    subject: str, identity: Identity, vault: str, fetched: Mapping[str, VaultValue | ControllerError]
) -> list[CheckResult]:
    """Return the result for each object of the vault. `fetched` is by name."""
    checks = []
    for name, item in fetched.items():
        if isinstance(item, ControllerError):
            needed = next((each for each in READING_ROLES if each in item.message), "")
            fix = role(identity, vault, needed) if needed else ""
            checks.append(failed(subject, f"object {name}", item, fix))
        else:
            when = f", updated {item.updated:%Y-%m-%dT%H:%M:%SZ}" if item.updated else ""
            checks.append(ok(subject, f"object {name}", f"enabled, version {item.version}{when}"))
    return checks


def secret(
    subject: str,
    sync: SecretSync,
    found: SecretData | None,
    fetched: Mapping[str, VaultValue | Unchanged | ControllerError],
) -> CheckResult:
    """Return whether the Secret exists, belongs to the SecretSync, and equals the vault. `fetched` is by target key."""
    name = sync.metadata.name
    if found is None:
        waits = "the controller creates it within seconds"
        fix = "fix the failures above, and see the status" if _errors_of(fetched) else waits
        return fail(subject, "secret", f"there is no Secret {name}", fix)
    if orphaned := orphan(subject, sync, found.metadata):
        return orphaned
    match check_ownership(sync, found.metadata):
        case RejectWrite(error):
            return failed(subject, "secret", error)
        case WaitForGarbageCollection():
            text = f"Secret {name} belongs to an earlier SecretSync of this name"
            return warn(subject, "secret", text, "the garbage collector deletes it; check its finalizers")
    wanted = sync.spec.secret_object
    if found.type != wanted.type:
        text = f"Secret {name} is of type {found.type}, not {wanted.type}"
        return fail(subject, "secret", text, "delete the Secret; the controller recreates it")
    values = {key: item for key, item in fetched.items() if isinstance(item, VaultValue)}
    differing = sorted(
        key for key, item in values.items() if found.data.get(key) != base64.b64encode(item.value.reveal()).decode()
    )
    differing += sorted(leftover_keys(found.data, fetched))
    if differing:
        text = f"Secret {name} differs from the vault in {', '.join(differing)}"
        return warn(
            subject, "secret", text, "the controller polls once per interval; change forceSynchronization to poll now"
        )
    if found.metadata.labels.get(SYNC_LABEL[0]) != SYNC_LABEL[1]:
        return warn(subject, "secret", f"Secret {name} lacks its label {SYNC_LABEL[0]}", "the drift check restores it")
    rest = f", {len(_errors_of(fetched))} could not be read" if _errors_of(fetched) else ""
    return ok(subject, "secret", f"owned, and {len(values)} of {len(fetched)} keys equal to the vault{rest}")


def orphan(subject: str, sync: SecretSync, secret: ObjectMeta) -> CheckResult | None:
    """Return the check of a Secret that a restore left without its owner, or None for another Secret."""
    if not adoption.is_orphan(sync, secret):
        return None
    restored = adoption.adopt_command(sync.metadata.namespace)
    if not secret.owner_references:
        text = f"Secret {sync.metadata.name} has the label of a synced Secret and no owner, as after a restore"
        return fail(subject, "secret", text, restored)
    text = f"Secret {sync.metadata.name} belongs to an earlier SecretSync of this name and is about to be deleted"
    return warn(subject, "secret", text, f"to keep its values: {restored}")


def _errors_of(fetched: Mapping[str, VaultValue | Unchanged | ControllerError]) -> list[ControllerError]:
    return [item for item in fetched.values() if isinstance(item, ControllerError)]


def status(
    subject: str, sync: SecretSync, settings: Settings, now: datetime, polled: datetime | None = None
) -> CheckResult:
    """Return the check of the status, and of the time since the last poll.

    `polled` is when a poll last found all SecretSyncs of its group equal to the vault, if one of them says so.
    """
    ready = ready_condition(sync.status)
    if ready is None or ready.observed_generation not in (0, sync.metadata.generation):
        what = "the controller has not processed it" + (" since its last edit" if ready else "")
        return fail(subject, "status", what, "check that the controller runs, and read its log")
    if not ready.holds:
        text, _, step = ready.message.partition("; ")
        return fail(subject, "status", f"{ready.reason}: {text}", step or "see the other lines")
    last = latest(parse_time(sync.status.last_successful_sync_time), polled)
    # Without a record of the group's polls, the status itself says once a day that it is equal.
    longest = settings.rotation_poll_interval + settings.jitter + LATE_SECONDS + (0 if polled else CONFIRM_EVERY)
    if last and (now - last).total_seconds() > longest:
        text = f"{ready.reason}, but it was last equal to the vault at {last.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return warn(subject, "status", text, "check that the controller runs, and read its log")
    return ok(subject, "status", f"{ready.reason}: {ready.message}")


def worst(checks: Iterable[CheckResult]) -> int:
    """Return the exit code: 1 if a check fails."""
    return int(any(check.level is CheckLevel.FAIL for check in checks))
