"""A server of releases on loopback, with the faults that a source on a network can have."""

import contextlib
import gzip
import hashlib
import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools.local_cluster.programs import assets, cache, releases, versions

DEFAULT = versions.DEFAULT_KUBERNETES
ETCD = "3.7.0"
"""The version that go/1.37.2/go.mod builds."""

Behaviour = Callable[[BaseHTTPRequestHandler], None]


class ReleaseServer:
    """Serve `files` by their paths, except the paths in `behaviours`, and record the requested paths in `requests`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.behaviours: dict[str, Behaviour] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()
        release_server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                release_server.requests.append(self.path)
                release_server.headers.append(dict(self.headers))
                with contextlib.suppress(OSError):  # the client has closed the connection
                    release_server._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.removeprefix(self.address)  # a request to a proxy has the whole address
        if behaviour := self.behaviours.get(path):
            behaviour(request)
        elif path in self.files:
            send_body(self.files[path])(request)
        else:
            send_status(404)(request)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, *, kubernetes: str = DEFAULT, etcd: str = ETCD) -> None:
        """Add the releases. Every program is a script that prints its version."""
        programs = [*assets.CONTROL_PLANE.packages, *assets.NODE.packages]
        for artifact in releases.artifacts(programs, kubernetes, etcd, cache.machine_architecture()):
            script = make_program(artifact.program, etcd if artifact.program == "etcd" else kubernetes)
            path = f"/etcd/{artifact.path}" if artifact.source is releases.ETCD else f"/kubernetes/{artifact.path}"
            self.put(path, make_archive({artifact.member: script}) if artifact.member else script)

    def put(self, path: str, data: bytes) -> None:
        """Add a file with its right checksum."""
        self.files[path] = data
        checksum = hashlib.sha256(data).hexdigest()
        if path.endswith(".tar.gz"):
            folder, _, name = path.rpartition("/")
            self.files[f"{folder}/SHA256SUMS"] = f"{'0' * 64}  {name}.asc\n{checksum}  {name}\n".encode()
        else:
            self.files[f"{path}.sha256"] = checksum.encode()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Use this server as the mirror of Kubernetes and etcd."""
        monkeypatch.setenv(releases.KUBERNETES.variable, f"{self.address}/kubernetes/")
        monkeypatch.setenv(releases.ETCD.variable, f"{self.address}/etcd")

    # These behaviours continue until the server closes.

    def send_nothing(self, request: BaseHTTPRequestHandler) -> None:
        """Accept the connection and send nothing."""
        self.closing.wait(60)

    def drip(self, request: BaseHTTPRequestHandler) -> None:
        """Send one byte every 50 ms, without an end."""
        _head(request, 200, {"Content-Length": "100000"})
        while not self.closing.wait(0.05):
            request.wfile.write(b"a")

    def drip_headers(self, request: BaseHTTPRequestHandler) -> None:
        """Send headers without an end."""
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not self.closing.wait(0.05):
            request.wfile.write(b"a")

    def stall(self, request: BaseHTTPRequestHandler) -> None:
        """Send a megabyte at once, and then nothing."""
        _head(request, 200, {"Content-Length": "10000000"})
        request.wfile.write(bytes(1_000_000))
        self.closing.wait(60)

    def send_endlessly(self, request: BaseHTTPRequestHandler) -> None:
        """Send as fast as possible, without an end."""
        _head(request, 200, {})
        while not self.closing.is_set():
            request.wfile.write(bytes(64 * 1024))


def make_program(name: str, version: str, *, more: str = "") -> bytes:
    """Return a script that prints its version as the real program does."""
    outputs = {
        "etcd": f"echo 'etcd Version: {version}'; echo 'Go Version: go1.26.8'",
        "kubectl": '[ "$*" = "version --client --output=json" ] || exit 1; '
        f"""echo '{{"clientVersion": {{"gitVersion": "v{version}", "goVersion": "go1.26.8"}}}}'""",
    }
    return f"#!/bin/sh\n{more}\n{outputs.get(name, f'echo Kubernetes v{version}')}\n".encode()


def make_archive(members: dict[str | None, bytes], *others: tarfile.TarInfo) -> bytes:
    """Return a .tar.gz with the files `members`, after `others` without data."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for other in others:
            tar.addfile(other, io.BytesIO(bytes(other.size)))
        for name, data in members.items():
            info = tarfile.TarInfo(str(name))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), 1)


def _head(request: BaseHTTPRequestHandler, code: int, headers: dict[str, str]) -> None:
    request.send_response_only(code)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()


def send_status(code: int, **headers: str) -> Behaviour:
    return lambda request: _head(request, code, {"Content-Length": "0", **headers})


def send_body(data: bytes, *, length: int | None = None) -> Behaviour:
    """Return a behaviour that sends `data`, with the Content-Length `length` if it is given."""

    def send(request: BaseHTTPRequestHandler) -> None:
        _head(request, 200, {"Content-Length": str(len(data) if length is None else length)})
        request.wfile.write(data)

    return send


def send_until_closed(data: bytes) -> Behaviour:
    """Return a behaviour that sends `data` without a Content-Length and closes the connection at its end."""

    def send(request: BaseHTTPRequestHandler) -> None:
        _head(request, 200, {})
        request.wfile.write(data)

    return send


def send_slowly(parts: Iterable[bytes], seconds: float) -> Behaviour:
    """Return a behaviour that sends `parts` with a pause before each."""

    def send(request: BaseHTTPRequestHandler) -> None:
        _head(request, 200, {})
        for part in parts:
            time.sleep(seconds)
            request.wfile.write(part)

    return send


def send_raw(data: bytes) -> Behaviour:
    """Return a behaviour that sends any bytes, which need not be HTTP."""

    def send(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(data)

    return send
