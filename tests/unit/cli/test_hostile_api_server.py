"""The tools against an API server that answers anything: they end in time, within bounds, and print visible text.

Not every answer is an attack: proxies answer with pages, and load balancers end answers in the middle.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from controller.kube import client
from tests.support.scripted_api_server import write_kubeconfig
from tools.cli.capacity import plan
from tools.cli.common import kube_client
from tools.cli.doctor import doctor, endpoints
from tools.cli.migrate import migrate

TOOLS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "doctor": (doctor.main, []),
    "doctor-secretsync": (doctor.main, ["secretsync/s", "-n", "shop", "-o", "json"]),
    "doctor-akvsync": (doctor.main, ["akvsync/s", "-n", "shop"]),
    "doctor-release": (doctor.main, ["--release-namespace", "home"]),
    "csi": (migrate.main, ["csi", "--cluster"]),
    "from-sse": (migrate.main, ["from-sse"]),
    "to-sse": (migrate.main, ["to-sse"]),
    "to-sse-apply": (migrate.main, ["to-sse", "--apply", "--release-namespace", "home"]),
    "adopt": (migrate.main, ["adopt", "--apply"]),
    "external-secrets": (migrate.main, ["external-secrets", "--cluster"]),
    "akv2k8s": (migrate.main, ["akv2k8s", "--cluster"]),
    "plan": (plan.main, ["--from", "cluster"]),
}
MAX_ANSWER, MAX_PAGES, SECONDS = 2**17, 30, 5.0
EVIL = "\x1b[2J\x1b]0;x\x07\u202e\u2028\nfail  cluster  x\r$(touch pwned)`x`\ud800"
Body = Iterator[bytes]


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def deep(opening: str, closing: str, inner: str = "1") -> bytes:
    levels = 20_000
    return (opening * levels + inner + closing * levels).encode()


def listing(*items: Any, token: Any = "") -> bytes:
    return json_bytes({"metadata": {"continue": token, "resourceVersion": "1"}, "items": list(items)})


def endless() -> Body:
    while True:
        yield b" " * 2**14


def endless_list() -> Body:
    yield b'{"items": ['
    while True:
        yield b'{"metadata": {"name": "x"}},' * 100


def slow() -> Body:
    for _ in range(1000):
        yield b" "
        time.sleep(0.05)


def item(text: Any) -> dict[str, Any]:
    """Return an object of which every field that some tool reads has the same content."""
    names = {"name": text, "namespace": text, "uid": text, "resourceVersion": text, "labels": {"a": text},
             "annotations": {"meta.helm.sh/release-name": text}, "ownerReferences": [{"kind": text, "name": text,
             "uid": text, "apiVersion": text}], "managedFields": [{"manager": text}]}  # fmt: skip
    env = [{"name": text, "value": text}]
    pods = {"spec": {"serviceAccountName": text, "containers": [{"name": text, "env": env}],
                     "volumes": [{"name": text, "csi": {"driver": text, "volumeAttributes": {"a": text}}}],
                     }}  # fmt: skip
    spec = {
        "template": pods, **pods["spec"], "secretProviderClassName": text, "serviceAccountName": text,
        "provider": text, "parameters": {"keyvaultName": text, "objects": text, "clientID": text},
        "secretObject": {"data": [{"sourcePath": text, "targetKey": text}], "type": text},
        "matchConditions": [{"expression": text}], "policyName": text, "holderIdentity": text,
        "keyvaultName": text, "objects": [{"secretInAKV": text}], "vault": {"name": text, "object": {"name": text}},
        "secretStoreRef": {"name": text, "kind": text}, "data": [{"secretKey": text, "remoteRef": {"key": text}}],
    }  # fmt: skip
    return {
        "apiVersion": text, "kind": text, "metadata": names, "spec": spec, "data": {"release": text}, "issuer": text,
        "subjects": [{"kind": text, "name": text, "namespace": text}], "gitVersion": text, "keys": [{"kid": text}],
        "status": {"conditions": [{"type": "Ready", "status": text, "reason": text, "message": text}], "allowed": text,
                   "token": text, "expirationTimestamp": text, "availableReplicas": text},
    }  # fmt: skip


def both(content: Any) -> Callable[[str], Body]:
    """Answer with an object, and with a list of it where a list was asked for."""
    return lambda _path: iter([json_bytes(item(content) | {"items": [item(content)]})])


def always(*chunks: bytes) -> Callable[[str], Body]:
    return lambda _path: iter(chunks)


OF_SSE = {"metadata": {"name": "secrets-store-sync-controller-x", "namespace": "a"}, "spec": {}}
ANSWERS: dict[str, Callable[[str], Body]] = {
    "nothing": always(b""),
    "null": always(b"null"),
    "a number": always(b"1" * 5000),
    "an array": always(b"[]"),
    "an empty object": always(b"{}"),
    "a page": always(b"<html>\x1b[2J</html>"),
    "no text": always(b"\xff\xfe\x00"),
    "half of an object": always(b'{"items": [{"metadata"'),
    "deep arrays": always(deep("[", "]")),
    "deep objects": always(deep('{"metadata":', "}")),
    "deep items": always(b'{"metadata": {}, "items": [' + deep('{"metadata":', "}") + b"]}"),
    "deep managed fields": always(
        b'{"metadata": {"name": "s", "managedFields": [{"fieldsV1": ' + deep('{"f:a":', "}") + b"}]}}"
    ),
    "items of other types": always(listing(None, 1, "x", [], {}, {"metadata": None}, {"metadata": {"name": 1}})),
    "items null": always(b'{"metadata": null, "items": null}'),
    "continue of another type": always(listing(token={"a": 1})),
    "endless continue tokens": always(listing({"metadata": {"name": "x", "namespace": "y"}}, token="more")),
    "endless empty pages": always(listing(token="more")),
    "endless": lambda _path: endless(),
    "endless list": lambda _path: endless_list(),
    "escape sequences": both(EVIL),
    "empty texts": both(""),
    "nulls": both(None),
    "numbers": both(7),
    "lists": both(["x"]),
    "objects": both({"x": "y"}),
    "names": both("shop"),
    "half-empty objects": always(listing(OF_SSE, {"metadata": {}}, {"metadata": {"name": "a.b"}, "spec": None})),
}  # fmt: skip


class Hostile:
    """A server whose answers a test sets; it counts requests and bytes."""

    def __init__(self) -> None:
        self.body: Callable[[str], Body] = always(b"{}")
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.sent = 0


class _Handler(BaseHTTPRequestHandler):
    hostile: Hostile
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hostile.requests += 1
        self.send_response(self.hostile.status)
        for name, text in {"Content-Type": "application/json", **self.hostile.headers}.items():
            self.send_header(name, text)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            for chunk in self.hostile.body(self.path):
                self.wfile.write(chunk)
                self.wfile.flush()
                self.hostile.sent += len(chunk)

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815 -- as the library calls them

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Hostile, str]]:
    hostile = Hostile()
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hostile": hostile}))
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield hostile, f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def hostile(server: tuple[Hostile, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hostile:
    found, url = server
    monkeypatch.setenv("KUBECONFIG", write_kubeconfig(tmp_path, url))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "TIMEOUT", SECONDS)
    monkeypatch.setattr(client, "MAX_ANSWER", MAX_ANSWER)
    monkeypatch.setattr(kube_client, "MAX_PAGES", MAX_PAGES)
    monkeypatch.setattr(endpoints, "CONNECT_SECONDS", SECONDS)
    found.requests = found.sent = 0
    found.status, found.headers = 200, {}
    return found


def ends(tool: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a tool; return what it printed, which has an exit code and visible characters alone."""
    main, arguments = TOOLS[tool]
    assert main(arguments) in (0, 1, 2)
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert all(each.isprintable() or each == "\n" for each in text), ascii(text)
    return text


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("tool", TOOLS)
def test_tool_ends_after_any_answer(
    tool: str, answer: str, hostile: Hostile, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile.body = ANSWERS[answer]
    text = ends(tool, capsys)
    assert "Traceback" not in text
    assert hostile.requests <= 12 * (MAX_PAGES + 10)
    assert hostile.sent <= hostile.requests * (MAX_ANSWER + 2**23)  # what the sockets hold on top


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("status", [301, 403, 404, 500])
def test_tool_ends_after_any_refusal(
    tool: str, status: int, hostile: Hostile, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile.status = status
    hostile.body = always(json_bytes({"kind": "Status", "message": EVIL * 3000, "reason": EVIL}))
    assert len(ends(tool, capsys)) < 20_000


@pytest.mark.parametrize("tool", ["doctor", "csi", "from-sse", "plan"])
def test_slow_answer_times_out(
    tool: str, hostile: Hostile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    hostile.body = lambda _path: slow()
    ends(tool, capsys)
    assert hostile.sent < 1000 * hostile.requests  # none was read to its end


@pytest.mark.parametrize("tool", ["doctor", "csi", "plan"])
def test_endless_slow_list_times_out(
    tool: str, hostile: Hostile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "MAX_PAGES", 10**9)
    monkeypatch.setattr(kube_client, "MAX_LIST_SECONDS", 1.0)
    hostile.body = always(listing(token="more"))
    assert "did not end within" in ends(tool, capsys)


def test_list_that_exceeds_the_memory_limit_is_abandoned(
    hostile: Hostile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "MAX_LIST_BYTES", 2**20)
    monkeypatch.setattr(kube_client, "MAX_PAGES", 10**9)
    hostile.body = always(listing({"metadata": {"name": "x"}, "spec": "x" * 2**16}, token="more"))
    assert "the list has more than 1 MiB" in ends("plan", capsys)
    assert hostile.requests < 20


@pytest.mark.parametrize("tool", ["doctor", "csi", "adopt", "plan"])
def test_compressed_answer_is_not_read(tool: str, hostile: Hostile, capsys: pytest.CaptureFixture[str]) -> None:
    hostile.headers = {"Content-Encoding": "gzip"}
    assert "compressed answer" in ends(tool, capsys)
