"""The three kinds of objects in a Key Vault, each read through its client of the Azure SDK into the same `Fetched`.

Source: Azure Key Vault REST API reference, secrets, certificates, keys; "Azure Key Vault RBAC guide" for the roles.
"""

import abc
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from azure.core.exceptions import HttpResponseError
from azure.core.rest import HttpRequest
from azure.keyvault.secrets.aio import SecretClient
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controller.errors import ObjectError
from controller.fetched import Fetched, Hidden
from controller.objects import VaultObject
from controller.vault_objects import OBJECT_NAME

# The SDK's certificate and key clients are imported where they are made: 12 MiB that few installations need.


class Item(NamedTuple):
    """What a list shows of an object, or of a version of one. `version` is empty in a list of objects."""

    name: str
    version: str
    enabled: bool
    created: datetime | None
    updated: datetime | None


class Page(NamedTuple):
    """A part of a list, in no order, and the address of the next; empty after the last."""

    items: list[Item]
    following: str


class Source(abc.ABC):
    """One kind of object in one vault, as one identity sees it. What fails is raised as the SDK raises it.

    `plural` names the operations to counters, to people and in paths; `role` is the least that may read the content.

    What is asked often, the lists and the get of a secret, the SDK sends, and its models have no part in it: they cost
    more than the request.
    """

    plural: ClassVar[str]
    role: ClassVar[str]

    def __init__(self, vault: str, url: str, credential: Any, **options: Any) -> None:
        self._vault = vault
        self._client = self._client_type()(url, credential, **options)

    @staticmethod
    @abc.abstractmethod
    def _client_type() -> Any: ...

    @abc.abstractmethod
    async def get(self, found: VaultObject, version: str) -> Fetched:
        """A version's content; without `version`, the newest's. `ValueError` for a body that lacks what it must have.

        `ObjectError` for what the vault shows and nobody should have.
        """

    def everything(self) -> str:
        """Where the list of all objects begins, each with its newest version's attributes."""
        return f"/{self.plural}"

    def versions(self, name: str) -> str:
        """Where the list of an object's versions begins."""
        return f"/{self.plural}/{quote(name, safe='')}/versions"

    async def page(self, where: str) -> Page:
        """A page of a list. `ValueError` for a body that lacks what it must have."""
        answer = _read(await self._ask(where), _Listed)
        return Page(list(_items(answer.value)), answer.next_link or "")

    async def _ask(self, where: str) -> bytes:
        answer = await self._client.send_request(HttpRequest("GET", where))
        if answer.status_code != 200:
            raise HttpResponseError(response=answer)
        content: bytes = answer.content
        return content

    async def close(self) -> None:
        """Lets go of the client."""
        await self._client.close()

    def disabled(self, found: VaultObject) -> ObjectError:
        """Secrets the vault refuses then; of certificates and keys it still shows the public half."""
        return ObjectError(f"{found.noun} is disabled in Key Vault {self._vault}; enable it there")


class _Attributes(msgspec.Struct):
    """Times are in seconds since 1970."""

    enabled: bool | None = None
    nbf: int | None = None
    exp: int | None = None
    created: int | None = None
    updated: int | None = None


class _Secret(msgspec.Struct, rename="camel"):
    """What is read of a secret's body (Key Vault REST API, SecretBundle)."""

    id: str
    value: str
    kid: str | None = None
    content_type: str | None = None
    attributes: _Attributes = msgspec.field(default_factory=_Attributes)


class _Item(msgspec.Struct):
    """An item of a list (SecretItem, CertificateItem, KeyItem); a key's id is called kid."""

    id: str = ""
    kid: str = ""
    attributes: msgspec.Raw = msgspec.Raw(b"null")


class _Listed(msgspec.Struct, rename="camel"):
    """What is read of a page (SecretListResult, CertificateListResult, KeyListResult)."""

    value: list[msgspec.Raw]
    next_link: str | None = None


def _items(listed: Iterable[msgspec.Raw]) -> Iterator[Item]:
    """Read each item by itself. One without an id is left out; odd attributes are as good as none.

    An object without the time of its last change is read in full at every poll, so nothing is missed.
    """
    for raw in listed:
        try:
            item = _read(raw, _Item)
            name, version = _identified(item.id or item.kid)
        except ValueError:
            continue
        try:
            said = _read(item.attributes, _Attributes | None) or _Attributes()
            created, updated = _moment(said.created), _moment(said.updated)
        except (ValueError, OverflowError):
            said, created, updated = _Attributes(), None, None
        yield Item(name, version, said.enabled is not False, created, updated)


class Secrets(Source):
    """Secrets; a certificate has one of its name, with its private key in it."""

    plural, role = "secrets", "Key Vault Secrets User"

    @staticmethod
    def _client_type() -> Any:
        return SecretClient

    async def get(self, found: VaultObject, version: str) -> Fetched:
        """The value, UTF-8."""
        # An empty text is the vault's word; none at all must not blank a key.
        secret = _read(await self._ask(f"/secrets/{quote(found.name, safe='')}/{quote(version, safe='')}"), _Secret)
        return Fetched(
            value=Hidden(secret.value.encode()),
            version=_identified(secret.id)[1],
            updated=_moment(secret.attributes.updated),
            not_before=_moment(secret.attributes.nbf),
            expires=_moment(secret.attributes.exp),
            content_type=secret.content_type or "",
            of_certificate=bool(secret.kid),
        )


