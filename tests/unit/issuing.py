"""Certificates as a test needs them: who issued whom, with which keys, in which file."""

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


class Issued(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        """PKCS#8."""
        return private_pem(self.key)


def new_key(kind: str = "EC") -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1()) if kind == "EC" else rsa.generate_private_key(65537, 2048)


def issue(
    name: str,
    by: Issued | None = None,
    *,
    key: PrivateKey | None = None,
    ca: bool = False,
    identifiers: bool = True,
    start: datetime = NOON,
    days: int = 30,
) -> Issued:
    """A certificate for `name`, self-signed where nobody issues it."""
    own = key or new_key()
    signer = by.key if by else own
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(by.certificate.subject if by else _name(name))
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
    return Issued(builder.sign(signer, hashes.SHA256()), own)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def private_pem(
    key: PrivateKey, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8, password: str = ""
) -> str:
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def as_pem(leaf: Issued, *others: Issued, password: str = "") -> bytes:
    """A certificate with its key and others in one file."""
    return "".join([private_pem(leaf.key, password=password), leaf.pem, *(item.pem for item in others)]).encode()


def pfx(key: PrivateKey | None, certificates: Iterable[Issued], password: str = "", *, key_id: bool = True) -> str:
    """A PFX in base64, as a vault keeps it; without `key_id` nothing in it says which certificate is the key's."""
    first, *rest = [item.certificate for item in certificates]
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    own, others = (first, rest) if key_id else (None, [first, *rest])
    return base64.b64encode(pkcs12.serialize_key_and_certificates(None, key, own, others, encryption)).decode()


def slow_pfx(iterations: int = 2**31 - 1) -> str:
    """An empty PFX in base64, before which a password is to be hashed so many times (RFC 7292, 4)."""
    data = bytes.fromhex("2a864886f70d010701")
    sha256 = bytes.fromhex("608648016503040201")
    safe = der(0x30, der(0x06, data), der(0xA0, der(0x04, der(0x30))))
    digest = der(0x30, der(0x30, der(0x06, sha256), der(0x05)), der(0x04, bytes(32)))
    mac = der(0x30, digest, der(0x04, bytes(8)), der(0x02, iterations.to_bytes(4)))
    return base64.b64encode(der(0x30, der(0x02, b"\x03"), safe, mac)).decode()


def der(tag: int, *parts: bytes) -> bytes:
    """An element of DER (X.690): tag, length, content."""
    content = b"".join(parts)
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    length = bytes([len(content)]) if len(content) < 128 else bytes([0x80 | len(size)]) + size
    return bytes([tag]) + length + content
