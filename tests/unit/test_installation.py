"""What the doctor expects of a release follows from the settings in its Deployment."""

from typing import cast

import pytest

from controller import errors
from tools.caller import Caller, Object
from tools.checks import Level
from tools.installation import Installation
from tools.outside import Outside
from tools.policies import POLICIES

ALWAYS = {"secrets", "no-delete", "tokens", "events", "lease", "type-stays"}
MADE = {"secretsyncs", "secretproviderclasses"}


class Server:
    """An API server with one release and these policies, which keeps its issuer to itself."""

    def __init__(self, names: set[str], environment: dict[str, str]) -> None:
        self._names = [f"{name}.scribe.home" for name in names]
        self._environment = [{"name": name, "value": text} for name, text in environment.items()]

    async def objects(self, path: str, _: str) -> list[Object]:
        if path.endswith("/clusterrolebindings"):
            subject = {"kind": "ServiceAccount", "name": "scribe", "namespace": "home"}
            return [{"metadata": {"name": "scribe.home"}, "subjects": [subject]}]
        if path.endswith("policies"):
            return [{"metadata": {"name": name}, "spec": {}} for name in self._names]
        return [{"spec": {"policyName": name, "validationActions": ["Deny"]}} for name in self._names]

    async def object(self, path: str) -> Object:
        if path.endswith("/namespaces/home/deployments/scribe"):
            pod = {"spec": {"serviceAccountName": "scribe", "containers": [{"env": self._environment}]}}
            return {"metadata": {"name": "scribe", "namespace": "home"}, "spec": {"template": pod}}
        raise errors.Refused("not yours to see", status=403)


@pytest.mark.parametrize(
    ("environment", "brought"),
    [
        ({}, ALWAYS | MADE),
        ({"AKV_SYNC": "false"}, ALWAYS),
        ({"WATCH_NAMESPACES": "shop"}, ALWAYS | MADE | {"namespaces"}),
    ],
)
async def test_the_policies_that_a_release_brings_are_missed(environment: dict[str, str], brought: set[str]) -> None:
    async def look(names: set[str]) -> tuple[Level, str]:
        installation = Installation(cast("Caller", Server(names, environment)), cast("Outside", None))
        found = {check.name: check for check in await installation.examine()}
        return found["policies"].level, found["policies"].text

    assert await look({policy.name for policy in POLICIES}) == (Level.OK, f"{len(brought)} in force")
    for name in brought:
        level, text = await look(brought - {name})
        assert level == Level.FAIL
        assert f"{name}.scribe.home missing" in text
