"""The state of the emulator: tenants, identities, vaults and their objects.

It is also the format of state files (YAML or JSON) and of the snapshots that survive a restart.
"""

import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from tools.keyvault_emulator.azure import certificates
from tools.keyvault_emulator.errors import EmulatorError

Kind = Literal["secrets", "certificates", "keys"]
Allowed = Literal["get", "list"]
Role = Literal[
    "Key Vault Secrets User",
    "Key Vault Secrets Officer",
    "Key Vault Reader",
    "Key Vault Certificate User",
    "Key Vault Certificates Officer",
    "Key Vault Crypto User",
    "Key Vault Administrator",
]
T = TypeVar("T")

NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
"""Names of secrets, certificates and keys (Key Vault's rule; they are compared without regard to case)."""

FEDERATED_LIMIT = 20
"""Federated credentials per identity, Entra's limit."""


class StateModel(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """The base class of a state file's structs: camelCase names, and unknown fields are errors."""


class Version(StateModel):
    """One version of a secret, certificate or key. Times are whole seconds since 1970, as in Key Vault."""

    id: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)
    value: str = ""
    content_type: str | None = None
    enabled: bool = True
    not_before: int | None = None
    expires: int | None = None
    created: int = 0
    updated: int = 0
    tags: dict[str, str] = {}
    certificate: bytes | None = None
    jwk: dict[str, str] | None = None
    release_policy: bool = False
    """Whether the key can be exported to an attested environment: then Key Vault shows its release policy."""
    file: str | None = None
    """In a state file, for certificates: the PEM or PFX to import, relative to the state file."""
    password: str | None = None

    def __repr__(self) -> str:
        return f"Version({self.id}, value hidden)"


class Entry(StateModel):
    """A name in a vault with its versions, oldest first."""

    name: str = ""
    versions: list[Version] = []
    deleted: bool = False
    """Soft-deleted: it is hidden and its name cannot be used until it is recovered."""
    pending: bool = False
    """Whether a request for a certificate is pending. Without a version, only the request is visible."""
    requested: int = 0
    """The time of the request in seconds since 1970."""

    @property
    def request(self) -> Version | None:
        """Return the pending request as Key Vault shows it: a disabled version. Return None if there is a version."""
        if not self.pending or self.versions or self.deleted:
            return None
        return Version(
            id=uuid.uuid5(uuid.NAMESPACE_URL, f"{self.name}/{self.requested}").hex,
            content_type=certificates.PFX,
            enabled=False,
            not_before=self.requested - 600,
            expires=self.requested + 365 * 86_400,
            created=self.requested,
            updated=self.requested,
        )


class Vault(StateModel):
    """One key vault."""

    tenant: str
    name: str = ""
    suffix: str = "vault.azure.net"
    """DNS suffix of the vault's cloud. The audience of its tokens is https:// and this suffix."""
    location: str = "westeurope"
    rbac: bool = True
    """False: the vault uses access policies instead of role assignments, with their own error messages."""
    firewall: bool = False
    """Whether the vault refuses every caller's address."""
    public_access: bool = True
    """False: the vault accepts only private links. The emulator has none, so it refuses every caller."""
    perimeter: bool = False
    """Whether a network security perimeter refuses every caller."""
    policy_refusal: Literal["AccessDenied", "ForbiddenByPolicy"] = "AccessDenied"
    """The inner error code of refusals by access policies. Recorded answers of Key Vault have both."""
    on_behalf_of: bool = False
    """Whether the access policies allow identities only together with an application."""
    api_versions: list[str] = []
    """The versions of the REST API that the vault knows, oldest first; empty: `keyvault.API_VERSIONS`."""
    page_sizes: list[int] = []
    """The numbers of items of successive pages of its lists; empty: full pages."""
    secrets: dict[str, Entry] = {}
    certificates: dict[str, Entry] = {}
    keys: dict[str, Entry] = {}

    @property
    def audience(self) -> str:
        """The resource that tokens for this vault are issued for."""
        return f"https://{self.suffix}"

    def url(self, kind: Kind, name: str, version: str = "") -> str:
        """Return the id of an object as Key Vault writes it, independent of the address of the request."""
        return f"https://{self.name}.{self.suffix}/{kind}/{name}" + (f"/{version}" if version else "")

    def entries(self, kind: Kind, after: str = "") -> Iterator[tuple[Entry, bool]]:
        """Yield the entries of a kind by name, and whether each is managed: the secret or key of a certificate.

        Yield only names after `after`, so that listing 10,000 entries in pages reads each once. Yield deleted entries
        and entries without a version, too: lists leave them out, and their pages become shorter.
        """
        own, certificates = getattr(self, kind), {} if kind == "certificates" else self.certificates
        for key in sorted(name for name in {**own, **certificates} if name > after):
            entry, managed = (certificates[key], True) if key in certificates else (own[key], False)
            yield entry, managed

    def find(self, kind: Kind, name: str) -> tuple[Entry, bool] | None:
        """Return the visible entry with that name and whether it is managed, or None if there is none."""
        key = name.lower()
        for book, managed in ((getattr(self, kind), False), (self.certificates, kind != "certificates")):
            entry = book.get(key)
            if entry and entry.versions and not entry.deleted:
                return entry, managed
        return None


