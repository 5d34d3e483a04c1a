"""What is well and what is not, judged from what was gathered. Pure: no clock, no network.

A text names what was found, a fix the next step: a sentence, or a command that can be copied.
"""

import base64
import enum
import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from controller.api.lease import Lease
from controller.api.meta import ObjectMeta, Wire
from controller.api.secretsync import SecretSync
from controller.errors import ControllerError
from controller.fetched import Fetched
from controller.identity import Identity
from controller.plan import OUR_LABEL, Refuse, Wait, ownership
from controller.schedule import parse_time
from controller.settings import TOKEN_AUDIENCE, Settings
from controller.status import ready_condition
from tools.fleet import CREDENTIALS_PER_IDENTITY
from tools.printable import command, line, word
from tools.releases import Release

# More than that Entra does not forgive (AADSTS700024).
CLOCK_SECONDS = 300
# A look that is late by more than this is not one that is merely on its way.
LATE_SECONDS = 600
# A leader renews its Lease every two seconds.
STALE_LEASE_SECONDS = 60
CLUSTER = "cluster"
_ENTRA_NUMBER = re.compile(r" \(AADSTS\d+\)$")


class Level(enum.StrEnum):
    """How bad it is. A warning keeps no Secret from being equal."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True):
    """One line: of what, which question, how bad, what was found, and what to do."""

    subject: str
    name: str
    level: Level
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return line(
            f"{self.level:<4}  {self.subject}  {self.name}: {self.text}" + (f"; {self.fix}" if self.fix else "")
        )


class SecretData(Wire, frozen=True, kw_only=True):
    """A Secret as the caller may read it. `data` is base64, and goes nowhere but into a comparison."""

    metadata: ObjectMeta
    type: str = ""
    data: dict[str, str] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"SecretData({self.metadata.name})"


def ok(subject: str, name: str, text: str) -> Check:
    """All is well."""
    return Check(subject, name, Level.OK, text)


def warn(subject: str, name: str, text: str, fix: str) -> Check:
    """Something that could be better, or could not be seen."""
    return Check(subject, name, Level.WARN, text, fix)


def fail(subject: str, name: str, text: str, fix: str) -> Check:
    """Something that keeps a Secret from being equal to the vault."""
    return Check(subject, name, Level.FAIL, text, fix)


def failed(subject: str, name: str, error: ControllerError, fix: str = "") -> Check:
    """A controller's error, whose message is `cause; next step`, and Entra's number last."""
    text, _, step = error.message.partition("; ")
    number = _ENTRA_NUMBER.search(step) if fix else None
    return fail(subject, name, text + (number[0] if number else ""), fix or step or "see the message")


def federated_credential(identity: Identity, issuer: str) -> str:
    """The command that gives an identity the credential that it needs."""
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
    """A JMESPath expression; a raw string in it ends at a quote, and client ids have none."""
    return f"[?clientId=='{re.sub(r'[^A-Za-z0-9-]', '', identity.client_id)}']"


def role(identity: Identity, vault: str) -> str:
    """The command that lets an identity read a vault's secrets."""
    return (
        f'az role assignment create --role "Key Vault Secrets User" --assignee {word(identity.client_id)}'
        f' --scope "$(az keyvault show --name {word(vault)} --query id --output tsv)"'
    )


def controller(found: Release | None) -> Check:
    """Return whether the controller runs, by its Deployment."""
    if not found:
        text = "no ClusterRoleBinding or admission policy of the cluster names a release whose Deployment is there"
        fix = "install the chart; name a release that has neither with --release-namespace NAMESPACE"
        return fail(CLUSTER, "controller", text, fix)
    deployment = f"Deployment {found.namespace}/{found.name}"
    if not found.deployment.get("status", {}).get("availableReplicas"):
        fix = f"{command('kubectl', '--namespace', found.namespace, 'describe', 'pods')}, and their logs, tell why"
        return fail(CLUSTER, "controller", f"{deployment} has no pod that is ready", fix)
    if not found.verified:
        text = f"{deployment} is available; no ClusterRoleBinding or admission policy that you may list names it"
        return warn(CLUSTER, "controller", text, "see that this is the release's namespace")
    return ok(CLUSTER, "controller", f"{deployment} is available")


def leader(lease: Lease | None, now: datetime) -> Check:
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
    if age > STALE_LEASE_SECONDS:
        text = f"{spec.holder_identity} holds the Lease and has not renewed it for {age:.0f} s"
        return warn(CLUSTER, name, text, f"{restart}; or set this machine's clock")
    return ok(CLUSTER, name, f"{spec.holder_identity} leads since {spec.acquire_time or 'an unknown time'}")


