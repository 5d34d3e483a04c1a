"""Test broken, damaged and hostile sources: none of their files is used, and the build starts soon."""

import contextlib
import gzip
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.local_cluster.fake_go import FakeGo
from tests.unit.local_cluster.release_server import (
    DEFAULT,
    ETCD,
    Behaviour,
    ReleaseServer,
    make_archive,
    make_program,
    send_body,
    send_raw,
    send_status,
    send_until_closed,
)
from tools.local_cluster import ClusterError
from tools.local_cluster.errors import DownloadError
from tools.local_cluster.programs import assets, cache, download, official, probe, unpack

FILE = f"/kubernetes/v{DEFAULT}/bin/linux/{cache.machine_architecture()}/kube-apiserver"
SUM = f"{FILE}.sha256"
ETCD_NAME = f"etcd-v{ETCD}-linux-{cache.machine_architecture()}"
ETCD_FILE = f"/etcd/v{ETCD}/{ETCD_NAME}.tar.gz"
ETCD_SUMS = f"/etcd/v{ETCD}/SHA256SUMS"
GOOD = make_program("kube-apiserver", DEFAULT)

ANSWERS: dict[str, tuple[str, Callable[[ReleaseServer], Behaviour], str]] = {
    "404": (FILE, lambda _: send_status(404), "the server answered with status 404"),
    "401": (SUM, lambda _: send_status(401), "the server answered with status 401"),
    "500": (ETCD_FILE, lambda _: send_status(500), "the server answered with status 500"),
    "204": (FILE, lambda _: send_status(204), "the server answered with status 204"),
    "wrong": (FILE, lambda _: send_body(GOOD + b"\n"), "the file is damaged, or it is another file: its SHA-256 is"),
    "empty": (FILE, lambda _: send_body(b""), "the file is damaged, or it is another file: its SHA-256 is e3b0c44"),
    "truncated": (
        FILE,
        lambda _: send_body(GOOD[:-1], length=len(GOOD)),
        "the connection ended before the file was complete",
    ),
    "truncated without a length": (FILE, lambda _: send_until_closed(GOOD[:-1]), "the file is damaged"),
    "truncated gzip": (ETCD_FILE, lambda server: send_body(server.files[ETCD_FILE][:-9]), "the file is damaged"),
    "compressed on the way": (
        FILE,
        lambda _: send_raw(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(bytes(1000))
        ),
        "the file is damaged",
    ),
    "not HTTP": (FILE, lambda _: send_raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "the answer cannot be read"),
    "no answer": (FILE, lambda _: send_raw(b""), "the server ended the connection without an answer"),
    "many headers": (
        FILE,
        lambda _: send_raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % at for at in range(9000)) + b"\r\n"),
        "the answer cannot be read",
    ),
    "bad length": (
        FILE,
        lambda _: send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabcde"),
        "the answer cannot be read",
    ),
    "checksum of another file": (
        ETCD_SUMS,
        lambda _: send_body(b"%s  another.tar.gz\n" % (b"0" * 64)),
        f"it holds no SHA-256 checksum of {ETCD_NAME}.tar.gz",
    ),
    "page instead of a checksum": (
        SUM,
        lambda _: send_body(b"<html>Sign in</html>"),
        "it holds no SHA-256 checksum of",
    ),
    "binary instead of a checksum": (SUM, lambda _: send_body(random.Random(1).randbytes(999)), "it holds no SHA-256"),
    "endless checksums": (SUM, lambda server: server.send_endlessly, "the file is larger than 64 KiB"),
    "endless": (FILE, lambda server: server.send_endlessly, "the file is larger than 1 MiB"),
    "announced as huge": (FILE, lambda _: send_body(b"", length=2**40), "the file is larger than 1 MiB"),
    "redirect to itself": (FILE, lambda _: send_status(302, Location=FILE), "it redirects more than 5 times"),
    "redirect nowhere": (FILE, lambda _: send_status(302), "the server answered with status 302"),
    "redirect to http": (
        FILE,
        lambda _: send_status(301, Location="http://files.example/x?signature=secret"),
        "it redirects to http://files.example, which is not https",
    ),
    "redirect to a file": (SUM, lambda _: send_status(307, Location="file:///etc/passwd"), "it redirects to file://"),
    "redirect to nonsense": (FILE, lambda _: send_status(302, Location="https://[::1"), "the answer cannot be read"),
    "redirect to an unknown name": (
        FILE,
        lambda _: send_status(302, Location="https://does-not-exist.invalid/?signature=secret"),
        "the name does-not-exist.invalid cannot be resolved",
    ),
}


