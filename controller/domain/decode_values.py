"""Convert the vault's values into the value of each key. Pure.

The steps have this order: extract objectProperty, decode objectEncoding, extract the part that the sourcePath names.

A secret without a certificate (Key Vault REST API, SecretBundle: no `kid`) is delivered byte for byte, independent of
its contentType, as in the CSI provider. The secret of a certificate becomes one PEM with private key and certificates:
a PEM is unchanged unless its certificates are out of order, and a PFX becomes PEM, unless objectFormat is pfx. Parts
are extracted from any PEM or PFX. The private key keeps its form (PKCS#8 from a PFX). For a Secret of type
kubernetes.io/tls it becomes PKCS#1 or SEC 1.
"""

import base64
import binascii
import codecs
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from controller.api.secretsync import MAX_KEYS, TLS_TYPE
from controller.domain.certificates import CertificateBundle, OpenPfx, is_pem, parse_bundle, pfx_to_pem
from controller.domain.properties import Node, find_node, find_property, list_names, list_properties, read_document
from controller.domain.provider_class import EXPANDED_SUFFIX, ObjectPart, ObjectVersionRef
from controller.domain.secret_limits import key_violation
from controller.domain.values import ExpandedValues, Results, SecretBytes, Unchanged, VaultValue
from controller.errors import ControllerError, InputError, ObjectError, UnopenedPfx, UnusableValue
from controller.runtime.clock import format_time

PEM = "application/x-pem-file"
PFX = "application/x-pkcs12"
TLS_HALVES = ("tls.crt", "tls.key")
_HALVES = (ObjectPart.CERTIFICATES, ObjectPart.TLS_KEY)
_LOGIN = {ObjectPart.USERNAME: "username", ObjectPart.PASSWORD: "password"}
# The beginning of a JSON object with a property.
_OBJECT_START = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"')
# Maximum number of keys of one expanded value: the status names each of them.
MAX_EXPANDED = 500
# Maximum bytes of the values that are decoded for one Secret. It is more than a Secret can have, so that `decide_write`
# can report the exact size of a Secret that is slightly too large.
MAX_DECODED = 2 * 2**20
NO_PROPERTIES: Mapping[str, Collection[str]] = MappingProxyType({})
_INCOMPLETE = "lacks the certificate of an issuer; import it again with its whole chain"


class DecodedSize:
    """The size of the values that were decoded for one Secret so far. Many keys can copy or expand the same value."""

    def __init__(self) -> None:
        self._keys = self._bytes = 0

    def add(self, item: VaultValue | ExpandedValues | ControllerError) -> None:
        """Add the values of an item. Raise `InputError` if a Secret cannot have all of them."""
        if isinstance(item, ControllerError):
            return
        values = item.properties.values() if isinstance(item, ExpandedValues) else (item,)
        self._keys += len(values)
        self._bytes += sum(len(value.value.reveal()) for value in values if isinstance(value, VaultValue))
        if self._bytes > MAX_DECODED:
            raise InputError(
                f"the values have more than {MAX_DECODED // 2**20} MiB together, and a Secret has at most 1 MiB; split"
                " the SecretSync"
            )
        if self._keys > MAX_KEYS:
            raise InputError(
                f"the values and their properties make more than {MAX_KEYS} keys, which is the most for one Secret;"
                " split the SecretSync"
            )


class _ParsedValues(NamedTuple):
    """The parsed values so far, by version. Each value is parsed once, even if several keys use it.

    `expanded` has the key that each node of a document was expanded for, by the node's id.
    """

    open_pfx: OpenPfx
    bundles: dict[ObjectVersionRef, CertificateBundle | ObjectError]
    documents: dict[ObjectVersionRef, Node | ObjectError]
    expanded: dict[int, str]


