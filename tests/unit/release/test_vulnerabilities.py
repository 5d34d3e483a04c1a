"""Test the scan for known vulnerabilities with a database on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci_archive import write_archive
from tools.cli.common import project
from tools.release import image_contents, vulnerabilities
from tools.release.vulnerabilities import PackageVersion

Vulnerabilities = dict[tuple[str, str], dict[str, Any]]


class _Database(BaseHTTPRequestHandler):
    known: Vulnerabilities

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        names = [(one["package"]["ecosystem"], one["package"]["name"]) for one in queries]
        found = [self.known.get(name) for name in names]
        self._answer({"results": [{"vulns": [{"id": one["id"]}]} if one else {} for one in found]})

    def do_GET(self) -> None:
        [found] = [one for one in self.known.values() if self.path == f"/v1/vulns/{one['id']}"]
        self._answer(found)

    def _answer(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing, because the log would appear in the output of pytest."""


@pytest.fixture
def database() -> Iterator[tuple[str, Vulnerabilities]]:
    known: Vulnerabilities = {}
    handler = type("Database", (_Database,), {"known": known})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", known
        server.shutdown()
        thread.join()


def make_vulnerability(ecosystem: str, name: str, fixed: str = "") -> dict[str, Any]:
    events = [{"introduced": "0"}, *([{"fixed": fixed}] if fixed else [])]
    affected = {"package": {"ecosystem": ecosystem, "name": name}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    other = {"package": {"ecosystem": ecosystem, "name": "other"}, "ranges": [{"events": [{"fixed": "9"}]}]}
    return {"id": f"X-{name}", "summary": "bad", "affected": [affected, other]}


def scan(service: str, *args: str) -> int:
    return vulnerabilities.main(["--service", service, *args])


def test_clean_lock_files_pass(database: tuple[str, Vulnerabilities], capsys: pytest.CaptureFixture[str]) -> None:
    assert scan(database[0]) == 0
    assert ": 0 known vulnerabilities, 0 of them fixed in a newer version\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ecosystem", "name"), [("PyPI", "aiohttp"), ("Go", "k8s.io/kubernetes"), ("Debian:12", "glibc")]
)
def test_fixable_vulnerability_fails_with_the_fixed_version(
    ecosystem: str,
    name: str,
    database: tuple[str, Vulnerabilities],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service, known = database
    known[ecosystem, name] = make_vulnerability(ecosystem, name, "99.0")
    assert scan(service, "--image", str(write_archive(tmp_path / "image.tar"))) == 1
    assert f": X-{name}, fixed in 99.0: bad\n" in capsys.readouterr().out


def test_vulnerability_without_a_fix_is_listed_and_passes(
    database: tuple[str, Vulnerabilities], capsys: pytest.CaptureFixture[str]
) -> None:
    service, known = database
    known["PyPI", "aiohttp"] = make_vulnerability("PyPI", "aiohttp")
    assert scan(service) == 0
    assert ": X-aiohttp, no fixed version: bad\n" in capsys.readouterr().out


def test_database_that_does_not_answer_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert scan("http://127.0.0.1:9") == 1
    assert "make scan: http://127.0.0.1:9/v1/querybatch: " in capsys.readouterr().err


def test_every_lock_file_is_read() -> None:
    pins = set(vulnerabilities.locked(project.ROOT))
    assert {pin.name for pin in pins} >= {"aiohttp", "pytest", "atheris", "k8s.io/kubernetes", "helm.sh/helm/v4"}
    assert not any(pin.version.startswith("v") or "/" in pin.version for pin in pins)


def test_system_packages_are_named_by_their_source(tmp_path: Path) -> None:
    status = b"Package: libssl3\nStatus: install ok installed\nArchitecture: amd64\nSource: openssl (3.0-1)\n"
    status += b"Version: 3.0-1+b2\n"
    layer = {"etc/os-release": b'ID=debian\nVERSION_ID="12"\n', "var/lib/dpkg/status": status}
    found = image_contents.read_inventory(write_archive(tmp_path / "image.tar", layer))
    assert list(vulnerabilities.in_image(found)) == [PackageVersion("Debian:12", "openssl", "3.0-1")]
