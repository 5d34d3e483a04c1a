"""Measure the lower bound of a first sync: the time in which the API server accepts the same writes.

The program sends the creates and status patches of the controller with its credentials, so the same admission policies
apply. It encodes them before the measurement and sends them over plain connections. So the client needs almost no time.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from controller.api.secretsync import SecretSync
from controller.config.settings import FIELD_MANAGER
from controller.kube import config
from controller.kube.resources import MERGE_PATCH, METADATA_ONLY, ResourceClient
from tests.bench.harness import BenchHarness
from tests.support.cluster.harness import decode_nested_json
from tests.support.cluster.namespace import Namespace

# The number of connections of the controller to the API server: one for each worker of one namespace.
CONNECTIONS = 32
SYNCS = ResourceClient(SecretSync, "bench")
SECRETS = "/api/v1/namespaces/{}/secrets"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Request(NamedTuple):
    """One request, and the HTTP status that the API server must answer."""

    method: str
    path: str
    accept: str
    content_type: str
    body: Mapping[str, Any]
    expected_status: int

    def encode(self, host: str, authorization: str) -> bytes:
        """Return the request as bytes of HTTP/1.1."""
        body = json.dumps(self.body, separators=(",", ":")).encode()
        head = (
            f"{self.method} {self.path}?fieldManager={FIELD_MANAGER} HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: {authorization}\r\nAccept: {self.accept}\r\nAccept-Encoding: identity\r\n"
            f"User-Agent: {FIELD_MANAGER}\r\nContent-Type: {self.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class BoundError(Exception):
    """The API server refused a write that it accepted from the controller."""


def measure_bound(harness: BenchHarness) -> float:
    """Repeat the writes of the harness's first sync in another namespace. Return the seconds that this takes."""
    copy = harness.create_copy()
    pairs = list(_build_requests(harness.space, copy))
    return asyncio.run(_send(pairs, harness.workload.env))


def _build_requests(done: Namespace, copy: Namespace) -> Iterator[tuple[Request, Request]]:
    """Yield for each SecretSync of `copy` the two writes of the SecretSync with the same name in `done`."""
    secrets = _list_by_name(done, SECRETS.format(done.name))
    reported = _list_by_name(done, SYNCS.url_path(done.name))
    for name, sync in _list_by_name(copy, SYNCS.url_path(copy.name)).items():
        meta, secret = sync["metadata"], secrets[name]
        kept = secret["metadata"]
        owners = [{**owner, "uid": meta["uid"]} for owner in kept["ownerReferences"]]
        metadata = {key: kept[key] for key in ("labels", "annotations") if key in kept}
        metadata |= {"name": name, "namespace": copy.name, "ownerReferences": owners}
        body = {"apiVersion": "v1", "kind": "Secret", "type": secret["type"], "data": secret["data"]}
        create = Request(
            "POST", SECRETS.format(copy.name), METADATA_ONLY, "application/json", {**body, "metadata": metadata}, 201
        )
        patch = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": reported[name]["status"]}
        where = f"{SYNCS.url_path(copy.name, name)}/status"
        yield create, Request("PATCH", where, "application/json", MERGE_PATCH, patch, 200)


def _list_by_name(space: Namespace, path: str) -> dict[str, Any]:
    status, text = space.installed.plane.request("GET", path)
    if status != 200:
        raise BoundError(text)
    return {item["metadata"]["name"]: item for item in decode_nested_json(text)["items"]}


async def _send(pairs: list[tuple[Request, Request]], environment: Mapping[str, str]) -> float:
    access = await config.find_config(environment)
    address = urlsplit(access.server)
    authorization = await access.authorization()
    waiting = [
        [(request, request.encode(address.netloc, authorization)) for request in pair] for pair in reversed(pairs)
    ]

    async def work() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=access.tls())
        while waiting:
            for request, encoded in waiting.pop():
                writer.write(encoded)
                await receive_answer(reader, request)
        writer.close()

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(work())
    return time.monotonic() - began


async def receive_answer(reader: asyncio.StreamReader, request: Request) -> None:
    """Read one complete answer. Raise `BoundError` if it does not have the expected status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if length:
        body = await reader.readexactly(int(length[1]))
    else:
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    if int(head.split(b" ", 2)[1]) != request.expected_status:
        raise BoundError(f"{request.method} {request.path}: {head[:40]!r} {body[:300]!r}")