def decode_values(
    vault: str,
    wanted: Mapping[str, ObjectVersionRef],
    read: Results,
    now: datetime,
    open_pfx: OpenPfx = pfx_to_pem,
    size: DecodedSize | None = None,
) -> dict[str, VaultValue | ExpandedValues | ControllerError]:
    """Return the value of each key by targetKey, or the error that prevents it.

    `size` also counts the values of other calls for the same Secret. Raise `InputError` if a Secret cannot have them.
    """
    opened, size = _ParsedValues(open_pfx, {}, {}, {}), size or DecodedSize()
    result: dict[str, VaultValue | ExpandedValues | ControllerError] = {}
    for key, version in wanted.items():
        raw = read[version.whole]
        if isinstance(raw, ControllerError):
            result[key] = raw
            continue
        noun = f"{version.object.noun} in Key Vault {vault}"
        try:
            if version.object.expand:
                result[key] = _expand_properties(_add_warnings(raw, now), version, key, noun, opened)
            else:
                result[key] = _add_warnings(_decode_value(raw, version, noun, opened), now)
        except UnopenedPfx as error:
            result[key] = error.bare()
        except ObjectError as error:
            result[key] = _unusable_value(error.message, raw)
        size.add(result[key])
    # A certificate and its key change together: halves of two versions in one TLS Secret would cause an outage.
    for whole in {version.whole for version in wanted.values() if version.part is ObjectPart.TLS_KEY}:
        halves = [key for key, version in wanted.items() if version.whole == whole and version.part in _HALVES]
        if failed := next((item for key in halves if isinstance(item := result[key], ControllerError)), None):
            result |= dict.fromkeys(halves, failed)
    return result


def flatten_expanded(
    wanted: Iterable[str],
    decoded: Mapping[str, VaultValue | Unchanged | ExpandedValues | ControllerError],
    held: Mapping[str, Collection[str]] = NO_PROPERTIES,
) -> dict[str, VaultValue | Unchanged | ControllerError]:
    """Return the value of each key of the Secret. An expanded item has the key `<targetKey>/*` only if it failed.

    A key that is mapped by itself takes precedence over a property of an expanded item. If several expanded items have
    the same property, the first one counts. `held` are the names of properties that the Secret has, by the key of their
    item. An item that failed keeps them, so no later item replaces their values.
    """
    result = {key: item for key in wanted if not isinstance(item := decoded[key], ExpandedValues)}
    reserved: set[str] = set()
    for key in wanted:
        item = decoded[key]
        if not isinstance(item, ExpandedValues):
            reserved.update(held.get(key, ()))
            continue
        taken = [name for name in item.properties if name in result or name in reserved]
        result |= {name: text for name, text in item.properties.items() if name not in taken}
        error = item.error
        if taken and not error:
            text = f"properties are mapped twice; rename or unmap them: {list_names(taken)}"
            error = _unusable_value(text, item.properties[taken[0]])
        if error:
            has_no_key = len(taken) == len(item.properties)
            result[key] = UnusableValue(
                error.message, version=error.version, updated=error.updated, has_no_key=has_no_key
            )
    return result


def hold_tls_half(
    secret_type: str, fetched: Mapping[str, VaultValue | Unchanged | ControllerError]
) -> Mapping[str, VaultValue | Unchanged | ControllerError]:
    """Return the results without a half of a TLS Secret whose other half failed. They can come from two objects."""
    failed = next((item for key in TLS_HALVES if isinstance(item := fetched.get(key), ControllerError)), None)
    if secret_type != TLS_TYPE or failed is None:
        return fetched
    is_unusable = isinstance(failed, UnusableValue)
    held = {
        key: _unusable_value(failed.message, item) if is_unusable else failed
        for key in TLS_HALVES
        if isinstance(item := fetched.get(key), VaultValue)
    }
    return {**fetched, **held}


def needs_parsing(version: ObjectVersionRef, raw: VaultValue | ControllerError) -> bool:
    """Return whether `decode_values` parses this value, which can take long."""
    return needs_bundle(version, raw) or bool(version.object.property_path) or version.object.expand


def needs_bundle(version: ObjectVersionRef, raw: VaultValue | ControllerError) -> bool:
    """Return whether a PEM or PFX is parsed for this value."""
    if not isinstance(raw, VaultValue) or version.object.expand or version.part in _LOGIN:
        return False
    return version.part is not ObjectPart.WHOLE or (_is_bundle(raw) and not version.object.property_path)


def _is_bundle(raw: VaultValue) -> bool:
    """Return whether the value is the PEM or PFX of a certificate in the vault."""
    return raw.of_certificate and _media_type(raw) in (PEM, PFX)


def _media_type(raw: VaultValue) -> str:
    return raw.content_type.partition(";")[0].strip().lower()


