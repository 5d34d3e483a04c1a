"""The control API: every public method of `Control` is a verb, `POST /control/<verb>` with its arguments as JSON."""

import base64
import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tools.keyvault_emulator import certificates, state
from tools.keyvault_emulator.access import ROLES
from tools.keyvault_emulator.entra_numbers import AADSTS, ENTRA_URI
from tools.keyvault_emulator.errors import EmulatorError, entra_error
from tools.keyvault_emulator.faults import Break, Fault, Limiter
from tools.keyvault_emulator.routes import ENTRA
from tools.keyvault_emulator.state import (
    FEDERATED_LIMIT,
    Allowed,
    Federated,
    Identity,
    Issuer,
    Kind,
    Vault,
    Version,
)
from tools.keyvault_emulator.tls import Flaw

if TYPE_CHECKING:
    from tools.keyvault_emulator.server import Server

LOG = logging.getLogger(__name__)


class Control:
    """The verbs. Arguments are checked against the methods' annotations before they are called."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._world = server.world
        self._verbs: dict[str, tuple[Callable[..., Any], type[msgspec.Struct]]] = {
            name: (method, _arguments(method))
            for name, method in inspect.getmembers(self, inspect.ismethod)
            if not name.startswith("_") and name != "call"
        }

    async def call(self, verb: str, body: bytes) -> object:
        """Runs a verb with JSON arguments; EmulatorError names the argument that is wrong."""
        if verb not in self._verbs:
            raise EmulatorError(f"{verb!r} is no verb; there are {', '.join(sorted(self._verbs))}")
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
        """Creates a tenant; vaults and identities create theirs by themselves."""
        self._world.tenants.append(tenant)

    def add_vault(self, name: str, tenant: str, suffix: str = "vault.azure.net", rbac: bool = True) -> None:
        """Creates an empty vault, or leaves one of that name as it is; it must be in the same tenant and cloud."""
        vault = self._world.vaults.setdefault(name.lower(), Vault(tenant=tenant, name=name, suffix=suffix, rbac=rbac))
        if (vault.tenant, vault.suffix) != (tenant, suffix):
            raise EmulatorError(f"name: {name!r} exists in tenant {vault.tenant} with suffix {vault.suffix}")

    def add_identity(self, client_id: str, tenant: str) -> None:
        """Creates an identity without rights, or leaves one with that client id, in the same tenant, as it is."""
        identity = self._world.identities.setdefault(client_id.lower(), Identity(tenant=tenant))
        if identity.tenant != tenant:
            raise EmulatorError(f"client_id: {client_id} exists in tenant {identity.tenant}")

    def remove_identity(self, client_id: str) -> None:
        """Deletes an identity with its federated credentials and roles."""
        self._world.identity(client_id)
        del self._world.identities[client_id.lower()]

    def trust_issuer(
        self,
        issuer_url: str,
        ca: str | None = None,
        discovery: str | None = None,
        jwks: dict[str, object] | None = None,
    ) -> None:
        """Allows OIDC discovery at an issuer. `ca` is PEM text; `discovery` replaces the issuer's URL for the look.

        `jwks` are keys that are known already: nobody is asked as long as they will do.
        """
        self._world.issuers[issuer_url] = Issuer(ca=ca, discovery=discovery, jwks=jwks)

    def federate(self, client_id: str, issuer: str, subject: str, audience: str = "api://AzureADTokenExchange") -> None:
        """Adds a federated credential."""
        identity = self._world.identity(client_id)
        credential = Federated(issuer=issuer, subject=subject, audience=audience)
        if credential in identity.federated:
            return
        if len(identity.federated) >= FEDERATED_LIMIT:
            raise EmulatorError(f"client_id: {client_id} has {FEDERATED_LIMIT} federated credentials, Entra's limit")
        identity.federated.append(credential)

    def unfederate(self, client_id: str, issuer: str, subject: str) -> None:
        """Removes the federated credentials of that issuer and subject."""
        identity = self._world.identity(client_id)
        identity.federated = [each for each in identity.federated if (each.issuer, each.subject) != (issuer, subject)]

    def assign_role(self, client_id: str, vault: str, role: str) -> None:
        """Gives an identity a role on a vault."""
        known = next((each for each in ROLES if each == role), None)
        if known is None:
            raise EmulatorError(f"role: {role!r} is not known; there are {', '.join(ROLES)}")
        roles = self._world.identity(client_id).roles.setdefault(self._world.vault(vault).name.lower(), [])
        if known not in roles:
            roles.append(known)

    def revoke_role(self, client_id: str, vault: str, role: str | None = None) -> None:
        """Takes a role on a vault away, or all of them."""
        roles = self._world.identity(client_id).roles
        key = self._world.vault(vault).name.lower()
        roles[key] = [each for each in roles.get(key, []) if role is not None and each != role]

    def set_policy(self, client_id: str, vault: str, permissions: dict[Kind, list[Allowed]]) -> None:
        """Sets an access policy, such as {"secrets": ["get"]}; the vault works with policies from then on."""
        holder = self._world.vault(vault)
        holder.rbac = False
        self._world.identity(client_id).policies[holder.name.lower()] = permissions

    def firewall(self, vault: str, on: bool) -> None:
        """On: the vault refuses every caller's address."""
        self._world.vault(vault).firewall = on

    def public_access(self, vault: str, on: bool) -> None:
        """Off: only an approved private link leads to the vault, so every caller is refused."""
        self._world.vault(vault).public_access = on

    def perimeter(self, vault: str, on: bool) -> None:
        """On: a network security perimeter refuses every caller."""
        self._world.vault(vault).perimeter = on

    def policy_refusals(
        self,
        vault: str,
        code: Literal["AccessDenied", "ForbiddenByPolicy"] = "AccessDenied",
        on_behalf_of: bool = False,
    ) -> None:
        """How access policies refuse: the inner code, and whether they demand an on-behalf-of flow."""
        holder = self._world.vault(vault)
        holder.policy_refusal, holder.on_behalf_of = code, on_behalf_of

    def api_versions(self, vault: str, versions: list[str]) -> None:
        """The versions of the REST API that the vault knows, oldest first; none: all that Key Vault knows."""
        self._world.vault(vault).api_versions = versions

    def page_sizes(self, vault: str, sizes: list[int]) -> None:
        """How many items the pages of the vault's lists have, in turn; none: as many as there may be."""
        if sizes and not any(sizes):
            raise EmulatorError("sizes: a list of empty pages alone has no end; make one of them larger")
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
        """Adds a version to a secret and returns its id. Times in seconds since 1970."""
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
        """Adds a version to a certificate from a PEM or PFX in base64, and returns its id."""
        try:
            raw = base64.b64decode(data, validate=True)
        except ValueError as problem:
            raise EmulatorError(f"data: is not base64: {problem}") from problem
        version = Version()
        state.fill(version, certificates.parse(raw, password))
        return self._world.put_version(vault, "certificates", name, version)

    def request_certificate(self, vault: str, name: str) -> None:
        """Requests a certificate, or another version of one: until one is imported, the request is pending."""
        self._world.request_certificate(vault, name)

    def create_key(
        self, vault: str, name: str, kty: str = "RSA", curve: str = "P-256", release_policy: bool = False
    ) -> str:
        """Adds a version to a key and returns its id. Its private half is dropped.

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
        """Changes what is given of one version (None: the newest); `updated` becomes now unless it is given too."""
        for each in self._world.versions(vault, kind, name, version):
            changes = {"enabled": enabled, "not_before": not_before, "expires": expires, "created": created}
            for field, value in changes.items():
                if value is not None:
                    setattr(each, field, value)
            each.updated = int(self._world.now()) if updated is None else updated

    def delete(self, vault: str, name: str, kind: Kind = "secrets") -> None:
        """Deletes an object softly: it can be recovered, and its name cannot be used."""
        self._entry(vault, name, kind, deleted=False).deleted = True

    def recover(self, vault: str, name: str, kind: Kind = "secrets") -> None:
        """Brings a deleted object back."""
        self._entry(vault, name, kind, deleted=True).deleted = False

    def purge(self, vault: str, name: str, kind: Kind = "secrets") -> None:
        """Ends a deleted object for good."""
        self._entry(vault, name, kind, deleted=True)
        del getattr(self._world.vault(vault), kind)[name.lower()]

    def _entry(self, vault: str, name: str, kind: Kind, *, deleted: bool) -> state.Entry:
        entry: state.Entry | None = getattr(self._world.vault(vault), kind).get(name.lower())
        if entry is None or entry.deleted is not deleted:
            raise EmulatorError(f"name: vault {vault!r} has no {'deleted ' if deleted else ''}{kind[:-1]} {name!r}")
        return entry

    # Faults

    def cut_off(self) -> None:
        """Refuses connections to vaults and Entra, and resets those that exist."""
        self._server.data.close()

    async def restore(self) -> None:
        """Ends cut_off."""
        await self._server.data.open()

    def delay(self, seconds: float, operation: str | None = None, where: str | None = None) -> None:
        """Makes calls slower: an operation ("secrets.get", "token"), a vault or "entra", or everything."""
        self._server.faults.delay(seconds, where, operation)

    def throttle(self, vault: str, per_10s: int, retry_after: int | None = None) -> None:
        """Limits a vault's calls; without `retry_after`, refusals do not say when to come again, as Azure's."""
        self._world.vault(vault)
        self._server.faults.throttle(vault, Limiter(per_10s, retry_after))

    def fail(
        self,
        status: int = 503,
        kind: Fault = "answer",
        body: str | None = None,
        headers: dict[str, str] | None = None,
        operation: str | None = None,
        where: str | None = None,
        times: int | None = None,
        seconds: float = 1.0,
        size: int = 100_000_000,
    ) -> None:
        """Breaks calls; faults.Break says what each kind does."""
        self._server.faults.fail(
            Break(
                kind=kind,
                status=status,
                headers=headers or {},
                body=body,
                where=where,
                operation=operation,
                times=times,
                seconds=seconds,
                size=size,
            )
        )

    def refuse_tokens(self, number: int, times: int | None = None) -> None:
        """Has Entra refuse every exchange with that AADSTS number, in its own words where they are known."""
        status, error, text = AADSTS.get(number, (400, "invalid_request", "Words without a meaning."))
        body = entra_error(status, error, number, text, now=self._world.now(), error_uri=ENTRA_URI).body
        self._server.faults.fail(
            Break(status=status, body=json.dumps(body), where=ENTRA, operation="token", times=times)
        )

    def certificate_flaw(self, flaw: Flaw) -> None:
        """Presents a server certificate that is expired, from an unknown CA, or for another name; "none" ends that."""
        self._server.present(flaw)
        self._server.data.reset()

    async def heal(self) -> None:
        """Ends cut_off, delays, failures, limits of one's own and certificate flaws. Firewalls stay."""
        self._server.faults.heal()
        self.certificate_flaw("none")
        await self.restore()

    # The world as a whole

    def set_clock(self, offset: float) -> None:
        """Puts the emulator's clock ahead of the machine's by that many seconds (behind, if negative)."""
        self._world.clock_offset = offset

    def set_token_lifetime(self, seconds: int) -> None:
        """For how long tokens issued from now on are valid."""
        self._world.token_lifetime = seconds

    def roll_signing_key(self) -> None:
        """Gives Entra another key: tokens issued so far are refused."""
        self._server.signer.roll()

    def counters(self, by_client: bool = False) -> dict[str, int]:
        """Calls since the last reset, by "<vault or entra>/<operation>/<status>"."""
        return self._server.counters.totals(by_client)

    def reset_counters(self) -> None:
        """Starts counting from nothing."""
        self._server.counters.reset()

    def dump(self) -> str:
        """Everything there is, secret values included, as text for `load`."""
        return state.dump(self._world).decode()

    async def clear(self) -> None:
        """Forgets everything, ends every fault and starts counting from nothing."""
        self.load("{}")
        self.reset_counters()
        await self.heal()

    def load(self, text: str, folder: str = ".") -> None:
        """Replaces everything there is; `folder` is where files named in it are found."""
        new = state.load(text, Path(folder))
        for field in new.__struct_fields__:
            setattr(self._world, field, getattr(new, field))


def _arguments(method: Callable[..., Any]) -> type[msgspec.Struct]:
    """A struct with the parameters of `method`, so that msgspec checks them and names the one that is wrong."""
    fields = [
        (name, parameter.annotation)
        if parameter.default is parameter.empty
        else (name, parameter.annotation, parameter.default)
        for name, parameter in inspect.signature(method).parameters.items()
    ]
    return msgspec.defstruct(method.__name__, fields, kw_only=True, forbid_unknown_fields=True)
