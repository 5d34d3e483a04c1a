"""Start, use, restart and stop one control plane."""

import contextlib
import functools
import http.client
import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tools.local_cluster import kubeconfig, pki, servers
from tools.local_cluster.errors import ClusterError
from tools.local_cluster.nodes import node, node_servers
from tools.local_cluster.nodes.node import ClusterNode
from tools.local_cluster.processes import ServerProcesses
from tools.local_cluster.programs import assets
from tools.local_cluster.workspace import Workspace, reserve_port

_START_SECONDS = 60.0  # the control plane takes 5 and a node 5 more, but a busy machine needs longer
# The API server closes its port within 0.02 s of SIGTERM, then waits up to a minute for watches to end.
_GRACE_SECONDS = 0.5
_POLL_SECONDS = 0.05
# After a restart or a change of a CRD the API server needs some seconds to prepare the storage of a kind.
_MAX_RETRIES, _MAX_RETRY_SECONDS = 10, 5.0
_REQUEST_SECONDS = 60.0  # a busy API server needs more than 10 s for a list of the largest objects

_JSON = "application/json"
_DAY = 24 * 3600
# The Accept header with which client-go requests `/apis`.
_DISCOVERY = ",".join(
    f"{_JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1")
)
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

_ISSUER_DISCOVERY: dict[str, Any] = {
    # Entra fetches the keys of a cluster's issuer without credentials. Arc's hosted issuer also allows this.
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
    """etcd, kube-apiserver and kube-controller-manager on loopback, empty at each start. A context manager.

    The servers end at `stop()`, and also when this process ends for any reason. State, logs and keys are in
    `directory`. Without a `directory` they are in a temporary one, which is removed at the end. `kubernetes` is a
    release such as "1.37.2" (default: the environment's KUBERNETES, or DEFAULT_KUBERNETES). `issuer` is the issuer of
    service account tokens (default: `url`). `apiserver_flags` replace the flags of the same name. With `with_node`, as
    root, there are a scheduler and a `node` that runs pods, and the API server listens on an address that pods can
    reach. With `with_sqlite`, kine with SQLite replaces etcd, as in k3s. With `durable`, etcd syncs each write to disk,
    as in production. `crds` are CustomResourceDefinitions that the API server serves before kube-controller-manager
    starts, because its garbage collector discovers new kinds only every 30 s. Raise ClusterError with the end of the
    log if a server does not start.

    `version` and `kubectl_path` are known from the beginning. These are known after the start: `url`, `ca_file` (it
    signs the API server's certificate), `issuer`, `kubeconfig` (cluster-admin), `audit_log` (JSON lines of
    audit.k8s.io/v1, level Metadata, all stages except RequestReceived).
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        kubernetes: str | None = None,
        issuer: str | None = None,
        apiserver_flags: Sequence[str] = (),
        with_node: bool = False,
        with_sqlite: bool = False,
        durable: bool = False,
        crds: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._assets = assets.kubernetes(kubernetes)
        self.version = self._assets.version
        self.kubectl_path = self._assets.path("kubectl")
        if with_node:
            node.prepare(self.version)
        self._with_node = with_node
        self._kine = assets.tool("kine") if with_sqlite else None
        self._pids: dict[str, int] = {}
        self._durable = durable
        self._directory = directory
        self._requested_issuer = issuer
        self._apiserver_flags = tuple(apiserver_flags)
        self._crds = tuple(crds)
        self._running = contextlib.ExitStack()
        self._kept = threading.local()
        self._connections: list[http.client.HTTPSConnection] = []
        self._running_servers: list[str] = []
        self._node: ClusterNode | None = None

    @property
    def node(self) -> ClusterNode:
        """Return the node. Raise ClusterError if the cluster has no node."""
        if not self._node:
            raise ClusterError("this cluster has no node: create it with ControlPlane(with_node=True)")
        return self._node

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all servers. Return when namespaces can be used. If a server fails, stop the others."""
        with contextlib.ExitStack() as stack:
            workspace = Workspace(self._directory)
            stack.callback(workspace.close)
            stack.callback(self._disconnect)
            logs = workspace.empty("logs")
            scratch = workspace.folder if workspace.temporary else None
            self.processes = ServerProcesses(scratch=scratch, keep_open=[workspace.lock])
            stack.callback(self.processes.close)
            if self._with_node:
                self._node = ClusterNode(workspace.empty("node"), self.version, self.processes, logs)
            authority = self._prepare_files(workspace, stack)
            if self._kine:
                self._launch_server("kine", self.layout.kine())
            else:
                self._launch_server("etcd", self.layout.etcd())
            self._launch_server("kube-apiserver", self.layout.apiserver())
            self._wait_until_ready()
            self._create_crds()
            # The controller manager ends if the API server does not grant its rights within ten seconds, as on a busy
            # machine. Therefore it starts only now.
            self._launch_server("kube-controller-manager", self.layout.controller_manager())
            self.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", _ISSUER_DISCOVERY)
            # Controllers create this ServiceAccount. After that, namespaces can be used.
            self._wait_for("/api/v1/namespaces/default/serviceaccounts/default")
            if self._with_node:
                self._start_node(authority)
            self._running = stack.pop_all()

    def stop(self) -> None:
        """Stop all servers. Do nothing if no server runs."""
        self._running.close()

    def check(self) -> None:
        """Raise ClusterError with the end of the log if one of the servers does not run."""
        for name in self._running_servers:
            self.processes.require(name)

    @property
    def pids(self) -> Mapping[str, int]:
        """Return the process id of each server by its name. A restart changes a server's process id."""
        return MappingProxyType(self._pids)

    @property
    def database_pid(self) -> int:
        """Return the process id of the database: etcd, or kine with SQLite."""
        return self._pids["kine" if self._kine else "etcd"]

    def stop_apiserver(self) -> None:
        """Stop the API server. etcd keeps the data, and the port stays reserved."""
        self.processes.stop("kube-apiserver", _GRACE_SECONDS)

    def start_apiserver(self) -> None:
        """Start the API server, and the controller manager if it ended in the meantime. Return when they are ready."""
        self._launch_server("kube-apiserver", self.layout.apiserver())
        if not self.processes.is_running("kube-controller-manager"):
            self._launch_server("kube-controller-manager", self.layout.controller_manager())
        self._wait_until_ready()

    def fill_etcd(self) -> None:
        """Raise etcd's alarm NOSPACE. etcd then refuses all writes."""
        self._ask_etcd("/v3/maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"})

    def free_etcd(self) -> None:
        """Compact and defragment etcd and disarm the alarm, as an administrator does when etcd is full."""
        revision = self._ask_etcd("/v3/maintenance/status", {})["header"]["revision"]
        self._ask_etcd("/v3/kv/compaction", {"revision": revision})
        self._ask_etcd("/v3/maintenance/defragment", {})
        self._ask_etcd("/v3/maintenance/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE"})

    def stop_controller_manager(self) -> None:
        """Stop the controller manager, and with it the garbage collector, until `restart_controller_manager`."""
        self.processes.stop("kube-controller-manager", _GRACE_SECONDS)

    def restart_controller_manager(self) -> None:
        """Restart the controller manager, so that its garbage collector discovers new kinds now and not within 30 s."""
        self.processes.stop("kube-controller-manager", _GRACE_SECONDS)
        self._launch_server("kube-controller-manager", self.layout.controller_manager())

    def kubectl(
        self,
        *args: str,
        stdin: str | None = None,
        kubeconfig: Path | None = None,
        check: bool = True,
        timeout: float = 120.0,
    ) -> str:
        """Run kubectl and return its output. It is cluster-admin unless another kubeconfig is given.

        Raise ClusterError if kubectl takes longer than `timeout` seconds. Raise it with kubectl's error output if
        kubectl fails and `check` is True.
        """
        command = [str(self.kubectl_path), f"--kubeconfig={kubeconfig or self.kubeconfig}"]
        command.append(f"--cache-dir={self.layout.folder}/kubectl")
        shown = f"kubectl {' '.join(args)}"
        try:
            done = subprocess.run(
                [*command, *args],
                # Without this, kubectl could wait for input from the terminal.
                input=stdin or "",
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{shown}: kubectl did not end within {timeout:g} s") from error
        if check and done.returncode:
            raise ClusterError(f"{shown}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, content_type: str = _JSON
    ) -> tuple[int, str]:
        """Send one request as cluster-admin, without kubectl. Return the status and the body.

        Raise OSError if no answer arrives. A GET reuses this thread's connection, and is sent again if the API server
        has closed that connection.
        """
        if method != "GET":
            with self.session() as send:
                return send(method, path, body, content_type)
        kept: http.client.HTTPSConnection | None = getattr(self._kept, "connection", None)
        if kept is not None and kept.sock is not None:
            try:
                return _send_request(kept, method, path)
            except TimeoutError:
                kept.close()
                raise
            except (OSError, http.client.HTTPException):
                kept.close()
        if kept is None:
            self._kept.connection = kept = self._connect()
            self._connections.append(kept)
        try:
            return _send_request(kept, method, path)
        except BaseException:
            kept.close()
            raise

    def read_object(self, path: str) -> dict[str, Any]:
        """Return the object or the list at this path of the API. Raise ClusterError if there is none."""
        return _decode_object(path, *self.request("GET", path))

    def find_object(self, path: str) -> dict[str, Any] | None:
        """Return the object at this path of the API; None if there is none. Raise ClusterError for another answer."""
        status, text = self.request("GET", path)
        return None if status == http.HTTPStatus.NOT_FOUND else _decode_object(path, status, text)

    @contextlib.contextmanager
    def session(self) -> Iterator[Callable[..., tuple[int, str]]]:
        """Yield a function like `request` that sends all its requests over one connection."""
        with contextlib.closing(self._connect()) as connection:
            yield functools.partial(_send_request, connection)

    def _disconnect(self) -> None:
        while self._connections:
            self._connections.pop().close()
        self._kept = threading.local()

    def _connect(self) -> http.client.HTTPSConnection:
        address = f"{self.layout.host}:{self.layout.apiserver_port}"
        return http.client.HTTPSConnection(address, context=self._tls, timeout=_REQUEST_SECONDS)

    def kubeconfig_for(self, token: str, name: str) -> Path:
        """Write a kubeconfig with a bearer token. A second call with the same `name` replaces the file."""
        path = self.layout.folder / f"{name}.kubeconfig"
        return kubeconfig.write(path, self.url, self.ca_file, name, {"token": token})

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Write a kubeconfig of an existing service account, with a token for 24 hours."""
        return self.kubeconfig_for(self.request_token(namespace, name), f"{namespace}-{name}")

    def account_environment(self, namespace: str, name: str, folder: Path) -> dict[str, str]:
        """Return the environment variables of a pod with that service account. Put the mounted files into `folder`."""
        folder.mkdir()
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(self.request_token(namespace, name))
        shutil.copy(self.ca_file, folder / "ca.crt")
        where = urlsplit(self.url)
        return {
            "KUBERNETES_SERVICE_HOST": str(where.hostname),
            "KUBERNETES_SERVICE_PORT": str(where.port),
            "SERVICE_ACCOUNT_FOLDER": str(folder),
        }

    def request_token(self, namespace: str, name: str) -> str:
        """Return a token of an existing service account, for 24 hours."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": _DAY}}
        status, text = self.request("POST", path, body)
        if status != http.HTTPStatus.CREATED:
            raise ClusterError(f"no token of ServiceAccount {name} in {namespace}: {status} {text[-1000:]}")
        return str(json.loads(text)["status"]["token"])

    def _prepare_files(self, workspace: Workspace, stack: contextlib.ExitStack) -> pki.ClusterAuthority:
        """Reserve ports, and write certificates and configuration files. Return the cluster's authority."""
        network = self._node.network if self._node else None

        def reserve(host: str = servers.LOOPBACK) -> int:
            reserved = stack.enter_context(reserve_port(host))
            return int(reserved.getsockname()[1])

        layout = servers.PlaneLayout(
            folder=workspace.folder,
            programs=self._assets.folder,
            etcd_port=reserve(),
            etcd_peer_port=reserve(),
            apiserver_port=reserve(network.host if network else servers.LOOPBACK),
            requested_issuer=self._requested_issuer,
            extra_flags=self._apiserver_flags,
            network=network,
            kine_program=self._kine,
            durable=self._durable,
        )
        workspace.empty("etcd")
        folder = workspace.empty("pki")
        layout.write()
        etcd, cluster = pki.ClusterAuthority(folder, "etcd-ca"), pki.ClusterAuthority(folder, "ca")
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
        self.layout = layout
        self._tls = ssl.create_default_context(cafile=layout.ca_file)
        self._tls.load_cert_chain(admin.cert, admin.key)
        self._etcd_tls = ssl.create_default_context(cafile=etcd.pair.cert)
        self._etcd_tls.load_cert_chain(client.cert, client.key)
        self.url, self.ca_file, self.issuer = layout.url, layout.ca_file, layout.issuer
        self.kubeconfig, self.audit_log = layout.admin_kubeconfig, layout.audit_log
        return cluster

    def _create_crds(self) -> None:
        """Create the definitions, and wait until the API server lists all their kinds for discovery."""
        for crd in self._crds:
            status, answer = self.request("POST", _CRDS, dict(crd))
            if status != http.HTTPStatus.CREATED:
                raise ClusterError(f"the API server refuses {crd['metadata']['name']}: {status} {answer[-1000:]}")
        wanted = {f"{crd['spec']['names']['plural']}.{crd['spec']['group']}" for crd in self._crds}
        if wanted:
            self._wait_for("/apis", lambda found: wanted <= set(_discovered_kinds(found)), accept=_DISCOVERY)

    def _start_node(self, authority: pki.ClusterAuthority) -> None:
        self._launch_server("kube-scheduler", self.layout.scheduler(assets.node(self.version).path("kube-scheduler")))
        for plural, body in (("clusterroles", node.DNS_RIGHTS), ("clusterrolebindings", node.DNS_BINDING)):
            self.request("POST", f"/apis/rbac.authorization.k8s.io/v1/{plural}", body)
        self._running_servers += ["network", "node"]
        self.node.start(self.url, authority)
        ready = {"type": "Ready", "status": "True"}
        self._wait_for(
            f"/api/v1/nodes/{node_servers.NAME}",
            lambda found: any(ready.items() <= each.items() for each in found["status"].get("conditions", [])),
        )

    def _launch_server(self, name: str, argv: Sequence[str]) -> None:
        self._pids[name] = self.processes.start(name, argv, self.layout.log(name))
        if name not in self._running_servers:
            self._running_servers.append(name)

    def _wait_until_ready(self) -> None:
        self._wait_for("/readyz")

    def _wait_for(self, path: str, wanted: Callable[[dict[str, Any]], bool] | None = None, accept: str = _JSON) -> None:
        deadline = time.monotonic() + _START_SECONDS
        last = "no answer"
        while time.monotonic() < deadline:
            self.check()
            try:
                with self.session() as send:
                    status, body = send("GET", path, accept=accept)
            except OSError as error:  # the server does not listen yet, or has ended
                status, body = 0, str(error)
            if status == http.HTTPStatus.OK and (wanted is None or wanted(json.loads(body))):
                return
            last = f"{status} {body}".strip() if status else body
            time.sleep(_POLL_SECONDS)
        raise ClusterError(f"the control plane was not ready after {_START_SECONDS:g} s: {path} answers {last[-1000:]}")

    def _ask_etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        address = f"{servers.LOOPBACK}:{self.layout.etcd_port}"
        connection = http.client.HTTPSConnection(address, context=self._etcd_tls, timeout=_REQUEST_SECONDS)
        with contextlib.closing(connection):
            status, text = _send_request(connection, "POST", path, body)
        if status != http.HTTPStatus.OK:
            raise ClusterError(f"etcd answers {path} with {status} {text[-1000:]}")
        answer: dict[str, Any] = json.loads(text)
        return answer


def _decode_object(path: str, status: int, text: str) -> dict[str, Any]:
    if status != http.HTTPStatus.OK:
        raise ClusterError(f"GET {path}: {status} {text[-1000:]}")
    found: dict[str, Any] = json.loads(text)
    return found


def _discovered_kinds(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the kinds of an APIGroupDiscoveryList, as {plural}.{group}."""
    for group in found["items"]:
        for version in group["versions"]:
            for resource in version.get("resources", []):
                yield f"{resource['resource']}.{group['metadata']['name']}"


def _send_request(
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    content_type: str = _JSON,
    accept: str = _JSON,
) -> tuple[int, str]:
    """Send one request. As client-go does, send it again while the API server answers 429 with Retry-After."""
    headers = {"Content-Type": content_type, "Accept": accept}
    for attempt in range(_MAX_RETRIES + 1):
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode()
        retry_after = response.getheader("Retry-After", "")
        if response.status != http.HTTPStatus.TOO_MANY_REQUESTS or not retry_after or attempt == _MAX_RETRIES:
            break
        time.sleep(min(float(retry_after), _MAX_RETRY_SECONDS))
    return response.status, text
