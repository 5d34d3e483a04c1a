"""Test reads of certificates and keys with the Azure SDK's clients."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.values import VaultValue
from controller.errors import ObjectError
from tests.support.certificates import IssuedCertificate, issue_certificate
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.reader_harness import JSON, SIGN, WEB, ReaderHarness

LEAF = issue_certificate("web")


def put_object(harness: ReaderHarness, path: str, version: str = "v1", enabled: bool = True, **body: Any) -> None:
    """Put a version of a certificate or key into the vault."""
    url = f"{harness.server.url}{path}/{version}"
    times = {"enabled": enabled, "created": 5, "updated": 9, "nbf": 10, "exp": 20}
    if "key" in body:
        body["key"]["kid"] = url
    answer = ScriptedResponse({"id": url, "attributes": times} | body, headers=JSON)
    for each in (path, f"{path}/", f"{path}/{version}"):
        harness.answers[each] = answer


def encode_certificate(issued: IssuedCertificate) -> str:
    return base64.b64encode(issued.certificate.public_bytes(Encoding.DER)).decode()


def encode_base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).decode().rstrip("=")


def make_jwk(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, kty: str, crv: str = "") -> dict[str, Any]:
    numbers = key.public_numbers()
    if isinstance(numbers, rsa.RSAPublicNumbers):
        return {"kty": kty, "n": encode_base64url(numbers.n), "e": encode_base64url(numbers.e)}
    return {"kty": kty, "crv": crv, "x": encode_base64url(numbers.x), "y": encode_base64url(numbers.y)}


async def test_certificate_is_read_as_its_leaf(harness: ReaderHarness) -> None:
    put_object(harness, "/certificates/web", cer=encode_certificate(LEAF))
    for wanted in (WEB, ObjectVersionRef(VaultObject(name="web", type="cert", version="v1"))):
        (found,) = (await harness.reader.read([wanted], since=harness.now, first=True)).values()
        assert isinstance(found, VaultValue), found
        assert found.value.reveal().decode() == LEAF.pem
        assert (found.version, found.updated) == ("v1", datetime.fromtimestamp(9, UTC))
        assert (found.not_before, found.expires) == (datetime.fromtimestamp(10, UTC), datetime.fromtimestamp(20, UTC))
    assert harness.counted == [("certificates.get", "ok")] * 2


@pytest.mark.parametrize(
    ("new_key", "kty", "crv"),
    [
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), "RSA", "", id="RSA"),
        pytest.param(lambda: rsa.generate_private_key(3, 2048), "RSA-HSM", "", id="RSA in hardware"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP256R1()), "EC", "P-256", id="P-256"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), "EC-HSM", "P-384", id="P-384 in hardware"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP521R1()), "EC", "P-521", id="P-521"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP256K1()), "EC", "P-256K", id="P-256K"),
    ],
)
async def test_key_is_read_as_its_public_half(
    harness: ReaderHarness, new_key: Callable[[], rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey], kty: str, crv: str
) -> None:
    key = new_key()
    put_object(harness, "/keys/sign", key=make_jwk(key.public_key(), kty, crv))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert await harness.read(SIGN) == [public.decode()]
    assert harness.counted == [("keys.get", "ok")]


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "RSA"},
        {"kty": "RSA", "n": "AQ", "e": "AQ"},
        {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"},
        {"kty": "EC"},
        {},
    ],
)
async def test_invalid_key_is_reported_as_no_usable_answer(harness: ReaderHarness, key: dict[str, str]) -> None:
    put_object(harness, "/keys/sign", key=key)
    assert "gave no usable answer" in (await harness.read_error(SIGN)).message


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ({"kty": "EC", "crv": "P-1", "x": "AQ", "y": "AQ"}, "(P-1)"),
        ({"kty": "EC-HSM", "crv": "SECP256K9", "x": "AQ", "y": "AQ"}, "(SECP256K9)"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "AQ"}, "(OKP)"),
        ({"kty": "ML-DSA"}, "(ML-DSA)"),
        ({"kty": "a sentence. Another one"}, "PEM;"),
    ],
)
async def test_key_of_an_unknown_kind_is_named(harness: ReaderHarness, key: dict[str, str], word: str) -> None:
    put_object(harness, "/keys/sign", key=key)
    error = await harness.read_error(SIGN)
    assert isinstance(error, ObjectError)
    assert "key sign in Key Vault shop has a type that the controller cannot convert to PEM" in error.message
    assert word in error.message


async def test_pending_certificate_is_reported_as_pending(harness: ReaderHarness) -> None:
    put_object(harness, "/certificates/web", enabled=False)
    error = await harness.read_error(WEB)
    assert isinstance(error, ObjectError)
    assert "certificate web in Key Vault shop has no version yet: its request is pending, merge it" in error.message


@pytest.mark.parametrize("name", ["issuers", "Contacts"])
async def test_certificate_with_a_reserved_name_is_an_error(harness: ReaderHarness, name: str) -> None:
    harness.answers[f"/certificates/{name}/"] = ScriptedResponse({"value": [], "nextLink": None}, headers=JSON)
    error = await harness.read_error(ObjectVersionRef(VaultObject(name=name, type="cert")))
    assert isinstance(error, ObjectError)
    assert f"certificate {name}: Key Vault reserves this name" in error.message


async def test_symmetric_key_is_an_error(harness: ReaderHarness) -> None:
    put_object(harness, "/keys/sign", key={"kty": "oct-HSM"})
    error = await harness.read_error(SIGN)
    assert isinstance(error, ObjectError)
    assert "key sign in Key Vault shop is symmetric" in error.message


async def test_disabled_certificate_or_key_is_an_error(harness: ReaderHarness) -> None:
    put_object(harness, "/certificates/web", cer=encode_certificate(LEAF), enabled=False)
    put_object(harness, "/keys/sign", key=make_jwk(LEAF.key.public_key(), "EC", "P-256"), enabled=False)
    certificate, key = await harness.read(WEB, SIGN)
    assert isinstance(certificate, ObjectError)
    assert certificate.message == "certificate web is disabled in Key Vault shop; enable it there"
    assert isinstance(key, ObjectError)
    assert key.message == "key sign is disabled in Key Vault shop; enable it there"


@pytest.mark.parametrize("kind", ["cert", "key"])
async def test_history_of_certificates_and_keys_has_enabled_versions(harness: ReaderHarness, kind: str) -> None:
    path, id_field = {"cert": ("/certificates/web", "id"), "key": ("/keys/web", "kid")}[kind]
    listed = [("a", 1, True), ("b", 2, False), ("d", 3, True), ("c", 3, True)]
    items = [
        {id_field: f"{harness.server.url}{path}/{version}", "attributes": {"enabled": enabled, "created": created}}
        for version, created, enabled in listed
    ]
    harness.answers[f"{path}/versions"] = ScriptedResponse({"value": items, "nextLink": None}, headers=JSON)
    for version, _, _ in sorted(listed):  # a get without a version returns the last one
        put_object(
            harness, path, version, cer=encode_certificate(LEAF), key=make_jwk(LEAF.key.public_key(), "EC", "P-256")
        )
    found = VaultObject(name="web", type=kind, history=3)
    answers = await harness.reader.read(
        [ObjectVersionRef(found, index) for index in range(4)], since=harness.now, first=True
    )
    results = [item.version if isinstance(item, VaultValue) else item.message for item in answers.values()]
    assert results[:3] == ["d", "c", "a"]
    assert f"{found.noun} has 3 enabled version(s)" in results[3]
