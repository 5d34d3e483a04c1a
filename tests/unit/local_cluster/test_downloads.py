"""Test downloads of official releases: the files, the checksums, and the choice between download and build."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster.harness import eventually
from tests.unit.local_cluster.fake_go import FakeGo
from tests.unit.local_cluster.release_server import DEFAULT, ETCD, ReleaseServer, make_program, send_slowly, send_status
from tools.local_cluster import BadInput, ClusterError
from tools.local_cluster.__main__ import main
from tools.local_cluster.programs import assets, cache, download, progress, releases
from tools.pods.pod_process import ROOT

API_SERVER = f"v{DEFAULT}/bin/linux/{cache.machine_architecture()}/kube-apiserver"
ETCD_FILE = f"v{ETCD}/etcd-v{ETCD}-linux-{cache.machine_architecture()}.tar.gz"


def list_folders() -> list[str]:
    """Return the names of the folders in the cache. Lock files are not included."""
    return sorted(path.name for path in cache.cache_root().iterdir() if path.is_dir())


def test_release_is_downloaded_once_and_not_built(
    release_server: ReleaseServer, fake_go: FakeGo, capsys: pytest.CaptureFixture[str]
) -> None:
    found = assets.kubernetes()
    assert found == assets.ProgramFolder(
        cache.cache_root() / f"downloaded-{DEFAULT}-{cache.machine_architecture()}", DEFAULT
    )
    assert {file.name for file in found.folder.iterdir()} == {*assets.PROGRAMS, "SHA256SUMS", ".made-from"}
    assert found.path("kube-apiserver").read_bytes() == make_program("kube-apiserver", DEFAULT)
    assert found.path("etcd").read_bytes() == make_program("etcd", ETCD)
    assert all(found.path(name).stat().st_mode & 0o777 == 0o755 for name in assets.PROGRAMS)
    assert capsys.readouterr().err.splitlines() == [
        f"the control plane of Kubernetes {DEFAULT}: downloaded from {release_server.address}/etcd and"
        f" {release_server.address}/kubernetes; SHA-256 checksums are right (0 pinned in this repository, 4"
        " published by the server)"
    ]

    request_count = len(release_server.requests)
    assert assets.kubernetes() == found
    assert len(release_server.requests) == request_count == 8
    assert not fake_go.list_commands("")


def test_node_programs_are_downloaded_apart_from_the_control_plane(
    release_server: ReleaseServer, fake_go: FakeGo
) -> None:
    found = assets.node(DEFAULT)
    assert found.folder.name == f"downloaded-node-{DEFAULT}-{cache.machine_architecture()}"
    assert {file.name for file in found.folder.iterdir()} == {*assets.NODE.packages, "SHA256SUMS", ".made-from"}
    assert not any(path.startswith("/etcd/") for path in release_server.requests)
    assert not fake_go.list_commands("")


@pytest.mark.parametrize(
    ("version", "etcd"), [("1.27.16", "3.5.7"), (DEFAULT, ETCD), ("1.36.1", ETCD)], ids=["pinned", "default", "other"]
)
def test_release_is_downloaded_with_its_version_of_etcd(version: str, etcd: str, release_server: ReleaseServer) -> None:
    release_server.files.clear()
    release_server.add(kubernetes=version, etcd=etcd)
    assert assets.kubernetes(version).path("etcd").read_bytes() == make_program("etcd", etcd)


def test_pinned_checksum_replaces_the_published_one(
    release_server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = tmp_path / "SHA256SUMS"
    files = {API_SERVER: f"/kubernetes/{API_SERVER}", ETCD_FILE: f"/etcd/{ETCD_FILE}"}
    sums = {path: hashlib.sha256(release_server.files[file]).hexdigest() for path, file in files.items()}
    pins.write_text("# a comment\n\n" + "".join(f"{checksum}  {path}\n" for path, checksum in sums.items()))
    monkeypatch.setattr(releases, "PINS", pins)
    folder = assets.kubernetes().folder
    assert f"/kubernetes/{API_SERVER}.sha256" not in release_server.requests
    assert f"/etcd/v{ETCD}/SHA256SUMS" not in release_server.requests
    assert "(2 pinned in this repository, 2 published by the server)" in capsys.readouterr().err

    # The SHA256SUMS file beside the programs pins the whole release. Changed pins cause another download.
    pins.write_text((folder / "SHA256SUMS").read_text())
    release_server.requests.clear()
    assert assets.kubernetes().folder == folder
    assert len(release_server.requests) == 4
    assert "(4 pinned in this repository, 0 published by the server)" in capsys.readouterr().err

    pins.write_text(f"{'0' * 64}  {API_SERVER}\n")
    monkeypatch.setenv("AKV_ASSETS", "download")
    with pytest.raises(ClusterError, match=rf"{API_SERVER}: the file is damaged.*pinned in this repository is 0{{64}}"):
        assets.kubernetes()


@pytest.mark.parametrize(
    "line", ["x", f"{'0' * 63}  a", f"{'0' * 64} a", f"{'A' * 64}  a", f"{'0' * 64}  a b", "twice"]
)
def test_malformed_pin_is_reported_with_its_line(line: str, tmp_path: Path) -> None:
    pins = tmp_path / "SHA256SUMS"
    good = f"{'0' * 64}  v1/a\n"
    pins.write_text(f"# about\n{good}{good if line == 'twice' else line}\n")
    with pytest.raises(ClusterError, match=r"SHA256SUMS, line 3: not a checksum"):
        releases.pinned_checksums(pins)


def test_pins_of_the_repository_are_well_formed() -> None:
    releases.pinned_checksums()
    assert releases.PINS.is_file()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AB" * 32, "ab" * 32),
        (f"{'ab' * 32}\n", "ab" * 32),
        (f"{'ab' * 32}  name\n", "ab" * 32),
        (f"{'00' * 32}  other\r\n{'ab' * 32} *./folder/name\r\n", "ab" * 32),
        (f"{'ab' * 32}  name\n{'ab' * 32}  name\n", "ab" * 32),
        (f"{'ab' * 32}  name\n{'00' * 32}  name\n", None),
        (f"{'ab' * 32}  another-name\n", None),
        (f"{'ab' * 32}\n{'00' * 32}\n", None),
        (f"<html>{'ab' * 32}</html>", None),
        ("ab" * 31, None),
        ("", None),
    ],
)
def test_published_checksum_is_read_only_if_unambiguous(text: str, expected: str | None) -> None:
    assert releases.published_checksum(text, "name") == expected


def test_failed_download_is_followed_by_a_build(
    release_server: ReleaseServer, fake_go: FakeGo, capsys: pytest.CaptureFixture[str]
) -> None:
    release_server.behaviours[f"/kubernetes/{API_SERVER}"] = send_status(404)
    built = assets.kubernetes()
    assert built.folder == cache.cache_root() / f"{DEFAULT}-{cache.machine_architecture()}"
    assert len(fake_go.list_commands("build")) == 1
    assert capsys.readouterr().err == (
        f"the control plane of Kubernetes {DEFAULT} is not downloaded:"
        f" {release_server.address}/kubernetes/{API_SERVER}: the server answered with status 404; building it\n"
    )
    assert list_folders() == [built.folder.name]

    release_server.behaviours.clear()
    release_server.requests.clear()
    assert assets.kubernetes() == built
    assert not release_server.requests


def test_akv_assets_download_never_builds(
    release_server: ReleaseServer, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AKV_ASSETS", "build")
    built = assets.kubernetes()
    assert not release_server.requests
    monkeypatch.setenv("AKV_ASSETS", "download")
    assert assets.kubernetes() != built

    release_server.files.clear()
    assert main(["assets", "--kubernetes", "1.36.1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()[-2:]
    assert first.startswith("error: the control plane of Kubernetes 1.36.1 cannot be downloaded: http://127.0.0.1:")
    assert first.endswith(": the server answered with status 404")
    assert second == (
        "if this machine does not reach the official servers, set AKV_ASSETS_KUBERNETES_MIRROR and"
        " AKV_ASSETS_ETCD_MIRROR to the addresses of mirrors; or unset AKV_ASSETS to build it from source"
    )
    assert len(fake_go.list_commands("build")) == 1


def test_akv_assets_build_never_downloads(
    release_server: ReleaseServer, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded = assets.kubernetes()
    release_server.requests.clear()
    monkeypatch.setenv("AKV_ASSETS", "build")
    assert assets.kubernetes() != downloaded
    assert len(fake_go.list_commands("build")) == 1
    assert not release_server.requests


@pytest.mark.parametrize("value", ["Build", "no", " ", "download,build"])
def test_unknown_value_of_akv_assets_is_rejected(
    value: str, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AKV_ASSETS", value)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", "/nonsense")
    assert main(["assets"]) == 2
    assert capsys.readouterr().err == (
        f"error: AKV_ASSETS={value!r} is not known: set it to download or build, or unset it to download programs and"
        " to build them if the download fails\n"
    )


@pytest.mark.parametrize(
    "address",
    [
        "http://mirror.example",
        "http://127.0.0.1.example",
        "http://169.254.169.254/",
        "ftp://127.0.0.1",
        "file:///etc",
        "mirror.example",
        "https://",
        "https:///path",
        "https://[::1",
        "https://mirror.example:port",
        "https://mirror.example:99999",
        "https://mirror.example/\x1b[2J",
        "https://user:password@mirror.example",
        "https://user@mirror.example",
        "https://mirror.example?sig=secret",
        "https://mirror.example/#part",
    ],
)
def test_invalid_mirror_address_is_rejected_without_a_request(
    address: str, release_server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKV_ASSETS_ETCD_MIRROR", address)
    with pytest.raises(BadInput, match=r"^AKV_ASSETS_ETCD_MIRROR (is not the address|must hold no)") as error:
        assets.kubernetes()
    assert "password" not in str(error.value).replace("no user name, password", "").replace("put a password", "")
    assert "secret" not in str(error.value)
    assert not release_server.requests


@pytest.mark.parametrize(
    ("configured", "used"),
    [
        ("", releases.ETCD.official),
        (" https://mirror.example/a/b// ", "https://mirror.example/a/b"),
        ("HTTPS://mirror.example:8443", "HTTPS://mirror.example:8443"),
        ("http://localhost:1", "http://localhost:1"),
        ("http://[::1]:1/", "http://[::1]:1"),
        ("http://127.1.2.3/etcd", "http://127.1.2.3/etcd"),
    ],
)
def test_mirror_address_is_normalized(configured: str, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKV_ASSETS_ETCD_MIRROR", configured)
    assert releases.ETCD.address() == used


def test_slow_download_continues_and_reports_progress(
    release_server: ReleaseServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.1)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.3)
    monkeypatch.setattr(download, "PATIENCE", 2.0)
    large = make_program("kube-apiserver", DEFAULT, more="#" * 16 * download.USEFUL_BYTES)
    release_server.put(f"/kubernetes/{API_SERVER}", large)
    parts = [large[at : at + 2 * download.USEFUL_BYTES] for at in range(0, len(large), 2 * download.USEFUL_BYTES)]
    seconds = download.PATIENCE / 6
    release_server.behaviours[f"/kubernetes/{API_SERVER}"] = send_slowly(parts, seconds)
    assert len(parts) * seconds > 1.3 * download.PATIENCE
    assert assets.kubernetes().path("kube-apiserver").read_bytes() == large
    lines = capsys.readouterr().err.splitlines()
    start = f"downloading the control plane of Kubernetes {DEFAULT}: 0:0"
    assert [line for line in lines if line.startswith(start) and " MB" in line]
    assert lines[-2].startswith(f"downloading the control plane of Kubernetes {DEFAULT}: done after 0:0")


def test_download_uses_the_proxy_unless_no_proxy_matches(
    release_server: ReleaseServer, monkeypatch: pytest.MonkeyPatch, fake_go: FakeGo
) -> None:
    monkeypatch.setenv("HTTP_PROXY", release_server.address)
    monkeypatch.setenv("AKV_ASSETS", "download")
    assets.kubernetes()
    assert all(path.startswith(f"{release_server.address}/") for path in release_server.requests)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    release_server.requests.clear()
    assets.node(DEFAULT)
    assert all(path.startswith("/") for path in release_server.requests)


def test_mirror_gets_the_password_from_netrc(
    release_server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password opensesame\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assets.kubernetes()
    assert {headers.get("Authorization") for headers in release_server.headers} == {"Basic bWU6b3BlbnNlc2FtZQ=="}


def start_download() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            "from tools.local_cluster.programs import assets; print(assets.kubernetes().folder)",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_second_of_two_concurrent_downloads_waits_and_uses_the_first(
    release_server: ReleaseServer, fake_go: FakeGo
) -> None:
    data = release_server.files[f"/kubernetes/{API_SERVER}"]
    release_server.behaviours[f"/kubernetes/{API_SERVER}"] = send_slowly([data], 1.5)
    processes = [start_download(), start_download()]
    answers = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert {out for out, _ in answers} == {
        f"{cache.cache_root()}/downloaded-{DEFAULT}-{cache.machine_architecture()}\n"
    }
    assert len(release_server.requests) == len(set(release_server.requests)) == 8
    assert not fake_go.list_commands("")


def test_killed_download_is_removed_and_repeated(release_server: ReleaseServer, fake_go: FakeGo) -> None:
    release_server.behaviours[f"/kubernetes/{API_SERVER}"] = release_server.stall
    process = start_download()
    parts = cache.cache_root()
    eventually(lambda: [*parts.glob(".*.part/kube-apiserver")] if parts.exists() else [], bool)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    [part] = parts.glob(".*.part")
    release_server.behaviours.clear()
    found = assets.kubernetes()
    assert found.path("kube-apiserver").read_bytes() == make_program("kube-apiserver", DEFAULT)
    assert not part.exists()
    assert list_folders() == [found.folder.name]
