"""What exists in the emulated world: identities, vaults and what they hold.

It is also the format of state files (YAML or JSON) and of the snapshots that survive a restart.
"""

import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from tools.keyvault_emulator import certificates
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


class Model(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Base of everything in a state file: camelCase names, unknown fields are refused."""


class Version(Model):
    """One version of a secret, certificate or key. Times are whole seconds since 1970, as Key Vault's are."""

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


class Entry(Model):
    """A name in a vault with its versions, oldest first."""

    name: str = ""
    versions: list[Version] = []
    deleted: bool = False
    """Soft-deleted: invisible until it is recovered; its name cannot be used meanwhile."""
    pending: bool = False
    """Of a certificate: its request is not answered yet. Without a version, only the request can be seen."""


class Vault(Model):
    """One key vault."""

    tenant: str
    name: str = ""
    suffix: str = "vault.azure.net"
    """DNS suffix of the vault's cloud; its audience is https:// and this."""
    location: str = "westeurope"
    rbac: bool = True
    """False: the vault works with access policies instead of role assignments, and refuses in their words."""
    firewall: bool = False
    """Whether the vault refuses every caller's address."""
    public_access: bool = True
    """False: only an approved private link leads to the vault, and nothing here is one."""
    perimeter: bool = False
    """Whether a network security perimeter refuses every caller."""
    policy_refusal: Literal["AccessDenied", "ForbiddenByPolicy"] = "AccessDenied"
    """The inner code of what access policies refuse; Key Vault was seen to answer either."""
    on_behalf_of: bool = False
    """Whether the access policies allow identities only together with an application."""
    api_versions: list[str] = []
    """The versions of the REST API that the vault knows, oldest first; empty: all of `keyvault.API_VERSIONS`."""
    page_sizes: list[int] = []
    """How many items the pages of its lists have, in turn; empty: as many as there may be."""
    secrets: dict[str, Entry] = {}
    certificates: dict[str, Entry] = {}
    keys: dict[str, Entry] = {}

    @property
    def audience(self) -> str:
        """The resource that tokens for this vault are issued for."""
        return f"https://{self.suffix}"

    def url(self, kind: Kind, name: str, version: str = "") -> str:
        """The id of an object as Key Vault writes it, whatever address was asked."""
        return f"https://{self.name}.{self.suffix}/{kind}/{name}" + (f"/{version}" if version else "")

    def entries(self, kind: Kind, after: str = "") -> Iterator[tuple[Entry, bool]]:
        """The entries of a kind by name, and whether each is managed: the secret or key behind a certificate.

        Only those behind the name `after`: of 10,000 listed page by page each is looked at once. Deleted ones and
        those without a version are among them: lists leave them out, and have shorter pages for that.
        """
        own, certificates = getattr(self, kind), {} if kind == "certificates" else self.certificates
        for key in sorted(name for name in {**own, **certificates} if name > after):
            entry, managed = (certificates[key], True) if key in certificates else (own[key], False)
            yield entry, managed

    def find(self, kind: Kind, name: str) -> tuple[Entry, bool] | None:
        """The live entry of that name, or None."""
        key = name.lower()
        for book, managed in ((getattr(self, kind), False), (self.certificates, kind != "certificates")):
            entry = book.get(key)
            if entry and entry.versions and not entry.deleted:
                return entry, managed
        return None


class Federated(Model):
    """A federated credential: which foreign token may stand for the identity."""

    issuer: str
    subject: str
    audience: str = "api://AzureADTokenExchange"


class Identity(Model):
    """A managed identity or application, known by its client id (the key of `identities`)."""

    tenant: str
    object_id: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))
    federated: list[Federated] = []
    roles: dict[str, list[Role]] = {}
    """Vault to role names, such as {"my-vault": ["Key Vault Secrets User"]}."""
    policies: dict[str, dict[Kind, list[Allowed]]] = {}
    """Vault to kind to permissions, such as {"my-vault": {"secrets": ["get"]}}; for vaults with `rbac: false`."""


class Issuer(Model):
    """An issuer of foreign tokens that the emulator may ask for its keys."""

    ca: str | None = None
    """PEM of the CA that signed its certificate; None: the system's."""
    ca_file: str | None = None
    """In a state file: where that PEM is, relative to the state file."""
    discovery: str | None = None
    """Where its discovery document is found, if not below the issuer's own URL."""
    jwks: dict[str, object] | None = None
    """The keys last fetched: they serve while the issuer is offline."""


