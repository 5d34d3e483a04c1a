"""Test the value of a key, by contentType, objectFormat, objectEncoding and part."""

import base64
import itertools
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from controller.domain.decode_values import PEM, PFX, decode_values, flatten_expanded, needs_parsing, value_warnings
from controller.domain.provider_class import ObjectPart, ObjectVersionRef, VaultObject
from controller.domain.values import SecretBytes, Unchanged, VaultValue
from controller.errors import ControllerError, ObjectError, UnopenedPfx, UnusableValue
from tests.support.certificates import NOON, encode_pfx, encode_private_key, generate_key, issue_certificate
from tests.support.messages import NEITHER_PEM_NOR_PFX

ROOT = issue_certificate("root", ca=True)
ISSUING = issue_certificate("issuing", ROOT, ca=True)
LEAF = issue_certificate("web", ISSUING, key=generate_key("RSA"))
CHAIN = LEAF.pem + ISSUING.pem + ROOT.pem
MIXED = LEAF.pem + ROOT.pem + ISSUING.pem
PKCS8 = LEAF.key_pem
PKCS1 = encode_private_key(LEAF.key, PrivateFormat.TraditionalOpenSSL)
AS_PFX = encode_pfx(LEAF.key, [LEAF, ROOT, ISSUING])
ENCRYPTED_PFX = encode_pfx(LEAF.key, [LEAF], "swordfish")
CERTIFICATES, PRIVATE_KEY, TLS_KEY, WHOLE = (
    ObjectPart.CERTIFICATES,
    ObjectPart.PRIVATE_KEY,
    ObjectPart.TLS_KEY,
    ObjectPart.WHOLE,
)


def make_vault_value(value: str | bytes, content_type: str = "", **more: Any) -> VaultValue:
    """Return a secret. It belongs to a certificate if its contentType says so and `more` does not override this."""
    data = value.encode() if isinstance(value, str) else value
    more = {"of_certificate": content_type.partition(";")[0].lower() in (PEM, PFX)} | more
    return VaultValue(value=SecretBytes(data), version="v1", content_type=content_type, **more)


def decode_part(
    found: VaultValue | ControllerError, part: ObjectPart = WHOLE, now: datetime = NOON, **item: Any
) -> Any:
    """Return the decoded value of one key."""
    version = ObjectVersionRef(VaultObject(name="web", **item), 0, part)
    return decode_values("shop", {"k": version}, {version.whole: found}, now)["k"]


