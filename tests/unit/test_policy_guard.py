"""Readiness: only the refusal of the release's own policies shows that they are in force."""

import json

import pytest

from controller import errors
from controller.kube import Kube
from controller.policy_guard import NEVER_WRITTEN, ONE_AUDIENCE, PROBE_AUDIENCE, PolicyGuard, problem
from controller.settings import Settings
from tests.unit.api_server import Answer, Asked, refusal, serving
from tools.deployment import PROBE_SECRET_TYPE

OWN = "secrets.mine.home"
SETTINGS = Settings(
    probe_secret_type=PROBE_SECRET_TYPE, policies_name="mine.home", pod_namespace="home", service_account="scribe"
)


def denial(policy: str, message: str, binding: str = "") -> str:
    """What the API server answers."""
    named = f"ValidatingAdmissionPolicy '{policy}' with binding '{binding or policy}'"
    return f'secrets "akv-secret-store-probe" is forbidden: {named} denied request: {message}'


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.PolicyRefused(denial(OWN, NEVER_WRITTEN)), ""),
        (errors.PolicyRefused(denial("theirs", NEVER_WRITTEN)), "another one refuses its test"),
        (errors.PolicyRefused(denial("secrets.mine.home2", NEVER_WRITTEN)), "another one refuses its test"),
        (errors.PolicyRefused(denial("tokens.mine.home", NEVER_WRITTEN)), "another one refuses its test"),
        (errors.PolicyRefused(denial(OWN, "no")), "another one refuses its test"),
        (errors.PolicyRefused(denial(OWN, NEVER_WRITTEN, "audit-only")), "another one refuses its test"),
        (errors.PolicyRefused(f"theirs: secrets.mine.home, {NEVER_WRITTEN}"), "another one refuses its test"),
        (errors.Refused("secrets is forbidden: User cannot create"), f"cannot try the admission policy {OWN}: secrets"),
        (errors.Refused('admission webhook "x" denied the request: no'), "cannot try the admission policy"),
        (errors.NotFound("not found"), "cannot try the admission policy"),
        (errors.Unreachable("no answer " * 1000), "cannot try the admission policy"),
    ],
)
def test_only_the_own_policys_refusal_counts(error: errors.KubeError, said: str) -> None:
    found = problem(error, OWN, NEVER_WRITTEN)
    assert (said in found) if said else found == ""
    assert len(found) < 1000


async def test_both_policies_are_tried_until_both_refuse() -> None:
    refusing: set[str] = set()

    def answer(asked: Asked) -> Answer:
        kind, message = ("tokens", ONE_AUDIENCE) if asked.path.endswith("/token") else ("secrets", NEVER_WRITTEN)
        if kind not in refusing:
            token = {"status": {"token": "t", "expirationTimestamp": "2026-01-01T00:00:00Z"}}
            return Answer(token if kind == "tokens" else {"metadata": {}})
        return refusal(422, denial(f"{kind}.mine.home", message))

    async with serving() as server:
        server.otherwise = answer
        async with Kube(server.access()) as kube:
            guard = PolicyGuard(kube, SETTINGS)
            assert guard.problem
            for policy in ("secrets", "tokens"):
                await guard.attempt()
                assert f"the API server allowed what the policy {policy}.mine.home forbids" in guard.problem
                assert not guard.in_force.is_set()
                refusing.add(policy)
            await guard.run()
            assert guard.problem == ""
            assert guard.in_force.is_set()
    paths = {asked.path for asked in server.asked}
    assert paths == {"/api/v1/namespaces/home/secrets", "/api/v1/namespaces/home/serviceaccounts/scribe/token"}
    [*_, secret, token] = server.asked
    assert secret.query["dryRun"] == "All"
    assert json.loads(token.body)["spec"]["audiences"] == [PROBE_AUDIENCE]


async def test_without_policies_there_is_nothing_to_wait_for() -> None:
    async with serving() as server, Kube(server.access()) as kube:
        assert PolicyGuard(kube, Settings()).in_force.is_set()
