"""What a key gets of what the vault gave, as a table: by contentType, objectFormat, objectEncoding and part."""

import base64
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from controller.domain.decode_values import PEM, PFX, decode_values, flatten_expanded, needs_parsing, value_warnings
from controller.domain.provider_class import ObjectPart, ObjectVersionRef, VaultObject
from controller.domain.values import SecretBytes, VaultValue
from controller.errors import ControllerError, ObjectError
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
LOCKED = encode_pfx(LEAF.key, [LEAF], "swordfish")
CERTIFICATES, PRIVATE_KEY, TLS_KEY, WHOLE = (
    ObjectPart.CERTIFICATES,
    ObjectPart.PRIVATE_KEY,
    ObjectPart.TLS_KEY,
    ObjectPart.WHOLE,
)


def given(value: str | bytes, content_type: str = "", **more: Any) -> VaultValue:
    """Return a secret; one with a contentType of certificates belongs to a certificate unless `more` says otherwise."""
    data = value.encode() if isinstance(value, str) else value
    more = {"of_certificate": content_type.partition(";")[0].lower() in (PEM, PFX)} | more
    return VaultValue(value=SecretBytes(data), version="v1", content_type=content_type, **more)


def of(found: VaultValue | ControllerError, part: ObjectPart = WHOLE, now: datetime = NOON, **item: Any) -> Any:
    """Return what one key gets."""
    version = ObjectVersionRef(VaultObject(name="web", **item), 0, part)
    return decode_values("shop", {"k": version}, {version.whole: found}, now)["k"]


@pytest.mark.parametrize(
    ("value", "content_type", "part", "item", "expected"),
    [
        pytest.param("x", "", WHOLE, {}, "x", id="a text"),
        pytest.param(PKCS8 + MIXED, "", WHOLE, {}, PKCS8 + MIXED, id="a text that nobody called a certificate"),
        pytest.param("x", "text/plain", WHOLE, {"format": "pfx"}, "x", id="a text with a format"),
        pytest.param("x", PEM, WHOLE, {}, "x", id="a text that is wrongly called PEM"),
        pytest.param(CHAIN + "# a comment\n" + PKCS1, PEM, WHOLE, {}, CHAIN + "# a comment\n" + PKCS1, id="in order"),
        pytest.param(MIXED + PKCS1, PEM, WHOLE, {}, PKCS1 + CHAIN, id="out of order"),
        pytest.param(MIXED + PKCS8, PEM, WHOLE, {"format": "pfx"}, PKCS8 + CHAIN, id="PEM is no PFX"),
        pytest.param(MIXED, PFX, WHOLE, {}, MIXED, id="a PEM without a key that is wrongly called PFX"),
        pytest.param(
            base64.b64encode(CHAIN.encode()), PEM, WHOLE, {"encoding": "base64"}, CHAIN, id="PEM without a key, decoded"
        ),
        pytest.param(AS_PFX, PFX, WHOLE, {}, PKCS8 + CHAIN, id="PFX becomes PEM"),
        pytest.param(AS_PFX, f"{PFX.upper()}; a=b", WHOLE, {}, PKCS8 + CHAIN, id="in any letters"),
        pytest.param(AS_PFX, PFX, WHOLE, {"format": "pfx"}, AS_PFX, id="unless it is to stay"),
        pytest.param(LOCKED, PFX, WHOLE, {"format": "pfx"}, LOCKED, id="with a password too"),
        pytest.param(
            AS_PFX, PFX, WHOLE, {"format": "pfx", "encoding": "base64"}, base64.b64decode(AS_PFX), id="its bytes"
        ),
        pytest.param(AS_PFX, PFX, WHOLE, {"encoding": "base64"}, PKCS8 + CHAIN, id="PEM from its bytes"),
        pytest.param(AS_PFX, "", WHOLE, {}, AS_PFX, id="a PFX that nobody called one"),
        pytest.param(MIXED + PKCS8, PEM, CERTIFICATES, {}, CHAIN, id="certificates of a PEM"),
        pytest.param(AS_PFX, PFX, CERTIFICATES, {"format": "pfx"}, CHAIN, id="certificates of a PFX"),
        pytest.param(AS_PFX, "", CERTIFICATES, {"encoding": "base64"}, CHAIN, id="whatever it is called"),
        pytest.param(MIXED + PKCS1, PEM, PRIVATE_KEY, {}, PKCS1, id="key of a PEM, as it is kept"),
        pytest.param(MIXED + PKCS8, PEM, TLS_KEY, {}, PKCS1, id="key of a PEM, for TLS"),
        pytest.param(AS_PFX, PFX, PRIVATE_KEY, {}, PKCS8, id="key of a PFX"),
        pytest.param(AS_PFX, PFX, TLS_KEY, {}, PKCS1, id="key of a PFX, for TLS"),
        pytest.param(CHAIN, "", CERTIFICATES, {}, CHAIN, id="certificates of which the key is elsewhere"),
        pytest.param(PKCS8, "", TLS_KEY, {}, PKCS1, id="a key of which the certificate is elsewhere"),
        pytest.param(LEAF.pem, "", CERTIFICATES, {"type": "cert"}, LEAF.pem, id="objectType cert"),
        pytest.param(" 00fF\n", "", WHOLE, {"encoding": "hex"}, b"\x00\xff", id="hex"),
        pytest.param("AP8=\n", "", WHOLE, {"encoding": "base64"}, b"\x00\xff", id="base64"),
        pytest.param("", "", WHOLE, {"encoding": "base64"}, b"", id="nothing, in base64"),
    ],
)
def test_what_a_key_gets(
    value: str, content_type: str, part: ObjectPart, item: dict[str, Any], expected: str | bytes
) -> None:
    found = of(given(value, content_type), part, **item)
    assert isinstance(found, VaultValue), found
    assert found.value.reveal() == (expected.encode() if isinstance(expected, str) else expected)
    assert found.version == "v1"


