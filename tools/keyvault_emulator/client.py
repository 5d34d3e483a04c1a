"""The control API as Python methods."""

import base64
import http.client
import json
import ssl
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.keyvault_emulator.errors import EmulatorError
from tools.keyvault_emulator.faults import Fault
from tools.keyvault_emulator.state import Allowed, Kind
from tools.keyvault_emulator.tls import Flaw

Moment = datetime | float | None
"""A time with its zone, or seconds since 1970, or none."""


class Client:
    """Steers an emulator. Every method blocks for one HTTPS call, and may be called from any thread.

    What the emulator refuses raises EmulatorError with what to change.
    """

    def __init__(self, host: str, port: int, directory: Path) -> None:
        self.directory = directory
        self.ca_file = directory / "ca.pem"
        self._host = host
        self._control_port = port
        self._connection: http.client.HTTPSConnection | None = None
        self._lock = threading.Lock()

    def disconnect(self) -> None:
        """Forgets the connection; the next call makes one, with the key that the directory holds then."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # Identities and access

    def add_tenant(self, tenant: str) -> None:
        """Creates a tenant; vaults and identities create theirs by themselves."""
        self.call("add_tenant", tenant=tenant)

    def add_vault(self, name: str, tenant: str, *, suffix: str = "vault.azure.net") -> None:
        """Creates an empty vault. Tokens for it need the audience https:// and `suffix`."""
        self.call("add_vault", name=name, tenant=tenant, suffix=suffix)

    def add_identity(self, client_id: str, tenant: str) -> None:
        """Creates an identity without rights."""
        self.call("add_identity", client_id=client_id, tenant=tenant)

    def remove_identity(self, client_id: str) -> None:
        """Deletes an identity with its federated credentials and roles."""
        self.call("remove_identity", client_id=client_id)

    def trust_issuer(
        self,
        issuer_url: str,
        ca_file: Path | None,
        *,
        discovery: str | None = None,
        jwks: dict[str, Any] | None = None,
    ) -> None:
        """Allows OIDC discovery at the issuer, with that CA (None: the system's); forgets keys fetched before.

        `discovery` is the URL to look below instead, where the issuer's own name cannot be resolved from here; `jwks`
        are its keys where they are known already: then nobody is asked as long as they will do.
        """
        ca = ca_file.read_text() if ca_file else None
        self.call("trust_issuer", issuer_url=issuer_url, ca=ca, discovery=discovery, jwks=jwks)

    def federate(self, client_id: str, issuer: str, subject: str, audience: str = "api://AzureADTokenExchange") -> None:
        """Adds a federated credential."""
        self.call("federate", client_id=client_id, issuer=issuer, subject=subject, audience=audience)

    def unfederate(self, client_id: str, issuer: str, subject: str) -> None:
        """Removes the federated credentials of that issuer and subject."""
        self.call("unfederate", client_id=client_id, issuer=issuer, subject=subject)

    def assign_role(self, client_id: str, vault: str, role: str = "Key Vault Secrets User") -> None:
        """Gives an identity a role on a vault; access.ROLES lists them."""
        self.call("assign_role", client_id=client_id, vault=vault, role=role)

    def revoke_role(self, client_id: str, vault: str, role: str | None = None) -> None:
        """Takes a role on a vault away, or all of them."""
        self.call("revoke_role", client_id=client_id, vault=vault, role=role)

    def set_policy(self, client_id: str, vault: str, permissions: dict[Kind, list[Allowed]]) -> None:
        """Sets an access policy, such as {"secrets": ["get"]}; the vault works with policies from then on."""
        self.call("set_policy", client_id=client_id, vault=vault, permissions=permissions)

    def firewall(self, vault: str, on: bool) -> None:
        """On: the vault refuses every caller's address."""
        self.call("firewall", vault=vault, on=on)

    def public_access(self, vault: str, on: bool) -> None:
        """Off: only an approved private link leads to the vault, so every caller is refused."""
        self.call("public_access", vault=vault, on=on)

    def perimeter(self, vault: str, on: bool) -> None:
        """On: a network security perimeter refuses every caller."""
        self.call("perimeter", vault=vault, on=on)

    def policy_refusals(self, vault: str, code: str = "AccessDenied", *, on_behalf_of: bool = False) -> None:
        """How access policies refuse: the inner code, and whether they demand an on-behalf-of flow."""
        self.call("policy_refusals", vault=vault, code=code, on_behalf_of=on_behalf_of)

    def api_versions(self, vault: str, versions: list[str]) -> None:
        """The versions of the REST API that the vault knows, oldest first; none: all that Key Vault knows."""
        self.call("api_versions", vault=vault, versions=versions)

    def page_sizes(self, vault: str, sizes: list[int]) -> None:
        """How many items the pages of the vault's lists have, in turn; none: as many as there may be."""
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
        """Adds a version to a secret and returns its id."""
        return str(
            self.call(
                "set_secret",
                vault=vault,
                name=name,
                value=value,
                content_type=content_type,
                enabled=enabled,
                not_before=_seconds(not_before),
                expires=_seconds(expires),
                tags=tags,
            )
        )

    def import_certificate(self, vault: str, name: str, data: bytes, *, password: str | None = None) -> str:
        """Adds a version to a certificate, its secret and its key from a PEM or PFX, and returns its id."""
        encoded = base64.b64encode(data).decode()
        return str(self.call("import_certificate", vault=vault, name=name, data=encoded, password=password))

    def request_certificate(self, vault: str, name: str) -> None:
        """Requests a certificate, or another version of one: until one is imported, the request is pending."""
        self.call("request_certificate", vault=vault, name=name)

    def create_key(
        self, vault: str, name: str, kty: str = "RSA", *, curve: str = "P-256", release_policy: bool = False
    ) -> str:
        """Adds a version to a key (RSA, EC on `curve`, RSA-HSM, EC-HSM or oct-HSM), and returns its id."""
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
        """Changes what is given of one version (None: the newest); `updated` becomes now unless it is given too."""
        self.call(
            "set_attributes",
            vault=vault,
            name=name,
            version=version,
            kind=kind,
            enabled=enabled,
            not_before=_seconds(not_before),
            expires=_seconds(expires),
            created=_seconds(created),
            updated=_seconds(updated),
        )

    def disable_secret(self, vault: str, name: str, version: str | None = None) -> None:
        """Disables a version of a secret (None: the newest)."""
        self.set_attributes(vault, name, version, enabled=False)

    def enable_secret(self, vault: str, name: str, version: str | None = None) -> None:
        """Enables a version of a secret (None: the newest)."""
        self.set_attributes(vault, name, version, enabled=True)

    def delete_secret(self, vault: str, name: str, *, kind: Kind = "secrets") -> None:
        """Deletes softly, a secret or another kind of object."""
        self.call("delete", vault=vault, name=name, kind=kind)

    def recover_secret(self, vault: str, name: str, *, kind: Kind = "secrets") -> None:
        """Brings back what was deleted."""
        self.call("recover", vault=vault, name=name, kind=kind)

    def purge_secret(self, vault: str, name: str, *, kind: Kind = "secrets") -> None:
        """Ends for good what was deleted."""
        self.call("purge", vault=vault, name=name, kind=kind)

    # Faults

    def cut_off(self) -> None:
        """Refuses connections to vaults and Entra, and resets those that exist."""
        self.call("cut_off")

    def restore(self) -> None:
        """Ends cut_off."""
        self.call("restore")

    def delay(self, seconds: float, operation: str | None = None, *, where: str | None = None) -> None:
        """Makes calls slower: an operation ("secrets.get", "token"), a vault or "entra" (`where`), or everything."""
        self.call("delay", seconds=seconds, operation=operation, where=where)

    def throttle(self, vault: str, per_10s: int, retry_after: int | None = None) -> None:
        """Limits a vault's calls; without `retry_after`, refusals do not say when to come again, as Azure's."""
        self.call("throttle", vault=vault, per_10s=per_10s, retry_after=retry_after)

    def fail(
        self,
        status: int = 503,
        *,
        kind: Fault = "answer",
        body: str | None = None,
        headers: dict[str, str] | None = None,
        operation: str | None = None,
        where: str | None = None,
        times: int | None = None,
        seconds: float = 1.0,
        size: int = 100_000_000,
    ) -> None:
        """Breaks the calls that match; faults.Break says what each kind does."""
        self.call(
            "fail",
            status=status,
            kind=kind,
            body=body,
            headers=headers,
            operation=operation,
            where=where,
            times=times,
            seconds=seconds,
            size=size,
        )

    def refuse_tokens(self, number: int, *, times: int | None = None) -> None:
        """Has Entra refuse every exchange with that AADSTS number."""
        self.call("refuse_tokens", number=number, times=times)

    def certificate_flaw(self, flaw: Flaw) -> None:
        """Presents a server certificate that is expired, from an unknown CA, or for another name; "none" ends that."""
        self.call("certificate_flaw", flaw=flaw)

    def heal(self) -> None:
        """Ends cut_off, delays, failures, limits of one's own and certificate flaws. Firewalls stay."""
        self.call("heal")

    # The world as a whole

    def set_clock(self, offset: float) -> None:
        """Puts the emulator's clock ahead of the machine's by that many seconds (behind, if negative)."""
        self.call("set_clock", offset=offset)

    def set_token_lifetime(self, seconds: int) -> None:
        """For how long tokens issued from now on are valid."""
        self.call("set_token_lifetime", seconds=seconds)

    def roll_signing_key(self) -> None:
        """Gives Entra another key: tokens issued so far are refused."""
        self.call("roll_signing_key")

    def counters(self, *, by_client: bool = False) -> dict[str, int]:
        """Calls since the last reset: {"my-vault/secrets.get/200": 3, "entra/token/200": 1}; see faults.Counters."""
        return dict(self.call("counters", by_client=by_client))

    def reset_counters(self) -> None:
        """Starts counting from nothing."""
        self.call("reset_counters")

    def clear(self) -> None:
        """Forgets everything, ends every fault and starts counting from nothing: as after the first start."""
        self.call("clear")

    def load(self, state_file: Path) -> None:
        """Replaces everything it holds by a state file (`tools/keyvault-emulator --help` shows one)."""
        self.call("load", text=state_file.read_text(), folder=str(state_file.resolve().parent))

    def call(self, verb: str, **arguments: object) -> Any:
        """Runs any verb of the control API (the methods of control.Control) and returns its result."""
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
            raise EmulatorError(f"{verb} failed inside the emulator; {self.directory / 'emulator.log'} tells why")
        content = json.loads(answer)
        if "error" in content:
            raise EmulatorError(content["error"])
        return content["result"]


def _seconds(moment: Moment) -> int | None:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise EmulatorError(f"{moment} has no time zone; give one, such as datetime.now(UTC)")
        return int(moment.timestamp())
    return None if moment is None else int(moment)