class World(Model):
    """Everything. Keys of `vaults` and `identities` are lower case once loaded."""

    tenants: list[str] = []
    vaults: dict[str, Vault] = {}
    identities: dict[str, Identity] = {}
    issuers: dict[str, Issuer] = {}
    clock_offset: float = 0.0
    """Seconds by which this world's clock is ahead of the machine's."""
    token_lifetime: int = 3599
    """Seconds for which Entra's tokens are valid."""

    def now(self) -> float:
        """Seconds since 1970 by this world's clock."""
        return time.time() + self.clock_offset

    def has_tenant(self, tenant: str) -> bool:
        """Whether the tenant exists: it was added, or a vault or an identity lives in it."""
        tenants = {*self.tenants, *(v.tenant for v in self.vaults.values())}
        return tenant.lower() in {each.lower() for each in tenants | {i.tenant for i in self.identities.values()}}

    def vault(self, name: str) -> Vault:
        """The vault of that name; EmulatorError if there is none."""
        return _known(self.vaults, name, "vault")

    def identity(self, client_id: str) -> Identity:
        """The identity with that client id; EmulatorError if there is none."""
        return _known(self.identities, client_id, "client_id")

    def put_version(self, vault: str, kind: Kind, name: str, version: Version) -> str:
        """Adds the newest version of an object and returns its id."""
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
        """Notes that a certificate, or its next version, is requested and not issued yet."""
        if not NAME.fullmatch(name):
            raise EmulatorError(f"name: {_bad_name(name)}")
        entry = self.vault(vault).certificates.setdefault(name.lower(), Entry(name=name))
        entry.pending = True

    def versions(self, vault: str, kind: Kind, name: str, version: str | None) -> list[Version]:
        """The version asked for, or the newest if None; EmulatorError if it does not exist."""
        found = self.vault(vault).find(kind, name)
        if found is None:
            raise EmulatorError(f"name: vault {vault!r} has no {kind[:-1]} named {name!r}")
        chosen = [each for each in found[0].versions if each.id == version] if version else found[0].versions[-1:]
        if not chosen:
            known = ", ".join(each.id for each in found[0].versions)
            raise EmulatorError(f"version: {name!r} has no version {version!r}; it has {known}")
        return chosen


def load(text: str | bytes, folder: Path) -> World:
    """A world from YAML or JSON; files that it names are read relative to `folder`.

    EmulatorError names the field: "$.vaults.x: Object missing required field `tenant`".
    """
    try:
        world = msgspec.yaml.decode(text, type=World, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as problem:
        raise EmulatorError(f"the state cannot be read: {' '.join(str(problem).split())}") from problem
    for name, vault in world.vaults.items():
        vault.name = vault.name or name
        for kind in ("secrets", "certificates", "keys"):
            _complete(vault, kind, folder, int(world.now()))
    world.identities = {key.lower(): value for key, value in world.identities.items()}
    world.vaults = {key.lower(): value for key, value in world.vaults.items()}
    for issuer in world.issuers.values():
        if issuer.ca_file:
            issuer.ca, issuer.ca_file = _read(folder, issuer.ca_file).decode(), None
    return world


def dump(world: World) -> bytes:
    """The world as JSON that `load` reads again. It holds secret values: keep it off disks and logs."""
    return msgspec.json.encode(world)


def _complete(vault: Vault, kind: Kind, folder: Path, now: int) -> None:
    book: dict[str, Entry] = getattr(vault, kind)
    for key, entry in book.items():
        entry.name = entry.name or key
        if not NAME.fullmatch(entry.name):
            raise EmulatorError(f"vaults.{vault.name}.{kind}: {_bad_name(entry.name)}")
        for version in entry.versions:
            version.created = version.created or now
            version.updated = version.updated or version.created
            if kind == "certificates" and version.certificate is None:
                if version.file is None:
                    raise EmulatorError(f"vaults.{vault.name}.certificates.{key}: a version needs `file`, a PEM or PFX")
                fill(version, certificates.parse(_read(folder, version.file), version.password))
    setattr(vault, kind, {key.lower(): entry for key, entry in book.items()})


def fill(version: Version, material: certificates.Material) -> None:
    """Makes `version` the one that holds this certificate; its validity becomes nbf and exp, as in Key Vault."""
    version.value, version.content_type = material.value, material.content_type
    version.certificate, version.jwk = material.certificate, material.jwk
    version.not_before, version.expires = material.not_before, material.expires
    version.file = version.password = None


def _bad_name(name: str) -> str:
    return f"{name!r} is no name for Key Vault; use 1 to 127 letters, digits and hyphens"


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as problem:
        raise EmulatorError(f"{name}: cannot be read ({problem.strerror}); paths are relative to {folder}") from problem


def _known(book: dict[str, T], key: str, what: str) -> T:
    try:
        return book[key.lower()]
    except KeyError:
        known = ", ".join(sorted(book)) or "none yet"
        raise EmulatorError(f"{what}: {key!r} does not exist; known: {known}") from None
