"""Where the files of a control plane lie, and the command lines of its servers. Nothing is started here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.local_cluster.nodes.network import NodeNetwork

LOOPBACK = "127.0.0.1"
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager")

_SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
_SERVICE_RANGE = "10.96.0.0/16"
_SERVICE_ADDRESS = "10.96.0.1"  # the first

_AUDIT_POLICY = {
    # RequestReceived would say everything twice. A watch has two lines: ResponseStarted, ResponseComplete.
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class PlaneLayout:
    """One control plane's folder, ports and parameters."""

    folder: Path
    programs: Path
    etcd_port: int
    etcd_peer_port: int
    apiserver_port: int
    requested_issuer: str | None
    extra_flags: Sequence[str]
    network: NodeNetwork | None = None  # of the node, where there is one: then the API server listens there
    kine_program: Path | None = None  # if the objects are in SQLite instead of etcd

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://{self.host}:{self.apiserver_port}"

    @property
    def host(self) -> str:
        """The API server's address: loopback, or where pods can reach it."""
        return self.network.host if self.network else LOOPBACK

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every name and address by which somebody calls the API server."""
        return self.host, "localhost", *_SERVICE_NAMES, self.network.api if self.network else _SERVICE_ADDRESS

    @property
    def issuer(self) -> str:
        """The `iss` of service account tokens."""
        return self.requested_issuer or self.url

    @property
    def ca_file(self) -> Path:
        """The authority behind the API server's certificate and the clients' ones."""
        return self._pki_files("ca.crt")

    @property
    def admin_kubeconfig(self) -> Path:
        """Of a member of system:masters."""
        return self.folder / "admin.kubeconfig"

    @property
    def manager_kubeconfig(self) -> Path:
        """Of the controller-manager."""
        return self.folder / "controller-manager.kubeconfig"

    @property
    def scheduler_kubeconfig(self) -> Path:
        """Of the scheduler."""
        return self.folder / "scheduler.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """JSON lines."""
        return self.log("audit")

    def log(self, name: str) -> Path:
        """The file that a server's output goes to."""
        return self.folder / "logs" / f"{name}.log"

    def write(self) -> None:
        """The configuration files that the command lines below refer to."""
        (self.folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))

    def etcd(self) -> list[str]:
        """Only who has a certificate of its own authority gets in: other users of the machine do not."""
        client, peer = f"https://127.0.0.1:{self.etcd_port}", f"https://127.0.0.1:{self.etcd_peer_port}"
        cert, key, authority = self._pki_files("etcd.crt"), self._pki_files("etcd.key"), self._pki_files("etcd-ca.crt")
        return [
            f"{self.programs}/etcd",
            "--name=local",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=local={peer}",
            *(f"--{side}cert-file={cert}" for side in ("", "peer-")),
            *(f"--{side}key-file={key}" for side in ("", "peer-")),
            *(f"--{side}trusted-ca-file={authority}" for side in ("", "peer-")),
            "--client-cert-auth",
            "--peer-client-cert-auth",
            "--socket-reuse-port",  # see reserve_port()
            "--unsafe-no-fsync",  # a cluster that ends with its process need not survive a power cut
            "--log-level=warn",
        ]

    def kine(self) -> list[str]:
        """Return the command line of kine with SQLite. Its socket is in a folder that other users cannot enter."""
        # The parameters that kine itself uses if no file is named, and so k3s.
        options = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&cache=shared"
        return [
            str(self.kine_program),
            f"--listen-address={self._kine_socket}",
            f"--endpoint=sqlite://{self.folder}/etcd/state.db?{options}",
            "--metrics-bind-address=0",
        ]

    @property
    def _kine_socket(self) -> str:
        return f"unix://{self.folder}/etcd/kine.sock"

    def apiserver(self) -> list[str]:
        """As on a cluster that people use, but for the audit log of everything."""
        replaced = {flag.partition("=")[0] for flag in self.extra_flags}
        return [flag for flag in self._apiserver_command() if flag.partition("=")[0] not in replaced] + list(
            self.extra_flags
        )

    def _apiserver_command(self) -> list[str]:
        return [
            f"{self.programs}/kube-apiserver",
            f"--bind-address={self.host}",
            f"--advertise-address={self.host}",
            f"--secure-port={self.apiserver_port}",
            "--permit-port-sharing",  # see reserve_port()
            *self._for_pods(),
            *self._database(),
            f"--tls-cert-file={self._pki_files('apiserver.crt')}",
            f"--tls-private-key-file={self._pki_files('apiserver.key')}",
            f"--client-ca-file={self.ca_file}",
            "--authorization-mode=Node,RBAC",
            "--anonymous-auth=true",
            "--allow-privileged=true",
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            f"--service-account-issuer={self.issuer}",
            f"--service-account-jwks-uri={self.url}/openid/v1/jwks",
            f"--service-account-key-file={self._pki_files('service-accounts.key')}",
            f"--service-account-signing-key-file={self._pki_files('service-accounts.key')}",
            "--service-account-max-token-expiration=24h",
            f"--audit-policy-file={self.folder}/audit-policy.json",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=1024",  # MiB; without it the log would be cut off at 100
            "--audit-log-maxbackup=1",
            "--profiling=false",
        ]

    def _database(self) -> list[str]:
        if self.kine_program:
            return [f"--etcd-servers={self._kine_socket}"]
        return [
            f"--etcd-servers=https://127.0.0.1:{self.etcd_port}",
            f"--etcd-cafile={self._pki_files('etcd-ca.crt')}",
            f"--etcd-certfile={self._pki_files('etcd-client.crt')}",
            f"--etcd-keyfile={self._pki_files('etcd-client.key')}",
        ]

    def _for_pods(self) -> list[str]:
        if not self.network:
            # 127.0.0.1 may not stand in the endpoints of the Service `kubernetes`.
            return ["--endpoint-reconciler-type=none", f"--service-cluster-ip-range={_SERVICE_RANGE}"]
        return [
            f"--service-cluster-ip-range={self.network.services}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={self.ca_file}",
            f"--kubelet-client-certificate={self._pki_files('apiserver-kubelet.crt')}",
            f"--kubelet-client-key={self._pki_files('apiserver-kubelet.key')}",
        ]

    def scheduler(self, program: Path) -> list[str]:
        """Where there is a node."""
        return [
            str(program),
            f"--kubeconfig={self.scheduler_kubeconfig}",
            "--secure-port=0",  # it serves nothing
            "--leader-elect=false",
            "--profiling=false",
        ]

    def controller_manager(self) -> list[str]:
        """Without it namespaces stay Terminating, nothing is collected, and service accounts are missing."""
        return [
            f"{self.programs}/kube-controller-manager",
            f"--kubeconfig={self.manager_kubeconfig}",
            "--secure-port=0",  # it serves nothing
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--root-ca-file={self.ca_file}",
            f"--service-account-private-key-file={self._pki_files('service-accounts.key')}",
            f"--cluster-signing-cert-file={self.ca_file}",
            f"--cluster-signing-key-file={self._pki_files('ca.key')}",
            # Nobody else uses this API server: what is deleted is collected at once.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--concurrent-gc-syncs=20",
            "--profiling=false",
        ]

    def _pki_files(self, name: str) -> Path:
        return self.folder / "pki" / name
