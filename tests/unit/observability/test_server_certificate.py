"""Test that the certificate of the metrics port is renewed while the server runs."""

import errno
import os
import ssl
from pathlib import Path

import pytest

from controller.observability.server_certificate import CHECK_SECONDS, ServerCertificate
from tools.local_cluster.pki import ClusterAuthority


def write_certificate(authority: ClusterAuthority, folder: Path, name: str, moment: int) -> None:
    """Write a certificate. Set its modification time, because two writes can get the same time from the file system."""
    pair = authority.issue(name, user=name, hosts=["127.0.0.1"])
    for target, source in (("tls.crt", pair.cert), ("tls.key", pair.key)):
        (folder / target).write_bytes(source.read_bytes())
        os.utime(folder / target, (moment, moment))


class RenewedCertificate:
    """A certificate of which `first` was served, with another one in its folder since. The test sets the clock."""

    def __init__(self, folder: Path) -> None:
        authority = ClusterAuthority(folder, "ca")
        self.folder = folder / "mounted"
        self.folder.mkdir()
        write_certificate(authority, self.folder, "first", 1)
        self.now = 0.0
        self.certificate = ServerCertificate(self.folder, lambda: self.now)
        self.first = self.certificate.tls_context()
        write_certificate(authority, self.folder, "second", 2)


@pytest.fixture
def renewed(tmp_path: Path) -> RenewedCertificate:
    return RenewedCertificate(tmp_path)


def test_renewed_certificate_is_served_and_a_broken_one_is_not(
    renewed: RenewedCertificate, caplog: pytest.LogCaptureFixture
) -> None:
    assert renewed.certificate.tls_context() is renewed.first  # the files are checked every ten seconds
    renewed.now += CHECK_SECONDS
    second = renewed.certificate.tls_context()
    assert second is not renewed.first
    (renewed.folder / "tls.key").write_text("broken")
    renewed.now += CHECK_SECONDS
    assert renewed.certificate.tls_context() is second
    assert "cannot be used" in caplog.text
    (renewed.folder / "tls.crt").unlink()
    renewed.now += CHECK_SECONDS
    assert renewed.certificate.tls_context() is second
    assert second.minimum_version == ssl.TLSVersion.TLSv1_2


def test_renewed_certificate_is_read_again_after_a_passing_failure(
    renewed: RenewedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    renewed.now += CHECK_SECONDS
    with monkeypatch.context() as exhausted:
        exhausted.setattr(ssl.SSLContext, "load_cert_chain", fail)
        assert renewed.certificate.tls_context() is renewed.first
    renewed.now += CHECK_SECONDS
    assert renewed.certificate.tls_context() is not renewed.first


@pytest.mark.parametrize("contents", [None, "", "broken"])
def test_controller_does_not_start_without_a_certificate(tmp_path: Path, contents: str | None) -> None:
    if contents is not None:
        for name in ("tls.crt", "tls.key"):
            (tmp_path / name).write_text(contents)
    with pytest.raises(OSError, match=r"tls\.crt"):
        ServerCertificate(tmp_path)
