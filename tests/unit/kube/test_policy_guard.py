"""Test that only a refusal by the release's own policies makes the controller ready."""

import json

import pytest

from controller import errors
from controller.config.settings import Settings
from controller.kube.client import KubeClient
from controller.kube.policy_guard import NEVER_WRITTEN, ONE_AUDIENCE, PROBE_AUDIENCE, PolicyGuard, find_problem
from tests.support.scripted_api_server import ReceivedRequest, ScriptedResponse, error_response, run_api_server
from tools.codegen.deployment import PROBE_SECRET_TYPE

OWN = "secrets.mine.home"
SETTINGS = Settings(
    probe_secret_type=PROBE_SECRET_TYPE, policies_name="mine.home", pod_namespace="home", service_account="scribe"
)


def make_denial(policy: str, message: str, binding: str = "") -> str:
    """Return the API server's message if a policy denies the request."""
    named = f"ValidatingAdmissionPolicy '{policy}' with binding '{binding or policy}'"
    return f'secrets "akv-secret-store-probe" is forbidden: {named} denied request: {message}'


def make_role_refusal(text: str = "") -> str:
    """Return the API server's message if no Role grants the request."""
    return f'secrets is forbidden: User "system:serviceaccount:home:scribe" cannot create resource "secrets"{text}'


EXEMPT = "exempt the controller's ServiceAccount from"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.PolicyRefused(make_denial(OWN, NEVER_WRITTEN)), ""),
        (
            errors.PolicyRefused(make_denial("theirs", NEVER_WRITTEN)),
            f"ValidatingAdmissionPolicy 'theirs' refuses its test -- {EXEMPT} that policy",
        ),
        (
            errors.PolicyRefused(make_denial("secrets.mine.home2", NEVER_WRITTEN)),
            "'secrets.mine.home2' refuses its test",
        ),
        (errors.PolicyRefused(make_denial("tokens.mine.home", NEVER_WRITTEN)), "'tokens.mine.home' refuses its test"),
        (errors.PolicyRefused(make_denial(OWN, "no")), f"'{OWN}' refuses its test"),
        (errors.PolicyRefused(make_denial(OWN, NEVER_WRITTEN, "audit-only")), f"'{OWN}' refuses its test"),
        (errors.PolicyRefused(f"theirs: secrets.mine.home, {NEVER_WRITTEN}"), "refuses its test"),
        (
            errors.Refused(make_role_refusal(), status=403),
            "no Role grants the right to create; restore the chart's Roles",
        ),
        (
            errors.Refused('admission webhook "x.example" denied the request: no', status=403),
            f'admission webhook "x.example" refuses its test (HTTP 403) -- {EXEMPT} it',
        ),
        (
            errors.Unreachable('failed calling webhook "x": no', status=500),
            f'"x" refuses its test (HTTP 500) -- {EXEMPT}',
        ),
        (errors.NotFound('namespaces "home" not found', status=404), "the API server answered with HTTP 404"),
        (errors.Unreachable("the Kubernetes API did not answer in time"), "the Kubernetes API did not answer in time"),
    ],
)
def test_only_the_refusal_by_the_own_policy_counts(error: errors.KubeError, expected: str) -> None:
    found = find_problem(error, OWN, NEVER_WRITTEN)
    assert (expected in found and OWN in found) if expected else found == ""


FOREIGN = "dmFsdWUtNGYwYQ== 'value-4f0a' \x1b[2J"


@pytest.mark.parametrize(
    "text",
    [
        FOREIGN,
        f'admission webhook "x" denied the request: {FOREIGN}',
        f'admission webhook "x" denied the request: {make_denial(OWN, NEVER_WRITTEN)} {FOREIGN}',
        f'failed calling webhook "x": {FOREIGN}',
        make_denial("theirs", FOREIGN),
        make_denial(OWN, FOREIGN),
        f"{make_denial('theirs', 'no')} {FOREIGN}",
        f"an AdmissionPolicy {FOREIGN}",
        f"exceeded quota: home, requested: {FOREIGN}",
        make_role_refusal(FOREIGN),
    ],
)
async def test_problem_contains_no_text_of_the_refusal(text: str) -> None:
    async with run_api_server() as server, KubeClient(server.client_config()) as kube:
        guard = PolicyGuard(kube, SETTINGS)
        for status in (400, 401, 403, 404, 409, 410, 422, 429, 500):
            server.default_response = lambda _request, status=status: error_response(status, text)
            await guard.probe_policies()
            assert OWN in guard.problem
            assert not [part for part in FOREIGN.split() if part in guard.problem]


async def test_both_policies_are_probed_until_both_refuse() -> None:
    refusing: set[str] = set()

    def answer(request: ReceivedRequest) -> ScriptedResponse:
        kind, message = ("tokens", ONE_AUDIENCE) if request.path.endswith("/token") else ("secrets", NEVER_WRITTEN)
        if kind not in refusing:
            token = {"status": {"token": "t", "expirationTimestamp": "2026-01-01T00:00:00Z"}}
            return ScriptedResponse(token if kind == "tokens" else {"metadata": {}})
        return error_response(422, make_denial(f"{kind}.mine.home", message))

    async with run_api_server() as server:
        server.default_response = answer
        async with KubeClient(server.client_config()) as kube:
            guard = PolicyGuard(kube, SETTINGS)
            assert guard.problem
            for policy in ("secrets", "tokens"):
                await guard.probe_policies()
                assert f"the API server allowed a request that the policy {policy}.mine.home forbids" in guard.problem
                assert not guard.in_force.is_set()
                refusing.add(policy)
            await guard.run()
            assert guard.problem == ""
            assert guard.in_force.is_set()
    paths = {request.path for request in server.requests}
    assert paths == {"/api/v1/namespaces/home/secrets", "/api/v1/namespaces/home/serviceaccounts/scribe/token"}
    [*_, secret, token] = server.requests
    assert secret.query["dryRun"] == "All"
    assert json.loads(token.body)["spec"]["audiences"] == [PROBE_AUDIENCE]


async def test_release_without_policies_is_ready_at_once() -> None:
    async with run_api_server() as server, KubeClient(server.client_config()) as kube:
        assert PolicyGuard(kube, Settings()).in_force.is_set()
