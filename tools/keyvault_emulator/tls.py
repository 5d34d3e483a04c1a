"""The emulator's own certificate authority, and the server certificates made by it."""

import datetime as dt
import ssl
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tools import certify
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

AUTHORITY = "Key Vault emulator CA"
# So long that also a certificate that has expired was signed by one that had not.
AUTHORITY_LIFETIME = (-4 * certify.YEAR, 4 * certify.YEAR)


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
            self._key = certify.new_key()
            self._certificate = certify.authority(AUTHORITY, self._key, AUTHORITY_LIFETIME)
            certify.write_private(key_file, certify.pem(self._key))
            self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def load_into(self, context: ssl.SSLContext, folder: Path, addresses: list[str], flaw: Flaw = "none") -> None:
        """Gives `context` a fresh certificate for `addresses` (IP addresses or names), with a flaw if one is asked for.

        Handshakes from then on use it, also on a context that is being served.
        """
        key, certificate = self._key, self._certificate
        if flaw == "unknown-ca":
            key = certify.new_key()
            certificate = certify.authority(AUTHORITY, key, AUTHORITY_LIFETIME)
        server_key = certify.new_key()
        shift = -2 * certify.YEAR if flaw == "expired" else dt.timedelta()
        server = certify.issue(
            certificate,
            key,
            server_key.public_key(),
            user="Key Vault emulator",
            hosts=["elsewhere.invalid"] if flaw == "wrong-name" else [*addresses, *NAMES],
            usages=[ExtendedKeyUsageOID.SERVER_AUTH],
            lifetime=(shift - dt.timedelta(days=1), shift + certify.YEAR),
        )
        # The ssl module reads certificates from files only.
        file = folder / "server.pem"
        certify.write_private(file, certify.pem(server_key) + server.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(file)