class Certificates(Source):
    """Certificates: the leaf alone, without chain and private key."""

    plural, role = "certificates", "Key Vault Reader"

    @staticmethod
    def _client_type() -> Any:
        from azure.keyvault.certificates.aio import CertificateClient

        return CertificateClient

    async def get(self, found: VaultObject, version: str) -> Fetched:
        """The certificate, PEM."""
        if found.name.lower() in RESERVED_CERTIFICATES:
            raise ObjectError(
                f"{found.noun}: Key Vault reserves this name for something else; correct objectName or objectType"
            )
        if version:
            answer = await self._client.get_certificate_version(found.name, version)
        else:
            answer = await self._client.get_certificate(found.name)
        if not answer.cer:
            raise ObjectError(
                f"{found.noun} in Key Vault {self._vault} has no version yet: its request is pending, merge it (az"
                " keyvault certificate pending merge) or delete it"
            )
        if answer.properties.enabled is False:
            raise self.disabled(found)
        return _fetched(ssl.DER_cert_to_PEM_cert(bytes(answer.cer)).encode(), answer.properties)


class Keys(Source):
    """Keys: the public half."""

    plural, role = "keys", "Key Vault Reader"

    @staticmethod
    def _client_type() -> Any:
        from azure.keyvault.keys.aio import KeyClient

        return KeyClient

    async def get(self, found: VaultObject, version: str) -> Fetched:
        """The public key, PEM."""
        answer = await self._client.get_key(found.name, version or None)
        if answer.properties.enabled is False:
            raise self.disabled(found)
        kind, curve = _text(answer.key.kty), _text(answer.key.crv)
        if kind.startswith("oct"):
            raise ObjectError(
                f"{found.noun} in Key Vault {self._vault} is symmetric and has no public half; take it out of the"
                " SecretSync"
            )
        if not kind or (kind.startswith("EC") and not curve):
            raise ValueError
        if not kind.startswith(("RSA", "EC")) or (kind.startswith("EC") and curve not in _CURVES):
            what = curve if kind.startswith("EC") else kind
            raise ObjectError(
                f"{found.noun} in Key Vault {self._vault} is of a kind without a PEM form here"
                f"{f' ({what})' if _WORD.fullmatch(what) else ''}; take it out of the SecretSync"
            )
        return _fetched(_public_pem(answer.key), answer.properties)


SOURCES: Mapping[str, type[Source]] = {"secret": Secrets, "cert": Certificates, "key": Keys}
"""By the objectType of a SecretProviderClass."""

# Below /certificates, these are not certificates (Azure Key Vault REST API reference, "Get Certificate Issuers" and
# "Get Certificate Contacts").
RESERVED_CERTIFICATES = ("issuers", "contacts")
# Key Vault's are 32 hexadecimal digits (Azure Key Vault REST API reference, "About keys, secrets, and certificates").
_VERSION_ID = re.compile(r"[0-9A-Za-z]{0,64}")
# What a key's type or curve looks like: anything else stays out of messages.
_WORD = re.compile(r"[A-Za-z0-9-]{1,20}")
_CURVES: Mapping[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "P-256K": ec.SECP256K1(),
}


def _public_pem(jwk: Any) -> bytes:
    """A JSON Web Key's public half (SubjectPublicKeyInfo)."""
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    if _text(jwk.kty).startswith("RSA"):
        public = rsa.RSAPublicNumbers(_number(jwk.e), _number(jwk.n)).public_key()
    else:
        curve = _CURVES[_text(jwk.crv)]
        public = ec.EllipticCurvePublicNumbers(_number(jwk.x), _number(jwk.y), curve).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _text(word: Any) -> str:
    """The SDK gives a member of its enums for words that it knows, and the text for others."""
    return "" if word is None else str(getattr(word, "value", word))


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _read(content: bytes | msgspec.Raw, shape: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.DecodeError:
        raise ValueError from None


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def _identified(identifier: str) -> tuple[str, str]:
    """Return name and version of an object's id, https://<vault>/secrets/<name>/<version>; the version may lack.

    Raise ValueError for anything else: both go into statuses, events and log lines.
    """
    _, _, name, *rest = urlsplit(identifier).path.split("/")
    version = rest[0] if rest else ""
    if not OBJECT_NAME.fullmatch(name):
        raise ValueError
    return name, _checked_version(version)


def _checked_version(version: Any) -> str:
    if not isinstance(version, str) or not _VERSION_ID.fullmatch(version):
        raise ValueError
    return version


def _fetched(value: bytes, properties: Any) -> Fetched:
    return Fetched(
        value=Hidden(value),
        version=_checked_version(properties.version or ""),
        updated=_checked(properties.updated_on),
        not_before=_checked(properties.not_before),
        expires=_checked(properties.expires_on),
    )


def _checked(found: Any) -> datetime | None:
    """A time as the SDK tells it. `ValueError` for anything else: it hands on what it cannot convert."""
    if found is None or isinstance(found, datetime):
        return found
    raise ValueError
