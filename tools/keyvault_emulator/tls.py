"""The emulator's certificate authority, and the server certificates that it issues."""

import datetime as dt
import ssl
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tools import pki
from tools.keyvault_emulator.azure.routes import SUFFIXES
from tools.keyvault_emulator.errors import EmulatorError

Flaw = Literal["none", "expired", "not-yet-valid", "unknown-ca", "wrong-name"]

NAMES = (
    "localhost",
    *(f"*.{suffix}" for suffix in SUFFIXES),
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
)
"""The host names in the server's certificate, besides its addresses."""

AUTHORITY = "Key Vault emulator CA"
# The CA is valid when it signs an expired certificate, and one that is not yet valid.
AUTHORITY_LIFETIME = (-4 * pki.YEAR, 4 * pki.YEAR)


class LocalAuthority:
    """A CA in a folder, created if missing: clients trust `ca.pem`, and only the owner can read `ca.key`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ca.pem"
        key_file = folder / "ca.key"
        if self.file.exists() and key_file.exists():
            try:
                key = serialization.load_pem_private_key(key_file.read_bytes(), None)
                self._certificate = x509.load_pem_x509_certificate(self.file.read_bytes())
            except (TypeError, ValueError) as problem:
                raise EmulatorError(
                    f"{key_file} and ca.pem cannot be read; delete both, and the emulator creates new ones"
                ) from problem
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise EmulatorError(f"{key_file} is not a key of the emulator; delete it and ca.pem")
            self._key = key
        else:
            self._key = pki.new_key()
            self._certificate = pki.authority_certificate(AUTHORITY, self._key, AUTHORITY_LIFETIME)
            pki.write_private(key_file, pki.encode_pem(self._key))
            self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def server_context(self, folder: Path, addresses: list[str], flaw: Flaw = "none") -> ssl.SSLContext:
        """Return a server's context with a new certificate for `addresses` (IP addresses or host names)."""
        key, certificate = self._key, self._certificate
        if flaw == "unknown-ca":
            key = pki.new_key()
            certificate = pki.authority_certificate(AUTHORITY, key, AUTHORITY_LIFETIME)
        server_key = pki.new_key()
        shift = {"expired": -2, "not-yet-valid": 2}.get(flaw, 0) * pki.YEAR
        server = pki.issue_certificate(
            certificate,
            key,
            server_key.public_key(),
            user="Key Vault emulator",
            hosts=["elsewhere.invalid"] if flaw == "wrong-name" else [*addresses, *NAMES],
            usages=[ExtendedKeyUsageOID.SERVER_AUTH],
            lifetime=(shift - dt.timedelta(days=1), shift + pki.YEAR),
        )
        # The ssl module reads certificates only from files.
        file = folder / "server.pem"
        pki.write_private(file, pki.encode_pem(server_key) + server.public_bytes(serialization.Encoding.PEM))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context