def value_warnings(
    vault: str, wanted: Mapping[str, ObjectVersionRef], fetched: Mapping[str, VaultValue | Unchanged | ControllerError]
) -> list[str]:
    """Return the warnings about the values, each once, in a sentence with the next step."""
    warnings = []
    for key, raw in fetched.items():
        if isinstance(raw, VaultValue):
            version = wanted[raw.expanded_from or key]
            version_note = f" (version {raw.version})" if version.object.history > 1 else ""
            warnings += [
                f"{version.object.noun}{version_note} in Key Vault {vault} {warning}" for warning in raw.warnings
            ]
    return list(dict.fromkeys(warnings))


def _add_warnings(raw: VaultValue, now: datetime) -> VaultValue:
    """Add a warning if the value is outside its validity."""
    outside = _validity_warning(raw, now)
    return msgspec.structs.replace(raw, warnings=(*raw.warnings, outside)) if outside else raw


def _validity_warning(raw: VaultValue, now: datetime) -> str:
    """Return a warning about the validity. Key Vault and the controller serve such values, but a user should know."""
    if raw.expires and raw.expires <= now:
        return f"expired at {format_time(raw.expires)} and is synced all the same; renew it there"
    if raw.not_before and raw.not_before > now:
        return f"is not valid before {format_time(raw.not_before)} and is synced all the same; check its dates there"
    return ""


def _parsed_document(raw: VaultValue, version: ObjectVersionRef, noun: str, opened: _ParsedValues) -> Node:
    if version.whole not in opened.documents:
        try:
            opened.documents[version.whole] = read_document(raw.value.reveal(), noun)
        except ObjectError as error:
            opened.documents[version.whole] = error.bare()
    document = opened.documents[version.whole]
    if isinstance(document, ObjectError):
        raise document.bare()
    return document


def _expand_properties(
    raw: VaultValue, version: ObjectVersionRef, key: str, noun: str, opened: _ParsedValues
) -> ExpandedValues:
    """Return a value for each property that can be a key. Raise `ObjectError` if none is usable, or too many.

    A second key of the same properties is refused: with thousands of such keys, the values would fill the memory.
    """
    document = find_node(_parsed_document(raw, version, noun, opened), version.object.property_path, noun)
    if first := opened.expanded.get(id(document)):
        name = first.removesuffix(EXPANDED_SUFFIX)
        raise ObjectError(f"{noun}: targetKey {name} makes keys of the same properties already; remove this one")
    listed = list_properties(document, noun)
    if len(listed) > MAX_EXPANDED:
        raise ObjectError(
            f"{noun} has {len(listed)} properties, and at most {MAX_EXPANDED} become keys; map single ones instead"
        )
    opened.expanded[id(document)] = key
    bad = [name for name, text in listed.items() if isinstance(text, ObjectError) or key_violation(name)]
    properties = {
        name: msgspec.structs.replace(raw, value=SecretBytes(text), expanded_from=key)
        for name, text in listed.items()
        if not isinstance(text, ObjectError) and name not in bad
    }
    if not bad:
        return ExpandedValues(properties)
    misnamed = [name for name in bad if key_violation(name)]
    unusable = [name for name in bad if name not in misnamed]
    # The names come last, because PartialSync's list shortens a long message.
    mistakes = (
        (unusable, "properties that are not valid Unicode text; correct them"),
        (misnamed, "properties whose names cannot be keys of a Secret; rename them, or map them by themselves"),
    )
    listed_mistakes = "; ".join(f"{mistake}: {list_names(names)}" for names, mistake in mistakes if names)
    text = f"{noun} has {listed_mistakes}"
    if not properties:
        raise ObjectError(text)
    return ExpandedValues(properties, _unusable_value(text, raw), frozenset(unusable))


def _unusable_value(message: str, raw: VaultValue | Unchanged) -> UnusableValue:
    if isinstance(raw, Unchanged):
        return UnusableValue(message)
    updated = format_time(raw.updated) if raw.updated else ""
    return UnusableValue(message, version=raw.version, updated=updated)


