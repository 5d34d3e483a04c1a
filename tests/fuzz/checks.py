"""Check that the parsing of any input returns a correct bundle, or an error that names the cause and no value."""

import time
from datetime import UTC, datetime

from controller.domain.certificates import CertificateBundle, parse_bundle
from controller.domain.decode_values import PEM, PFX, decode_values
from controller.domain.provider_class import ObjectPart, ObjectVersionRef, VaultObject
from controller.domain.values import SecretBytes, VaultValue
from controller.errors import ControllerError, ObjectError

SUBJECT = "secret web in Key Vault shop"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PARTS = list(ObjectPart)
CONTENT_TYPES = [PEM, PFX, "", "application/x-pem-file; charset=utf-8"]
ENCODINGS, FORMATS = ["utf-8", "base64", "hex"], ["", "pfx"]
# The size limit of a vault, and the longest time that one value may take.
MAX_BYTES = 25_600
MAX_SECONDS = 2.0
# An error message must not contain a part of the value with this length. A shorter part can also be a word of the
# message by chance.
MIN_LEAK_BYTES = 24


def check_input(given: bytes) -> None:
    """Raise an error if the parsing of an input breaks a rule.

    The first two bytes choose how the rest is read: its content type, part, encoding and format.
    """
    began = time.process_time()
    choices, data = int.from_bytes(given[:2].ljust(2, b"\0")), given[2:]
    try:
        bundle = parse_bundle(data, SUBJECT)
    except ObjectError as error:
        check_message(error, data)
    else:
        check_bundle(bundle)
    check_keys(choices, data)
    took = time.process_time() - began
    assert took < MAX_SECONDS, f"parsing took {took:.1f} s"


def check_message(error: ControllerError, data: bytes) -> None:
    """Check that the message names the object, and contains no part of the value."""
    assert error.message.startswith(SUBJECT), error.message
    shown = error.message.replace(SUBJECT, "").encode()
    for start in range(len(shown) - MIN_LEAK_BYTES):
        assert shown[start : start + MIN_LEAK_BYTES] not in data, "a part of the value is in the message"


def check_bundle(bundle: CertificateBundle) -> None:
    """Check that key and certificates, put together in one file, are parsed as the same bundle."""
    assert bundle.chain or bundle.key
    again = parse_bundle(bundle.key + bundle.all_certificates(), SUBJECT)
    assert again.in_order
    assert again.key == bundle.key
    assert again.all_certificates() == bundle.all_certificates()
    assert list(again.chain) == list(bundle.chain)
    assert again.complete == bundle.complete
    if bundle.key:
        try:
            key = bundle.tls_key(SUBJECT)
        except ObjectError as error:
            check_message(error, bundle.key)
        else:
            assert parse_bundle(key + bundle.all_certificates(), SUBJECT).chain == again.chain


def check_keys(choices: int, data: bytes) -> None:
    """Check that each key of a SecretSync gets a value or an error."""
    choices, part = divmod(choices, len(PARTS))
    choices, content_type = divmod(choices, len(CONTENT_TYPES))
    choices, encoding = divmod(choices, len(ENCODINGS))
    found = VaultObject(name="web", encoding=ENCODINGS[encoding], format=FORMATS[choices % len(FORMATS)])
    of_certificate = bool(choices // len(FORMATS) % 2)
    read = VaultValue(
        value=SecretBytes(data), version="v1", content_type=CONTENT_TYPES[content_type], of_certificate=of_certificate
    )
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
