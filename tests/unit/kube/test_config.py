"""Test the configuration for the API server: a kubeconfig, or the ServiceAccount of the pod."""

import json
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from controller import errors
from controller.kube import config
from controller.kube.client import KubeClient
from tests.support.scripted_api_server import ScriptedResponse, run_api_server
from tools.keyvault_emulator.tls import LocalAuthority
from tools.local_cluster.pki import ClusterAuthority

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: me, user: {token: t}}]
"""


def make_pod_environment(folder: Path, host: str = "10.0.0.1") -> dict[str, str]:
    """Write a ServiceAccount's files, and return the environment that a kubelet sets."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text("first\n")
    (folder / "ca.crt").write_bytes(ClusterAuthority(folder, "cluster").pair.cert.read_bytes())
    return {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": "443",
        "SERVICE_ACCOUNT_FOLDER": str(folder),
    }


async def test_folder_of_the_kubelet_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = make_pod_environment(tmp_path)
    monkeypatch.setattr(config, "FOLDER", environment.pop("SERVICE_ACCOUNT_FOLDER"))
    assert await (await config.find_config(environment)).authorization() == "Bearer first"


@pytest.mark.parametrize(
    ("host", "server"),
    [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443"), ("api.x", "https://api.x:443")],
)
async def test_pod_is_configured_by_its_service_account(host: str, server: str, tmp_path: Path) -> None:
    found = await config.find_config(make_pod_environment(tmp_path, host))
    assert found.server == server
    assert await found.authorization() == "Bearer first"
    [authority] = found.tls().get_ca_certs()
    assert authority["subject"]


async def test_replaced_token_is_read_again(tmp_path: Path) -> None:
    now = 1000.0
    found = config.read_pod_config(make_pod_environment(tmp_path), lambda: now)
    (tmp_path / "token").write_text("second")
    assert await found.authorization() == "Bearer first"
    now += config.REREAD_SECONDS
    assert await found.authorization() == "Bearer second"
    for unusable in (lambda: (tmp_path / "token").write_text(""), (tmp_path / "token").unlink):
        unusable()
        now += config.REREAD_SECONDS
        assert await found.authorization() == "Bearer second"


async def test_renewed_ca_of_the_cluster_is_trusted_without_a_restart(tmp_path: Path) -> None:
    """`k3s certificate rotate-ca` renews the certificates of the API server, and the kubelet the mounted ca.crt."""
    environment = make_pod_environment(tmp_path)
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    old, new = (LocalAuthority(folder) for folder in folders)
    (tmp_path / "ca.crt").write_bytes(old.file.read_bytes())
    now = 1000.0
    tls = old.server_context(folders[0], ["127.0.0.1"])
    async with run_api_server(tls) as server:
        server.default_response = lambda _: ScriptedResponse({}, headers={"Connection": "close"})
        access = config.read_pod_config(environment, lambda: now)._replace(server=server.url)
        async with KubeClient(access) as kube:
            assert await kube.call("GET", "/") == b"{}"
            new.server_context(folders[1], ["127.0.0.1"])
            tls.load_cert_chain(folders[1] / "server.pem")
            with pytest.raises(errors.Unreachable, match="ClientConnectorCertificateError"):
                await kube.call("GET", "/")
            (tmp_path / "ca.crt").write_bytes(new.file.read_bytes())
            for content in (None, b"", b"none"):
                if content is not None:  # an unusable file changes nothing
                    (tmp_path / "ca.crt").write_bytes(content)
                now += config.REREAD_SECONDS
                assert await kube.call("GET", "/") == b"{}"


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
async def test_pod_without_a_token_is_advised_to_mount_one(missing: str, tmp_path: Path) -> None:
    environment = make_pod_environment(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(errors.Refused, match=rf"{tmp_path} has no usable .* \(FileNotFoundError\); .*automount"):
        await config.find_config(environment)


async def test_invalid_ca_of_the_pod_is_refused(tmp_path: Path) -> None:
    environment = make_pod_environment(tmp_path)
    (tmp_path / "ca.crt").write_text("none")
    with pytest.raises(errors.Refused, match=r"has no usable token and ca\.crt"):
        await config.find_config(environment)


@pytest.mark.parametrize(
    "environment", [{}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"KUBERNETES_SERVICE_PORT": "443"}]
)
async def test_missing_configuration_names_both_ways(environment: Mapping[str, str]) -> None:
    with pytest.raises(errors.Refused, match="run in a pod or set KUBECONFIG"):
        await config.find_config(environment)


async def test_kubeconfig_overrides_the_service_account(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    found = await config.find_config({**make_pod_environment(tmp_path / "pod"), "KUBECONFIG": str(tmp_path / "config")})
    assert found.server == "https://127.0.0.1:6443"
    assert await found.authorization() == "Bearer t"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "kind: Config", KUBECONFIG.replace("current-context: here", "current-context: elsewhere")],
)
async def test_invalid_kubeconfig_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(content)
    with pytest.raises(errors.Refused, match="KUBECONFIG"):
        await config.find_config({"KUBECONFIG": str(tmp_path / "config")})


USER = "{token: t}"
SERVER = "https://127.0.0.1:6443"


