"""Provide a registry on loopback that follows the OCI distribution specification 1.1, and push layouts to it.

The registry keeps everything in memory. It refuses blobs and manifests that do not match their digests, and manifests
with missing blobs. Tests with helm, which pushes to it and pulls from it, check that it follows the specification.
"""

import hashlib
import http.client
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Registry:
    """A registry and its content.

    `blobs` are by digest. `manifests`, with their types, are by repository and then by tag or digest.
    """

    address: str
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    """The parts that have arrived, by the path of the upload."""

    def push(self, repository: str, layout: Mapping[str, bytes], tag: str = "") -> str:
        """Push the only artifact of an OCI layout with its own tag or with `tag`. Return its digest in the registry."""
        [described] = json.loads(layout["index.json"])["manifests"]
        manifest = json.loads(_get_blob(layout, described["digest"]))
        for part in (manifest["config"], *manifest["layers"]):
            status, headers = self._send("POST", f"/v2/{repository}/blobs/uploads/")
            assert status == 202
            target = f"{headers['Location']}?digest={part['digest']}"
            assert self._send("PUT", target, _get_blob(layout, part["digest"]))[0] == 201
        tag = tag or described["annotations"]["org.opencontainers.image.ref.name"]
        body = _get_blob(layout, described["digest"])
        status, headers = self._send("PUT", f"/v2/{repository}/manifests/{tag}", body, described["mediaType"])
        assert status == 201
        return headers["Docker-Content-Digest"]

    def _send(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, Mapping[str, str]]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": kind or "application/octet-stream"})
            answer = connection.getresponse()
            answer.read()
            return answer.status, dict(answer.headers)
        finally:
            connection.close()


@contextmanager
def running() -> Iterator[Registry]:
    """Provide a registry until the end of the block."""
    provided = Registry("")

    class Handler(_Handler):
        registry = provided

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provided.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield provided
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v2":
            self._answer(200, b"{}")
        elif match := re.fullmatch(r"/v2/(.+)/tags/list", urlsplit(self.path).path):
            tags = [name for name in self.registry.manifests.get(match[1], {}) if ":" not in name]
            self._answer(200, json.dumps({"name": match[1], "tags": tags}).encode())
        elif match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", self.path):
            kind, content = self.registry.manifests.get(match[1], {}).get(match[2], ("", b""))
            self._answer(200 if content else 404, content, kind)
        elif (match := re.fullmatch(r"/v2/.+/blobs/(.+)", self.path)) and match[1] in self.registry.blobs:
            self._answer(200, self.registry.blobs[match[1]])
        else:
            self._answer(404)

    do_HEAD = do_GET  # noqa: N815 -- BaseHTTPRequestHandler's name

    def do_POST(self) -> None:
        self._read_body()
        upload = f"{urlsplit(self.path).path}{uuid.uuid4()}"
        self.registry.uploads[upload] = b""
        self._answer(202, location=upload)

    def do_PATCH(self) -> None:
        self.registry.uploads[self.path] += self._read_body()
        self._answer(202, location=self.path)

    def do_PUT(self) -> None:
        body = self.registry.uploads.pop(urlsplit(self.path).path, b"") + self._read_body()
        found = f"sha256:{hashlib.sha256(body).hexdigest()}"
        url = urlsplit(self.path)
        if match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", url.path):
            manifest: dict[str, Any] = json.loads(body)
            missing = {
                part["digest"] for part in (manifest["config"], *manifest["layers"])
            } - self.registry.blobs.keys()
            if missing or (":" in match[2] and match[2] != found):
                self._answer(400)
                return
            for name in (match[2], found):
                self.registry.manifests.setdefault(match[1], {})[name] = (self.headers["Content-Type"], body)
            self._answer(201, digest=found)
        elif parse_qs(url.query).get("digest") == [found]:
            self.registry.blobs[found] = body
            self._answer(201, digest=found)
        else:
            self._answer(400)

    def _read_body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, body: bytes = b"", kind: str = "", *, location: str = "", digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind or "application/octet-stream")
        if body and not digest:
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for name, value in (("Location", location), ("Docker-Content-Digest", digest)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing, because the log would appear in the output of pytest."""


def _get_blob(layout: Mapping[str, bytes], digest: str) -> bytes:
    return layout[f"blobs/{digest.replace(':', '/')}"]
