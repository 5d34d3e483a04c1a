"""Read secrets, certificates and keys of a Key Vault through the Azure SDK's clients, each as a `VaultValue`.

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

from controller.domain.provider_class import VaultObject
from controller.domain.values import SecretBytes, VaultValue
from controller.domain.vault_objects import OBJECT_NAME, ListItem
from controller.errors import ObjectError, ObjectGone
from controller.runtime.json_decoding import REPLACEMENT, cut_nesting, replace_lone_surrogates

# Maximum number of items of a page, four times the maximum of Key Vault (parameter maxresults). Each item costs CPU.
MAX_PAGE_ITEMS = 100
# The SDK's certificate and key clients are imported on first use: they take 12 MiB, and few installations need them.


class ObjectPage(NamedTuple):
    """One page of a list, unordered. `following` is the address of the next page, or empty after the last page."""

    items: list[ListItem]
    following: str


class ObjectClient(abc.ABC):
    """A client for one kind of object in one vault, as one identity. It raises the SDK's errors.

    `plural` is the word for the kind in metrics, messages and paths. `role` is the Azure role with the fewest rights
    that can read the content. For the frequent requests (lists, and the get of a secret), only the SDK's pipeline is
    used, because its models take more CPU than the request.
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
    async def get(self, vault_object: VaultObject, version: str) -> VaultValue:
        """Return the content of a version, or of the newest version if it is empty.

        Raise `ValueError` if the body lacks a field. Raise `ObjectError` for an object that cannot be used, such as a
        disabled one.
        """

    def everything(self) -> str:
        """Return the path of the list of all objects, each with its newest version's attributes."""
        return f"/{self.plural}"

    def versions(self, name: str) -> str:
        """Return the path of the list of an object's versions."""
        return f"/{self.plural}/{quote(name, safe='')}/versions"

    async def page(self, url: str) -> ObjectPage:
        """Return a page of a list. Raise `ValueError` if the body lacks a field, or has too many items."""
        answer = _read_page(await self._get_body(url))
        if len(answer.value) > MAX_PAGE_ITEMS:
            raise ValueError(f"{len(answer.value)} items in a page")
        return ObjectPage(list(_read_items(answer.value)), answer.next_link or "")

    async def _get_body(self, url: str) -> bytes:
        # The SDK treats an address as a template and fills in its braces. The vault chooses that of the next page.
        url = url.replace("{", "%7B").replace("}", "%7D")
        answer = await self._client.send_request(HttpRequest("GET", url))
        if answer.status_code != 200:
            raise HttpResponseError(response=answer)
        content: bytes = answer.content
        return content

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()

    def disabled(self, vault_object: VaultObject) -> ObjectGone:
        """Return the error for a disabled object.

        The vault refuses to read disabled secrets, but still shows the public half of certificates and keys.
        """
        return ObjectGone(f"{vault_object.noun} is disabled in Key Vault {self._vault}; enable it there")


class _ObjectAttributes(msgspec.Struct):
    """The attributes of an object. Times are in seconds since 1970."""

    enabled: bool | None = None
    nbf: int | None = None
    exp: int | None = None
    created: int | None = None
    updated: int | None = None


class _SecretBundle(msgspec.Struct, rename="camel"):
    """The fields of a secret's body that are used (Key Vault REST API, SecretBundle)."""

    id: str
    value: str
    kid: str | None = None
    content_type: str | None = None
    attributes: _ObjectAttributes = msgspec.field(default_factory=_ObjectAttributes)


class _PageItem(msgspec.Struct):
    """An item of a list (SecretItem, CertificateItem, KeyItem). The id of a key is in the field kid."""

    id: str = ""
    kid: str = ""
    attributes: msgspec.Raw = msgspec.Raw(b"null")
    managed: msgspec.Raw = msgspec.Raw(b"null")
    tags: msgspec.Raw = msgspec.Raw(b"null")


class _PageBody(msgspec.Struct, rename="camel"):
    """The fields of a page that are used (SecretListResult, CertificateListResult, KeyListResult)."""

    value: list[msgspec.Raw]
    next_link: str | None = None


