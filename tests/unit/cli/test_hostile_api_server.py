"""Test the tools with an API server that answers anything: they end in time, within bounds, and print visible text.

Such an answer is not always an attack: proxies answer with HTML pages, and load balancers interrupt answers.
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


def encode_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def nest(opening: str, closing: str, inner: str = "1") -> bytes:
    levels = 20_000
    return (opening * levels + inner + closing * levels).encode()


def encode_list(*items: Any, token: Any = "") -> bytes:
    return encode_json({"metadata": {"continue": token, "resourceVersion": "1"}, "items": list(items)})


def send_endlessly() -> Body:
    while True:
        yield b" " * 2**14


def send_endless_list() -> Body:
    yield b'{"items": ['
    while True:
        yield b'{"metadata": {"name": "x"}},' * 100


def send_slowly() -> Body:
    for _ in range(1000):
        yield b" "
        time.sleep(0.05)


def make_object(text: Any) -> dict[str, Any]:
    """Return an object that has `text` in each field that a tool reads."""
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


def answer_object_and_list(content: Any) -> Callable[[str], Body]:
    """Return an answer that is both an object and a list with this object."""
    return lambda _path: iter([encode_json(make_object(content) | {"items": [make_object(content)]})])


def answer_always(*chunks: bytes) -> Callable[[str], Body]:
    return lambda _path: iter(chunks)


SSE_DEPLOYMENT = {"metadata": {"name": "secrets-store-sync-controller-x", "namespace": "a"}, "spec": {}}
ANSWERS: dict[str, Callable[[str], Body]] = {
    "nothing": answer_always(b""),
    "null": answer_always(b"null"),
    "a number": answer_always(b"1" * 5000),
    "an array": answer_always(b"[]"),
    "an empty object": answer_always(b"{}"),
    "a page": answer_always(b"<html>\x1b[2J</html>"),
    "no text": answer_always(b"\xff\xfe\x00"),
    "half of an object": answer_always(b'{"items": [{"metadata"'),
    "deep arrays": answer_always(nest("[", "]")),
    "deep objects": answer_always(nest('{"metadata":', "}")),
    "deep items": answer_always(b'{"metadata": {}, "items": [' + nest('{"metadata":', "}") + b"]}"),
    "deep managed fields": answer_always(
        b'{"metadata": {"name": "s", "managedFields": [{"fieldsV1": ' + nest('{"f:a":', "}") + b"}]}}"
    ),
    "items of other types": answer_always(
        encode_list(None, 1, "x", [], {}, {"metadata": None}, {"metadata": {"name": 1}})
    ),
    "items null": answer_always(b'{"metadata": null, "items": null}'),
    "continue of another type": answer_always(encode_list(token={"a": 1})),
    "endless continue tokens": answer_always(encode_list({"metadata": {"name": "x", "namespace": "y"}}, token="more")),
    "endless empty pages": answer_always(encode_list(token="more")),
    "endless": lambda _path: send_endlessly(),
    "endless list": lambda _path: send_endless_list(),
    "escape sequences": answer_object_and_list(EVIL),
    "empty texts": answer_object_and_list(""),
    "nulls": answer_object_and_list(None),
    "numbers": answer_object_and_list(7),
    "lists": answer_object_and_list(["x"]),
    "objects": answer_object_and_list({"x": "y"}),
    "names": answer_object_and_list("shop"),
    "half-empty objects": answer_always(
        encode_list(SSE_DEPLOYMENT, {"metadata": {}}, {"metadata": {"name": "a.b"}, "spec": None})
    ),
}


class HostileServer:
    """A hostile server: the answer that a test sets, and the numbers of requests and of sent bytes."""

    def __init__(self) -> None:
        self.body: Callable[[str], Body] = answer_always(b"{}")
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.sent = 0


class _Handler(BaseHTTPRequestHandler):
    hostile: HostileServer
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

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815 -- the library calls these names

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[HostileServer, str]]:
    hostile = HostileServer()
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hostile": hostile}))
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield hostile, f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def hostile(server: tuple[HostileServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostileServer:
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


def run_tool(tool: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a tool and return its output. Check its exit code, and that the output has only visible characters."""
    main, arguments = TOOLS[tool]
    assert main(arguments) in (0, 1, 2)
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert all(each.isprintable() or each == "\n" for each in text), ascii(text)
    return text


@pytest.mark.parametrize("tool", TOOLS)
def test_unreachable_server_is_named_with_the_next_step(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No tool makes a second attempt, so none announces one."""
    monkeypatch.setenv("KUBECONFIG", write_kubeconfig(tmp_path, "http://127.0.0.1:1"))
    (message,) = run_tool(tool, capsys).splitlines()
    assert "check that this machine can reach http://127.0.0.1:1" in message
    assert "tried again" not in message


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("tool", TOOLS)
def test_tool_ends_after_any_answer(
    tool: str, answer: str, hostile: HostileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile.body = ANSWERS[answer]
    text = run_tool(tool, capsys)
    assert "Traceback" not in text
    assert hostile.requests <= 12 * (MAX_PAGES + 10)
    assert hostile.sent <= hostile.requests * (MAX_ANSWER + 2**23)  # the sockets buffer some bytes more


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("status", [301, 403, 404, 500])
def test_tool_ends_after_any_refusal(
    tool: str, status: int, hostile: HostileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile.status = status
    hostile.body = answer_always(encode_json({"kind": "Status", "message": EVIL * 3000, "reason": EVIL}))
    assert len(run_tool(tool, capsys)) < 20_000


@pytest.mark.parametrize("tool", ["doctor", "csi", "from-sse", "plan"])
def test_slow_answer_times_out(
    tool: str, hostile: HostileServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    hostile.body = lambda _path: send_slowly()
    run_tool(tool, capsys)
    assert hostile.sent < 1000 * hostile.requests  # no answer was read to its end


@pytest.mark.parametrize("tool", ["doctor", "csi", "plan"])
def test_endless_slow_list_times_out(
    tool: str, hostile: HostileServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "MAX_PAGES", 10**9)
    monkeypatch.setattr(kube_client, "MAX_LIST_SECONDS", 0.2)
    hostile.body = answer_always(encode_list(token="more"))
    assert "did not end within" in run_tool(tool, capsys)


def test_list_above_the_memory_limit_is_abandoned(
    hostile: HostileServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "MAX_LIST_BYTES", 2**20)
    monkeypatch.setattr(kube_client, "MAX_PAGES", 10**9)
    hostile.body = answer_always(encode_list({"metadata": {"name": "x"}, "spec": "x" * 2**16}, token="more"))
    assert "the list has more than 1 MiB" in run_tool("plan", capsys)
    assert hostile.requests < 20


@pytest.mark.parametrize("tool", ["doctor", "csi", "adopt", "plan"])
def test_compressed_answer_is_not_read(tool: str, hostile: HostileServer, capsys: pytest.CaptureFixture[str]) -> None:
    hostile.headers = {"Content-Encoding": "gzip"}
    assert "compressed answer" in run_tool(tool, capsys)