@pytest.mark.parametrize(
    ("value", "content_type", "part", "item", "words"),
    [
        ("xyz", "", WHOLE, {"encoding": "hex"}, ["is not hex", "correct objectEncoding"]),
        ("abc", "", WHOLE, {"encoding": "base64"}, ["is not base64", "correct objectEncoding"]),
        ("a-_b", "", WHOLE, {"encoding": "base64"}, ["is not base64"]),
        ("ünï", "", WHOLE, {"encoding": "hex"}, ["is not hex"]),
        ("x", PFX, WHOLE, {}, [NEITHER_PEM_NOR_PFX]),
        (LOCKED, PFX, WHOLE, {}, ["PFX has a password"]),
        (LOCKED, PFX, CERTIFICATES, {"format": "pfx"}, ["PFX has a password"]),
        ("x", "", CERTIFICATES, {}, [NEITHER_PEM_NOR_PFX]),
        (PKCS8, "", CERTIFICATES, {}, ["holds no certificate", "sourcePath"]),
        (CHAIN, "", PRIVATE_KEY, {}, ["holds no private key", "exportable"]),
        (CHAIN, PEM, TLS_KEY, {}, ["holds no private key"]),
    ],
)
def test_what_it_cannot_get_says_why(
    value: str, content_type: str, part: ObjectPart, item: dict[str, Any], words: list[str]
) -> None:
    error = of(given(value, content_type), part, **item)
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
    ["x", "", AS_PFX, LOCKED, "bm90IGEgcGZ4", MIXED + PKCS1, "# a comment\r\n" + MIXED + CRL, PKCS8, "\ufeffx\n"],
)
def test_secret_that_no_certificate_owns_is_delivered_byte_for_byte(value: str, form: str, content_type: str) -> None:
    found = of(given(value, content_type, of_certificate=False), format=form)
    assert found.value.reveal() == value.encode()
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("content_type", "counts"),
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
def test_content_types_of_a_certificates_secret_that_count_as_pem_or_pfx(content_type: str, counts: bool) -> None:
    found = given(MIXED + PKCS1, content_type, of_certificate=True)
    assert of(found).value.reveal() == (PKCS1 + CHAIN if counts else MIXED + PKCS1).encode()
    assert needs_parsing(ObjectVersionRef(VaultObject(name="web")), found) is counts