def _read_page(content: bytes) -> _PageBody:
    """Read a page. One item with a lone surrogate or a deeply nested field does not make the page unreadable."""
    try:
        page: _PageBody = _read_body(content, _PageBody)
    except (ValueError, RecursionError):
        page = _read_body(_without_oddities(content), _PageBody)
    return page


def _read_secret(content: bytes) -> _SecretBundle:
    """Read a secret. A lone surrogate or deep nesting in another field, such as a tag, does not affect the value."""
    try:
        secret: _SecretBundle = _read_body(content, _SecretBundle)
    except (ValueError, RecursionError):
        secret = _read_body(_without_oddities(content), _SecretBundle)
        if REPLACEMENT in secret.value:  # a value is delivered unchanged or not at all
            raise ValueError from None
    return secret


def _without_oddities(content: bytes) -> bytes:
    return replace_lone_surrogates(cut_nesting(bytes(content)))


def _read_items(listed: Iterable[msgspec.Raw]) -> Iterator[ListItem]:
    """Read the items of a page. Leave out an item without an id, and treat malformed attributes as missing.

    A poll reads the value of an object without the time of its last change, so no change is missed.
    """
    for raw in listed:
        try:
            item = _read_body(raw, _PageItem)
            name, version = _parse_id(item.id or item.kid)
        except ValueError:
            continue
        try:
            attributes = _read_body(item.attributes, _ObjectAttributes | None) or _ObjectAttributes()
            created, updated = _parse_moment(attributes.created), _parse_moment(attributes.updated)
        except (ValueError, OverflowError):
            attributes, created, updated = _ObjectAttributes(), None, None
        managed = bytes(item.managed) == b"true"
        yield ListItem(name, version, attributes.enabled is not False, created, updated, managed, _read_tags(item.tags))


def _read_tags(raw: msgspec.Raw) -> Mapping[str, str]:
    """Return an object's tags. Treat malformed tags as missing."""
    try:
        return _read_body(raw, dict[str, str] | None) or {}
    except ValueError:
        return {}


class SecretObjects(ObjectClient):
    """Secrets. A certificate has a secret with its name, which contains its private key."""

    plural, role = "secrets", "Key Vault Secrets User"

    @staticmethod
    def _client_type() -> Any:
        return SecretClient

    def disabled(self, vault_object: VaultObject) -> ObjectGone:
        """Return the error for a disabled secret, also for that of a certificate without a version yet.

        Key Vault lists such a secret as disabled until the certificate's pending request is completed.
        """
        error = super().disabled(vault_object)
        return ObjectGone(
            f"{error.message}, or if it belongs to a certificate whose request is pending, merge that"
            " (az keyvault certificate pending merge)"
        )

    async def get(self, vault_object: VaultObject, version: str) -> VaultValue:
        """Return the value in UTF-8."""
        # An empty text is a valid value. A missing value must not empty a key.
        secret = _read_secret(
            await self._get_body(f"/secrets/{quote(vault_object.name, safe='')}/{quote(version, safe='')}")
        )
        return VaultValue(
            value=SecretBytes(secret.value.encode()),
            version=_parse_id(secret.id)[1],
            updated=_parse_moment(secret.attributes.updated),
            not_before=_parse_moment(secret.attributes.nbf),
            expires=_parse_moment(secret.attributes.exp),
            content_type=secret.content_type or "",
            of_certificate=bool(secret.kid),
        )


class CertificateObjects(ObjectClient):
    """Certificates: only the leaf, without chain and private key."""

    plural, role = "certificates", "Key Vault Reader"

    @staticmethod
    def _client_type() -> Any:
        from azure.keyvault.certificates.aio import CertificateClient

        return CertificateClient

    async def get(self, vault_object: VaultObject, version: str) -> VaultValue:
        """Return the certificate in PEM."""
        if vault_object.name.lower() in RESERVED_CERTIFICATES:
            raise ObjectError(
                f"{vault_object.noun}: Key Vault reserves this name for something else; correct objectName or"
                " objectType"
            )
        if version:
            answer = await self._client.get_certificate_version(vault_object.name, version)
        else:
            answer = await self._client.get_certificate(vault_object.name)
        if not answer.cer:
            raise ObjectError(
                f"{vault_object.noun} in Key Vault {self._vault} has no version yet: its request is pending, merge it"
                " (az keyvault certificate pending merge) or delete it"
            )
        if answer.properties.enabled is False:
            raise self.disabled(vault_object)
        return _build_value(ssl.DER_cert_to_PEM_cert(bytes(answer.cer)).encode(), answer.properties)


