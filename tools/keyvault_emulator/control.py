"""The control API: each public method of `ControlApi` is a verb, `POST /control/<verb>` with JSON arguments."""

import base64
import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tools.keyvault_emulator.azure import certificates, state
from tools.keyvault_emulator.azure.access import ROLES
from tools.keyvault_emulator.azure.entra_numbers import AADSTS, ENTRA_URI
from tools.keyvault_emulator.azure.routes import ENTRA
from tools.keyvault_emulator.azure.state import (
    FEDERATED_LIMIT,
    Allowed,
    FederatedCredential,
    Identity,
    Kind,
    TokenIssuer,
    Vault,
    Version,
)
from tools.keyvault_emulator.errors import EmulatorError, entra_error
from tools.keyvault_emulator.faults import Fault, FaultKind, RateLimiter
from tools.keyvault_emulator.tls import Flaw

if TYPE_CHECKING:
    from tools.keyvault_emulator.server import EmulatorServer

LOG = logging.getLogger(__name__)


class ControlApi:
    """The verbs of the control API. Arguments are checked against the annotations before a method is called."""

    def __init__(self, server: "EmulatorServer") -> None:
        self._server = server
        self._world = server.world
        self._verbs: dict[str, tuple[Callable[..., Any], type[msgspec.Struct]]] = {
            name: (method, _arguments_struct(method))
            for name, method in inspect.getmembers(self, inspect.ismethod)
            if not name.startswith("_") and name != "call"
        }

    async def call(self, verb: str, body: bytes) -> object:
        """Call a verb with JSON arguments, and return its result. Raise `EmulatorError`."""
        if verb not in self._verbs:
            raise EmulatorError(f"{verb!r} is not a verb; the verbs are {', '.join(sorted(self._verbs))}")
        method, arguments = self._verbs[verb]
        try:
            given = msgspec.json.decode(body or b"{}", type=arguments)
        except (msgspec.DecodeError, msgspec.ValidationError) as problem:
            raise EmulatorError(f"{verb}: {problem}") from problem
        result = method(**msgspec.structs.asdict(given))
        if inspect.isawaitable(result):
            result = await result
        LOG.info("control: %s", verb)
        return result

    # Identities and access

    def add_tenant(self, tenant: str) -> None:
        """Create a tenant. Vaults and identities create their tenants themselves."""
        self._world.tenants.append(tenant)

    def add_vault(self, name: str, tenant: str, suffix: str = "vault.azure.net", rbac: bool = True) -> None:
        """Create an empty vault, unless it exists. An existing one must have the same tenant and cloud."""
        vault = self._world.vaults.setdefault(name.lower(), Vault(tenant=tenant, name=name, suffix=suffix, rbac=rbac))
        if (vault.tenant, vault.suffix) != (tenant, suffix):
            raise EmulatorError(f"name: {name!r} exists in tenant {vault.tenant} with suffix {vault.suffix}")

    def add_identity(self, client_id: str, tenant: str) -> None:
        """Create an identity without rights, unless it exists. An existing one must have the same tenant."""
        identity = self._world.identities.setdefault(client_id.lower(), Identity(tenant=tenant))
        if identity.tenant != tenant:
            raise EmulatorError(f"client_id: {client_id} exists in tenant {identity.tenant}")

    def remove_identity(self, client_id: str) -> None:
        """Delete an identity with its federated credentials and roles."""
        self._world.identity(client_id)
        del self._world.identities[client_id.lower()]

    def trust_issuer(
        self,
        issuer_url: str,
        ca: str | None = None,
        discovery: str | None = None,
        jwks: dict[str, object] | None = None,
    ) -> None:
        """Allow OIDC discovery at an issuer. `ca` is PEM text; `discovery` replaces the issuer's URL for discovery.

        `jwks` are the issuer's keys, if they are known: then discovery is only used for other keys.
        """
        self._world.issuers[issuer_url] = TokenIssuer(ca=ca, discovery=discovery, jwks=jwks)

    def federate(self, client_id: str, issuer: str, subject: str, audience: str = "api://AzureADTokenExchange") -> None:
        """Add a federated credential."""
        identity = self._world.identity(client_id)
        credential = FederatedCredential(issuer=issuer, subject=subject, audience=audience)
        if credential in identity.federated:
            return
        if len(identity.federated) >= FEDERATED_LIMIT:
            raise EmulatorError(f"client_id: {client_id} has {FEDERATED_LIMIT} federated credentials, Entra's limit")
        identity.federated.append(credential)

    def unfederate(self, client_id: str, issuer: str, subject: str) -> None:
        """Remove the federated credentials with that issuer and subject."""
        identity = self._world.identity(client_id)
        identity.federated = [each for each in identity.federated if (each.issuer, each.subject) != (issuer, subject)]

    def assign_role(self, client_id: str, vault: str, role: str) -> None:
        """Assign an identity a role on a vault."""
        known = next((each for each in ROLES if each == role), None)
        if known is None:
            raise EmulatorError(f"role: {role!r} is not known; the roles are {', '.join(ROLES)}")
        roles = self._world.identity(client_id).roles.setdefault(self._world.vault(vault).name.lower(), [])
        if known not in roles:
            roles.append(known)

    def revoke_role(self, client_id: str, vault: str, role: str | None = None) -> None:
        """Remove a role on a vault, or all of them."""
        roles = self._world.identity(client_id).roles
        key = self._world.vault(vault).name.lower()
        roles[key] = [each for each in roles.get(key, []) if role is not None and each != role]

    def set_policy(self, client_id: str, vault: str, permissions: dict[Kind, list[Allowed]]) -> None:
        """Set an access policy, such as {"secrets": ["get"]}. From then on, the vault ignores roles."""
        holder = self._world.vault(vault)
        holder.rbac = False
        self._world.identity(client_id).policies[holder.name.lower()] = permissions

    def firewall(self, vault: str, on: bool) -> None:
        """Set whether the firewall of the vault refuses every caller's address."""
        self._world.vault(vault).firewall = on

    def public_access(self, vault: str, on: bool) -> None:
        """Set whether the vault accepts public access. Without it, every caller is refused."""
        self._world.vault(vault).public_access = on

    def perimeter(self, vault: str, on: bool) -> None:
        """Set whether a network security perimeter refuses every caller."""
        self._world.vault(vault).perimeter = on

    def policy_refusals(
        self,
        vault: str,
        code: Literal["AccessDenied", "ForbiddenByPolicy"] = "AccessDenied",
        on_behalf_of: bool = False,
    ) -> None:
        """Set how access policies refuse: the inner code, and whether they require an on-behalf-of flow."""
        holder = self._world.vault(vault)
        holder.policy_refusal, holder.on_behalf_of = code, on_behalf_of

    def api_versions(self, vault: str, versions: list[str]) -> None:
        """Set the versions of the REST API that the vault supports, oldest first. An empty list means all."""
        self._world.vault(vault).api_versions = versions

    def page_sizes(self, vault: str, sizes: list[int]) -> None:
        """Set the numbers of items of successive pages of the vault's lists; an empty list means full pages."""
        if sizes and not any(sizes):
            raise EmulatorError("sizes: a list of only empty pages never ends; make one of them larger")
        self._world.vault(vault).page_sizes = sizes

    # Objects

    def set_secret(
        self,
        vault: str,
        name: str,
        value: str,
        content_type: str | None = None,
        enabled: bool = True,
        not_before: int | None = None,
        expires: int | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        """Add a version to a secret, and return its id. Times are in seconds since 1970."""
        version = Version(
            value=value,
            content_type=content_type,
            enabled=enabled,
            not_before=not_before,
            expires=expires,
            tags=tags or {},
        )
        return self._world.put_version(vault, "secrets", name, version)

    def import_certificate(self, vault: str, name: str, data: str, password: str | None = None) -> str:
        """Add a version to a certificate from a PEM or PFX in base64, and return its id."""
        try:
            raw = base64.b64decode(data, validate=True)
        except ValueError as problem:
            raise EmulatorError(f"data: is not base64: {problem}") from problem
        version = Version()
        state.fill(version, certificates.parse(raw, password))
        return self._world.put_version(vault, "certificates", name, version)

    def request_certificate(self, vault: str, name: str) -> None:
        """Request a certificate, or another version of one. The request is pending until a version is imported."""
        self._world.request_certificate(vault, name)

    def create_key(
        self, vault: str, name: str, kty: str = "RSA", curve: str = "P-256", release_policy: bool = False
    ) -> str:
        """Add a version to a key, and return its id. The private key is not stored.

        `kty` is RSA (2048 bits), EC (on `curve`), or one of them in hardware, with the suffix -HSM, or oct-HSM.
        """
        version = Version(jwk=certificates.new_jwk(kty, curve), release_policy=release_policy)
        return self._world.put_version(vault, "keys", name, version)

    def set_attributes(
        self,
        vault: str,
        name: str,
        version: str | None = None,
        kind: Kind = "secrets",
        enabled: bool | None = None,
        not_before: int | None = None,
        expires: int | None = None,
        created: int | None = None,
        updated: int | None = None,
    ) -> None:
        """Change the given attributes of one version (None: the newest). Without `updated`, that becomes now."""
        for each in self._world.versions(vault, kind, name, version):
            changes = {"enabled": enabled, "not_before": not_before, "expires": expires, "created": created}
            for field, value in changes.items():
                if value is not None:
                    setattr(each, field, value)
            each.updated = int(self._world.now()) if updated is None else updated

    def delete(self, vault: str, name: str, kind: Kind = "secrets") -> None:
        """Soft-delete an object: it can be recovered, and its name cannot be used."""
        self._find_entry(vault, name, kind, deleted=False).deleted = True

    def recover(self, vault: str, name: str, kind: Kind = "secrets") -> None:
        """Recover a deleted object."""
        self._find_entry(vault, name, kind, deleted=True).deleted = False

    def purge(self, vault: str, name: str, kind: Kind = "secrets") -> None:
        """Purge a deleted object: it cannot be recovered."""
        self._find_entry(vault, name, kind, deleted=True)
        del getattr(self._world.vault(vault), kind)[name.lower()]

    def _find_entry(self, vault: str, name: str, kind: Kind, *, deleted: bool) -> state.Entry:
        entry: state.Entry | None = getattr(self._world.vault(vault), kind).get(name.lower())
        if entry is None or entry.deleted is not deleted:
            raise EmulatorError(f"name: vault {vault!r} has no {'deleted ' if deleted else ''}{kind[:-1]} {name!r}")
        return entry

    # Faults

    def cut_off(self) -> None:
        """Refuse connections to vaults and Entra, and reset the existing ones."""
        self._server.data.close()

    async def restore(self) -> None:
        """End `cut_off`: accept connections again."""
        await self._server.data.open()

    def delay(self, seconds: float, operation: str | None = None, where: str | None = None) -> None:
        """Delay the calls of an operation ("secrets.get", "token"), of a vault or "entra" (`where`), or all calls."""
        self._server.faults.delay(seconds, where, operation)

    def throttle(self, vault: str, per_10s: int, retry_after: int | None = None) -> None:
        """Limit a vault's calls in ten seconds. Without `retry_after`, refusals have no Retry-After, as in Azure."""
        self._world.vault(vault)
        self._server.faults.throttle(vault, RateLimiter(per_10s, retry_after))

    def fail(
        self,
        status: int = 503,
        kind: FaultKind = "answer",
        body: str | None = None,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        operation: str | None = None,
        where: str | None = None,
        times: int | None = None,
        seconds: float = 1.0,
        size: int = 100_000_000,
    ) -> None:
        """Make matching calls fail; `Fault` describes each kind of failure."""
        self._server.faults.fail(
            Fault(
                kind=kind,
                status=status,
                headers=headers or {},
                body=body,
                raw=raw,
                where=where,
                operation=operation,
                times=times,
                seconds=seconds,
                size=size,
            )
        )

    def refuse_tokens(self, number: int, times: int | None = None) -> None:
        """Make Entra refuse every token exchange with that AADSTS number, with Entra's own message if it is known."""
        status, error, text = AADSTS.get(number, (400, "invalid_request", "A refusal without a known message."))
        body = entra_error(status, error, number, text, now=self._world.now(), error_uri=ENTRA_URI).body
        self._server.faults.fail(
            Fault(status=status, body=json.dumps(body), where=ENTRA, operation="token", times=times)
        )

    def certificate_flaw(self, flaw: Flaw) -> None:
        """Present a server certificate that is expired, from an unknown CA or for another name; "none" ends that."""
        self._server.present(flaw)

    async def clear_faults(self) -> None:
        """End `cut_off`, delays, failures, changed limits and certificate flaws. Firewalls stay."""
        self._server.faults.clear_faults()
        self.certificate_flaw("none")
        await self.restore()

    # The whole state

    def set_clock(self, offset: float) -> None:
        """Set the emulator's clock ahead of the machine's by `offset` seconds (behind, if negative)."""
        self._world.clock_offset = offset

    def set_token_lifetime(self, seconds: int) -> None:
        """Set the lifetime of tokens that are issued from now on, in seconds."""
        self._world.token_lifetime = seconds

    def roll_signing_key(self) -> None:
        """Replace Entra's signing key. Vaults then refuse the tokens that were issued before."""
        self._server.signer.roll()

    def counters(self, by_client: bool = False) -> dict[str, int]:
        """Return the calls since the last reset, by "<vault or entra>/<operation>/<status>"."""
        return self._server.counters.totals(by_client)

    def reset_counters(self) -> None:
        """Set all counters to zero."""
        self._server.counters.reset()

    def dump(self) -> str:
        """Return the whole state, with secret values, as text for `load`."""
        return state.dump(self._world).decode()

    async def clear(self) -> None:
        """Delete everything, end every fault and set all counters to zero."""
        self.load("{}")
        self.reset_counters()
        await self.clear_faults()

    def load(self, text: str, folder: str = ".") -> None:
        """Replace the whole state. `folder` is the base of the paths of files in the text."""
        new = state.load(text, Path(folder))
        for field in new.__struct_fields__:
            setattr(self._world, field, getattr(new, field))


def _arguments_struct(method: Callable[..., Any]) -> type[msgspec.Struct]:
    """Return a struct with the parameters of `method`, with which msgspec checks arguments and names a wrong one."""
    fields = [
        (name, parameter.annotation)
        if parameter.default is parameter.empty
        else (name, parameter.annotation, parameter.default)
        for name, parameter in inspect.signature(method).parameters.items()
    ]
    return msgspec.defstruct(method.__name__, fields, kw_only=True, forbid_unknown_fields=True)
