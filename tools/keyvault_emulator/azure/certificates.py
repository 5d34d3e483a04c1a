"""Parse an imported certificate as Key Vault does: the secret's value, the public certificate and the public JWK."""

import base64
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12

from tools.keyvault_emulator.errors import EmulatorError

PEM = "application/x-pem-file"
PFX = "application/x-pkcs12"

CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521", "secp256k1": "P-256K"}


KEY_TYPES = ("RSA", "EC", "RSA-HSM", "EC-HSM", "oct-HSM")
"""The types of keys of Key Vault."""

_BY_CURVE: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "P-256K": ec.SECP256K1(),
}


class CertificateMaterial(NamedTuple):
    """One certificate with its private key, as the vault stores it."""

    value: str
    """The value of the secret with the same name: PEM text, or a PFX without password in base64."""
    content_type: str
    certificate: bytes
    """The leaf, DER."""
    not_before: int
    expires: int
    jwk: dict[str, str]


def parse(data: bytes, password: str | None = None) -> CertificateMaterial:
    """Parse a PEM (private key and certificates in any order) or a PFX. Raise `EmulatorError`.

    The order and extra certificates do not change, so that a test can create a vault with an unusual chain. Encrypted
    data is stored decrypted, as Key Vault does.
    """
    if b"-----BEGIN" in data:
        return _parse_pem(data, password)
    return _parse_pfx(data, password)


def _parse_pem(data: bytes, password: str | None) -> CertificateMaterial:
    try:
        certificates = x509.load_pem_x509_certificates(data)
    except ValueError as problem:
        raise EmulatorError(f"data: the PEM has no certificate that can be parsed: {problem}") from problem
    start = data.find(b"-----BEGIN", 0)
    key_block = b""
    while start >= 0:
        end = data.find(b"-----END", start)
        end = data.find(b"-----", end + 8) + 5
        block = data[start:end]
        if b"PRIVATE KEY-----" in block.splitlines()[0]:
            key_block = block
            break
        start = data.find(b"-----BEGIN", end)
    if not key_block:
        raise EmulatorError(
            "data: the PEM has no private key; a vault stores a certificate together with its key, so add the key"
        )
    try:
        key = serialization.load_pem_private_key(key_block, password.encode() if password else None)
    except (TypeError, ValueError) as problem:
        raise EmulatorError(
            f"data: the private key of the PEM cannot be parsed, or the password is wrong: {problem}"
        ) from problem
    text = data
    if password:
        plain = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        text = data.replace(key_block, plain.strip())
    return _build_material(text.decode(), PEM, key.public_key(), certificates)


def _parse_pfx(data: bytes, password: str | None) -> CertificateMaterial:
    try:
        bundle = pkcs12.load_pkcs12(data, password.encode() if password else None)
    except ValueError as problem:
        raise EmulatorError(f"data: it is neither PEM nor a PFX with this password: {problem}") from problem
    if bundle.key is None:
        raise EmulatorError("data: the PFX has no private key; export it together with its key")
    certificates = [bundle.cert.certificate] if bundle.cert else []
    certificates += [extra.certificate for extra in bundle.additional_certs]
    if password:
        data = pkcs12.serialize_key_and_certificates(
            bundle.cert.friendly_name if bundle.cert else None,
            bundle.key,  # type: ignore[arg-type]  # any key that a PFX can contain
            bundle.cert.certificate if bundle.cert else None,
            [extra.certificate for extra in bundle.additional_certs],
            serialization.NoEncryption(),
        )
    return _build_material(base64.b64encode(data).decode(), PFX, bundle.key.public_key(), certificates)


def _build_material(
    value: str, content_type: str, key: PublicKeyTypes, certificates: list[x509.Certificate]
) -> CertificateMaterial:
    leaf = next((each for each in certificates if each.public_key() == key), None)
    if leaf is None:
        raise EmulatorError("data: no certificate belongs to the private key; add the certificate of this key")
    return CertificateMaterial(
        value,
        content_type,
        leaf.public_bytes(serialization.Encoding.DER),
        int(leaf.not_valid_before_utc.timestamp()),
        int(leaf.not_valid_after_utc.timestamp()),
        public_jwk(key),
    )


def public_jwk(key: PublicKeyTypes) -> dict[str, str]:
    """Return the public JWK (RFC 7517) without `kid`: RSA or a curve of Key Vault. Raise `EmulatorError`."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _encode_number(numbers.n), "e": _encode_number(numbers.e)}
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        point, size = key.public_numbers(), (key.curve.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": CURVES[key.curve.name],
            "x": _encode_number(point.x, size),
            "y": _encode_number(point.y, size),
        }
    raise EmulatorError(f"a vault stores only RSA keys and the curves {', '.join(CURVES.values())}; use one of them")


def new_jwk(kty: str, curve: str) -> dict[str, str]:
    """Return the public JWK of a new key. Raise `EmulatorError` for a type or curve that Key Vault does not know."""
    family, hardware = kty.removesuffix("-HSM"), kty.endswith("-HSM")
    if kty == "oct-HSM":
        return {"kty": kty}
    if family == "RSA":
        jwk = public_jwk(rsa.generate_private_key(65537, 2048).public_key())
        # Recorded answers have a leading zero in the exponent of hardware keys.
        return {**jwk, "kty": kty, "e": "AAEAAQ"} if hardware else jwk
    if family != "EC":
        raise EmulatorError(f"kty: {kty!r} is not known; use one of {', '.join(KEY_TYPES)}")
    if curve not in _BY_CURVE:
        raise EmulatorError(f"curve: {curve!r} is not known; use one of {', '.join(_BY_CURVE)}")
    return {**public_jwk(ec.generate_private_key(_BY_CURVE[curve]).public_key()), "kty": kty}


def base64url(data: bytes) -> str:
    """Encode as base64 with the URL alphabet and without padding, like binary members of JOSE and Key Vault."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encode_number(value: int, size: int | None = None) -> str:
    return base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))
