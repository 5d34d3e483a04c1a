"""Certificates for the tests, made on the spot."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

PRIVATE = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def chain(key: PRIVATE, days: int = 30) -> tuple[x509.Certificate, x509.Certificate]:
    """A leaf for `key` and the CA that signed it."""
    ca_key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)

    def sign(subject: str, public: PRIVATE) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")]))
            .public_key(public.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=days))
            .sign(ca_key, hashes.SHA256())
        )

    return sign("shop", key), sign("ca", ca_key)


def pem(key: PRIVATE, certificates: tuple[x509.Certificate, ...], password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return text + b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)
