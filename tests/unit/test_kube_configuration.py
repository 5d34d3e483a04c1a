"""Where the API server is and who we are: a kubeconfig, or the pod's own ServiceAccount."""

from pathlib import Path

import pytest

from controller import errors
from controller.kube import load_configuration

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: me, user: {token: t}}]
"""


async def test_a_kubeconfig_names_the_server_and_us(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    configuration = await load_configuration(str(tmp_path / "config"))
    assert configuration.host == "https://127.0.0.1:6443"
    assert await configuration.get_api_key_with_prefix("BearerToken", alias="authorization") == "Bearer t"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "kind: Config", KUBECONFIG.replace("current-context: here", "current-context: elsewhere")],
)
async def test_a_kubeconfig_that_cannot_be_used(content: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(content)
    with pytest.raises(errors.Refused, match="KUBECONFIG"):
        await load_configuration(str(tmp_path / "config"))


async def test_a_missing_kubeconfig_and_no_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.Refused, match=r"KUBECONFIG names .*none, which is not a file"):
        await load_configuration(str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(errors.Refused, match="run in a pod or set KUBECONFIG"):
        await load_configuration(None)
