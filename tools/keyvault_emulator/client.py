"""A client for the emulator's control API."""

import base64
import http.client
import json
import ssl
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.keyvault_emulator.azure.state import Allowed, Kind
from tools.keyvault_emulator.errors import EmulatorError
from tools.keyvault_emulator.faults import FaultKind
from tools.keyvault_emulator.tls import Flaw

Moment = datetime | float | None
"""A time with its zone, or seconds since 1970, or None."""


class ControlClient:
    """Controls an emulator. Every method blocks for one HTTPS call, and can be called from any thread.

    Every method raises EmulatorError if the emulator refuses the call. The message has the fix.
    """

    def __init__(self, host: str, port: int, directory: Path) -> None:
        self.directory = directory
        self.ca_file = directory / "ca.pem"
        self._host = host
        self._control_port = port
        self._connection: http.client.HTTPSConnection | None = None
        self._lock = threading.Lock()

    def disconnect(self) -> None:
        """Close the connection. The next call opens a new one, with the key that the directory then contains."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # Identities and access

    def add_tenant(self, tenant: str) -> None:
        """Create a tenant. Vaults and identities create their tenants themselves."""
        self.call("add_tenant", tenant=tenant)

    def add_vault(self, name: str, tenant: str, *, suffix: str = "vault.azure.net") -> None:
        """Create an empty vault. Tokens for it need the audience https:// and `suffix`."""
        self.call("add_vault", name=name, tenant=tenant, suffix=suffix)

    def add_identity(self, client_id: str, tenant: str) -> None:
        """Create an identity without rights."""
        self.call("add_identity", client_id=client_id, tenant=tenant)

    def remove_identity(self, client_id: str) -> None:
        """Delete an identity with its federated credentials and roles."""
        self.call("remove_identity", client_id=client_id)

    def trust_issuer(
        self,
        issuer_url: str,
        ca_file: Path | None,
        *,
        discovery: str | None = None,
        jwks: dict[str, Any] | None = None,
    ) -> None:
        """Allow OIDC discovery at the issuer, with that CA (None: the system's), and forget its cached keys.

        `discovery` replaces the issuer's URL for discovery, if its host name cannot be resolved from here. `jwks`
        are the issuer's keys, if they are known: then discovery is only used for other keys.
        """
        ca = ca_file.read_text() if ca_file else None
        self.call("trust_issuer", issuer_url=issuer_url, ca=ca, discovery=discovery, jwks=jwks)

    def federate(self, client_id: str, issuer: str, subject: str, audience: str = "api://AzureADTokenExchange") -> None:
        """Add a federated credential."""
        self.call("federate", client_id=client_id, issuer=issuer, subject=subject, audience=audience)

    def unfederate(self, client_id: str, issuer: str, subject: str) -> None:
        """Remove the federated credentials with that issuer and subject."""
        self.call("unfederate", client_id=client_id, issuer=issuer, subject=subject)

    def assign_role(self, client_id: str, vault: str, role: str = "Key Vault Secrets User") -> None:
        """Assign an identity a role on a vault; access.ROLES lists the roles."""
        self.call("assign_role", client_id=client_id, vault=vault, role=role)

    def revoke_role(self, client_id: str, vault: str, role: str | None = None) -> None:
        """Remove a role on a vault, or all of them."""
        self.call("revoke_role", client_id=client_id, vault=vault, role=role)

    def set_policy(self, client_id: str, vault: str, permissions: dict[Kind, list[Allowed]]) -> None:
        """Set an access policy, such as {"secrets": ["get"]}. From then on, the vault ignores roles."""
        self.call("set_policy", client_id=client_id, vault=vault, permissions=permissions)

    def firewall(self, vault: str, on: bool) -> None:
        """Set whether the firewall of the vault refuses every caller's address."""
        self.call("firewall", vault=vault, on=on)

    def public_access(self, vault: str, on: bool) -> None:
        """Set whether the vault accepts public access. Without it, every caller is refused."""
        self.call("public_access", vault=vault, on=on)

    def perimeter(self, vault: str, on: bool) -> None:
        """Set whether a network security perimeter refuses every caller."""
        self.call("perimeter", vault=vault, on=on)

    def policy_refusals(self, vault: str, code: str = "AccessDenied", *, on_behalf_of: bool = False) -> None:
        """Set how access policies refuse: the inner code, and whether they require an on-behalf-of flow."""
        self.call("policy_refusals", vault=vault, code=code, on_behalf_of=on_behalf_of)

    def api_versions(self, vault: str, versions: list[str]) -> None:
        """Set the versions of the REST API that the vault supports, oldest first. An empty list means all."""
        self.call("api_versions", vault=vault, versions=versions)

    def page_sizes(self, vault: str, sizes: list[int]) -> None:
        """Set the numbers of items of successive pages of the vault's lists; an empty list means full pages."""
        self.call("page_sizes", vault=vault, sizes=sizes)

    # Objects

    def set_secret(
        self,
        vault: str,
        name: str,
        value: str,
        *,
        content_type: str | None = None,
        enabled: bool = True,
        not_before: Moment = None,
        expires: Moment = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        """Add a version to a secret, and return its id."""
        return str(
            self.call(
                "set_secret",
                vault=vault,
                name=name,
                value=value,
                content_type=content_type,
                enabled=enabled,
                not_before=_to_seconds(not_before),
                expires=_to_seconds(expires),
                tags=tags,
            )
        )

    def import_certificate(self, vault: str, name: str, data: bytes, *, password: str | None = None) -> str:
        """Add a version to a certificate, its secret and its key from a PEM or PFX, and return its id."""
        encoded = base64.b64encode(data).decode()
        return str(self.call("import_certificate", vault=vault, name=name, data=encoded, password=password))

    def request_certificate(self, vault: str, name: str) -> None:
        """Request a certificate, or another version of one. The request is pending until a version is imported."""
        self.call("request_certificate", vault=vault, name=name)

    def create_key(
        self, vault: str, name: str, kty: str = "RSA", *, curve: str = "P-256", release_policy: bool = False
    ) -> str:
        """Add a version to a key (RSA, EC on `curve`, RSA-HSM, EC-HSM or oct-HSM), and return its id."""
        return str(self.call("create_key", vault=vault, name=name, kty=kty, curve=curve, release_policy=release_policy))

    def set_attributes(
        self,
        vault: str,
        name: str,
        version: str | None = None,
        *,
        kind: Kind = "secrets",
        enabled: bool | None = None,
        not_before: Moment = None,
        expires: Moment = None,
        created: Moment = None,
        updated: Moment = None,
    ) -> None:
        """Change the given attributes of one version (None: the newest). Without `updated`, that becomes now."""
        self.call(
            "set_attributes",
            vault=vault,
            name=name,
            version=version,
            kind=kind,
            enabled=enabled,
            not_before=_to_seconds(not_before),
            expires=_to_seconds(expires),
            created=_to_seconds(created),
            updated=_to_seconds(updated),
        )

    def disable_secret(self, vault: str, name: str, version: str | None = None) -> None:
        """Disable a version of a secret (None: the newest)."""
        self.set_attributes(vault, name, version, enabled=False)

    def enable_secret(self, vault: str, name: str, version: str | None = None) -> None:
        """Enable a version of a secret (None: the newest)."""
        self.set_attributes(vault, name, version, enabled=True)

    def delete_secret(self, vault: str, name: str, *, kind: Kind = "secrets") -> None:
        """Soft-delete a secret, or an object of another kind."""
        self.call("delete", vault=vault, name=name, kind=kind)

    def recover_secret(self, vault: str, name: str, *, kind: Kind = "secrets") -> None:
        """Recover a deleted object."""
        self.call("recover", vault=vault, name=name, kind=kind)

    def purge_secret(self, vault: str, name: str, *, kind: Kind = "secrets") -> None:
        """Purge a deleted object: it cannot be recovered."""
        self.call("purge", vault=vault, name=name, kind=kind)

    # Faults

    def cut_off(self) -> None:
        """Refuse connections to vaults and Entra, and reset the existing ones."""
        self.call("cut_off")

    def restore(self) -> None:
        """End `cut_off`: accept connections again."""
        self.call("restore")

    def delay(self, seconds: float, operation: str | None = None, *, where: str | None = None) -> None:
        """Delay the calls of an operation ("secrets.get", "token"), of a vault or "entra" (`where`), or all calls."""
        self.call("delay", seconds=seconds, operation=operation, where=where)

    def throttle(self, vault: str, per_10s: int, retry_after: int | None = None) -> None:
        """Limit a vault's calls in ten seconds. Without `retry_after`, refusals have no Retry-After, as in Azure."""
        self.call("throttle", vault=vault, per_10s=per_10s, retry_after=retry_after)

    def fail(
        self,
        status: int = 503,
        *,
        kind: FaultKind = "answer",
        body: str | bytes | None = None,
        headers: dict[str, str] | None = None,
        operation: str | None = None,
        where: str | None = None,
        times: int | None = None,
        seconds: float = 1.0,
        size: int = 100_000_000,
    ) -> None:
        """Make matching calls fail; `faults.Fault` describes each kind of failure."""
        raw = base64.b64encode(body).decode() if isinstance(body, bytes) else None
        self.call(
            "fail",
            status=status,
            kind=kind,
            body=None if isinstance(body, bytes) else body,
            raw=raw,
            headers=headers,
            operation=operation,
            where=where,
            times=times,
            seconds=seconds,
            size=size,
        )

    def refuse_tokens(self, number: int, *, times: int | None = None) -> None:
        """Make Entra refuse every token exchange with that AADSTS number."""
        self.call("refuse_tokens", number=number, times=times)

    def certificate_flaw(self, flaw: Flaw) -> None:
        """Present a server certificate that is expired, from an unknown CA or for another name; "none" ends that."""
        self.call("certificate_flaw", flaw=flaw)

    def clear_faults(self) -> None:
        """End `cut_off`, delays, failures, changed limits and certificate flaws. Firewalls stay."""
        self.call("clear_faults")

    # The whole state

    def set_clock(self, offset: float) -> None:
        """Set the emulator's clock ahead of the machine's by `offset` seconds (behind, if negative)."""
        self.call("set_clock", offset=offset)

    def set_token_lifetime(self, seconds: int) -> None:
        """Set the lifetime of tokens that are issued from now on, in seconds."""
        self.call("set_token_lifetime", seconds=seconds)

    def roll_signing_key(self) -> None:
        """Replace Entra's signing key. Vaults then refuse the tokens that were issued before."""
        self.call("roll_signing_key")

    def counters(self, *, by_client: bool = False) -> dict[str, int]:
        """Return the calls since the last reset: {"my-vault/secrets.get/200": 3, "entra/token/200": 1}."""
        return dict(self.call("counters", by_client=by_client))

    def reset_counters(self) -> None:
        """Set all counters to zero."""
        self.call("reset_counters")

    def clear(self) -> None:
        """Delete everything, end every fault and set all counters to zero, as after the first start."""
        self.call("clear")

    def load(self, state_file: Path) -> None:
        """Replace the whole state with a state file (`tools/keyvault-emulator --help` shows one)."""
        self.call("load", text=state_file.read_text(), folder=str(state_file.resolve().parent))

    def call(self, verb: str, **arguments: object) -> Any:
        """Call a verb of the control API (the methods of `control.Control`), and return its result."""
        with self._lock:
            if self._connection is None:
                self._key = json.loads((self.directory / "connection.json").read_text())["key"]
                context = ssl.create_default_context(cafile=self.ca_file)
                self._connection = http.client.HTTPSConnection(
                    self._host, self._control_port, context=context, timeout=60
                )
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            try:
                self._connection.request("POST", f"/control/{verb}", json.dumps(arguments), headers)
                response = self._connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                self._connection = None
                raise
        if response.status == 500:
            raise EmulatorError(f"{verb} failed inside the emulator; {self.directory / 'emulator.log'} has the reason")
        content = json.loads(answer)
        if "error" in content:
            raise EmulatorError(content["error"])
        return content["result"]


def _to_seconds(moment: Moment) -> int | None:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise EmulatorError(f"{moment} has no time zone; give one, such as datetime.now(UTC)")
        return int(moment.timestamp())
    return None if moment is None else int(moment)
