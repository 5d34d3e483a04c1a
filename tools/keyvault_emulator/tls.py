"""The emulator's own certificate authority, and the server certificates made by it."""

import datetime as dt
import ipaddress
import os
import ssl
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tools.keyvault_emulator.errors import EmulatorError
from tools.keyvault_emulator.routes import SUFFIXES

Flaw = Literal["none", "expired", "unknown-ca", "wrong-name"]

NAMES = (
    "localhost",
    *(f"*.{suffix}" for suffix in SUFFIXES),
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
)
"""Besides the addresses it listens on, the names that the server proves to be."""

YEAR = dt.timedelta(days=365)


class Authority:
    """A CA in a folder: `ca.pem` to be trusted by clients, `ca.key` readable by the owner alone. Made if not there."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ca.pem"
        key_file = folder / "ca.key"
        if self.file.exists() and key_file.exists():
            try:
                key = serialization.load_pem_private_key(key_file.read_bytes(), None)
                self._certificate = x509.load_pem_x509_certificate(self.file.read_bytes())
            except (TypeError, ValueError) as problem:
                raise EmulatorError(
                    f"{key_file} and ca.pem cannot be read; delete both, new ones will be made"
                ) from problem
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise EmulatorError(f"{key_file} was not made by the emulator; delete it and ca.pem")
            self._key = key
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._certificate = _authority_certificate(self._key)
            write_private(key_file, pem(self._key))
            self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def load_into(self, context: ssl.SSLContext, folder: Path, addresses: list[str], flaw: Flaw = "none") -> None:
        """Gives `context` a fresh certificate for `addresses` (IP addresses or names), with a flaw if one is asked for.

        Handshakes from then on use it, also on a context that is being served.
        """
        key, certificate = self._key, self._certificate
        if flaw == "unknown-ca":
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _authority_certificate(key)
        server_key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        shift = -2 * YEAR if flaw == "expired" else dt.timedelta()
        names = ["elsewhere.invalid"] if flaw == "wrong-name" else [*addresses, *NAMES]
        server = (
            x509.CertificateBuilder()
            .subject_name(_name("Key Vault emulator"))
            .issuer_name(certificate.subject)
            .public_key(server_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1) + shift)
            .not_valid_after(now + YEAR + shift)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The ssl module reads certificates from files only.
        file = folder / "server.pem"
        write_private(file, pem(server_key) + server.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(file)


def write_private(file: Path, content: bytes) -> None:
    """Writes a file that only its owner may read, from the first byte on."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)


def _authority_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name("Key Vault emulator CA"))
        .issuer_name(_name("Key Vault emulator CA"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 4 * YEAR)
        .not_valid_after(now + 4 * YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def pem(key: PrivateKeyTypes) -> bytes:
    """A private key as PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