@pytest.mark.parametrize(
    ("value", "content_type", "part", "item", "expected"),
    [
        pytest.param("x", "", WHOLE, {}, "x", id="text"),
        pytest.param(PKCS8 + MIXED, "", WHOLE, {}, PKCS8 + MIXED, id="PEM without a contentType"),
        pytest.param("x", "text/plain", WHOLE, {"format": "pfx"}, "x", id="text with a format"),
        pytest.param("x", PEM, WHOLE, {}, "x", id="text with the contentType of PEM"),
        pytest.param(
            CHAIN + "# a comment\n" + PKCS1, PEM, WHOLE, {}, CHAIN + "# a comment\n" + PKCS1, id="PEM in order"
        ),
        pytest.param(MIXED + PKCS1, PEM, WHOLE, {}, PKCS1 + CHAIN, id="PEM out of order"),
        pytest.param(MIXED + PKCS8, PEM, WHOLE, {"format": "pfx"}, PKCS8 + CHAIN, id="PEM with format pfx"),
        pytest.param(MIXED, PFX, WHOLE, {}, MIXED, id="PEM without a key, contentType of PFX"),
        pytest.param(
            base64.b64encode(CHAIN.encode()),
            PEM,
            WHOLE,
            {"encoding": "base64"},
            CHAIN,
            id="PEM without a key in base64",
        ),
        pytest.param(AS_PFX, PFX, WHOLE, {}, PKCS8 + CHAIN, id="PFX"),
        pytest.param(
            encode_pfx(LEAF.key, [LEAF, ISSUING]), PFX, WHOLE, {}, PKCS8 + LEAF.pem + ISSUING.pem, id="PFX in order"
        ),
        pytest.param(AS_PFX, f"{PFX.upper()}; a=b", WHOLE, {}, PKCS8 + CHAIN, id="PFX, contentType in capitals"),
        pytest.param(AS_PFX, PFX, WHOLE, {"format": "pfx"}, AS_PFX, id="PFX with format pfx"),
        pytest.param(
            ENCRYPTED_PFX, PFX, WHOLE, {"format": "pfx"}, ENCRYPTED_PFX, id="PFX with a password and format pfx"
        ),
        pytest.param(
            AS_PFX,
            PFX,
            WHOLE,
            {"format": "pfx", "encoding": "base64"},
            base64.b64decode(AS_PFX),
            id="PFX with format pfx, decoded",
        ),
        pytest.param(AS_PFX, PFX, WHOLE, {"encoding": "base64"}, PKCS8 + CHAIN, id="PFX, decoded"),
        pytest.param(AS_PFX, "", WHOLE, {}, AS_PFX, id="PFX without a contentType"),
        pytest.param(MIXED + PKCS8, PEM, CERTIFICATES, {}, CHAIN, id="certificates of a PEM"),
        pytest.param(AS_PFX, PFX, CERTIFICATES, {"format": "pfx"}, CHAIN, id="certificates of a PFX"),
        pytest.param(
            AS_PFX, "", CERTIFICATES, {"encoding": "base64"}, CHAIN, id="certificates of a PFX without a contentType"
        ),
        pytest.param(MIXED + PKCS1, PEM, PRIVATE_KEY, {}, PKCS1, id="key of a PEM, unchanged"),
        pytest.param(MIXED + PKCS8, PEM, TLS_KEY, {}, PKCS1, id="key of a PEM, for TLS"),
        pytest.param(AS_PFX, PFX, PRIVATE_KEY, {}, PKCS8, id="key of a PFX"),
        pytest.param(AS_PFX, PFX, TLS_KEY, {}, PKCS1, id="key of a PFX, for TLS"),
        pytest.param(CHAIN, "", CERTIFICATES, {}, CHAIN, id="certificates without a key"),
        pytest.param(PKCS8, "", TLS_KEY, {}, PKCS1, id="TLS key without a certificate"),
        pytest.param(LEAF.pem, "", CERTIFICATES, {"type": "cert"}, LEAF.pem, id="objectType cert"),
        pytest.param(" 00fF\n", "", WHOLE, {"encoding": "hex"}, b"\x00\xff", id="hex"),
        pytest.param("AP8=\n", "", WHOLE, {"encoding": "base64"}, b"\x00\xff", id="base64"),
        pytest.param(" AP\n8= ", "", WHOLE, {"encoding": "base64"}, b"\x00\xff", id="base64 in lines"),
        pytest.param("", "", WHOLE, {"encoding": "base64"}, b"", id="empty base64"),
    ],
)
def test_key_gets_its_part_in_the_requested_format(
    value: str, content_type: str, part: ObjectPart, item: dict[str, Any], expected: str | bytes
) -> None:
    found = decode_part(make_vault_value(value, content_type), part, **item)
    assert isinstance(found, VaultValue), found
    assert found.value.reveal() == (expected.encode() if isinstance(expected, str) else expected)
    assert found.version == "v1"


@pytest.mark.parametrize(
    ("value", "content_type", "part", "item", "words"),
    [
        ("xyz", "", WHOLE, {"encoding": "hex"}, ["is not hex", "correct objectEncoding"]),
        ("abc", "", WHOLE, {"encoding": "base64"}, ["is not base64", "correct objectEncoding"]),
        ("a-_b", "", WHOLE, {"encoding": "base64"}, ["is not base64"]),
        ("A!P8=", "", WHOLE, {"encoding": "base64"}, ["is not base64"]),
        ("ünï", "", WHOLE, {"encoding": "hex"}, ["is not hex"]),
        ("x", PFX, WHOLE, {}, [NEITHER_PEM_NOR_PFX]),
        (ENCRYPTED_PFX, PFX, WHOLE, {}, ["PFX has a password"]),
        (ENCRYPTED_PFX, PFX, CERTIFICATES, {"format": "pfx"}, ["PFX has a password"]),
        ("x", "", CERTIFICATES, {}, [NEITHER_PEM_NOR_PFX]),
        (PKCS8, "", CERTIFICATES, {}, ["holds no certificate", "sourcePath"]),
        (CHAIN, "", PRIVATE_KEY, {}, ["holds no private key", "exportable"]),
        (CHAIN, PEM, TLS_KEY, {}, ["holds no private key"]),
    ],
)
def test_key_that_cannot_be_decoded_reports_the_cause(
    value: str, content_type: str, part: ObjectPart, item: dict[str, Any], words: list[str]
) -> None:
    error = decode_part(make_vault_value(value, content_type), part, **item)
    assert isinstance(error, ObjectError)
    for word in ["secret web in Key Vault shop", *words]:
        assert word in error.message
    assert value not in error.message or len(value) < 3
    assert (error.__cause__, error.__traceback__) == (None, None)


