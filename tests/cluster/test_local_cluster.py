"""Test the local control plane, on which all other cluster tests run, with the real programs."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.cluster.harness import eventually
from tools.local_cluster import ClusterError, ControlPlane
from tools.local_cluster.programs import assets

REPOSITORY = Path(__file__).parents[2]
SECONDS_TO_READY = 10.0


@pytest.fixture(scope="module")
def own() -> Iterator[tuple[ControlPlane, float]]:
    """Provide a control plane for this module alone, because tests restart it, and the seconds until it was ready."""
    plane = ControlPlane()
    started = time.monotonic()
    with plane:
        yield plane, time.monotonic() - started


@pytest.fixture
def plane(own: tuple[ControlPlane, float]) -> ControlPlane:
    return own[0]


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    name = str(request.node.name).replace("_", "-")[:60].strip("-")
    plane.kubectl("create", "namespace", name)
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    eventually(lambda: plane.request("GET", account)[0], lambda status: status == 200)
    return name


def get_anonymously(plane: ControlPlane, url: str) -> dict[str, Any]:
    tls = ssl.create_default_context(cafile=plane.ca_file)
    with urllib.request.urlopen(url, context=tls, timeout=10) as response:  # noqa: S310
        body: dict[str, Any] = json.load(response)
    return body


def read_audit_log(plane: ControlPlane) -> list[dict[str, Any]]:
    # The API server may still be writing the last line.
    return [json.loads(line) for line in plane.audit_log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def list_processes(folder: str) -> list[int]:
    """Return the ids of the servers and the supervisor, whose command lines contain the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # the process has ended
            continue
        if any(folder.encode() in word for word in command[1:]) and b"-c" not in command:
            found.append(int(process.name))
    return found