def is_clean() -> bool:
    """Return whether the cache has only the build, and no part of a download."""
    names = {path.name for path in cache.cache_root().iterdir() if path.is_dir()}
    return names == {f"{DEFAULT}-{cache.machine_architecture()}"}


@pytest.mark.parametrize("case", ANSWERS)
def test_bad_answer_is_followed_by_a_build(
    case: str,
    release_server: ReleaseServer,
    fake_go: FakeGo,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, behaviour, cause = ANSWERS[case]
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 2**20)
    release_server.behaviours[path] = behaviour(release_server)
    found = assets.kubernetes()
    assert found.folder.name == f"{DEFAULT}-{cache.machine_architecture()}"
    assert len(fake_go.list_commands("build")) == 1
    [line] = capsys.readouterr().err.splitlines()
    start = f"the control plane of Kubernetes {DEFAULT} is not downloaded: {release_server.address}{path}: {cause}"
    assert line.startswith(start)
    assert line.endswith("; building it")
    assert line.isprintable()
    assert "secret" not in line
    assert is_clean()


def test_forced_download_from_a_bad_source_fails(
    release_server: ReleaseServer, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKV_ASSETS", "download")
    for path, behaviour in ((FILE, send_body(b"other")), (ETCD_SUMS, send_status(404))):
        release_server.behaviours = {path: behaviour}
        with pytest.raises(ClusterError, match=rf"cannot be downloaded: {release_server.address}{path}: .*\n.*_MIRROR"):
            assets.kubernetes()
    assert not fake_go.list_commands("")
    assert not [path for path in cache.cache_root().iterdir() if path.is_dir()]


def test_source_that_timed_out_is_not_tried_again(
    release_server: ReleaseServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    release_server.behaviours[FILE] = release_server.send_nothing
    assets.kubernetes()
    request_count = len(release_server.requests)
    assets.node(DEFAULT)
    assert len(release_server.requests) == request_count
    assert "/kubernetes: it timed out before; building it\n" in capsys.readouterr().err


@contextlib.contextmanager
def provide_full_port() -> Iterator[str]:
    """Provide an address whose backlog is full, so that the kernel does not complete connections."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(port.getsockname())
        yield f"http://127.0.0.1:{port.getsockname()[1]}"


def find_closed_port(_: contextlib.ExitStack) -> str:
    with socket.create_server(("127.0.0.1", 0)) as port:
        return f"http://127.0.0.1:{port.getsockname()[1]}"


def start_resetting_server(stack: contextlib.ExitStack) -> str:
    port = socket.create_server(("127.0.0.1", 0))

    def reset() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = port.accept()
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                accepted.close()

    def close() -> None:
        port.shutdown(socket.SHUT_RDWR)
        thread.join()
        port.close()

    thread = threading.Thread(target=reset, daemon=True)
    thread.start()
    stack.callback(close)
    return f"http://127.0.0.1:{port.getsockname()[1]}"


UNREACHABLE = {
    "refused": (find_closed_port, r"127\.0\.0\.1:\d+ cannot be reached \(.+\)"),
    "reset": (start_resetting_server, r".*127\.0\.0\.1:\d+.*|Connection reset by peer|.*without an answer"),
    "no such name": (lambda _: "https://does-not-exist.invalid", "the name does-not-exist.invalid cannot be resolved"),
    "no name": (lambda _: f"https://{'a' * 64}.example", "the name a{64}.example cannot be resolved"),
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_failed_connection_is_followed_by_a_build(
    case: str,
    release_server: ReleaseServer,
    fake_go: FakeGo,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirror, cause = UNREACHABLE[case]
    with contextlib.ExitStack() as stack:
        address = mirror(stack)
        monkeypatch.setenv("AKV_ASSETS_KUBERNETES_MIRROR", address)
        assets.kubernetes()
    [line] = capsys.readouterr().err.splitlines()
    start = f"the control plane of Kubernetes {DEFAULT} is not downloaded: {address}/v{DEFAULT}/bin/linux/"
    assert line.startswith(start)
    assert re.fullmatch(rf"[^:]+: (?:{cause}).*; building it", line.removeprefix(start)), line
    assert len(fake_go.list_commands("build")) == 1
    assert is_clean()


def make_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


WANTED = f"{ETCD_NAME}/etcd"
PATIENCE = download.PATIENCE
ARCHIVES = {
    "without it": (make_archive({f"{ETCD_NAME}/etcdctl": b"x"}), f"the archive holds no {WANTED}"),
    "at another place": (make_archive({"etcd": b"x", f"../{WANTED}": b"y"}), f"the archive holds no {WANTED}"),
    "a link": (
        make_archive({}, make_member(WANTED, tarfile.SYMTYPE, "/bin/sh")),
        f"in the archive, {WANTED} is not a regular file",
    ),
    "a hard link": (make_archive({}, make_member(WANTED, tarfile.LNKTYPE, "/bin/sh")), "is not a regular file"),
    "a folder": (make_archive({}, make_member(WANTED, tarfile.DIRTYPE)), "is not a regular file"),
    "a device": (make_archive({}, make_member(WANTED, tarfile.CHRTYPE)), "is not a regular file"),
    "no gzip": (b"#!/bin/sh\n", "the archive cannot be unpacked: Not a gzipped file"),
    "no tar": (gzip.compress(b"a" * 5000), "the archive cannot be unpacked: "),
    "nothing": (b"", "the archive cannot be unpacked: empty file"),
    "half": (make_archive({WANTED: random.Random(2).randbytes(50_000)})[:20_000], "the archive cannot be unpacked: "),
    "a bomb before it": (
        make_archive({WANTED: b"x"}, make_member("README.md", size=3 * 2**20)),
        "the archive cannot be unpacked: it unpacks to more than 1 MiB",
    ),
    "a bomb": (
        make_archive({WANTED: bytes(3 * 2**20)}),
        "the archive cannot be unpacked: it unpacks to more than 1 MiB",
    ),
    "a long header": (
        make_archive({WANTED: b"x"}, make_member("././@PaxHeader", tarfile.XHDTYPE, size=3 * 2**20)),
        "the archive cannot be unpacked: ",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_bad_archive_is_followed_by_a_build(
    case: str,
    release_server: ReleaseServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, cause = ARCHIVES[case]
    monkeypatch.setattr(unpack, "MAX_BYTES", 2**20)
    release_server.put(ETCD_FILE, data)
    assets.kubernetes()
    [line] = capsys.readouterr().err.splitlines()
    assert f" is not downloaded: {release_server.address}{ETCD_FILE}: " in line
    assert cause in line
    assert is_clean()


def test_other_archive_members_are_not_extracted(release_server: ReleaseServer, tmp_path: Path) -> None:
    odd = [
        make_member("../../../escaped", size=3),
        make_member(f"{tmp_path}/escaped", size=3),
        make_member(f"{ETCD_NAME}/../../escaped", size=3),
        make_member("link", tarfile.SYMTYPE, str(tmp_path)),
        make_member("link/escaped", size=3),
        make_member("kubectl", size=3),
        make_member("pipe", tarfile.FIFOTYPE),
    ]
    release_server.put(ETCD_FILE, make_archive({WANTED: make_program("etcd", ETCD)}, *odd))
    found = assets.kubernetes()
    assert found.path("etcd").read_bytes() == make_program("etcd", ETCD)
    assert found.path("kubectl").read_bytes() == make_program("kubectl", DEFAULT)
    assert {file.name for file in found.folder.iterdir()} == {*assets.PROGRAMS, "SHA256SUMS", ".made-from"}
    assert not [*tmp_path.rglob("escaped"), *tmp_path.rglob("pipe"), *tmp_path.rglob("link")]


WHOLE = make_archive({f"{ETCD_NAME}/README.md": b"about\n", WANTED: b"the program\n"})


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_archive_gives_the_program_or_a_download_error(data: st.DataObject, tmp_path: Path) -> None:
    packed = bytearray(gzip.decompress(WHOLE))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=6)):
        packed[at] = value
    compressed = bytearray(gzip.compress(packed[: data.draw(st.integers(0, len(packed)))], 1))
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(compressed) - 1), st.integers(0, 255)), max_size=2)
    ):
        compressed[at] = value
    (tmp_path / "archive").write_bytes(compressed)
    target = tmp_path / "program"
    target.unlink(missing_ok=True)
    try:
        unpack.extract(tmp_path / "archive", WANTED, target)
    except DownloadError:
        assert not target.exists()
    else:
        assert target.is_file()
        assert not target.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} <= {"archive", "program"}


PROGRAMS: dict[str, tuple[str, bytes, str]] = {
    "another version": (FILE, make_program("kube-apiserver", "1.36.1"), "kube-apiserver is not of version"),
    "a pre-release": (FILE, make_program("kube-apiserver", f"{DEFAULT}-rc.1"), "kube-apiserver is not of version"),
    "a longer number": (FILE, make_program("kube-apiserver", f"{DEFAULT}0"), "kube-apiserver is not of version"),
    "no version": (FILE, b"#!/bin/sh\n", "kube-apiserver is not of version 1.37.2: it says nothing"),
    "another processor": (
        FILE,
        b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100),
        "kube-apiserver does not run on this machine: Exec format error; is it for another processor?",
    ),
    "no interpreter": (FILE, b"#!/nonsense\n", "kube-apiserver does not run on this machine: No such file"),
    "failing": (
        FILE.replace("kube-apiserver", "kubectl"),
        b"#!/bin/sh\necho 'no \033[2Jlibrary' >&2\nexit 3\n",
        "kubectl does not run on this machine: exit code 3: no [2Jlibrary",
    ),
    "killed": (FILE, b"#!/bin/sh\nkill -SEGV $$\n", "kube-apiserver does not run on this machine: exit code -11"),
    "hanging": (
        FILE,
        b"#!/bin/sh\nsleep 60\n",
        "kube-apiserver does not run on this machine: no version within 0.5 s",
    ),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_wrong_program_is_followed_by_a_build(
    case: str, release_server: ReleaseServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data, cause = PROGRAMS[case]
    if case == "hanging":
        monkeypatch.setattr(probe, "SECONDS", 0.5)
    release_server.put(path, data)
    started = time.monotonic()
    assets.kubernetes()
    assert time.monotonic() - started < 50  # a program that hangs would end after 60 s
    [line] = capsys.readouterr().err.splitlines()
    assert f" is not downloaded: {release_server.address}{path}: {cause}" in line
    assert line.isprintable()
    assert is_clean()


def test_etcd_of_another_version_is_followed_by_a_build(
    release_server: ReleaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    release_server.put(ETCD_FILE, make_archive({WANTED: make_program("etcd", "3.7.1")}))
    assets.kubernetes()
    assert f"{ETCD_FILE}: etcd is not of version {ETCD}: it says etcd Version: 3.7.1" in capsys.readouterr().err


HANGING: dict[str, tuple[str, Callable[[ReleaseServer], Behaviour], str]] = {
    "silence": (FILE, lambda server: server.send_nothing, "nothing arrived within 2.25 s"),
    "silent checksums": (SUM, lambda server: server.send_nothing, "nothing arrived within 2.25 s"),
    "silent after a redirect": (
        FILE,
        lambda server: send_status(302, Location=f"{server.address}/silence"),
        "nothing arrived within 2.25 s",
    ),
    "drip": (FILE, lambda server: server.drip, "fewer than 64 KiB arrived within 2.25 s"),
    "dripping headers": (FILE, lambda server: server.drip_headers, "nothing arrived within 2.25 s"),
    "dripping checksums": (SUM, lambda server: server.drip, "nothing arrived within 2.25 s"),
    "dripping archive": (ETCD_FILE, lambda server: server.drip, "fewer than 64 KiB arrived within 2.25 s"),
    "stall": (FILE, lambda server: server.stall, "fewer than 64 KiB arrived within 2.25 s"),
}


def test_hanging_source_is_abandoned_in_time(release_server: ReleaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test all kinds at once, each as its own release, with the timeout that users get."""
    monkeypatch.setattr(download, "PATIENCE", PATIENCE)
    monkeypatch.setenv("AKV_ASSETS", "download")
    release_server.behaviours["/silence"] = release_server.send_nothing
    versions = {kind: f"1.37.{100 + number}" for number, kind in enumerate(HANGING)}
    etcd = dict.fromkeys(HANGING, ETCD) | {"dripping archive": "3.6.4"}
    expected = {}
    for kind, (path, behaviour, cause) in HANGING.items():
        release_server.add(kubernetes=versions[kind], etcd=etcd[kind])
        path = path.replace(DEFAULT, versions[kind]).replace(ETCD, etcd[kind])
        release_server.behaviours[path] = behaviour(release_server)
        expected[kind] = f"{release_server.address}{path}: {cause}"

    def attempt(kind: str) -> tuple[str, float]:
        release = official.OfficialRelease("it", tuple(assets.PROGRAMS), versions[kind], etcd[kind])
        started = time.monotonic()
        with pytest.raises(DownloadError) as error:
            release.populate(f"downloaded-{kind}")
        return str(error.value), time.monotonic() - started

    with ThreadPoolExecutor(len(HANGING)) as pool:
        found = dict(zip(HANGING, pool.map(attempt, HANGING), strict=True))
    assert {kind: message for kind, (message, _) in found.items()} == expected
    assert all(seconds < PATIENCE + 2 for _, seconds in found.values()), found


MEASURED = """
import sys, threading, time
from tools.local_cluster.programs import assets, download, golang

def build_starts():
    print(f"{time.monotonic() - started:.2f}", flush=True)
    sys.exit()

golang.find_go = build_starts
if sys.argv[1] == "name server":
    import socket
    socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
started = time.monotonic()
assets.kubernetes()
"""


@pytest.mark.parametrize("kind", ["silence", "full backlog", "name server"])
def test_build_starts_within_3_s_if_no_download_is_possible(
    kind: str, release_server: ReleaseServer, tmp_path: Path
) -> None:
    """Measure with the timeout that users get, in separate processes, which end at once."""
    release_server.behaviours[FILE] = release_server.send_nothing
    with provide_full_port() as full:
        addresses = {
            "silence": f"{release_server.address}/kubernetes",
            "full backlog": full,
            "name server": "https://mirror.example",
        }
        done = subprocess.run(
            [sys.executable, "-P", "-c", MEASURED, kind],
            env={**os.environ, "AKV_ASSETS_KUBERNETES_MIRROR": addresses[kind]},
            capture_output=True,
            text=True,
            timeout=120,
        )
    cause = "there was no connection within 1.5 s" if kind == "full backlog" else "nothing arrived within 2.25 s"
    assert f": {cause}; building it" in done.stderr
    seconds = float(done.stdout)
    assert (1.4 if kind == "full backlog" else 2.2) < seconds <= 3.0