CRL = "-----BEGIN X509 CRL-----\naGVsbG8=\n-----END X509 CRL-----\n"


@pytest.mark.parametrize("content_type", ["", "text/plain", PEM, PFX, f"{PFX}; a=b"])
@pytest.mark.parametrize("form", ["pem", "pfx"])
@pytest.mark.parametrize(
    "value",
    [
        "x",
        "",
        AS_PFX,
        ENCRYPTED_PFX,
        "bm90IGEgcGZ4",
        MIXED + PKCS1,
        "# a comment\r\n" + MIXED + CRL,
        PKCS8,
        "\ufeffx\n",
    ],
)
def test_secret_that_no_certificate_owns_is_delivered_byte_for_byte(value: str, form: str, content_type: str) -> None:
    found = decode_part(make_vault_value(value, content_type, of_certificate=False), format=form)
    assert found.value.reveal() == value.encode()
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("content_type", "parsed"),
    [
        ("application/x-pem-file", True),
        ("application/x-pkcs12", True),
        (" Application/X-PKCS12 ; charset=utf-8", True),
        ("APPLICATION/X-PEM-FILE;", True),
        ("", False),
        ("text/plain", False),
        ("application/x-pem-file-2", False),
        ("application/x-pem", False),
        ("text/plain; application/x-pem-file", False),
    ],
)
def test_content_type_decides_whether_a_certificate_is_parsed(content_type: str, parsed: bool) -> None:
    found = make_vault_value(MIXED + PKCS1, content_type, of_certificate=True)
    assert decode_part(found).value.reveal() == (PKCS1 + CHAIN if parsed else MIXED + PKCS1).encode()
    assert needs_parsing(ObjectVersionRef(VaultObject(name="web")), found) is parsed


@pytest.mark.parametrize(
    ("found", "part", "item", "parsed"),
    [
        (make_vault_value(AS_PFX, PFX), WHOLE, {}, True),
        (make_vault_value(AS_PFX, PFX, of_certificate=False), WHOLE, {}, False),
        (make_vault_value("x"), WHOLE, {}, False),
        (make_vault_value("x"), WHOLE, {"property_path": "a"}, True),
        (make_vault_value("x"), WHOLE, {"expand": True}, True),
        (make_vault_value("x"), CERTIFICATES, {}, True),
        (make_vault_value("x"), TLS_KEY, {}, True),
        (ObjectError("gone"), TLS_KEY, {}, False),
    ],
)
def test_only_bundles_parts_and_properties_are_parsed_off_the_event_loop(
    found: VaultValue | ControllerError, part: ObjectPart, item: dict[str, Any], parsed: bool
) -> None:
    assert needs_parsing(ObjectVersionRef(VaultObject(name="web", **item), 0, part), found) is parsed


def test_pfx_is_opened_once_for_all_keys_of_its_version() -> None:
    opened = []

    def open_pfx(data: bytes) -> bytes:
        opened.append(data)
        return (PKCS8 + CHAIN).encode()

    web = VaultObject(name="web")
    parts = {"all": WHOLE, "tls.crt": CERTIFICATES, "tls.key": TLS_KEY}
    wanted = {key: ObjectVersionRef(web, 0, part) for key, part in parts.items()}
    found = decode_values("shop", wanted, {ObjectVersionRef(web): make_vault_value(AS_PFX, PFX)}, NOON, open_pfx)
    assert all(isinstance(item, VaultValue) for item in found.values())
    assert opened == [base64.b64decode(AS_PFX)]


