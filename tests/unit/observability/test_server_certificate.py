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


def test_renewed_certificate_is_served_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = ClusterAuthority(tmp_path, "ca")
    folder = tmp_path / "mounted"
    folder.mkdir()
    write_certificate(authority, folder, "first", 1)
    now = [0.0]
    certificate = ServerCertificate(folder, lambda: now[0])
    first = certificate.tls_context()
    write_certificate(authority, folder, "second", 2)
    assert certificate.tls_context() is first  # the files are checked every ten seconds
    now[0] += CHECK_SECONDS
    second = certificate.tls_context()
    assert second is not first
    (folder / "tls.key").write_text("broken")
    now[0] += CHECK_SECONDS
    assert certificate.tls_context() is second
    assert "cannot be used" in caplog.text
    (folder / "tls.crt").unlink()
    now[0] += CHECK_SECONDS
    assert certificate.tls_context() is second
    assert second.minimum_version == ssl.TLSVersion.TLSv1_2


def test_renewed_certificate_is_read_again_after_a_passing_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = ClusterAuthority(tmp_path, "ca")
    folder = tmp_path / "mounted"
    folder.mkdir()
    write_certificate(authority, folder, "first", 1)
    now = [0.0]
    certificate = ServerCertificate(folder, lambda: now[0])
    first = certificate.tls_context()
    write_certificate(authority, folder, "second", 2)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    now[0] += CHECK_SECONDS
    with monkeypatch.context() as exhausted:
        exhausted.setattr(ssl.SSLContext, "load_cert_chain", fail)
        assert certificate.tls_context() is first
    now[0] += CHECK_SECONDS
    assert certificate.tls_context() is not first


@pytest.mark.parametrize("contents", [None, "", "broken"])
def test_controller_does_not_start_without_a_certificate(tmp_path: Path, contents: str | None) -> None:
    if contents is not None:
        for name in ("tls.crt", "tls.key"):
            (tmp_path / name).write_text(contents)
    with pytest.raises(OSError, match=r"tls\.crt"):
        ServerCertificate(tmp_path)