def policies(wanted: Iterable[str], found: Iterable[str], bindings: Iterable[Mapping[str, Any]]) -> Check:
    """Whether every admission policy is there, with a binding that denies. `wanted` are the policies' names."""
    present = set(found)
    denying = {
        binding["spec"]["policyName"] for binding in bindings if "Deny" in binding["spec"].get("validationActions", [])
    }
    wanted = list(wanted)
    if missing := [name for name in wanted if name not in present]:
        text = f"{', '.join(missing)} missing: whoever steals the controller's token can do more than the controller"
        return fail(CLUSTER, "policies", text, "helm upgrade with validatingAdmissionPolicies.applyPolicies=true")
    if idle := [name for name in wanted if name not in denying]:
        return fail(CLUSTER, "policies", f"{', '.join(idle)} not bound to Deny", "helm upgrade restores the bindings")
    return ok(CLUSTER, "policies", f"{len(wanted)} in force")


def issuer(name: str, keys: Iterable[str], document: Mapping[str, Any], published: Iterable[str]) -> Check:
    """Whether what the issuer publishes is what the cluster signs with. `keys` and `published` are key ids."""
    if document.get("issuer") != name:
        text = f"the document at {name} names issuer {document.get('issuer')}, the cluster signs as {name}"
        return fail(CLUSTER, "issuer", text, "publish the cluster's own discovery document there")
    if missing := set(keys) - set(published):
        text = f"{len(missing)} of the keys that the cluster signs with are not published at {name}"
        return fail(CLUSTER, "issuer", text, "publish the cluster's key set (kubectl get --raw /openid/v1/jwks) there")
    return ok(CLUSTER, "issuer", f"{name} publishes the keys that the cluster signs with")


def clock(cluster: float, entra: float) -> Check:
    """Whether the cluster's clock is Entra's, both in seconds since 1970."""
    off = abs(cluster - entra)
    if off > CLOCK_SECONDS:
        text = f"the cluster's clock is {off / 60:.0f} minutes off Entra's, which forgives {CLOCK_SECONDS // 60}"
        return fail(CLUSTER, "clock", text, "set the clock of the nodes and keep it by NTP")
    return ok(CLUSTER, "clock", f"within {max(1, round(off))} s of Entra's")


def credentials(identities: Iterable[Identity]) -> list[Check]:
    """How many ServiceAccounts of this cluster each managed identity must be federated with, against the limit."""
    subjects = defaultdict(set)
    for identity in identities:
        subjects[identity.client_id.lower()].add(identity.subject)
    checks = []
    for client, names in sorted(subjects.items()):
        text = f"identity {client} serves {len(names)} ServiceAccount{'s' if len(names) > 1 else ''} here"
        if len(names) > CREDENTIALS_PER_IDENTITY:
            fix = f"share them out: an identity takes {CREDENTIALS_PER_IDENTITY} federated credentials, of all clusters"
            checks.append(fail(CLUSTER, "credentials", text, fix))
        elif len(names) > CREDENTIALS_PER_IDENTITY * 3 // 4:
            fix = f"it takes {CREDENTIALS_PER_IDENTITY} federated credentials, of all clusters: plan a second one"
            checks.append(warn(CLUSTER, "credentials", text, fix))
        else:
            checks.append(ok(CLUSTER, "credentials", f"{text}, of {CREDENTIALS_PER_IDENTITY} that it can"))
    return checks


def hosts(subject: str, cloud: str, unnamed: Sequence[str]) -> Check:
    """Return why neither Entra nor the vault was asked: the release names these hosts, and the caller does not."""
    text = (
        f"cloud {cloud} of the release names {', '.join(unnamed)}, which Azure's own clouds do not have;"
        " nothing is sent there"
    )
    flags = " ".join(command("--allow-host", host) for host in unnamed)
    return warn(subject, "hosts", text, f"if you know and trust them, add: {flags}")


def served(subject: str, sync: SecretSync, settings: Settings) -> Check | None:
    """Why the release that is here would leave this SecretSync alone, if it would."""
    named, namespace = sync.spec.secret_sync_controller_name, sync.metadata.namespace
    if named not in ("", settings.controller_name):
        return warn(subject, "controller", f"it names another controller, {named}", "clear secretSyncControllerName")
    if settings.watch_namespaces and namespace not in settings.watch_namespaces:
        text = f"the controller watches {', '.join(settings.watch_namespaces)} and not {namespace}"
        return fail(subject, "controller", text, "add the namespace to the chart's watchNamespaces")
    return None


def token(subject: str, identity: Identity, claims: Mapping[str, Any], expected: str) -> Check:
    """Whether the cluster's token says what a federated credential can match. `expected` is the issuer, if known."""
    audience = claims.get("aud")
    found = (claims.get("iss"), claims.get("sub"), [audience] if isinstance(audience, str) else audience)
    wanted = (expected or found[0], identity.subject, [TOKEN_AUDIENCE])
    if found != wanted:
        text = f"it has issuer, subject, audience {found}, not {wanted}"
        return fail(subject, "token", text, "look at the API server's --service-account-issuer")
    seconds = int(claims.get("exp", 0)) - int(claims.get("iat", 0))
    return ok(subject, "token", f"issuer {found[0]}, subject {found[1]}, audience {TOKEN_AUDIENCE}, for {seconds} s")


