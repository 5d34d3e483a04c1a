"""What the chart's NetworkPolicies allow, by a simulation of their rules: nothing here enforces them."""

from typing import Any

import pytest

from controller.config.settings import Settings
from tests.chart.rendering import Manifest, nested, render
from tools.helm_test.settings import VAULT_PORT

CONTROLLER, TEST, JOB, OUTSIDE = "controller", "test", "crds", "outside"
DENY_ALL = {"metadata": {"name": "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
NAMED_PORTS = {"http": Settings().listen_port}


def policies(**values: Any) -> list[Manifest]:
    """Return the release's policies, beside one that denies everything in its namespace by default."""
    given = nested({"networkPolicy.enabled": True, **values})
    return [DENY_ALL, *(m for m in render(given=given, tests=True) if m["kind"] == "NetworkPolicy")]


def labels(who: str) -> dict[str, str]:
    """Return the labels of the pods of that component; those outside have none."""
    if who == OUTSIDE:
        return {}
    for manifest in render(tests=True):
        pod = manifest if manifest["kind"] == "Pod" else manifest.get("spec", {}).get("template", {})
        found: dict[str, str] = pod.get("metadata", {}).get("labels", {})
        if found.get("app.kubernetes.io/component") == who:
            return found
    raise AssertionError(who)


def allows(given: list[Manifest], source: str, target: str, port: int, protocol: str = "TCP") -> bool:
    """Return whether the rules of NetworkPolicy allow that connection; pods outside the namespace deny nothing."""
    sides = (("Egress", "to", source, target), ("Ingress", "from", target, source))
    return all(
        pod == OUTSIDE or _side_allows(given, direction, peers, labels(pod), labels(peer), (port, protocol))
        for direction, peers, pod, peer in sides
    )


def _side_allows(
    given: list[Manifest], direction: str, peers: str, pod: dict[str, str], peer: dict[str, str], what: tuple[int, str]
) -> bool:
    selecting = [
        policy["spec"]
        for policy in given
        if direction in policy["spec"]["policyTypes"] and _selects(policy["spec"]["podSelector"], pod)
    ]
    rules = [rule for spec in selecting for rule in spec.get(direction.lower(), ())]
    return not selecting or any(
        (not rule.get(peers) or any(peer and _selects(item["podSelector"], peer) for item in rule[peers]))
        and (not rule.get("ports") or what in [_port(item) for item in rule["ports"]])
        for rule in rules
    )


def _port(item: dict[str, Any]) -> tuple[int, str]:
    return NAMED_PORTS.get(item["port"], item["port"]), item["protocol"]


def _selects(selector: dict[str, Any], found: dict[str, str]) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= found.items())


@pytest.mark.parametrize("who", [CONTROLLER, JOB, TEST])
@pytest.mark.parametrize(
    ("port", "protocol"), [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP"), (443, "TCP"), (6443, "TCP")]
)
def test_each_pod_reaches_dns_and_the_api_server(who: str, port: int, protocol: str) -> None:
    assert allows(policies(), who, OUTSIDE, port, protocol)


@pytest.mark.parametrize("who", [CONTROLLER, JOB, TEST])
def test_each_pod_needs_its_policy_in_a_namespace_that_denies_by_default(who: str) -> None:
    assert not allows([DENY_ALL], who, OUTSIDE, 443)
    assert not allows(policies(), who, OUTSIDE, 8080)


def test_the_tests_vault_is_open_to_the_controller_alone() -> None:
    given = policies()
    assert allows(given, CONTROLLER, TEST, VAULT_PORT)
    assert not allows(given, CONTROLLER, TEST, VAULT_PORT + 1)
    assert not allows(given, CONTROLLER, OUTSIDE, VAULT_PORT)
    assert not allows(given, OUTSIDE, TEST, VAULT_PORT)
    assert not allows(given, JOB, TEST, VAULT_PORT)


def test_metrics_are_open_and_everything_else_is_closed_from_outside() -> None:
    given = policies()
    assert allows(given, OUTSIDE, CONTROLLER, Settings().listen_port)
    assert not allows(given, OUTSIDE, CONTROLLER, 443)
    for who in (JOB, TEST):
        assert not allows(given, OUTSIDE, who, Settings().listen_port)


def test_a_user_vault_opens_no_port_of_the_test() -> None:
    given = policies(**{"test.sample.keyvaultName": "kv", "test.sample.secretName": "s"})
    assert not allows(given, CONTROLLER, TEST, VAULT_PORT)
    assert allows(given, TEST, OUTSIDE, 443)


def test_the_proxys_port_is_open_to_the_controller() -> None:
    given = policies(**{"proxy.https": "http://proxy.example:3128"})
    assert allows(given, CONTROLLER, OUTSIDE, 3128)
    assert not allows(policies(), CONTROLLER, OUTSIDE, 3128)


@pytest.mark.parametrize("left_out", ["test.enabled", "crds.upgrade"])
def test_a_pod_that_is_left_out_has_no_policy(left_out: str) -> None:
    assert len(policies(**{left_out: False})) == len(policies()) - 1