class FederatedCredential(StateModel):
    """A federated credential: the token that can be exchanged for a token of the identity."""

    issuer: str
    subject: str
    audience: str = "api://AzureADTokenExchange"


class Identity(StateModel):
    """A managed identity or application, known by its client id (the key of `identities`)."""

    tenant: str
    object_id: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))
    federated: list[FederatedCredential] = []
    roles: dict[str, list[Role]] = {}
    """Vault to role names, such as {"my-vault": ["Key Vault Secrets User"]}."""
    policies: dict[str, dict[Kind, list[Allowed]]] = {}
    """Vault to kind to permissions, such as {"my-vault": {"secrets": ["get"]}}; for vaults with `rbac: false`."""


class TokenIssuer(StateModel):
    """An issuer of federated tokens, at which the emulator may discover keys."""

    ca: str | None = None
    """PEM of the CA that signed its certificate; None: the system's."""
    ca_file: str | None = None
    """In a state file: the path of that PEM, relative to the state file."""
    discovery: str | None = None
    """The base URL of its discovery document, if it is not the issuer's URL."""
    jwks: dict[str, object] | None = None
    """The cached keys, which are used while the issuer is offline."""


class EmulatorState(StateModel):
    """The whole state. After loading, the keys of `vaults` and `identities` are in lower case."""

    tenants: list[str] = []
    vaults: dict[str, Vault] = {}
    identities: dict[str, Identity] = {}
    issuers: dict[str, TokenIssuer] = {}
    clock_offset: float = 0.0
    """Seconds by which the emulator's clock is ahead of the machine's."""
    token_lifetime: int = 3599
    """The lifetime of Entra's tokens in seconds."""

    def now(self) -> float:
        """Return the seconds since 1970 by the emulator's clock."""
        return time.time() + self.clock_offset

    def has_tenant(self, tenant: str) -> bool:
        """Return whether the tenant exists: it was added, or it has a vault or an identity."""
        tenants = {*self.tenants, *(v.tenant for v in self.vaults.values())}
        return tenant.lower() in {each.lower() for each in tenants | {i.tenant for i in self.identities.values()}}

    def vault(self, name: str) -> Vault:
        """Return the vault with that name. Raise `EmulatorError` if there is none."""
        return _find_known(self.vaults, name, "vault")

    def identity(self, client_id: str) -> Identity:
        """Return the identity with that client id. Raise `EmulatorError` if there is none."""
        return _find_known(self.identities, client_id, "client_id")

    def put_version(self, vault: str, kind: Kind, name: str, version: Version) -> str:
        """Add a version to an object, and return the version's id. Raise `EmulatorError`."""
        if not NAME.fullmatch(name):
            raise EmulatorError(f"name: {_bad_name(name)}")
        holder, key = self.vault(vault), name.lower()
        other = holder.certificates if kind != "certificates" else {**holder.secrets, **holder.keys}
        if key in other:
            raise EmulatorError(
                f"name: {name!r} is taken by another kind of object in vault {vault!r} "
                "(a certificate owns the secret and the key of its name)"
            )
        entry = getattr(holder, kind).setdefault(key, Entry(name=name))
        if entry.deleted:
            raise EmulatorError(f"name: {name!r} is deleted but recoverable; recover or purge it first")
        version.created = version.created or int(self.now())
        version.updated = version.updated or version.created
        entry.versions.append(version)
        entry.pending = False
        return version.id

    def request_certificate(self, vault: str, name: str) -> None:
        """Record a pending request for a certificate or its next version. Raise `EmulatorError` for a bad name."""
        if not NAME.fullmatch(name):
            raise EmulatorError(f"name: {_bad_name(name)}")
        entry = self.vault(vault).certificates.setdefault(name.lower(), Entry(name=name))
        entry.pending, entry.requested = True, int(self.now())

    def versions(self, vault: str, kind: Kind, name: str, version: str | None) -> list[Version]:
        """Return the given version, or the newest for None, in a list. Raise `EmulatorError` if it does not exist."""
        found = self.vault(vault).find(kind, name)
        if found is None:
            raise EmulatorError(f"name: vault {vault!r} has no {kind[:-1]} named {name!r}")
        chosen = [each for each in found[0].versions if each.id == version] if version else found[0].versions[-1:]
        if not chosen:
            known = ", ".join(each.id for each in found[0].versions)
            raise EmulatorError(f"version: {name!r} has no version {version!r}; it has {known}")
        return chosen