def test_secret_that_no_certificate_owns_has_parts() -> None:
    for value, content_type in ((MIXED + PKCS8, ""), (AS_PFX, ""), (AS_PFX, PFX), (MIXED + PKCS8, PEM)):
        found = make_vault_value(value, content_type, of_certificate=False)
        assert decode_part(found, CERTIFICATES).value.reveal() == CHAIN.encode()
        assert decode_part(found, TLS_KEY).value.reveal() == PKCS1.encode()


def test_reordered_pem_of_a_certificate_keeps_its_other_blocks() -> None:
    assert decode_part(make_vault_value(CRL + MIXED + PKCS1, PEM)).value.reveal() == (PKCS1 + CHAIN + CRL).encode()


def _wrap_lines(columns: int, pem: str) -> str:
    first, *lines, last = pem.splitlines()
    text = "".join(lines)
    return "\n".join([first, *(text[start : start + columns] for start in range(0, len(text), columns)), last, ""])


@pytest.mark.parametrize("key", [PKCS8, PKCS1], ids=["PKCS#8", "PKCS#1"])
@pytest.mark.parametrize(
    "change_layout",
    [
        pytest.param(lambda pem: pem.replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param(lambda pem: pem.replace("\n", " \n  "), id="spaces around lines"),
        pytest.param(lambda pem: _wrap_lines(76, pem), id="76 columns"),
        pytest.param(lambda pem: _wrap_lines(4096, pem), id="one line"),
        pytest.param(lambda pem: pem.replace("\n", "\n\n"), id="doubled line breaks"),
        pytest.param(lambda pem: pem.replace("\n-----END", "\n\n-----END"), id="blank line at the end"),
    ],
)
def test_part_of_a_pem_has_the_standard_layout_and_the_whole_is_unchanged(
    key: str, change_layout: Callable[[str], str]
) -> None:
    """Compare with the CSI provider, which writes `name.key` with Go's encoding/pem for any layout in the vault."""
    value = "".join(map(change_layout, (key, LEAF.pem, ISSUING.pem, ROOT.pem)))
    assert decode_part(make_vault_value(value, PEM), PRIVATE_KEY).value.reveal() == key.encode()
    assert decode_part(make_vault_value(value, PEM), CERTIFICATES).value.reveal() == CHAIN.encode()
    assert decode_part(make_vault_value(value, PEM)).value.reveal() == value.encode()


def test_pem_of_a_certificate_with_an_encrypted_key_is_unchanged() -> None:
    encrypted_key = encode_private_key(LEAF.key, password="swordfish")
    assert decode_part(make_vault_value(MIXED + encrypted_key, PEM)).value.reveal() == (MIXED + encrypted_key).encode()
    assert decode_part(make_vault_value(MIXED + encrypted_key, PEM), CERTIFICATES).value.reveal() == CHAIN.encode()
    assert "private key has a password" in decode_part(make_vault_value(MIXED + encrypted_key, PEM), TLS_KEY).message


@pytest.mark.parametrize(
    ("value", "part", "fault"),
    [
        (PKCS8, CERTIFICATES, "holds no certificate; import one there, or correct the sourcePath"),
        (
            CHAIN,
            PRIVATE_KEY,
            "holds no private key; import the certificate with an exportable key, or correct the sourcePath",
        ),
    ],
)
def test_part_that_the_object_lacks_is_named_with_the_next_step(value: str, part: ObjectPart, fault: str) -> None:
    error = decode_part(make_vault_value(value, updated=NOON), part)
    assert isinstance(error, UnusableValue)
    assert error.message == f"secret web in Key Vault shop {fault}"
    assert (error.version, error.updated) == ("v1", "2030-01-01T12:00:00Z")
    assert decode_part(make_vault_value(value), part).updated == ""


def test_pfx_that_was_not_opened_fails_so_that_another_attempt_follows() -> None:
    web = VaultObject(name="web")
    parts = {"a": CERTIFICATES, "tls.crt": CERTIFICATES, "tls.key": TLS_KEY}
    wanted = {key: ObjectVersionRef(web, 0, part) for key, part in parts.items()}

    def open_pfx(data: bytes) -> bytes:
        raise TimeoutError

    found = decode_values("shop", wanted, {ObjectVersionRef(web): make_vault_value(AS_PFX, PFX)}, NOON, open_pfx)
    assert [type(item) for item in found.values()] == [UnopenedPfx] * 3
    assert all(isinstance(item, UnopenedPfx) and item.__traceback__ is None for item in found.values())


def test_error_of_one_key_does_not_affect_the_other_keys() -> None:
    wanted = {key: ObjectVersionRef(VaultObject(name=key)) for key in ("a", "b", "c")}
    read: dict[ObjectVersionRef, VaultValue | ControllerError] = {
        wanted["a"]: ObjectError("gone"),
        wanted["b"]: make_vault_value("x", PFX),
        wanted["c"]: make_vault_value("x"),
    }
    found = decode_values("shop", wanted, read, NOON)
    assert [type(item) for item in found.values()] == [ObjectError, UnusableValue, VaultValue]


@pytest.mark.parametrize(
    ("item", "owned", "part", "advice", "absent"),
    [
        ({}, True, WHOLE, "write objectFormat: pfx to have the PFX as it is", "name alone"),
        ({}, True, CERTIFICATES, "write objectFormat: pfx to have the PFX as it is", "correct the value"),
        ({"format": "pfx"}, True, CERTIFICATES, "map it by its name alone in an Opaque Secret", "objectFormat"),
        (
            {},
            False,
            CERTIFICATES,
            "import it as a certificate, or map it by its name alone in an Opaque Secret",
            "objectFormat",
        ),
    ],
)
def test_error_does_not_advise_what_the_class_already_does(
    item: dict[str, Any], owned: bool, part: ObjectPart, advice: str, absent: str
) -> None:
    for value in (ENCRYPTED_PFX, "bm90IGEgcGZ4"):
        message = decode_part(make_vault_value(value, PFX, of_certificate=owned), part, **item).message
        assert advice in message
        assert absent not in message


def test_error_of_the_vault_is_returned_unchanged() -> None:
    error = ObjectError("gone")
    assert decode_part(error, CERTIFICATES) is error


def test_tls_secret_gets_both_halves_of_one_version_or_none() -> None:
    pair = ObjectVersionRef(VaultObject(name="web"))
    other = ObjectVersionRef(VaultObject(name="other"))
    wanted = {
        "all": pair,
        "tls.crt": ObjectVersionRef(pair.object, 0, CERTIFICATES),
        "tls.key": ObjectVersionRef(pair.object, 0, TLS_KEY),
        "ca.crt": ObjectVersionRef(other.object, 0, CERTIFICATES),
    }
    found = decode_values("shop", wanted, {pair: make_vault_value(CHAIN, PEM), other: make_vault_value(ROOT.pem)}, NOON)
    assert {key for key, item in found.items() if isinstance(item, ObjectError)} == {"tls.crt", "tls.key"}
    found = decode_values("shop", wanted, {pair: make_vault_value(PKCS8, PEM), other: make_vault_value(ROOT.pem)}, NOON)
    assert {key for key, item in found.items() if isinstance(item, ObjectError)} == {"tls.crt", "tls.key"}
    found = decode_values(
        "shop", wanted, {pair: make_vault_value(CHAIN + PKCS8, PEM), other: make_vault_value(ROOT.pem)}, NOON
    )
    assert all(isinstance(item, VaultValue) for item in found.values())


@pytest.mark.parametrize("year", [0, 2])
def test_certificate_with_dates_of_another_era_is_read_or_refused(year: int) -> None:
    """Python has no year 0. An error of one key must not prevent the other keys."""
    leaf = issue_certificate("web", start=datetime(2050, 1, 1, tzinfo=UTC))
    der = leaf.certificate.public_bytes(Encoding.DER).replace(b"20500101", b"%04d0101" % year)
    pem = ssl.DER_cert_to_PEM_cert(der)
    for text, part in itertools.product((pem, leaf.key_pem + pem), (CERTIFICATES, TLS_KEY)):
        found = decode_part(make_vault_value(text, PEM), part)
        if year and (part is CERTIFICATES or leaf.key_pem in text):
            assert found.not_before == datetime(year, 1, 1, tzinfo=UTC)
        else:
            assert "certificate that cannot be read" in found.message or "holds no private key" in found.message
        assert decode_part(make_vault_value(text, PEM)).value.reveal() == text.encode()


def test_certificate_in_a_plain_secret_has_the_dates_of_its_leaf() -> None:
    found = decode_part(make_vault_value(CHAIN), CERTIFICATES)
    assert (found.not_before, found.expires) == (NOON, NOON + timedelta(days=30))
    found = decode_part(make_vault_value(CHAIN, expires=LATER), CERTIFICATES)
    assert (found.not_before, found.expires) == (NOON, LATER)
    found = decode_part(make_vault_value(CHAIN, not_before=EARLIER), CERTIFICATES)
    assert (found.not_before, found.expires) == (EARLIER, NOON + timedelta(days=30))
    found = decode_part(make_vault_value(PKCS8), TLS_KEY)
    assert (found.not_before, found.expires) == (None, None)
    long_lived = issue_certificate("lasting", ca=True, start=NOON - timedelta(days=9), days=9000)
    found = decode_part(make_vault_value(issue_certificate("web", long_lived).pem + long_lived.pem), CERTIFICATES)
    assert (found.not_before, found.expires) == (NOON, NOON + timedelta(days=30))
    found = decode_part(make_vault_value(CHAIN), CERTIFICATES, now=NOON + timedelta(days=31))
    assert "expired at 2030-01-31T12:00:00Z" in found.warnings[0]


LATER, EARLIER = NOON + timedelta(hours=1), NOON - timedelta(hours=1)


INCOMPLETE = "lacks the certificate of an issuer; import it again with its whole chain"


@pytest.mark.parametrize(
    ("found", "item", "warnings"),
    [
        (make_vault_value("x", not_before=EARLIER, expires=LATER), {}, []),
        (make_vault_value("x", not_before=NOON), {}, []),
        (
            make_vault_value("x", expires=EARLIER),
            {},
            ["secret web in Key Vault shop expired at 2030-01-01T11:00:00Z and is synced all the same; renew it there"],
        ),
        (
            make_vault_value("x", expires=NOON),
            {},
            ["secret web in Key Vault shop expired at 2030-01-01T12:00:00Z and is synced all the same; renew it there"],
        ),
        (
            make_vault_value("x", not_before=LATER),
            {"type": "key"},
            [
                "key web in Key Vault shop is not valid before 2030-01-01T13:00:00Z and is synced all the same; check"
                " its dates there"
            ],
        ),
        (
            make_vault_value("x", expires=EARLIER),
            {"type": "cert", "history": 2},
            [
                "certificate web (version v1) in Key Vault shop expired at 2030-01-01T11:00:00Z and is synced all the"
                " same; renew it there"
            ],
        ),
        (make_vault_value(PKCS8 + LEAF.pem, PEM), {}, [f"secret web in Key Vault shop {INCOMPLETE}"]),
        (
            make_vault_value(PKCS8 + LEAF.pem, PEM, expires=NOON),
            {},
            [
                f"secret web in Key Vault shop {INCOMPLETE}",
                "secret web in Key Vault shop expired at 2030-01-01T12:00:00Z and is synced all the same; renew it"
                " there",
            ],
        ),
        (
            make_vault_value(encode_pfx(LEAF.key, [LEAF, ROOT]), PFX),
            {},
            [f"secret web in Key Vault shop {INCOMPLETE}"],
        ),
        (make_vault_value(PKCS8 + LEAF.pem + ISSUING.pem, PEM), {}, []),
        (make_vault_value(PKCS8 + LEAF.pem), {}, []),
        (make_vault_value(LEAF.pem), {"type": "cert"}, []),
    ],
)
def test_warning_about_a_value_is_reported_once_for_all_its_keys(
    found: VaultValue, item: dict[str, Any], warnings: list[str]
) -> None:
    version = ObjectVersionRef(VaultObject(name="web", **item))
    wanted = {"a": version, "b": version}
    fetched = flatten_expanded(wanted, decode_values("shop", wanted, {version: found}, NOON))
    assert all(isinstance(got, VaultValue) for got in fetched.values())
    assert value_warnings("shop", wanted, fetched) == warnings


def test_only_values_that_were_fetched_have_warnings() -> None:
    wanted = {key: ObjectVersionRef(VaultObject(name="web")) for key in ("a", "b", "c")}
    fetched: dict[str, VaultValue | Unchanged | ControllerError] = {
        "a": ObjectError("gone"),
        "b": Unchanged(),
        "c": make_vault_value("x", warnings=("is odd",)),
    }
    assert value_warnings("shop", wanted, fetched) == ["secret web in Key Vault shop is odd"]
