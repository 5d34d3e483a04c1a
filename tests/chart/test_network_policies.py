"""Test which connections the NetworkPolicies of the chart allow, with a simulation of their rules."""

from typing import Any

import pytest

from controller.config.settings import Settings
from tests.chart.rendering import Manifest, nested, render
from tools.helm_test.settings import VAULT_PORT

CONTROLLER, TEST, JOB, OUTSIDE = "controller", "test", "crds", "outside"
DENY_ALL = {"metadata": {"name": "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
NAMED_PORTS = {"http": Settings().listen_port}


def render_policies(**values: Any) -> list[Manifest]:
    """Return the policies of the release and one that denies all connections in its namespace."""
    given = nested({"networkPolicy.enabled": True, **values})
    return [DENY_ALL, *(m for m in render(given=given, tests=True) if m["kind"] == "NetworkPolicy")]


def get_labels(component: str) -> dict[str, str]:
    """Return the labels of the pods of this component. Pods outside have none."""
    if component == OUTSIDE:
        return {}
    for manifest in render(tests=True):
        pod = manifest if manifest["kind"] == "Pod" else manifest.get("spec", {}).get("template", {})
        found: dict[str, str] = pod.get("metadata", {}).get("labels", {})
        if found.get("app.kubernetes.io/component") == component:
            return found
    raise AssertionError(component)


def allows(given: list[Manifest], source: str, target: str, port: int, protocol: str = "TCP") -> bool:
    """Return whether the policies allow this connection. Pods outside the namespace deny nothing."""
    sides = (("Egress", "to", source, target), ("Ingress", "from", target, source))
    return all(
        pod == OUTSIDE or _side_allows(given, direction, peers, get_labels(pod), get_labels(peer), (port, protocol))
        for direction, peers, pod, peer in sides
    )


def _side_allows(
    given: list[Manifest], direction: str, peers: str, pod: dict[str, str], peer: dict[str, str], port: tuple[int, str]
) -> bool:
    selecting = [
        policy["spec"]
        for policy in given
        if direction in policy["spec"]["policyTypes"] and _selects(policy["spec"]["podSelector"], pod)
    ]
    rules = [rule for spec in selecting for rule in spec.get(direction.lower(), ())]
    return not selecting or any(
        (not rule.get(peers) or any(peer and _selects(item["podSelector"], peer) for item in rule[peers]))
        and (not rule.get("ports") or port in [_parse_port(item) for item in rule["ports"]])
        for rule in rules
    )


def _parse_port(item: dict[str, Any]) -> tuple[int, str]:
    return NAMED_PORTS.get(item["port"], item["port"]), item["protocol"]


def _selects(selector: dict[str, Any], found: dict[str, str]) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= found.items())


@pytest.mark.parametrize("component", [CONTROLLER, JOB, TEST])
@pytest.mark.parametrize(
    ("port", "protocol"), [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP"), (443, "TCP"), (6443, "TCP")]
)
def test_each_pod_reaches_dns_and_the_api_server(component: str, port: int, protocol: str) -> None:
    assert allows(render_policies(), component, OUTSIDE, port, protocol)


@pytest.mark.parametrize("component", [CONTROLLER, JOB, TEST])
def test_each_pod_needs_its_policy_in_a_namespace_that_denies_by_default(component: str) -> None:
    assert not allows([DENY_ALL], component, OUTSIDE, 443)
    assert not allows(render_policies(), component, OUTSIDE, 8080)


def test_only_the_controller_reaches_the_vault_of_helm_test() -> None:
    given = render_policies()
    assert allows(given, CONTROLLER, TEST, VAULT_PORT)
    assert not allows(given, CONTROLLER, TEST, VAULT_PORT + 1)
    assert not allows(given, CONTROLLER, OUTSIDE, VAULT_PORT)
    assert not allows(given, OUTSIDE, TEST, VAULT_PORT)
    assert not allows(given, JOB, TEST, VAULT_PORT)


def test_only_the_metrics_port_is_open_from_outside() -> None:
    given = render_policies()
    assert allows(given, OUTSIDE, CONTROLLER, Settings().listen_port)
    assert not allows(given, OUTSIDE, CONTROLLER, 443)
    for component in (JOB, TEST):
        assert not allows(given, OUTSIDE, component, Settings().listen_port)


def test_vault_of_the_user_opens_no_port_of_helm_test() -> None:
    given = render_policies(**{"test.sample.keyvaultName": "kv", "test.sample.secretName": "s"})
    assert not allows(given, CONTROLLER, TEST, VAULT_PORT)
    assert allows(given, TEST, OUTSIDE, 443)


def test_controller_reaches_the_port_of_the_proxy() -> None:
    given = render_policies(**{"proxy.https": "http://proxy.example:3128"})
    assert allows(given, CONTROLLER, OUTSIDE, 3128)
    assert not allows(render_policies(), CONTROLLER, OUTSIDE, 3128)


@pytest.mark.parametrize("left_out", ["test.enabled", "crds.upgrade"])
def test_disabled_pod_has_no_network_policy(left_out: str) -> None:
    assert len(render_policies(**{left_out: False})) == len(render_policies()) - 1


def test_vault_of_helm_test_accepts_a_controller_in_the_network_of_its_node() -> None:
    """A NetworkPolicy sees such a controller as its node, which no podSelector selects."""
    given = render_policies(hostNetwork="true")
    assert allows(given, OUTSIDE, TEST, VAULT_PORT)
    assert not allows(given, OUTSIDE, TEST, 8080)
