"""Run cert-manager, trust-manager and an OpenTelemetry Collector as processes beside a control plane without a node."""

import functools
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.logs import page
from tests.support.cluster.harness import eventually
from tools.local_cluster import ControlPlane
from tools.local_cluster.processes import ServerProcesses
from tools.local_cluster.programs import assets
from tools.pods import pod_emulation

# trust-manager reads CAs from this namespace, and cert-manager reads the Secrets of ClusterIssuers from it.
TRUST = "cert-manager"
COLLECTOR = "observability"
SELF_SIGNED, ROOT, OTHER = "self-signed", "root", "other-root"
Manifest = dict[str, Any]


class Stack:
    """The processes and their certificates. A folder has the files that a kubelet would mount into a pod."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self._folder = folder
        self._processes = ServerProcesses()
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self._port = reserved.getsockname()[1]
        self.url = f"https://127.0.0.1:{self._port}"
        self.received = folder / "received.json"
        for namespace in (TRUST, COLLECTOR):
            plane.kubectl("create", "namespace", namespace)
        for tool, group, flag in (
            ("cert-manager", "cert-manager.io", f"-cluster-resource-namespace={TRUST}"),
            ("trust-manager", "trust.cert-manager.io", f"-trust-namespace={TRUST}"),
        ):
            program = assets.tool(tool)
            plane.kubectl("apply", "--server-side", "--filename", str(program.parent / "deploy" / "crds"))
            served = ("api-resources", f"--api-group={group}", "--output=name")
            eventually(functools.partial(plane.kubectl, *served), bool)
            self._processes.start(tool, [str(program), f"-kubeconfig={plane.kubeconfig}", flag], folder / f"{tool}.log")

    def close(self) -> None:
        """Stop all processes."""
        self._processes.close()

    def apply(self, *objects: Manifest) -> None:
        """Run `kubectl apply`."""
        self.plane.kubectl(
            "apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def issue_certificates(self) -> None:
        """Create two CAs with a self-signed issuer, each in its own Secret, and the collector's certificate."""
        self.apply(make_issuer(SELF_SIGNED, {"selfSigned": {}}))
        for name in (ROOT, OTHER):
            self.apply(
                make_certificate(name, TRUST, SELF_SIGNED, isCA=True, commonName=name),
                make_issuer(name, {"ca": {"secretName": name}}),
            )
        self.apply(make_certificate("collector", COLLECTOR, ROOT, ipAddresses=["127.0.0.1"], usages=["server auth"]))
        for name, namespace in ((ROOT, TRUST), (OTHER, TRUST), ("collector", COLLECTOR)):
            self.wait_ready(name, namespace)

    def wait_ready(self, name: str, namespace: str) -> None:
        """Wait until a Certificate is Ready."""
        waiting = ("wait", "certificate", name, "--namespace", namespace, "--for=condition=Ready", "--timeout=60s")
        self.plane.kubectl(*waiting)

    def mount_secrets(self, namespace: str, *secrets: str) -> Path:
        """Write Secrets of a namespace as files. Return the folder, in which each Secret has its own folder."""
        folder = self._folder / f"{namespace}-{'-'.join(secrets)}"
        volumes = [{"name": name, "secret": {"secretName": name}} for name in secrets]
        mounts = [{"name": name, "mountPath": f"/{name}"} for name in secrets]
        if not folder.exists():
            pod_emulation.PodVolumes(self.plane, namespace, "default", folder).mount(volumes, mounts)
        return folder

    def start_collector(self, clients: Path | None = None) -> None:
        """Start the collector. `clients` is the file of its client CAs, by default the root CA."""
        server = self.mount_secrets(COLLECTOR, "collector") / "collector"
        _, config = page.read_blocks()
        http = config["receivers"]["otlp"]["protocols"]["http"]
        http["endpoint"] = f"127.0.0.1:{self._port}"
        http["tls"] = {name: path.replace("/tls", str(server), 1) for name, path in http["tls"].items()}
        if clients:
            http["tls"]["client_ca_file"] = str(clients)
        config |= {
            "exporters": {"file": {"path": str(self.received), "append": True, "flush_interval": "100ms"}},
            "service": {
                "pipelines": {"logs": {"receivers": ["otlp"], "exporters": ["file"]}},
                "telemetry": {"metrics": {"level": "none"}},
            },
        }
        file = self._folder / "collector.json"
        file.write_text(json.dumps(config))
        command = [str(assets.tool("otelcol")), f"--config=file:{file}"]
        self._processes.start("otelcol", command, self._folder / "otelcol.log")
        eventually(self._is_listening, bool)

    def stop_collector(self) -> None:
        """Stop the collector. It first writes all received records to its file."""
        self._processes.stop("otelcol", grace=10)

    def count_refused(self) -> int:
        """Return how many connections the collector has refused because of their certificates."""
        return (self._folder / "otelcol.log").read_text().count("failed to verify certificate")

    def read_lines(self) -> list[dict[str, Any]]:
        """Return the records in the collector's file in the form of the controller's lines on standard output."""
        if not self.received.exists():
            return []
        return [
            parse_record(record, scope["scope"]["name"])
            # Skip the last request, which may be incomplete.
            for request in self.received.read_text().rpartition("\n")[0].splitlines()
            for resource in json.loads(request)["resourceLogs"]
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]

    def _is_listening(self) -> bool:
        self._processes.require("otelcol")
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self._port)) == 0


def make_issuer(name: str, spec: Manifest) -> Manifest:
    """Return a ClusterIssuer."""
    return {"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": name}, "spec": spec}


def make_certificate(name: str, namespace: str, by: str, **spec: Any) -> Manifest:
    """Return a Certificate whose Secret has its name."""
    reference = {"name": by, "kind": "ClusterIssuer", "group": "cert-manager.io"}
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"secretName": name, "issuerRef": reference, "privateKey": {"algorithm": "ECDSA"}, **spec},
    }


def parse_record(record: Mapping[str, Any], logger: str) -> dict[str, Any]:
    """Return a record in the form of a line on standard output, with the time in milliseconds."""
    fields = {pair["key"]: parse_value(pair["value"]) for pair in record.get("attributes", [])}
    return {
        "time": int(record["timeUnixNano"]) // 1_000_000,
        "level": record["severityText"],
        "logger": logger,
        "message": parse_value(record["body"]),
        **fields,
    }


def parse_value(given: Mapping[str, Any]) -> Any:
    """Return an AnyValue as a Python object. JSON of protobuf omits empty fields."""
    if "intValue" in given:
        return int(given["intValue"])
    if "kvlistValue" in given:
        return {pair["key"]: parse_value(pair["value"]) for pair in given["kvlistValue"].get("values", [])}
    if "arrayValue" in given:
        return [parse_value(item) for item in given["arrayValue"].get("values", [])]
    return next(iter(given.values()), None)
