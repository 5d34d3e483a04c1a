"""One control plane: started, asked, restarted, gone."""

import contextlib
import http.client
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tools.local_cluster import assets, kubeconfig, node, node_servers, pki, servers
from tools.local_cluster.errors import ClusterError
from tools.local_cluster.node import Node
from tools.local_cluster.processes import Processes
from tools.local_cluster.workspace import Workspace, reserve_port

_START_SECONDS = 60.0  # it takes 5, and a node 5 more; a machine that is busy with something else gets its chance
# The API server closes its port within 0.02 s of SIGTERM, then waits up to a minute for watches to go away.
_GRACE_SECONDS = 0.5
_POLL_SECONDS = 0.05

_ISSUER_DISCOVERY: dict[str, Any] = {
    # Entra fetches the keys of a cluster's issuer without credentials, as Arc's hosted issuer allows it to.
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "anonymous-service-account-issuer-discovery"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "system:service-account-issuer-discovery",
    },
    "subjects": [
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"},
    ],
}


class ControlPlane:
    """etcd, kube-apiserver and kube-controller-manager on loopback, empty at each start; a context manager.

    They end at `stop()`, and when this process ends, however it ends. State, logs and keys lie in
    `directory`: a temporary one, removed at the end, unless one is given. `kubernetes` is a release such as
    "1.37.2" (default: the environment's KUBERNETES, else DEFAULT_KUBERNETES); `issuer` that of service
    account tokens (default: `url`); `apiserver_flags` replace those of the same name. With `with_node`, as root,
    there is a scheduler and a `node` that runs pods, and the API server listens where these can reach it. Raises
    ClusterError with the log's end where a server does not start.

    Known from the beginning: `version`, `kubectl_path`. Known once it runs: `url`, `ca_file` (signs the API
    server's certificate), `issuer`, `kubeconfig` (cluster-admin), `audit_log` (JSON lines of
    audit.k8s.io/v1, level Metadata, all stages but RequestReceived).
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        kubernetes: str | None = None,
        issuer: str | None = None,
        apiserver_flags: Sequence[str] = (),
        with_node: bool = False,
    ) -> None:
        self._assets = assets.kubernetes(kubernetes)
        self.version = self._assets.version
        self.kubectl_path = self._assets.path("kubectl")
        if with_node:
            node.prepare(self.version)
        self._with_node = with_node
        self._directory = directory
        self._requested_issuer = issuer
        self._apiserver_flags = tuple(apiserver_flags)
        self._running = contextlib.ExitStack()
        self._running_servers: list[str] = []
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """The node of a cluster that has one."""
        if not self._node:
            raise ClusterError("this cluster has no node: ask for one, ControlPlane(with_node=True)")
        return self._node

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; returns when namespaces can be used. Stops what it started if that fails."""
        with contextlib.ExitStack() as stack:
            workspace = Workspace(self._directory)
            stack.callback(workspace.close)
            logs = workspace.empty("logs")
            scratch = workspace.folder if workspace.temporary else None
            self._processes = Processes(scratch=scratch, keep_open=[workspace.lock])
            stack.callback(self._processes.close)
            if self._with_node:
                self._node = Node(workspace.empty("node"), self.version, self._processes, logs)
            authority = self._prepare(workspace, stack)
            self._launch("etcd", self._layout.etcd())
            self._launch("kube-apiserver", self._layout.apiserver())
            self._wait_until_ready()
            # It ends where the API server does not grant it its rights within ten seconds, as on a busy machine.
            self._launch("kube-controller-manager", self._layout.controller_manager())
            self.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", _ISSUER_DISCOVERY)
            # Made by controllers: once it is there, namespaces can be used.
            self._wait_for("/api/v1/namespaces/default/serviceaccounts/default")
            if self._with_node:
                self._start_node(authority)
            self._running = stack.pop_all()

    def stop(self) -> None:
        """End everything. Does nothing where nothing runs."""
        self._running.close()

    def check(self) -> None:
        """Raise ClusterError, with the end of its log, if one of the three servers does not run."""
        for name in self._running_servers:
            self._processes.require(name)

    def stop_apiserver(self) -> None:
        """Take the API server away; etcd keeps the data, and the port stays taken."""
        self._processes.stop("kube-apiserver", _GRACE_SECONDS)

    def start_apiserver(self) -> None:
        """Bring the API server back, and the controller manager if it has ended for want of it; returns when ready."""
        self._launch("kube-apiserver", self._layout.apiserver())
        if not self._processes.runs("kube-controller-manager"):
            self._launch("kube-controller-manager", self._layout.controller_manager())
        self._wait_until_ready()

    def fill_etcd(self) -> None:
        """Have etcd say that its space is used up: whatever would write is refused."""
        self._ask_etcd("/v3/maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"})

    def free_etcd(self) -> None:
        """What an administrator does then: drop old revisions, give the space back, switch the alarm off."""
        revision = self._ask_etcd("/v3/maintenance/status", {})["header"]["revision"]
        self._ask_etcd("/v3/kv/compaction", {"revision": revision})
        self._ask_etcd("/v3/maintenance/defragment", {})
        self._ask_etcd("/v3/maintenance/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE"})

    def restart_controller_manager(self) -> None:
        """Make the garbage collector see new kinds now: it looks every 30 s, and no flag changes that."""
        self._processes.stop("kube-controller-manager", _GRACE_SECONDS)
        self._launch("kube-controller-manager", self._layout.controller_manager())

    def kubectl(
        self,
        *args: str,
        stdin: str | None = None,
        kubeconfig: Path | None = None,
        check: bool = True,
        timeout: float = 120.0,
    ) -> str:
        """What kubectl prints to stdout; as cluster-admin unless another kubeconfig is given.

        Raises ClusterError with what it printed to stderr when it fails, unless `check` is False, and when it
        takes longer than `timeout` seconds.
        """
        command = [str(self.kubectl_path), f"--kubeconfig={kubeconfig or self.kubeconfig}"]
        command.append(f"--cache-dir={self._layout.folder}/kubectl")
        shown = f"kubectl {' '.join(args)}"
        try:
            done = subprocess.run(
                [*command, *args],
                # Without input it must not wait for a terminal's.
                input=stdin or "",
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{shown}: no end after {timeout:g} s") from error
        if check and done.returncode:
            raise ClusterError(f"{shown}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """One request as cluster-admin, sooner than kubectl has started: status and body; OSError without an answer."""
        return _send(f"{self._layout.host}:{self._layout.apiserver_port}", self._tls, method, path, body)

    def kubeconfig_for(self, token: str, name: str) -> Path:
        """A kubeconfig that presents a bearer token; the same `name` with a new token replaces the file."""
        path = self._layout.folder / f"{name}.kubeconfig"
        return kubeconfig.write(path, self.url, self.ca_file, name, {"token": token})

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig of an existing service account, with a token for 24 hours."""
        return self.kubeconfig_for(self._token(namespace, name), f"{namespace}-{name}")

    def account_environment(self, namespace: str, name: str, folder: Path) -> dict[str, str]:
        """What a pod of that service account finds in its environment; `folder` gets what a kubelet would mount."""
        folder.mkdir()
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(self._token(namespace, name))
        shutil.copy(self.ca_file, folder / "ca.crt")
        where = urlsplit(self.url)
        return {
            "KUBERNETES_SERVICE_HOST": str(where.hostname),
            "KUBERNETES_SERVICE_PORT": str(where.port),
            "SERVICE_ACCOUNT_FOLDER": str(folder),
        }

    def _token(self, namespace: str, name: str) -> str:
        return self.kubectl("create", "token", name, "--namespace", namespace, "--duration", "24h").strip()

    def _prepare(self, workspace: Workspace, stack: contextlib.ExitStack) -> pki.Authority:
        """Ports, certificates and configuration files; the cluster's authority."""
        network = self._node.network if self._node else None

        def reserve(host: str = servers.LOOPBACK) -> int:
            reserved = stack.enter_context(reserve_port(host))
            return int(reserved.getsockname()[1])

        layout = servers.Layout(
            folder=workspace.folder,
            programs=self._assets.folder,
            etcd_port=reserve(),
            etcd_peer_port=reserve(),
            apiserver_port=reserve(network.host if network else servers.LOOPBACK),
            requested_issuer=self._requested_issuer,
            extra_flags=self._apiserver_flags,
            network=network,
        )
        workspace.empty("etcd")
        folder = workspace.empty("pki")
        layout.write()
        etcd, cluster = pki.Authority(folder, "etcd-ca"), pki.Authority(folder, "ca")
        etcd.issue("etcd", user="etcd", hosts=(servers.LOOPBACK, "localhost"))
        client = etcd.issue("etcd-client", user="kube-apiserver")
        cluster.issue("apiserver", user="kube-apiserver", hosts=layout.hosts)
        admin = cluster.issue("admin", user="admin", groups=["system:masters"])
        manager = cluster.issue("controller-manager", user="system:kube-controller-manager")
        scheduler = cluster.issue("scheduler", user="system:kube-scheduler")
        cluster.issue("apiserver-kubelet", user="kube-apiserver", groups=["system:masters"])
        pki.service_account_key(folder / "service-accounts.key")
        for pair, path in (
            (admin, layout.admin_kubeconfig),
            (manager, layout.manager_kubeconfig),
            (scheduler, layout.scheduler_kubeconfig),
        ):
            user = {"client-certificate": str(pair.cert), "client-key": str(pair.key)}
            kubeconfig.write(path, layout.url, layout.ca_file, pair.cert.stem, user)
        self._layout = layout
        self._tls = ssl.create_default_context(cafile=layout.ca_file)
        self._tls.load_cert_chain(admin.cert, admin.key)
        self._etcd_tls = ssl.create_default_context(cafile=etcd.pair.cert)
        self._etcd_tls.load_cert_chain(client.cert, client.key)
        self.url, self.ca_file, self.issuer = layout.url, layout.ca_file, layout.issuer
        self.kubeconfig, self.audit_log = layout.admin_kubeconfig, layout.audit_log
        return cluster

    def _start_node(self, authority: pki.Authority) -> None:
        self._launch("kube-scheduler", self._layout.scheduler(assets.node(self.version).path("kube-scheduler")))
        for plural, body in (("clusterroles", node.DNS_RIGHTS), ("clusterrolebindings", node.DNS_BINDING)):
            self.request("POST", f"/apis/rbac.authorization.k8s.io/v1/{plural}", body)
        self._running_servers += ["network", "node"]
        self.node.start(self.url, authority)
        ready = {"type": "Ready", "status": "True"}
        self._wait_for(
            f"/api/v1/nodes/{node_servers.NAME}",
            lambda found: any(ready.items() <= each.items() for each in found["status"].get("conditions", [])),
        )

    def _launch(self, name: str, argv: Sequence[str]) -> None:
        self._processes.start(name, argv, self._layout.log(name))
        if name not in self._running_servers:
            self._running_servers.append(name)

    def _wait_until_ready(self) -> None:
        self._wait_for("/readyz")

    def _wait_for(self, path: str, wanted: Callable[[dict[str, Any]], bool] | None = None) -> None:
        deadline = time.monotonic() + _START_SECONDS
        last = "no answer"
        while time.monotonic() < deadline:
            self.check()
            try:
                status, body = self.request("GET", path)
            except OSError as error:  # it does not listen yet, or is gone again
                status, body = 0, str(error)
            if status == http.HTTPStatus.OK and (wanted is None or wanted(json.loads(body))):
                return
            last = f"{status} {body}".strip() if status else body
            time.sleep(_POLL_SECONDS)
        raise ClusterError(f"the control plane was not ready after {_START_SECONDS:g} s: {path} answers {last[-1000:]}")

    def _ask_etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, text = _send(f"{servers.LOOPBACK}:{self._layout.etcd_port}", self._etcd_tls, "POST", path, body)
        if status != http.HTTPStatus.OK:
            raise ClusterError(f"etcd answers {path} with {status} {text[-1000:]}")
        answer: dict[str, Any] = json.loads(text)
        return answer


def _send(address: str, tls: ssl.SSLContext, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
    connection = http.client.HTTPSConnection(address, context=tls, timeout=10)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