def _login_part(data: bytes, part: ObjectPart, noun: str) -> bytes:
    """Return one half of `user:password`, or of an object with both."""
    name = _LOGIN[part]
    try:
        document = read_document(data, noun)
    except ObjectError:
        # Damaged JSON has colons, too, and is no user:password.
        if _OBJECT_START.match(data):
            raise
        document = None
    is_object = data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{")
    if isinstance(document, dict) and (is_object or not document.keys().isdisjoint(_LOGIN.values())):
        return find_property(document, name, noun)
    user, colon, password = data.partition(b":")
    if not colon:
        raise ObjectError(
            f"{noun} is not a login: write user:password into the vault, or JSON with the properties username and"
            " password"
        )
    return user if part is ObjectPart.USERNAME else password


def _decode_value(raw: VaultValue, version: ObjectVersionRef, noun: str, opened: _ParsedValues) -> VaultValue:
    text = raw.value.reveal()
    is_property = bool(version.object.property_path)
    if is_property:
        text = find_property(_parsed_document(raw, version, noun, opened), version.object.property_path, noun)
    data = _decode_text(text, version.object.encoding, noun)
    if version.part in _LOGIN:
        return msgspec.structs.replace(raw, value=SecretBytes(_login_part(data, version.part, noun)))
    is_whole = version.part is ObjectPart.WHOLE
    if is_whole and (is_property or not _is_bundle(raw) or (version.object.format == "pfx" and not is_pem(data))):
        return msgspec.structs.replace(raw, value=SecretBytes(data))
    # The source of the part is the same for every part.
    source = msgspec.structs.replace(version, part=ObjectPart.WHOLE)
    bundle = opened.bundles.get(source)
    if bundle is None:
        advice = _next_step(raw, version.object.format)
        bundle = opened.bundles[source] = _try_parse_bundle(data, noun, opened.open_pfx, advice)
    is_text = is_pem(data) or _media_type(raw) == PEM
    if is_whole and is_text and (isinstance(bundle, ObjectError) or not bundle.key):
        return msgspec.structs.replace(raw, value=SecretBytes(data))  # there are no certificates to sort
    if isinstance(bundle, ObjectError):
        raise bundle
    if is_whole:
        value = data if is_pem(data) and bundle.in_order else bundle.reordered_pem()
    else:
        value = _bundle_part(bundle, version.part, noun)
    not_before, expires = bundle.validity or (None, None)
    return msgspec.structs.replace(
        raw,
        value=SecretBytes(value),
        warnings=() if bundle.complete else (_INCOMPLETE,),
        # A secret with a pasted certificate has no dates of its own.
        not_before=raw.not_before or not_before,
        expires=raw.expires or expires,
    )


def _next_step(raw: VaultValue, form: str) -> str:
    """Return the next step if a bundle cannot be read, without steps that are already done."""
    if not raw.of_certificate:
        return "correct the value, import it as a certificate, or map it by its name alone in an Opaque Secret"
    if form == "pfx":
        return "import the certificate again, or map it by its name alone in an Opaque Secret"
    return "import the certificate again, or write objectFormat: pfx to have the PFX as it is"


def _try_parse_bundle(data: bytes, noun: str, open_pfx: OpenPfx, advice: str) -> CertificateBundle | ObjectError:
    try:
        return parse_bundle(data, noun, open_pfx, advice)
    except ObjectError as error:
        return error.bare()


def _bundle_part(bundle: CertificateBundle, part: ObjectPart, noun: str) -> bytes:
    if part is ObjectPart.CERTIFICATES:
        if not bundle.chain:
            raise ObjectError(f"{noun} holds no certificate; import one there, or correct the sourcePath")
        return bundle.all_certificates()
    if part is ObjectPart.ISSUERS:
        return bundle.issuer_chain(noun)
    if not bundle.key:
        raise ObjectError(
            bundle.key_problem
            or f"{noun} holds no private key; import the certificate with an exportable key, or correct the sourcePath"
        )
    return bundle.tls_key(noun) if part is ObjectPart.TLS_KEY else bundle.private_key()


def _decode_text(text: bytes, encoding: str, noun: str) -> bytes:
    """Decode the vault's text according to objectEncoding."""
    try:
        if encoding == "base64":
            return base64.b64decode(b"".join(text.split()), validate=True)
        return binascii.unhexlify(text.strip()) if encoding == "hex" else text
    except binascii.Error as error:
        raise ObjectError(
            f"{noun} is not {encoding}, as objectEncoding says; correct objectEncoding or the value"
        ) from error
