"""Make what each key gets out of what the vault gave: decoded, out of a PFX, or a part of a certificate. Pure.

A secret that no certificate owns (Key Vault REST API, SecretBundle: no `kid`) is delivered byte for byte, whatever its
contentType says, as the CSI provider delivers it. The secret of a certificate is one PEM with private key and
certificates: a PEM stays as it is unless its certificates are out of order; a PFX becomes PEM, unless objectFormat is
pfx. A part is taken out of any PEM or PFX. The private key stays in the form in which it is kept (PKCS#8 out of a PFX);
for a Secret of type kubernetes.io/tls it is PKCS#1 or SEC 1.
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime

import msgspec

from controller.certificates import Bundle, OpenPfx, is_pem, pem_of_pfx, take_apart
from controller.errors import ControllerError, ObjectError
from controller.fetched import Fetched, Hidden, Results, Same
from controller.objects import Part, VersionOf
from controller.schedule import format_time

PEM = "application/x-pem-file"
PFX = "application/x-pkcs12"
_HALVES = (Part.CERTIFICATES, Part.TLS_KEY)
_INCOMPLETE = "lacks the certificate of an issuer; import it again with its whole chain"


def contents(
    vault: str, wanted: Mapping[str, VersionOf], read: Results, now: datetime, open_pfx: OpenPfx = pem_of_pfx
) -> dict[str, Fetched | ControllerError]:
    """What each key gets, by targetKey, or the error that keeps it away."""
    bundles: dict[VersionOf, Bundle | ObjectError] = {}
    result: dict[str, Fetched | ControllerError] = {}
    for key, version in wanted.items():
        found = read[version.whole]
        if isinstance(found, Fetched):
            try:
                found = _content(found, version, f"{version.object.noun} in Key Vault {vault}", bundles, open_pfx)
            except ObjectError as error:
                result[key] = error.bare()
                continue
            if outside := _outside(found, now):
                found = msgspec.structs.replace(found, warnings=(*found.warnings, outside))
        result[key] = found
    # A certificate and its key change together: halves of two versions in one TLS Secret are an outage.
    for whole in {version.whole for version in wanted.values() if version.part is Part.TLS_KEY}:
        halves = [key for key, version in wanted.items() if version.whole == whole and version.part in _HALVES]
        if failed := next((item for key in halves if isinstance(item := result[key], ControllerError)), None):
            result |= dict.fromkeys(halves, failed)
    return result


def needs_parsing(version: VersionOf, found: Fetched | ControllerError) -> bool:
    """Whether `contents` may take long for it."""
    return isinstance(found, Fetched) and (version.part is not Part.WHOLE or _is_bundle(found))


def _is_bundle(found: Fetched) -> bool:
    """Return whether the value is what a certificate consists of, and not just a text."""
    return found.of_certificate and _form(found) in (PEM, PFX)


def _form(found: Fetched) -> str:
    return found.content_type.partition(";")[0].strip().lower()


def warnings(
    vault: str, wanted: Mapping[str, VersionOf], fetched: Mapping[str, Fetched | Same | ControllerError]
) -> list[str]:
    """What is odd about the contents that came, each once, in a sentence with the next step."""
    said = []
    for key, version in wanted.items():
        found = fetched[key]
        if isinstance(found, Fetched):
            which = f" (version {found.version})" if version.object.history > 1 else ""
            said += [f"{version.object.noun}{which} in Key Vault {vault} {warning}" for warning in found.warnings]
    return list(dict.fromkeys(said))


def _outside(found: Fetched, now: datetime) -> str:
    """Key Vault serves what is outside its validity, and so do we; a person should know."""
    if found.expires and found.expires <= now:
        return f"expired at {format_time(found.expires)} and is synced all the same; renew it there"
    if found.not_before and found.not_before > now:
        return f"is not valid before {format_time(found.not_before)} and is synced all the same; check its dates there"
    return ""


def _content(
    found: Fetched,
    version: VersionOf,
    what: str,
    bundles: dict[VersionOf, Bundle | ObjectError],
    open_pfx: OpenPfx,
) -> Fetched:
    data = _decode(found.value.reveal(), version.object.encoding, what)
    is_whole = version.part is Part.WHOLE
    if is_whole and (not _is_bundle(found) or (version.object.format == "pfx" and not is_pem(data))):
        return msgspec.structs.replace(found, value=Hidden(data))
    bundle = bundles.get(version.whole)
    if bundle is None:
        bundle = bundles[version.whole] = _take_apart(data, what, open_pfx, _advice(found, version.object.format))
    is_text = is_pem(data) or _form(found) == PEM
    if is_whole and is_text and (isinstance(bundle, ObjectError) or not bundle.key):
        return msgspec.structs.replace(found, value=Hidden(data))  # nothing that could be put into a better order
    if isinstance(bundle, ObjectError):
        raise bundle
    if is_whole:
        value = data if is_pem(data) and bundle.in_order else bundle.reordered()
    else:
        value = _part(bundle, version.part, what)
    leaf = bundle.chain[0] if bundle.chain else None
    return msgspec.structs.replace(
        found,
        value=Hidden(value),
        warnings=() if bundle.complete else (_INCOMPLETE,),
        # A secret that a person pasted a certificate into has no dates of its own.
        not_before=found.not_before or (leaf.not_valid_before_utc if leaf else None),
        expires=found.expires or (leaf.not_valid_after_utc if leaf else None),
    )


def _advice(found: Fetched, form: str) -> str:
    """Return the next step where a bundle cannot be read: nothing that was done already."""
    if not found.of_certificate:
        return "correct the value, import it as a certificate, or map it by its name alone"
    if form == "pfx":
        return "import the certificate again, or map it by its name alone"
    return "import the certificate again, or write objectFormat: pfx to have the PFX as it is"


def _take_apart(data: bytes, what: str, open_pfx: OpenPfx, advice: str) -> Bundle | ObjectError:
    try:
        return take_apart(data, what, open_pfx, advice)
    except ObjectError as error:
        return error.bare()


def _part(bundle: Bundle, part: Part, what: str) -> bytes:
    if part is Part.CERTIFICATES:
        if not bundle.chain:
            raise ObjectError(f"{what} holds no certificate; import one there, or correct the sourcePath")
        return bundle.certificates()
    if not bundle.key:
        raise ObjectError(
            bundle.key_problem
            or f"{what} holds no private key; import the certificate with an exportable key, or correct the sourcePath"
        )
    return bundle.tls_key(what) if part is Part.TLS_KEY else bundle.key


def _decode(text: bytes, encoding: str, what: str) -> bytes:
    """The bytes that the vault's text stands for, as objectEncoding says."""
    try:
        if encoding == "base64":
            return base64.b64decode(b"".join(text.split()), validate=True)
        return binascii.unhexlify(text.strip()) if encoding == "hex" else text
    except binascii.Error as error:
        raise ObjectError(
            f"{what} is not {encoding}, as objectEncoding says it is; correct objectEncoding or the value"
        ) from error