@pytest.mark.parametrize(
    ("found", "part", "parsed"),
    [
        (given(AS_PFX, PFX), WHOLE, True),
        (given(AS_PFX, PFX, of_certificate=False), WHOLE, False),
        (given("x"), WHOLE, False),
        (given("x"), CERTIFICATES, True),
        (given("x"), TLS_KEY, True),
        (ObjectError("gone"), TLS_KEY, False),
    ],
)
def test_only_bundles_and_parts_are_parsed_off_the_event_loop(
    found: VaultValue | ControllerError, part: ObjectPart, parsed: bool
) -> None:
    assert needs_parsing(ObjectVersionRef(VaultObject(name="web"), 0, part), found) is parsed


def test_a_pfx_is_opened_once_for_all_keys_of_its_version() -> None:
    opened = []

    def open_pfx(data: bytes) -> bytes:
        opened.append(data)
        return (PKCS8 + CHAIN).encode()

    web = VaultObject(name="web")
    parts = {"all": WHOLE, "tls.crt": CERTIFICATES, "tls.key": TLS_KEY}
    wanted = {key: ObjectVersionRef(web, 0, part) for key, part in parts.items()}
    found = decode_values("shop", wanted, {ObjectVersionRef(web): given(AS_PFX, PFX)}, NOON, open_pfx)
    assert all(isinstance(item, VaultValue) for item in found.values())
    assert opened == [base64.b64decode(AS_PFX)]


def test_parts_are_taken_out_of_a_secret_that_no_certificate_owns() -> None:
    for value, content_type in ((MIXED + PKCS8, ""), (AS_PFX, ""), (AS_PFX, PFX), (MIXED + PKCS8, PEM)):
        found = given(value, content_type, of_certificate=False)
        assert of(found, CERTIFICATES).value.reveal() == CHAIN.encode()
        assert of(found, TLS_KEY).value.reveal() == PKCS1.encode()


def test_other_blocks_of_a_certificates_pem_survive_reordering() -> None:
    assert of(given(CRL + MIXED + PKCS1, PEM)).value.reveal() == (PKCS1 + CHAIN + CRL).encode()


def test_certificates_pem_with_a_locked_key_stays_as_it_is() -> None:
    locked = encode_private_key(LEAF.key, password="swordfish")
    assert of(given(MIXED + locked, PEM)).value.reveal() == (MIXED + locked).encode()
    assert of(given(MIXED + locked, PEM), CERTIFICATES).value.reveal() == CHAIN.encode()
    assert "private key has a password" in of(given(MIXED + locked, PEM), TLS_KEY).message


@pytest.mark.parametrize(
    ("item", "owned", "part", "advice", "never"),
    [
        ({}, True, WHOLE, "write objectFormat: pfx to have the PFX as it is", "name alone"),
        ({}, True, CERTIFICATES, "write objectFormat: pfx to have the PFX as it is", "correct the value"),
        ({"format": "pfx"}, True, CERTIFICATES, "map it by its name alone", "objectFormat"),
        ({}, False, CERTIFICATES, "import it as a certificate, or map it by its name alone", "objectFormat"),
    ],
)
def test_advice_is_nothing_that_was_done_already(
    item: dict[str, Any], owned: bool, part: ObjectPart, advice: str, never: str
) -> None:
    for value in (LOCKED, "bm90IGEgcGZ4"):
        message = of(given(value, PFX, of_certificate=owned), part, **item).message
        assert advice in message
        assert never not in message


