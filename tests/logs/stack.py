"""cert-manager, trust-manager and an OpenTelemetry Collector as processes beside a control plane that has no node."""

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

# Where trust-manager takes CAs from, and where the Secrets of ClusterIssuers are.
TRUST = "cert-manager"
COLLECTOR = "observability"
SELF_SIGNED, ROOT, OTHER = "self-signed", "root", "other-root"
Manifest = dict[str, Any]


class Stack:
    """All of it. What a kubelet would mount into the collector's pod is in a folder of its own."""

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
        """End them all."""
        self._processes.close()

    def apply(self, *objects: Manifest) -> None:
        """kubectl apply."""
        self.plane.kubectl(
            "apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def issue(self) -> None:
        """Two authorities that a self-signed issuer begins, each in its Secret, and the collector's certificate."""
        self.apply(issuer(SELF_SIGNED, {"selfSigned": {}}))
        for name in (ROOT, OTHER):
            self.apply(
                certificate(name, TRUST, SELF_SIGNED, isCA=True, commonName=name),
                issuer(name, {"ca": {"secretName": name}}),
            )
        self.apply(certificate("collector", COLLECTOR, ROOT, ipAddresses=["127.0.0.1"], usages=["server auth"]))
        for name, namespace in ((ROOT, TRUST), (OTHER, TRUST), ("collector", COLLECTOR)):
            self.wait_ready(name, namespace)

    def wait_ready(self, name: str, namespace: str) -> None:
        """Wait for a Certificate."""
        waiting = ("wait", "certificate", name, "--namespace", namespace, "--for=condition=Ready", "--timeout=60s")
        self.plane.kubectl(*waiting)

    def mounted(self, namespace: str, *secrets: str) -> Path:
        """Secrets of a namespace as files, in a folder each below the one that is returned."""
        folder = self._folder / f"{namespace}-{'-'.join(secrets)}"
        volumes = [{"name": name, "secret": {"secretName": name}} for name in secrets]
        mounts = [{"name": name, "mountPath": f"/{name}"} for name in secrets]
        if not folder.exists():
            pod_emulation.PodVolumes(self.plane, namespace, "default", folder).mount(volumes, mounts)
        return folder

    def start_collector(self, clients: Path | None = None) -> None:
        """Start the collector; `clients` has what it knows its clients by, the root CA where nothing is said."""
        server = self.mounted(COLLECTOR, "collector") / "collector"
        _, config = page.blocks()
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
        eventually(self._listens, bool)

    def stop_collector(self) -> None:
        """Stop it; what it has taken is in its file by then."""
        self._processes.stop("otelcol", grace=10)

    def refused(self) -> int:
        """How many connections the collector has refused for their certificates."""
        return (self._folder / "otelcol.log").read_text().count("failed to verify certificate")

    def lines(self) -> list[dict[str, Any]]:
        """Return the records that the collector has written, as the lines of standard output that they were."""
        if not self.received.exists():
            return []
        return [
            line(record, scope["scope"]["name"])
            # The last one may not be whole yet.
            for request in self.received.read_text().rpartition("\n")[0].splitlines()
            for resource in json.loads(request)["resourceLogs"]
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]

    def _listens(self) -> bool:
        self._processes.require("otelcol")
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self._port)) == 0


def issuer(name: str, spec: Manifest) -> Manifest:
    """Return a ClusterIssuer."""
    return {"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": name}, "spec": spec}


def certificate(name: str, namespace: str, by: str, **spec: Any) -> Manifest:
    """Return a Certificate whose Secret has its name."""
    reference = {"name": by, "kind": "ClusterIssuer", "group": "cert-manager.io"}
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"secretName": name, "issuerRef": reference, "privateKey": {"algorithm": "ECDSA"}, **spec},
    }


def line(record: Mapping[str, Any], logger: str) -> dict[str, Any]:
    """Return what standard output has of a record, but for the time's spelling: in milliseconds."""
    fields = {pair["key"]: value(pair["value"]) for pair in record.get("attributes", [])}
    return {
        "time": int(record["timeUnixNano"]) // 1_000_000,
        "level": record["severityText"],
        "logger": logger,
        "message": value(record["body"]),
        **fields,
    }


def value(given: Mapping[str, Any]) -> Any:
    """Return an AnyValue as Python has it; protobuf's JSON leaves out what is empty."""
    if "intValue" in given:
        return int(given["intValue"])
    if "kvlistValue" in given:
        return {pair["key"]: value(pair["value"]) for pair in given["kvlistValue"].get("values", [])}
    if "arrayValue" in given:
        return [value(item) for item in given["arrayValue"].get("values", [])]
    return next(iter(given.values()), None)