def load(text: str | bytes, folder: Path) -> EmulatorState:
    """Return the state in YAML or JSON. Paths in it are relative to `folder`.

    Raise `EmulatorError`, which names the field: "$.vaults.x: Object missing required field `tenant`".
    """
    try:
        world = msgspec.yaml.decode(text, type=EmulatorState, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as problem:
        raise EmulatorError(f"the state cannot be read: {' '.join(str(problem).split())}") from problem
    for name, vault in world.vaults.items():
        vault.name = vault.name or name
        for kind in ("secrets", "certificates", "keys"):
            _complete_vault(vault, kind, folder, int(world.now()))
        if shared := sorted(vault.certificates.keys() & (vault.secrets.keys() | vault.keys.keys())):
            raise EmulatorError(
                f"vaults.{vault.name}.certificates: {shared[0]!r} is also the name of a secret or key; a certificate"
                " owns the secret and the key of its name"
            )
    world.identities = {key.lower(): value for key, value in world.identities.items()}
    world.vaults = {key.lower(): value for key, value in world.vaults.items()}
    for issuer in world.issuers.values():
        if issuer.ca_file:
            issuer.ca, issuer.ca_file = _read_file(folder, issuer.ca_file).decode(), None
    return world


def dump(world: EmulatorState) -> bytes:
    """Return the state as JSON for `load`. It contains secret values: do not write it to disks or logs."""
    return msgspec.json.encode(world)


def _complete_vault(vault: Vault, kind: Kind, folder: Path, now: int) -> None:
    book: dict[str, Entry] = getattr(vault, kind)
    for key, entry in book.items():
        entry.name = entry.name or key
        if not NAME.fullmatch(entry.name):
            raise EmulatorError(f"vaults.{vault.name}.{kind}: {_bad_name(entry.name)}")
        entry.requested = entry.requested or (now if entry.pending else 0)
        for version in entry.versions:
            version.created = version.created or now
            version.updated = version.updated or version.created
            if kind == "certificates" and version.certificate is None:
                if version.file is None:
                    raise EmulatorError(f"vaults.{vault.name}.certificates.{key}: a version needs `file`, a PEM or PFX")
                fill(version, certificates.parse(_read_file(folder, version.file), version.password))
            if kind == "keys":
                _check_key(version, f"vaults.{vault.name}.keys.{key}")
    setattr(vault, kind, {key.lower(): entry for key, entry in book.items()})


def _check_key(version: Version, place: str) -> None:
    kty = (version.jwk or {}).get("kty")
    if kty is None:
        raise EmulatorError(f"{place}: a version needs `jwk`, the public key with `kty`")
    if kty not in certificates.KEY_TYPES:
        raise EmulatorError(f"{place}: kty {kty!r} is not known; use {', '.join(certificates.KEY_TYPES)}")


def fill(version: Version, material: certificates.CertificateMaterial) -> None:
    """Store a certificate in `version`. Its validity becomes nbf and exp, as in Key Vault."""
    version.value, version.content_type = material.value, material.content_type
    version.certificate, version.jwk = material.certificate, material.jwk
    version.not_before, version.expires = material.not_before, material.expires
    version.file = version.password = None


def _bad_name(name: str) -> str:
    return f"{name!r} is not a valid name in Key Vault; use 1 to 127 letters, digits and hyphens"


def _read_file(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as problem:
        raise EmulatorError(f"{name}: cannot be read ({problem.strerror}); paths are relative to {folder}") from problem


def _find_known(book: dict[str, T], key: str, what: str) -> T:
    try:
        return book[key.lower()]
    except KeyError:
        known = ", ".join(sorted(book)) or "none yet"
        raise EmulatorError(f"{what}: {key!r} does not exist; known: {known}") from None