def test_what_the_vault_could_not_give_stays_what_it_is() -> None:
    error = ObjectError("gone")
    assert of(error, CERTIFICATES) is error


def test_a_tls_secret_gets_both_halves_of_one_version_or_none() -> None:
    pair = ObjectVersionRef(VaultObject(name="web"))
    other = ObjectVersionRef(VaultObject(name="other"))
    wanted = {
        "tls.crt": ObjectVersionRef(pair.object, 0, CERTIFICATES),
        "tls.key": ObjectVersionRef(pair.object, 0, TLS_KEY),
        "ca.crt": ObjectVersionRef(other.object, 0, CERTIFICATES),
    }
    found = decode_values("shop", wanted, {pair: given(CHAIN, PEM), other: given(ROOT.pem)}, NOON)
    assert {key for key, item in found.items() if isinstance(item, ObjectError)} == {"tls.crt", "tls.key"}
    found = decode_values("shop", wanted, {pair: given(PKCS8, PEM), other: given(ROOT.pem)}, NOON)
    assert {key for key, item in found.items() if isinstance(item, ObjectError)} == {"tls.crt", "tls.key"}
    found = decode_values("shop", wanted, {pair: given(CHAIN + PKCS8, PEM), other: given(ROOT.pem)}, NOON)
    assert all(isinstance(item, VaultValue) for item in found.values())


def test_a_certificate_that_somebody_pasted_in_has_the_dates_of_its_leaf() -> None:
    found = of(given(CHAIN), CERTIFICATES)
    assert (found.not_before, found.expires) == (NOON, NOON + timedelta(days=30))
    found = of(given(CHAIN, expires=SOON), CERTIFICATES)
    assert (found.not_before, found.expires) == (NOON, SOON)
    lasting = issue_certificate("lasting", ca=True, start=NOON - timedelta(days=9), days=9000)
    found = of(given(issue_certificate("web", lasting).pem + lasting.pem), CERTIFICATES)
    assert (found.not_before, found.expires) == (NOON, NOON + timedelta(days=30))
    found = of(given(CHAIN), CERTIFICATES, now=NOON + timedelta(days=31))
    assert "expired at 2030-01-31T12:00:00Z" in found.warnings[0]


SOON, LATE = NOON + timedelta(hours=1), NOON - timedelta(hours=1)


@pytest.mark.parametrize(
    ("found", "item", "words"),
    [
        (given("x", not_before=LATE, expires=SOON), {}, []),
        (given("x", expires=LATE), {}, ["secret web in Key Vault shop expired at 2030-01-01T11:00:00Z", "renew it"]),
        (given("x", expires=NOON), {}, ["expired at"]),
        (given("x", not_before=SOON), {"type": "key"}, ["key web", "is not valid before 2030-01-01T13:00:00Z"]),
        (given("x", expires=LATE), {"type": "cert", "history": 2}, ["certificate web (version v1) in Key Vault shop"]),
        (given(PKCS8 + LEAF.pem, PEM), {}, ["lacks the certificate of an issuer", "whole chain"]),
        (given(encode_pfx(LEAF.key, [LEAF, ROOT]), PFX), {}, ["lacks the certificate of an issuer"]),
        (given(PKCS8 + LEAF.pem + ISSUING.pem, PEM), {}, []),
        (given(PKCS8 + LEAF.pem), {}, []),
        (given(LEAF.pem), {"type": "cert"}, []),
    ],
)
def test_what_is_odd_is_synced_and_told_once(found: VaultValue, item: dict[str, Any], words: list[str]) -> None:
    version = ObjectVersionRef(VaultObject(name="web", **item))
    wanted = {"a": version, "b": version}
    fetched = flatten_expanded(wanted, decode_values("shop", wanted, {version: found}, NOON))
    assert all(isinstance(got, VaultValue) for got in fetched.values())
    told = value_warnings("shop", wanted, fetched)
    assert len(told) == (1 if words else 0)
    for word in words:
        assert word in told[0]