class KeyObjects(ObjectClient):
    """Keys: only the public half."""

    plural, role = "keys", "Key Vault Reader"

    @staticmethod
    def _client_type() -> Any:
        from azure.keyvault.keys.aio import KeyClient

        return KeyClient

    async def get(self, vault_object: VaultObject, version: str) -> VaultValue:
        """Return the public key in PEM."""
        answer = await self._client.get_key(vault_object.name, version or None)
        if answer.properties.enabled is False:
            raise self.disabled(vault_object)
        kind, curve = _enum_text(answer.key.kty), _enum_text(answer.key.crv)
        if kind.startswith("oct"):
            raise ObjectError(
                f"{vault_object.noun} in Key Vault {self._vault} is symmetric and has no public half; take it out of"
                " the SecretSync"
            )
        if not kind or (kind.startswith("EC") and not curve):
            raise ValueError
        if not kind.startswith(("RSA", "EC")) or (kind.startswith("EC") and curve not in _CURVES):
            what = curve if kind.startswith("EC") else kind
            raise ObjectError(
                f"{vault_object.noun} in Key Vault {self._vault} has a type that the controller cannot convert to PEM"
                f"{f' ({what})' if _WORD.fullmatch(what) else ''}; take it out of the SecretSync"
            )
        return _build_value(_public_pem(answer.key), answer.properties)


SOURCES: Mapping[str, type[ObjectClient]] = {"secret": SecretObjects, "cert": CertificateObjects, "key": KeyObjects}
"""The client for each objectType of a SecretProviderClass."""

# Below /certificates, these paths are not certificates (Azure Key Vault REST API reference, "Get Certificate Issuers"
# and "Get Certificate Contacts").
RESERVED_CERTIFICATES = ("issuers", "contacts")
# Key Vault's ids have 32 hexadecimal digits (Azure Key Vault REST API reference, "About keys, secrets, and
# certificates").
_VERSION_ID = re.compile(r"[0-9A-Za-z]{0,64}")
# The form of a key's type or curve. Other text stays out of messages.
_WORD = re.compile(r"[A-Z]{1,5}(?:-[A-Z]{1,4}|-?[0-9]{1,4}[A-Z]?[0-9]?)?|secp[0-9]{3}[kr]1|(?:Ed|X)[0-9]{3,5}")
_CURVES: Mapping[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "P-256K": ec.SECP256K1(),
}


def _public_pem(jwk: Any) -> bytes:
    """Return the public half of a JSON Web Key (SubjectPublicKeyInfo)."""
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    if _enum_text(jwk.kty).startswith("RSA"):
        public = rsa.RSAPublicNumbers(_encode_number(jwk.e), _encode_number(jwk.n)).public_key()
    else:
        curve = _CURVES[_enum_text(jwk.crv)]
        public = ec.EllipticCurvePublicNumbers(_encode_number(jwk.x), _encode_number(jwk.y), curve).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _enum_text(word: Any) -> str:
    """Return a word of the SDK as text. The SDK returns an enum member for a word that it knows."""
    return "" if word is None else str(getattr(word, "value", word))


def _encode_number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _read_body(content: bytes | msgspec.Raw, shape: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.DecodeError:
        raise ValueError from None


def _parse_moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def _parse_id(identifier: str) -> tuple[str, str]:
    """Return name and version of an id https://<vault>/secrets/<name>/<version>. The version can be missing.

    Raise ValueError for other texts, because both parts go into statuses, events and log lines.
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


def _build_value(value: bytes, properties: Any) -> VaultValue:
    return VaultValue(
        value=SecretBytes(value),
        version=_checked_version(properties.version or ""),
        updated=_check_time(properties.updated_on),
        not_before=_check_time(properties.not_before),
        expires=_check_time(properties.expires_on),
    )


def _check_time(found: Any) -> datetime | None:
    """Return a time of the SDK. Raise `ValueError` if the SDK could not convert it."""
    if found is None or isinstance(found, datetime):
        return found
    raise ValueError