def exec_user(*words: str) -> str:
    """Return a user whose credentials come from this command."""
    return json.dumps(
        {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": words[0], "args": words[1:]}}
    )


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        (f'"{SERVER}"', "5", "cluster or the user of its current context is missing"),
        (f'"{SERVER}"', '"127.0.0.1:6443"', "server '127.0.0.1:6443' is not an address such as https://"),
        (f'"{SERVER}"', '"https://"', "is not an address such as https://"),
        ("clusters: [", "clusters: [3, ", "cluster or the user of its current context is missing"),
        ("users: [", "people: [", "cluster or the user of its current context is missing"),
        ("contexts: [", "contexts: 3 #", "cluster or the user of its current context is missing"),
        (f'"{SERVER}"', f'"{SERVER}", proxy-url: "socks5://h:1"', "proxy-url 'socks5://h:1' is not the address of an"),
        (USER, "{tokenFile: /nowhere}", "/nowhere"),
        (USER, exec_user("no-such-program"), r"\(exec\) .* gave none: .*no-such-program.*; install it or sign in"),
        (USER, exec_user("sh", "-c", "echo expired >&2; exit 1"), r"\(exec\) .* gave none: .*expired.*; install it or"),
        (USER, "{exec: {}}", r"\(exec\) .* gave none: .*'command'"),
    ],
)
async def test_unusable_kubeconfig_is_explained(
    old: str, new: str, cause: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert old in KUBECONFIG
    (tmp_path / "config").write_text(KUBECONFIG.replace(old, new))
    with pytest.raises(errors.Refused, match=cause) as refused:
        await config.find_config({"KUBECONFIG": str(tmp_path / "config")})
    assert str(tmp_path / "config") in refused.value.message
    assert capfd.readouterr().err == ""


async def test_kubeconfig_is_obeyed_about_tls_and_proxies(tmp_path: Path) -> None:
    cluster = f'"{SERVER}", insecure-skip-tls-verify: true, tls-server-name: api.example, proxy-url: "http://h:1"'
    (tmp_path / "config").write_text(KUBECONFIG.replace(f'"{SERVER}"', cluster))
    found = await config.find_config({"KUBECONFIG": str(tmp_path / "config")})
    assert ((tls := found.tls()).verify_mode, tls.check_hostname) == (ssl.CERT_NONE, False)
    assert (found.server_name, found.proxy) == ("api.example", "http://h:1")


async def test_client_certificate_of_the_kubeconfig_is_sent(tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    tls = authority.server_context(tmp_path, ["127.0.0.1"])
    clients = ClusterAuthority(tmp_path, "clients")
    tls.load_verify_locations(clients.pair.cert)
    tls.verify_mode = ssl.CERT_REQUIRED
    client = clients.issue("me", user="me")
    user = f"{{client-certificate: {client.cert.name}, client-key: {client.key.name}}}"
    async with run_api_server(tls) as server:
        server.default_response = lambda _: ScriptedResponse({})
        cluster = f'"{server.url}", certificate-authority: ca.pem'
        (tmp_path / "config").write_text(KUBECONFIG.replace(f'"{SERVER}"', cluster).replace(USER, user))
        async with KubeClient(await config.find_config({"KUBECONFIG": str(tmp_path / "config")})) as kube:
            assert await kube.call("GET", "/version") == b"{}"


async def test_requests_use_the_proxy_of_the_kubeconfig(tmp_path: Path) -> None:
    async with run_api_server() as proxy:
        cluster = f'"http://nowhere.invalid", proxy-url: "{proxy.url}"'
        (tmp_path / "config").write_text(KUBECONFIG.replace(f'"{SERVER}"', cluster))
        found = await config.find_config({"KUBECONFIG": str(tmp_path / "config")})
        proxy.add_responses({})
        async with KubeClient(found) as kube:
            await kube.call("GET", "/version")
    assert [request.headers["Host"] for request in proxy.requests] == ["nowhere.invalid"]


@pytest.mark.parametrize(("first", "second"), [("here", "there"), ("there", "here")])
async def test_first_context_of_several_kubeconfigs_counts_as_for_kubectl(
    first: str, second: str, tmp_path: Path
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).write_text(KUBECONFIG.replace("here", name).replace("127.0.0.1", name))
    (tmp_path / "users").write_text("kind: Config\nusers: []\n")
    names = (tmp_path / "missing", tmp_path / "users", tmp_path / first, tmp_path / second)
    found = await config.find_config({"KUBECONFIG": ":".join(map(str, names))})
    assert found.server == f"https://{first}:6443"


@pytest.mark.parametrize("names", ["empty:config", "config:empty"])
async def test_empty_file_among_several_kubeconfigs_is_left_out_as_by_kubectl(names: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    (tmp_path / "empty").touch()
    found = await config.find_config({"KUBECONFIG": ":".join(str(tmp_path / name) for name in names.split(":"))})
    assert found.server == SERVER


async def test_missing_kubeconfig_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match=r"KUBECONFIG names .*none, which is not a file"):
        await config.find_config({"KUBECONFIG": str(tmp_path / "none")})


async def test_kubeconfig_without_the_kubernetes_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    for name in [name for name in sys.modules if name.split(".")[0] == "kubernetes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(errors.Refused, match="is not installed; unset it in a pod, elsewhere install `kubernetes`"):
        await config.find_config({"KUBECONFIG": str(tmp_path / "config")})
