"""What must hold whatever a certificate's secret has in it: it comes apart, or a sentence says why it does not."""

import time
from datetime import UTC, datetime

from controller.domain.certificates import CertificateBundle, take_apart
from controller.domain.decode_values import PEM, PFX, decode_values
from controller.domain.provider_class import ObjectPart, ObjectVersionRef, VaultObject
from controller.domain.values import SecretBytes, VaultValue
from controller.errors import ControllerError, ObjectError

WHAT = "secret web in Key Vault shop"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PARTS, TYPES = list(ObjectPart), [PEM, PFX, "", "application/x-pem-file; charset=utf-8"]
ENCODINGS, FORMATS = ["utf-8", "base64", "hex"], ["", "pfx"]
# As a vault bounds what it keeps; and as long as one answer may keep everybody else waiting.
MOST_BYTES = 25_600
MOST_SECONDS = 2.0
# A message has no piece of the value that is as long as this.
PIECE = 24


def check(given: bytes) -> None:
    """`AssertionError`, or whatever else got through, where it does not hold. The first two bytes choose the way."""
    began = time.process_time()
    how, data = int.from_bytes(given[:2].ljust(2, b"\0")), given[2:]
    try:
        bundle = take_apart(data, WHAT)
    except ObjectError as error:
        told(error, data)
    else:
        whole(bundle)
    asked(how, data)
    took = time.process_time() - began
    assert took < MOST_SECONDS, f"it took {took:.1f} s"


def told(error: ControllerError, data: bytes) -> None:
    """Check that the error names the object and the cause, and nothing of the value."""
    assert error.message.startswith(WHAT), error.message
    shown = error.message.replace(WHAT, "").encode()
    for start in range(len(shown) - PIECE):
        assert shown[start : start + PIECE] not in data, "a piece of the value is in the message"


def whole(bundle: CertificateBundle) -> None:
    """Check that the parts form a bundle again, which splits into the same parts."""
    assert bundle.chain or bundle.key
    again = take_apart(bundle.key + bundle.all_certificates(), WHAT)
    assert again.in_order
    assert again.key == bundle.key
    assert again.all_certificates() == bundle.all_certificates()
    assert list(again.chain) == list(bundle.chain)
    assert again.complete == bundle.complete
    if bundle.key:
        try:
            key = bundle.tls_key(WHAT)
        except ObjectError as error:
            told(error, bundle.key)
        else:
            assert take_apart(key + bundle.all_certificates(), WHAT).chain == again.chain


def asked(how: int, data: bytes) -> None:
    """Each key of a SecretSync gets bytes, or a ControllerError."""
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
            told(item, data)
