"""Test that the doctor derives its expectations of a release from the settings in the Deployment."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from controller import errors
from tests.support.scripted_api_server import ScriptedResponse, run_api_server
from tools.cli.common.kube_client import Object, OperatorKubeClient
from tools.cli.doctor import installation
from tools.cli.doctor.checks import CheckLevel
from tools.cli.doctor.endpoints import EndpointProber
from tools.cli.doctor.installation import ReleaseFacts
from tools.codegen.policies import POLICIES
from tools.keyvault_emulator.tls import LocalAuthority

DEFAULT_POLICIES = {"secrets", "no-delete", "tokens", "events", "lease", "overlap", "type-stays"}
AKVSYNC_POLICIES = {"secretsyncs", "secretproviderclasses"}


class FakeApiServer:
    """A fake API server with one release and these policies. It refuses requests for the issuer if there is none.

    It answers each request for the Lease with the next of `holders`, and repeats the last one. None is a 404.
    """

    issuer = ""

    def __init__(
        self,
        names: set[str],
        environment: dict[str, str],
        holders: Sequence[str | None] = (None,),
        available_replicas: int = 0,
    ) -> None:
        self._holders = list(holders)
        self._status = {"availableReplicas": available_replicas}
        self._names = [f"{name}.scribe.home" for name in names]
        self._environment = [{"name": name, "value": text} for name, text in environment.items()]

    async def list_objects(self, path: str, _: str) -> list[Object]:
        if path.endswith("/clusterrolebindings"):
            subject = {"kind": "ServiceAccount", "name": "scribe", "namespace": "home"}
            return [{"metadata": {"name": "scribe.home"}, "subjects": [subject]}]
        if path.endswith("policies"):
            return [{"metadata": {"name": name}, "spec": {}} for name in self._names]
        return [{"spec": {"policyName": name, "validationActions": ["Deny"]}} for name in self._names]

    async def get_object(self, path: str) -> Object:
        if path.endswith("/namespaces/home/deployments/scribe"):
            pod = {"spec": {"serviceAccountName": "scribe", "containers": [{"env": self._environment}]}}
            return {
                "metadata": {"name": "scribe", "namespace": "home"},
                "spec": {"template": pod},
                "status": self._status,
            }
        if "/leases/" in path:
            holder = self._holders.pop(0) if len(self._holders) > 1 else self._holders[0]
            if holder is None:
                raise errors.NotFound("there is no such Lease")
            return {"spec": {"holderIdentity": holder, "renewTime": datetime.now(UTC).isoformat()}}
        if self.issuer:
            return {"issuer": self.issuer, "keys": [{"kid": "1"}]}
        raise errors.Refused("not yours to see", status=403)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, DEFAULT_POLICIES | AKVSYNC_POLICIES),
        ({"AKV_SYNC": "false"}, DEFAULT_POLICIES),
        ({"WATCH_NAMESPACES": "shop"}, DEFAULT_POLICIES | AKVSYNC_POLICIES | {"namespaces"}),
    ],
)
async def test_missing_policy_of_the_release_is_reported(environment: dict[str, str], expected: set[str]) -> None:
    async def check_policies(names: set[str]) -> tuple[CheckLevel, str]:
        installation = ReleaseFacts(
            cast("OperatorKubeClient", FakeApiServer(names, environment)), cast("EndpointProber", None)
        )
        found = {check.name: check for check in await installation.examine()}
        return found["policies"].level, found["policies"].text

    assert await check_policies({policy.name for policy in POLICIES}) == (CheckLevel.OK, f"{len(expected)} in force")
    for name in expected:
        level, text = await check_policies(expected - {name})
        assert level == CheckLevel.FAIL
        assert f"{name}.scribe.home missing" in text


@pytest.mark.parametrize(
    ("available_replicas", "holders", "level"),
    [
        pytest.param(1, [None, None, "pod-1"], CheckLevel.OK, id="the pod creates the Lease a second later"),
        pytest.param(1, ["", "pod-1"], CheckLevel.OK, id="the last holder has released the Lease"),
        pytest.param(1, [None], CheckLevel.FAIL, id="no pod ever takes the Lease"),
        pytest.param(0, [None, "pod-1"], CheckLevel.FAIL, id="no pod is ready, so there is nothing to wait for"),
    ],
)
async def test_ready_pod_gets_time_to_acquire_the_lease(
    available_replicas: int,
    holders: list[str | None],
    level: CheckLevel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(installation, "LEADER_WAIT_SECONDS", 2.0)
    server = FakeApiServer(set(), {"LEASE_NAME": "scribe"}, holders, available_replicas)
    facts = ReleaseFacts(cast("OperatorKubeClient", server), cast("EndpointProber", None))
    found = {check.name: check for check in await facts.examine()}
    assert found["leader"].level == level
    assert ("waiting up to 2 s" in capsys.readouterr().err) == bool(available_replicas)


@pytest.mark.parametrize(
    ("documents", "text"),
    [
        ([], "cannot be reached from here (ClientConnectorError)"),
        ([ScriptedResponse(b"no", status=404)], "answers HTTP 404 instead of the discovery document and its keys"),
        ([ScriptedResponse(b"<html>")], "publishes no discovery document with keys"),
        ([{"issuer": "x"}], "publishes no discovery document with keys"),
        ([{"jwks_uri": "ISSUER/keys"}, {"keys": 5}], "publishes no discovery document with keys"),
        ([{"jwks_uri": "ISSUER/keys"}, {"keys": [{}]}], "publishes no discovery document with keys"),
        ([{"jwks_uri": "ISSUER/keys"}, {"keys": [{"kid": "1"}]}], "publishes the keys that the cluster signs with"),
    ],
)
async def test_issuer_is_described_by_the_documents_that_it_publishes(documents: list[Any], text: str) -> None:
    api = FakeApiServer(set(), {})
    async with run_api_server() as server:
        api.issuer = server.url
        for each in documents:
            if isinstance(each, dict) and "jwks_uri" in each:
                each = {"jwks_uri": f"{server.url}/keys", "issuer": server.url}
            server.add_responses(each)
        if documents:
            assert await describe_issuer(api) == f"{api.issuer} {text}"
    if not documents:  # the server has ended
        assert await describe_issuer(api) == f"{api.issuer} {text}"


async def test_issuer_with_a_private_certificate_is_not_unreachable(tmp_path: Path) -> None:
    api = FakeApiServer(set(), {})
    async with run_api_server(LocalAuthority(tmp_path).server_context(tmp_path, ["127.0.0.1"])) as server:
        api.issuer = server.url
        assert await describe_issuer(api) == f"{api.issuer} has a TLS certificate that cannot be verified from here"


async def describe_issuer(api: FakeApiServer) -> str:
    """Return the text of the doctor's check of the issuer."""
    prober = EndpointProber()
    try:
        found = {check.name: check for check in await ReleaseFacts(cast("OperatorKubeClient", api), prober).examine()}
    finally:
        await prober.close()
    return found["issuer"].text
