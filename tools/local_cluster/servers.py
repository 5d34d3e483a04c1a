"""The file layout of a control plane, and the command lines of its servers. This module starts nothing."""

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
    # RequestReceived would log each request twice. A watch has two lines: ResponseStarted and ResponseComplete.
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class PlaneLayout:
    """The folder, ports and parameters of one control plane."""

    folder: Path
    programs: Path
    etcd_port: int
    etcd_peer_port: int
    apiserver_port: int
    requested_issuer: str | None
    extra_flags: Sequence[str]
    network: NodeNetwork | None = None  # the network of the node. If it is set, the API server listens there
    kine_program: Path | None = None  # set if SQLite stores the objects instead of etcd
    durable: bool = False  # whether etcd syncs each write to disk

    @property
    def url(self) -> str:
        """Return the address of the API server."""
        return f"https://{self.host}:{self.apiserver_port}"

    @property
    def host(self) -> str:
        """Return the API server's IP address: loopback, or an address that pods can reach."""
        return self.network.host if self.network else LOOPBACK

    @property
    def hosts(self) -> tuple[str, ...]:
        """Return all names and addresses of the API server, for its certificate."""
        return self.host, "localhost", *_SERVICE_NAMES, self.network.api if self.network else _SERVICE_ADDRESS

    @property
    def issuer(self) -> str:
        """Return the `iss` of service account tokens."""
        return self.requested_issuer or self.url

    @property
    def ca_file(self) -> Path:
        """Return the certificate of the authority that signs the certificates of the API server and its clients."""
        return self._pki_files("ca.crt")

    @property
    def admin_kubeconfig(self) -> Path:
        """Return the kubeconfig of a member of system:masters."""
        return self.folder / "admin.kubeconfig"

    @property
    def manager_kubeconfig(self) -> Path:
        """Return the kubeconfig of kube-controller-manager."""
        return self.folder / "controller-manager.kubeconfig"

    @property
    def scheduler_kubeconfig(self) -> Path:
        """Return the kubeconfig of kube-scheduler."""
        return self.folder / "scheduler.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """Return the audit log, which has JSON lines."""
        return self.log("audit")

    def log(self, name: str) -> Path:
        """Return the file for the output of a server."""
        return self.folder / "logs" / f"{name}.log"

    def write(self) -> None:
        """Write the configuration files to which the command lines refer."""
        (self.folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))

    def etcd(self) -> list[str]:
        """Return the command line of etcd. It accepts only certificates of its own authority.

        Therefore other users of the machine cannot read it.
        """
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
            # The cluster ends with its process, so its data need not survive a power failure.
            *([] if self.durable else ["--unsafe-no-fsync"]),
            "--log-level=warn",
        ]

    def kine(self) -> list[str]:
        """Return the command line of kine with SQLite. Its socket is in a folder that other users cannot enter."""
        # kine itself, and therefore k3s, uses these parameters if no file is named.
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
        """Return the command line of kube-apiserver. It has usual settings, and an audit log of all requests."""
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
            *self._service_flags(),
            *self._database_flags(),
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
            "--audit-log-maxsize=1024",  # MiB; the default of 100 would rotate the log
            "--audit-log-maxbackup=1",
            "--profiling=false",
        ]

    def _database_flags(self) -> list[str]:
        if self.kine_program:
            return [f"--etcd-servers={self._kine_socket}"]
        return [
            f"--etcd-servers=https://127.0.0.1:{self.etcd_port}",
            f"--etcd-cafile={self._pki_files('etcd-ca.crt')}",
            f"--etcd-certfile={self._pki_files('etcd-client.crt')}",
            f"--etcd-keyfile={self._pki_files('etcd-client.key')}",
        ]

    def _service_flags(self) -> list[str]:
        if not self.network:
            # The endpoints of the Service `kubernetes` must not contain 127.0.0.1.
            return ["--endpoint-reconciler-type=none", f"--service-cluster-ip-range={_SERVICE_RANGE}"]
        return [
            f"--service-cluster-ip-range={self.network.services}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={self.ca_file}",
            f"--kubelet-client-certificate={self._pki_files('apiserver-kubelet.crt')}",
            f"--kubelet-client-key={self._pki_files('apiserver-kubelet.key')}",
        ]

    def scheduler(self, program: Path) -> list[str]:
        """Return the command line of kube-scheduler, which a control plane with a node needs."""
        return [
            str(program),
            f"--kubeconfig={self.scheduler_kubeconfig}",
            "--secure-port=0",  # do not serve metrics and probes
            "--leader-elect=false",
            "--profiling=false",
        ]

    def controller_manager(self) -> list[str]:
        """Return the command line of kube-controller-manager.

        It creates default service accounts, deletes terminating namespaces, and collects garbage.
        """
        return [
            f"{self.programs}/kube-controller-manager",
            f"--kubeconfig={self.manager_kubeconfig}",
            "--secure-port=0",  # do not serve metrics and probes
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--root-ca-file={self.ca_file}",
            f"--service-account-private-key-file={self._pki_files('service-accounts.key')}",
            f"--cluster-signing-cert-file={self.ca_file}",
            f"--cluster-signing-key-file={self._pki_files('ca.key')}",
            # No other client shares this API server, so high limits let the garbage collector delete objects at once.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--concurrent-gc-syncs=20",
            "--profiling=false",
        ]

    def _pki_files(self, name: str) -> Path:
        return self.folder / "pki" / name
