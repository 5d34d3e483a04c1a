"""Issue certificates for tests, and encode them in the file formats that Key Vault uses."""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class IssuedCertificate(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        """The private key as PKCS#8 in PEM."""
        return encode_private_key(self.key)


def generate_key(kind: str = "EC") -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1()) if kind == "EC" else rsa.generate_private_key(65537, 2048)


def issue_certificate(
    name: str,
    by: IssuedCertificate | None = None,
    *,
    key: PrivateKey | None = None,
    ca: bool = False,
    identifiers: bool = True,
    start: datetime = NOON,
    days: int = 30,
) -> IssuedCertificate:
    """Return a certificate for `name`. Without an issuer it is self-signed."""
    own = key or generate_key()
    signer = by.key if by else own
    builder = (
        x509.CertificateBuilder()
        .subject_name(make_name(name))
        .issuer_name(by.certificate.subject if by else make_name(name))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if identifiers:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    return IssuedCertificate(builder.sign(signer, hashes.SHA256()), own)


def make_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def encode_private_key(
    key: PrivateKey, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8, password: str = ""
) -> str:
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def encode_pem_bundle(leaf: IssuedCertificate, *others: IssuedCertificate, password: str = "") -> bytes:
    """Return one PEM file with a certificate, its key and further certificates."""
    return "".join([encode_private_key(leaf.key, password=password), leaf.pem, *(item.pem for item in others)]).encode()


def encode_pfx(
    key: PrivateKey | None, certificates: Iterable[IssuedCertificate], password: str = "", *, key_id: bool = True
) -> str:
    """Return a PFX in base64. Without `key_id`, nothing in it links the key with its certificate."""
    first, *rest = [item.certificate for item in certificates]
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    own, others = (first, rest) if key_id else (None, [first, *rest])
    return base64.b64encode(pkcs12.serialize_key_and_certificates(None, key, own, others, encryption)).decode()


def make_slow_pfx(iterations: int = 2**31 - 1) -> str:
    """Return an empty PFX in base64 whose password needs that many hash iterations (RFC 7292, 4)."""
    data = bytes.fromhex("2a864886f70d010701")
    sha256 = bytes.fromhex("608648016503040201")
    safe = encode_der(0x30, encode_der(0x06, data), encode_der(0xA0, encode_der(0x04, encode_der(0x30))))
    digest = encode_der(0x30, encode_der(0x30, encode_der(0x06, sha256), encode_der(0x05)), encode_der(0x04, bytes(32)))
    mac = encode_der(0x30, digest, encode_der(0x04, bytes(8)), encode_der(0x02, iterations.to_bytes(4)))
    return base64.b64encode(encode_der(0x30, encode_der(0x02, b"\x03"), safe, mac)).decode()


def encode_der(tag: int, *parts: bytes) -> bytes:
    """Return an element of DER (X.690): tag, length, content."""
    content = b"".join(parts)
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    length = bytes([len(content)]) if len(content) < 128 else bytes([0x80 | len(size)]) + size
    return bytes([tag]) + length + content