def addresses(subject: str, host: str, found: Iterable[str]) -> Check:
    """Where a vault's name leads. A private address is a private endpoint's, and is said."""
    listed = sorted(set(found))
    if private := [each for each in listed if ipaddress.ip_address(each).is_private]:
        text = f"{host} is at {', '.join(private)}, a private address: the nodes need a route (Arc gateway has none)"
        return ok(subject, "dns", text)
    return ok(subject, "dns", f"{host} is at {', '.join(listed)}")


def tenant(subject: str, vault: str, challenge: str, named: str) -> Check | None:
    """Whether the vault's own tenant, as its challenge tells, is the class's. Domains name tenants too: no verdict."""
    theirs = challenge.partition('authorization="')[2].partition('"')[0].rstrip("/").rpartition("/")[2]
    if not theirs or theirs.lower() == named.lower() or "." in named:
        return None
    return fail(subject, "tenant", f"Key Vault {vault} is in tenant {theirs}, not {named}", "correct tenantID")


def objects(
    subject: str, identity: Identity, vault: str, fetched: Mapping[str, Fetched | ControllerError]
) -> list[Check]:
    """What became of each thing that was read from the vault; `fetched` goes by its name."""
    checks = []
    for name, item in fetched.items():
        if isinstance(item, ControllerError):
            fix = role(identity, vault) if "Key Vault Secrets User" in item.message else ""
            checks.append(failed(subject, f"object {name}", item, fix))
        else:
            when = f", updated {item.updated:%Y-%m-%dT%H:%M:%SZ}" if item.updated else ""
            checks.append(ok(subject, f"object {name}", f"enabled, version {item.version}{when}"))
    return checks


def secret(
    subject: str,
    sync: SecretSync,
    found: SecretData | None,
    fetched: Mapping[str, Fetched | ControllerError],
) -> Check:
    """Whether the Secret is there, the SecretSync's, and equal to the vault; `fetched` goes by target key."""
    name = sync.metadata.name
    if found is None:
        fix = "mend what fails above, and see the status" if _errors(fetched) else "the controller makes it in seconds"
        return fail(subject, "secret", f"there is no Secret {name}", fix)
    match ownership(sync, found.metadata):
        case Refuse(error):
            return failed(subject, "secret", error)
        case Wait():
            text = f"Secret {name} belongs to an earlier SecretSync of this name"
            return warn(subject, "secret", text, "the garbage collector takes it away; look at its finalizers")
    wanted = sync.spec.secret_object
    if found.type != wanted.type:
        text = f"Secret {name} is of type {found.type}, not {wanted.type}"
        return fail(subject, "secret", text, "delete the Secret and it is made anew")
    values = {key: item for key, item in fetched.items() if isinstance(item, Fetched)}
    differing = sorted(
        key for key, item in values.items() if found.data.get(key) != base64.b64encode(item.value.reveal()).decode()
    )
    differing += sorted(set(found.data) - {pair.target_key for pair in wanted.data})
    if differing:
        text = f"Secret {name} differs from the vault in {', '.join(differing)}"
        return warn(subject, "secret", text, "it is looked at every interval; change forceSynchronization for now")
    if found.metadata.labels.get(OUR_LABEL[0]) != OUR_LABEL[1]:
        return warn(subject, "secret", f"Secret {name} lacks its label {OUR_LABEL[0]}", "the drift check restores it")
    rest = f", {len(_errors(fetched))} could not be read" if _errors(fetched) else ""
    return ok(subject, "secret", f"owned, and {len(values)} of {len(wanted.data)} keys equal to the vault{rest}")


def _errors(fetched: Mapping[str, Fetched | ControllerError]) -> list[ControllerError]:
    return [item for item in fetched.values() if isinstance(item, ControllerError)]


def status(subject: str, sync: SecretSync, settings: Settings, now: datetime) -> Check:
    """What the controller itself says, and whether it still looks."""
    ready = ready_condition(sync.status)
    if ready is None or ready.observed_generation not in (0, sync.metadata.generation):
        what = "the controller has not looked at it" + (" since its last edit" if ready else "")
        return fail(subject, "status", what, "see that the controller runs, and its log")
    if not ready.holds:
        text, _, step = ready.message.partition("; ")
        return fail(subject, "status", f"{ready.reason}: {text}", step or "see the other lines")
    last = parse_time(sync.status.last_successful_sync_time)
    longest = settings.rotation_poll_interval + settings.jitter + LATE_SECONDS
    if last and (now - last).total_seconds() > longest:
        text = f"{ready.reason}, but it was last equal to the vault at {last.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return warn(subject, "status", text, "see that the controller runs, and its log")
    return ok(subject, "status", f"{ready.reason}: {ready.message}")


def worst(checks: Iterable[Check]) -> int:
    """The exit code: 1 where something fails."""
    return int(any(check.level is Level.FAIL for check in checks))
