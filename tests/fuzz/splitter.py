"""Check the parsing of certificates for any input: the result is a bundle, or an error that names the cause."""

import time
from datetime import UTC, datetime

from controller.domain.certificates import CertificateBundle, parse_bundle
from controller.domain.decode_values import PEM, PFX, decode_values
from controller.domain.provider_class import ObjectPart, ObjectVersionRef, VaultObject
from controller.domain.values import SecretBytes, VaultValue
from controller.errors import ControllerError, ObjectError

WHAT = "secret web in Key Vault shop"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PARTS, TYPES = list(ObjectPart), [PEM, PFX, "", "application/x-pem-file; charset=utf-8"]
ENCODINGS, FORMATS = ["utf-8", "base64", "hex"], ["", "pfx"]
# The size limit of a vault, and the longest time that one value may take.
MAX_BYTES = 25_600
MAX_SECONDS = 2.0
# A message contains no piece of the value with this length.
PIECE = 24


def check(given: bytes) -> None:
    """Raise an error if the input breaks a rule. The first two bytes choose type, part, encoding and format."""
    began = time.process_time()
    how, data = int.from_bytes(given[:2].ljust(2, b"\0")), given[2:]
    try:
        bundle = parse_bundle(data, WHAT)
    except ObjectError as error:
        check_message(error, data)
    else:
        check_bundle(bundle)
    check_keys(how, data)
    took = time.process_time() - began
    assert took < MAX_SECONDS, f"parsing took {took:.1f} s"


def check_message(error: ControllerError, data: bytes) -> None:
    """Check that the error names the object and the cause, and nothing of the value."""
    assert error.message.startswith(WHAT), error.message
    shown = error.message.replace(WHAT, "").encode()
    for start in range(len(shown) - PIECE):
        assert shown[start : start + PIECE] not in data, "a piece of the value is in the message"


def check_bundle(bundle: CertificateBundle) -> None:
    """Check that the parts form a bundle again, which splits into the same parts."""
    assert bundle.chain or bundle.key
    again = parse_bundle(bundle.key + bundle.all_certificates(), WHAT)
    assert again.in_order
    assert again.key == bundle.key
    assert again.all_certificates() == bundle.all_certificates()
    assert list(again.chain) == list(bundle.chain)
    assert again.complete == bundle.complete
    if bundle.key:
        try:
            key = bundle.tls_key(WHAT)
        except ObjectError as error:
            check_message(error, bundle.key)
        else:
            assert parse_bundle(key + bundle.all_certificates(), WHAT).chain == again.chain


def check_keys(how: int, data: bytes) -> None:
    """Check that each key of a SecretSync gets bytes or a ControllerError."""
    how, part = divmod(how, len(PARTS))
    how, form = divmod(how, len(TYPES))
    how, encoding = divmod(how, len(ENCODINGS))
    found = VaultObject(name="web", encoding=ENCODINGS[encoding], format=FORMATS[how % len(FORMATS)])
    owned = bool(how // len(FORMATS) % 2)
    read = VaultValue(value=SecretBytes(data), version="v1", content_type=TYPES[form], of_certificate=owned)
    wanted = {
        "one": ObjectVersionRef(found, 0, PARTS[part]),
        "tls.crt": ObjectVersionRef(found, 0, ObjectPart.CERTIFICATES),
    }
    for item in decode_values(
        "shop", wanted, dict.fromkeys((each.whole for each in wanted.values()), read), NOW
    ).values():
        assert isinstance(item, VaultValue | ControllerError)
        if isinstance(item, ControllerError):
            check_message(item, data)
