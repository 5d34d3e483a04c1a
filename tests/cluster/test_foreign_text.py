"""Test that no value reaches a status, event or log when a webhook quotes the whole object in its refusal."""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from controller.api.conditions import Reason
from tests.support.canaries import FORMS
from tests.support.cluster.harness import KIND_PATHS, InstalledRelease, eventually
from tests.support.cluster.namespace import Namespace, create_without_labels
from tools.local_cluster.pki import ClusterAuthority
from tools.pods.pod_process import PodProcess

# These values are not the suite's canaries, because the API server's audit log contains the webhook's message.
FIRST, SECOND = "private-4f0a-first\nline-77aa-two", "private-9c1b-second\nline-11dd-two"
PARTS = ("private-4f0a", "private-9c1b", "line-77aa", "line-11dd")


def list_forms() -> Iterator[str]:
    """Yield the values and their lines in every encoding."""
    for value in (FIRST, SECOND, *FIRST.splitlines(), *SECOND.splitlines()):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(value.encode()).decode().rstrip("=")
        yield from (form(value) for form in FORMS.values())
    yield from PARTS


# The webhook replaces this by its message in a field of a refusal.
QUOTING = object()
STATUSES: list[dict[str, Any]] = [
    *({"code": code} for code in (400, 401, 404, 409, 410, 413, 415, 422, 429, 499, 500, 503, 504, 599)),
    {"code": 404, "reason": "NotFound"},
    {"code": 409, "reason": "AlreadyExists"},
    {"code": 409, "reason": "Conflict"},
    {"code": 410, "reason": "Expired"},
    {"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 1}},
    {"code": 422, "reason": "Invalid"},
    {"code": 403, "reason": QUOTING},
    {"code": 200},
    {"code": 403, "message": "field is immutable"},
    {"code": 403, "message": "`immutable` is set"},
]


class WebhookServer(NamedTuple):
    """A running webhook. `operations` lists the reviewed operations. `status` overrides fields of its refusals."""

    url: str
    ca: str
    operations: list[str]
    status: dict[str, Any]


class _Handler(BaseHTTPRequestHandler):
    operations: list[str]
    status: dict[str, Any]

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = review["request"]
        self.operations.append(request["operation"])
        data = (request["object"].get("data") or {}).items()
        decoded = {key: base64.b64decode(text).decode() for key, text in data}
        message = f"not this: {json.dumps(decoded)} {[*decoded.values()]} {dict(data)} {json.dumps(request)}"
        message += " ".join(form(value) for form in FORMS.values() for value in decoded.values())
        # kubectl and other clients also show these fields.
        status = {"code": 403, "message": message} | {
            name: message if found == QUOTING else found for name, found in self.status.items()
        }
        answer: dict[str, Any] = {
            "uid": request["uid"],
            "allowed": False,
            "status": status,
            "warnings": [message[:200]],
        }
        answer["auditAnnotations"] = {"quoted": message}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webhook(tmp_path: Path) -> Iterator[WebhookServer]:
    authority = ClusterAuthority(tmp_path, "guard-ca")
    pair = authority.issue("guard", user="guard", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    operations: list[str] = []
    status: dict[str, Any] = {}
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"operations": operations, "status": status})
    )
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield WebhookServer(
            f"https://127.0.0.1:{server.server_address[1]}/",
            base64.b64encode(authority.pair.cert.read_bytes()).decode(),
            operations,
            status,
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_configuration(
    space: Namespace, webhook: WebhookServer, group: str = "", resource: str = "secrets"
) -> dict[str, Any]:
    """Return a configuration with which the webhook refuses every write of the resource in the namespace."""
    rule = {"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}
    entry = {
        "name": "guard.example.com",
        "clientConfig": {"url": webhook.url, "caBundle": webhook.ca},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": f"guard-{space.name}"},
        "webhooks": [entry],
    }


def list_failed(space: Namespace) -> set[str]:
    """Return the names of the SecretSyncs about whose failure there is an event."""
    failures = (item for item in space.list_objects("events") if item["reason"] == Reason.SYNC_FAILED)
    return {item["involvedObject"]["name"] for item in failures}


@pytest.mark.parametrize("exists", [False, True], ids=["create", "patch"])
def test_webhook_that_quotes_the_object_exposes_no_value(
    installed: InstalledRelease, space: Namespace, controller: PodProcess, webhook: WebhookServer, exists: bool
) -> None:
    installed.emulator.set_secret(space.vault, "a", FIRST)
    objects = (space.provider_class("a"), space.sync("s", {"k": "a"}))
    if exists:
        space.apply(*objects)
        eventually(lambda: space.secret_values("s"), lambda found: found == {"k": FIRST})
    try:
        space.apply(make_configuration(space, webhook))
        eventually(lambda: create_without_labels(space), lambda found: found[0] != 201)
        webhook.operations.clear()
        if exists:
            installed.emulator.set_secret(space.vault, "a", SECOND)
            space.force_sync("s")
        else:
            space.apply(*objects)
        message = space.wait_reason("s", Reason.SYNC_FAILED)
        assert 'admission webhook "guard.example.com" refused the Secret' in message
        assert webhook.operations
        events = eventually(
            lambda: installed.plane.request("GET", KIND_PATHS["events"].format(space.name))[1],
            lambda text: "guard.example.com" in text,
        )
        places = {
            "status": json.dumps(space.get("secretsync", "s")),
            "events": events,
            "log": controller.log.read_text(),
        }
        assert "guard.example.com" in places["log"]
        assert not [(where, form) for where, text in places.items() for form in list_forms() if form in text]
    finally:
        space.kubectl("delete", "validatingwebhookconfiguration", f"guard-{space.name}", "--ignore-not-found")


@pytest.mark.parametrize("exists", [False, True], ids=["create", "patch"])
def test_refusal_with_any_status_exposes_no_value_and_reads_the_vault_rarely(
    installed: InstalledRelease, space: Namespace, controller: PodProcess, webhook: WebhookServer, exists: bool
) -> None:
    """A webhook chooses code, reason and details. Its 404 does not mean that the Secret is missing.

    Its 409 does not mean that another client changed the Secret.
    """
    installed.emulator.set_secret(space.vault, "a", FIRST)
    names = {f"s-{number}": fields for number, fields in enumerate(STATUSES)}
    space.apply(space.provider_class("a"))
    if exists:
        space.apply(*(space.sync(name, {"k": "a"}) for name in names))
        for name in names:
            eventually(partial(space.secret_values, name), lambda found: found == {"k": FIRST})
        installed.emulator.set_secret(space.vault, "a", SECOND)
    try:
        space.apply(make_configuration(space, webhook))
        eventually(lambda: create_without_labels(space), lambda found: found[0] != 201)
        for name, fields in names.items():
            webhook.status.clear()
            webhook.status.update(fields)
            before = space.count_calls("secrets.get")
            if exists:
                space.force_sync(name)
            else:
                space.apply(space.sync(name, {"k": "a"}))
            message = space.wait_reason(name, Reason.SYNC_FAILED)
            assert 'admission webhook "guard.example.com" refused the Secret (HTTP' in message
            assert "its message is not shown" in message
            assert space.count_calls("secrets.get") - before <= 2
            assert not [form for form in list_forms() if form in json.dumps(space.get("secretsync", name))]
            # Delete the SecretSync, because its retries would count as calls for the next one.
            status, text = installed.plane.request("DELETE", f"{KIND_PATHS['secretsync'].format(space.name)}/{name}")
            assert status == 200, text
        eventually(partial(list_failed, space), lambda found: found >= names.keys())
        events = installed.plane.request("GET", KIND_PATHS["events"].format(space.name))[1]
        places = {"events": events, "log": controller.log.read_text()}
        assert not [(where, form) for where, text in places.items() for form in list_forms() if form in text]
    finally:
        space.kubectl("delete", "validatingwebhookconfiguration", f"guard-{space.name}", "--ignore-not-found")


@pytest.mark.parametrize("code", [403, 404, 409, 410, 503])
def test_webhook_that_refuses_a_generated_object_is_named_for_any_code(
    installed: InstalledRelease, space: Namespace, controller: PodProcess, webhook: WebhookServer, code: int
) -> None:
    space.set_secret("a", "1")
    webhook.status["code"] = code
    try:
        space.apply(make_configuration(space, webhook, "secret-sync.x-k8s.io", "secretsyncs"))
        probe = space.sync("probe", {"k": "a"})
        path = f"{KIND_PATHS['secretsync'].format(space.name)}?dryRun=All"
        eventually(lambda: installed.plane.request("POST", path, probe)[0], lambda found: found == code)
        space.apply(space.akv_sync({"secretInAKV": "a"}))
        found = eventually(
            lambda: json.dumps(space.get("akvsync", "made").get("status", {}).get("conditions", [])),
            lambda text: "guard.example.com" in text,
        )
        assert '"False"' in found
    finally:
        space.kubectl("delete", "validatingwebhookconfiguration", f"guard-{space.name}", "--ignore-not-found")
    eventually(lambda: space.secret_values("a"), bool, patience=60)