def test_control_plane_is_ready_in_time(own: tuple[ControlPlane, float]) -> None:
    plane, seconds = own
    assert seconds < SECONDS_TO_READY
    assert json.loads(plane.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"] == f"v{plane.version}"


def test_keys_of_the_issuer_are_public(plane: ControlPlane, namespace: str) -> None:
    discovery = get_anonymously(plane, f"{plane.issuer}/.well-known/openid-configuration")
    assert discovery["issuer"] == plane.issuer == plane.url
    keys = jwt.PyJWKSet.from_dict(get_anonymously(plane, discovery["jwks_uri"]))
    token = plane.kubectl(
        "create",
        "token",
        "default",
        "-n",
        namespace,
        "--audience=api://AzureADTokenExchange",
        "--duration=48h",
    ).strip()
    claims = jwt.decode(
        token,
        keys[jwt.get_unverified_header(token)["kid"]],
        algorithms=["RS256"],
        audience="api://AzureADTokenExchange",
        issuer=plane.issuer,
    )
    assert claims["sub"] == f"system:serviceaccount:{namespace}:default"
    assert claims["exp"] - claims["iat"] == 24 * 3600, "the API server must shorten the requested duration to 24 h"


def test_anonymous_users_cannot_list_namespaces(plane: ControlPlane) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get_anonymously(plane, f"{plane.url}/api/v1/namespaces")


def test_every_request_of_a_user_is_in_the_audit_log(plane: ControlPlane, namespace: str) -> None:
    kubeconfig = plane.service_account_kubeconfig(namespace, "default")
    with pytest.raises(ClusterError, match="Forbidden"):
        plane.kubectl("get", "secret", "some-name", "-n", namespace, kubeconfig=kubeconfig)
    user = f"system:serviceaccount:{namespace}:default"

    def list_events() -> list[dict[str, Any]]:
        return [
            event
            for event in read_audit_log(plane)
            if event["user"]["username"] == user and event.get("objectRef", {}).get("resource") == "secrets"
        ]

    eventually(list_events, bool)
    [event] = list_events()
    assert event["verb"] == "get"
    assert event["objectRef"]["namespace"] == namespace
    assert event["objectRef"]["name"] == "some-name"
    assert event["responseStatus"]["code"] == 403
    assert event["requestURI"] == f"/api/v1/namespaces/{namespace}/secrets/some-name"
    assert event["userAgent"].startswith("kubectl/")
    assert {event["stage"] for event in read_audit_log(plane)} <= {
        "ResponseStarted",
        "ResponseComplete",
        "Panic",
    }


def test_owner_reference_needs_the_right_to_delete(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("create", "configmap", "owner", "-n", namespace)
    plane.kubectl("create", "configmap", "owned", "-n", namespace)
    plane.kubectl("create", "role", "writer", "-n", namespace, "--verb=get,patch", "--resource=configmaps")
    plane.kubectl(
        "create",
        "rolebinding",
        "writer",
        "-n",
        namespace,
        "--role=writer",
        f"--serviceaccount={namespace}:default",
    )
    kubeconfig = plane.service_account_kubeconfig(namespace, "default")
    uid = plane.kubectl("get", "configmap", "owner", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    patch = json.dumps({"metadata": {"ownerReferences": [reference]}})
    command = ["patch", "configmap", "owned", "-n", namespace, "--type=merge", "--patch", patch]
    with pytest.raises(ClusterError, match="cannot set an ownerRef on a resource you can't delete"):
        plane.kubectl(*command, kubeconfig=kubeconfig)
    plane.kubectl(*command)
    plane.kubectl("delete", "configmap", "owner", "-n", namespace)

    def is_collected() -> bool:
        return plane.kubectl("get", "configmap", "owned", "-n", namespace, "--ignore-not-found") == ""

    eventually(is_collected, bool)


CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  names: {kind: Thing, plural: things}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object}}
"""


def test_objects_of_a_new_kind_are_collected_after_a_manager_restart(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("apply", "-f", "-", stdin=CRD)
    plane.kubectl("wait", "--for=condition=Established", "crd/things.example.com")
    plane.restart_controller_manager()
    thing = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}}
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(thing))
    uid = plane.kubectl("get", "thing", "a", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    reference = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "a", "uid": uid}
    owned = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "of-a", "ownerReferences": [reference]},
    }
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(owned))
    plane.kubectl("delete", "thing", "a", "-n", namespace)

    def is_collected() -> bool:
        return plane.kubectl("get", "configmap", "of-a", "-n", namespace, "--ignore-not-found") == ""

    eventually(is_collected, bool, patience=10)


def test_restarted_api_server_keeps_its_data_and_address(plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("create", "configmap", "kept", "-n", namespace, "--from-literal=key=value")
    url = plane.url
    plane.stop_apiserver()
    with pytest.raises(ClusterError, match=r"^kube-apiserver (ended|was terminated)"):
        plane.check()
    with pytest.raises(ClusterError, match="refused"):
        plane.kubectl("get", "namespaces")
    plane.start_apiserver()
    assert plane.url == url
    assert plane.kubectl("get", "configmap", "kept", "-n", namespace, "-o", "jsonpath={.data.key}") == "value"


def test_controller_manager_survives_an_api_server_restart(plane: ControlPlane) -> None:
    plane.restart_controller_manager()
    plane.stop_apiserver()  # the controller manager is still starting
    eventually(lambda: plane.processes.is_running("kube-controller-manager"), lambda there: not there, patience=30)
    plane.start_apiserver()
    plane.check()


def test_etcd_accepts_only_the_certificate_of_the_api_server(plane: ControlPlane) -> None:
    pki = plane.ca_file.parent

    def request_etcd(certificate: str | None) -> str:
        tls = ssl.create_default_context(cafile=pki / "etcd-ca.crt")
        if certificate:
            tls.load_cert_chain(pki / f"{certificate}.crt", pki / f"{certificate}.key")
        url = f"https://127.0.0.1:{plane.layout.etcd_port}/version"
        with urllib.request.urlopen(url, context=tls, timeout=5) as response:
            return str(response.read())

    assert "etcdserver" in request_etcd("etcd-client")
    # etcd also refuses the administrator's certificate, because another authority signed it.
    for certificate in (None, "admin"):
        with pytest.raises(OSError, match=r"(?i)alert|certificate|EOF|reset"):
            request_etcd(certificate)


def test_kubectl_errors_are_readable(plane: ControlPlane) -> None:
    with pytest.raises(ClusterError, match=r'^kubectl get nonsense: error: the server doesn\'t have .* "nonsense"$'):
        plane.kubectl("get", "nonsense")
    assert plane.kubectl("get", "nonsense", check=False) == ""


def test_invalid_flag_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "plane", apiserver_flags=["--no-such-flag"])
    with pytest.raises(ClusterError, match=r"kube-apiserver ended with code 1:\n.*unknown flag: --no-such-flag"):
        plane.start()
    assert list_processes(str(tmp_path)) == []


def test_stop_is_quick_and_leaves_only_the_given_folder(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "plane", issuer="https://issuer.example")
    plane.start()
    assert len(list_processes(str(tmp_path))) == 3
    token = plane.kubectl("create", "token", "default").strip()
    assert jwt.decode(token, options={"verify_signature": False})["iss"] == plane.issuer == "https://issuer.example"
    started = time.monotonic()
    plane.stop()
    assert time.monotonic() - started < 3
    assert list_processes(str(tmp_path)) == []
    assert plane.audit_log.exists()
    plane.stop()


PARENT = """
import time
from tools.local_cluster import ControlPlane
with ControlPlane() as plane:
    print(plane.kubeconfig.parent, flush=True)
    time.sleep(60)
"""


def test_all_processes_end_after_their_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip())
        assert folder.parent == tmp_path
        assert len(list_processes(str(folder))) == 4
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        eventually(lambda: list_processes(str(folder)), lambda left: not left)
    eventually(folder.exists, lambda there: not there)
    assert list(tmp_path.iterdir()) == []


def test_chart_testing_is_installed_with_its_configuration() -> None:
    ct = assets.tool("ct")
    version = subprocess.run([ct, "version"], capture_output=True, text=True, check=True).stdout
    assert "v3.14.0" in version
    assert {file.name for file in (ct.parent / "etc").iterdir()} == {"chart_schema.yaml", "lintconf.yaml"}


def test_command_starts_and_stops_the_cluster(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "KUBEBUILDER_ASSETS": str(assets.kubernetes().folder),
    }

    def cluster(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-P", "-m", "tools.local_cluster", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    killed = tmp_path / "akv-secret-store" / "clusters" / "test"
    killed.mkdir(parents=True)
    (killed / "serve.json").write_text(
        '{"name": "test", "pid": 1, "version": "1.0.0", "url": "https://127.0.0.1:1", "kubeconfig": "/nowhere"}'
    )
    try:
        up = cluster("up", "--name", "test")
        assert up.returncode == 0, up.stderr
        path = cluster("kubeconfig", "--name", "test").stdout.strip()
        assert f"export KUBECONFIG={path}\n" in up.stdout
        assert "kube-system" in cluster("kubectl", "--name", "test", "--", "get", "namespaces").stdout
        assert cluster("up", "--name", "test").stdout == up.stdout
        other = cluster("up", "--name", "test", "--kubernetes", "1.20.0")
        assert other.returncode == 1
        assert "stop it first" in other.stderr
        assert "test: Kubernetes" in cluster("status").stdout
        assert len(list_processes(path.removesuffix("admin.kubeconfig"))) == 3
    finally:
        down = cluster("down", "--name", "test")
    assert down.stdout == "cluster 'test' stopped\n"
    assert list_processes(str(tmp_path)) == []
    assert cluster("status").returncode == 1
