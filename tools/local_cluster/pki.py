"""Issue the certificates of one control plane. etcd has its own authority and accepts no other certificates."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tools import pki

_LIFETIME = (-datetime.timedelta(minutes=5), pki.YEAR)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key as PEM files. Only the owner of the files can read the key."""

    cert: Path
    key: Path


class ClusterAuthority:
    """A certificate authority whose files are `<name>.crt` and `<name>.key` in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = pki.new_key()
        self._certificate = pki.authority_certificate(name, self._key, _LIFETIME)
        self.pair = self._write_pair(name, self._certificate, self._key)

    def issue(self, name: str, *, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> KeyPair:
        """Issue a client certificate for `user` in `groups`. With `hosts` it is a server certificate, too."""
        key = pki.new_key()
        certificate = pki.issue_certificate(
            self._certificate,
            self._key,
            key.public_key(),
            user=user,
            groups=groups,
            hosts=hosts,
            usages=[ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])],
            lifetime=_LIFETIME,
        )
        return self._write_pair(name, certificate, key)

    def _write_pair(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
        pair = KeyPair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
        pki.write_private(pair.key, pki.encode_pem(key))
        return pair


def service_account_key(path: Path) -> Path:
    """Write the key that signs service accounts' tokens. It is an RSA key, because Entra accepts only RS256."""
    pki.write_private(path, pki.encode_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    return path
