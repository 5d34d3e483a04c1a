"""Build the inputs of attackers: objects of an editor, and connections of a client of metrics."""

import json
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from typing import Any

from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess


def nest_managed_fields(manifest: dict[str, Any], depth: int) -> str:
    """Return the manifest as JSON, with managed fields of this depth."""
    entry = {"manager": "editor", "operation": "Update", "apiVersion": manifest["apiVersion"], "fieldsType": "FieldsV1"}
    managed = {"metadata": {**manifest["metadata"], "managedFields": [entry | {"fieldsV1": "PLACE"}]}}
    nested = '{"f:x":' * depth + "{}" + "}" * depth
    return json.dumps(manifest | managed).replace('"PLACE"', nested)


def akv_sync_with_notes(space: Namespace, notes: int, size: int) -> dict[str, Any]:
    """Return an AKVSync of 256 SecretSyncs, each with this number of annotations of this size."""
    annotations = {f"note-{number}": "x" * size for number in range(notes)}
    item = {"secretInAKV": "a", "kubernetesSecretType": "kubernetes.io/tls", "versionHistory": 256}
    return space.akv_sync({**item, "annotations": annotations})


class MetricsFlood:
    """Connections that misuse the metrics port in three ways. A connection that ends is opened again."""

    def __init__(self, controller: PodProcess, count: int) -> None:
        self._port = int(controller.env["LISTEN_PORT"])
        self._end = threading.Event()
        kinds = (self._does_not_read, self._drips, self._reconnects)
        self._connected = [threading.Event() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._run, args=(kinds[number % 3], connected), daemon=True)
            for number, connected in enumerate(self._connected)
        ]

    def __enter__(self) -> "MetricsFlood":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def wait_connected(self, patience: float = 30.0) -> None:
        """Wait until each connection has been open once."""
        deadline = time.monotonic() + patience
        assert all(each.wait(deadline - time.monotonic()) for each in self._connected), "the flood has not begun"

    def _run(self, kind: object, connected: threading.Event) -> None:
        while not self._end.wait(0.01):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 2) as connection:
                connected.set()
                connection.settimeout(2)
                kind(connection)  # type: ignore[operator]

    def _does_not_read(self, connection: socket.socket) -> None:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        self._end.wait(20)

    def _drips(self, connection: socket.socket) -> None:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        while not self._end.wait(0.5):
            connection.sendall(b"X: y\r\n")

    def _reconnects(self, connection: socket.socket) -> None:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        while connection.recv(2**16):
            pass


def measure_probe(controller: PodProcess, path: str) -> float:
    """Return the seconds until the controller answers the probe."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    began = time.monotonic()
    with opener.open(controller.health_url + path, timeout=10) as answer:
        answer.read()
    return time.monotonic() - began
