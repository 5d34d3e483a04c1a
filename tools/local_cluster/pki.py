"""Certificates of one control plane. Two authorities: what the cluster's signs cannot open etcd."""

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
    """A certificate and its key, both PEM files; the key is readable by the owner alone."""

    cert: Path
    key: Path


class ClusterAuthority:
    """A certificate authority whose files are `<name>.crt` and `<name>.key` in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = pki.new_key()
        self._certificate = pki.authority(name, self._key, _LIFETIME)
        self.pair = self._write_pair(name, self._certificate, self._key)

    def issue(self, name: str, *, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> KeyPair:
        """A client's certificate for `user` in `groups`; a server's as well where it has `hosts`."""
        key = pki.new_key()
        certificate = pki.issue(
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
        pki.write_private(pair.key, pki.pem(key))
        return pair


def service_account_key(path: Path) -> Path:
    """The key that signs service accounts' tokens: RSA, since Entra takes RS256 alone."""
    pki.write_private(path, pki.pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    return path
