"""Test that the chart refuses the values that the API server would refuse in a manifest, and names their path."""

import random
from ipaddress import ip_network
from typing import Any

import pytest

from tests.chart.rendering import nested, render
from tests.support.free_values import ACCEPTED, CONFLICTING, MAX_ANNOTATIONS, REFUSED
from tools.cli.common import helm


@pytest.mark.parametrize(("path", "value", "named"), [*REFUSED, *CONFLICTING], ids=lambda part: str(part)[:60])
def test_value_that_the_api_server_would_refuse_is_refused_by_path(path: str, value: Any, named: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(given=nested({path: value}))
    assert any(problem.startswith(f"{named}:") for problem in refused.value.problems), refused.value.problems


@pytest.mark.parametrize(("path", "value"), ACCEPTED, ids=lambda part: str(part)[:60])
def test_value_that_the_api_server_accepts_is_accepted(path: str, value: Any) -> None:
    assert render(given=nested({path: value}))


def test_init_container_that_keeps_running_can_have_probes() -> None:
    fields: dict[str, Any] = {"lifecycle": {}, "livenessProbe": {}, "readinessProbe": {}, "startupProbe": {}}
    assert render(given={"extraInitContainers": [{"name": "a", "image": "x", "restartPolicy": "Always", **fields}]})


@pytest.mark.parametrize("path", ["serviceAccount.annotations", "test.annotations", "grafanaDashboard.annotations"])
def test_annotations_of_an_object_are_limited_together(path: str) -> None:
    half = "x" * (MAX_ANNOTATIONS // 2)
    with pytest.raises(helm.BadValues, match=rf"^{path}: .*262146 bytes with commonAnnotations: .* at most 261120$"):
        render(given=nested({path: {"a": half}, "commonAnnotations": {"b": half}}))
    assert render(given=nested({"podAnnotations": {"a": half}, "commonAnnotations": {"b": half}}))


@pytest.mark.parametrize("size", [32, 128])
def test_every_part_of_a_network_can_be_left_out(size: int) -> None:
    rng = random.Random(size)
    peers = []
    for length in range(size):
        cidr = ip_network((rng.getrandbits(size), length), strict=False)
        address = int(cidr.network_address) | rng.getrandbits(size - length)
        inner = ip_network((address, rng.randint(length + 1, size)), strict=False)
        peers.append({"ipBlock": {"cidr": rng.choice([cidr.compressed, cidr.exploded]), "except": [inner.compressed]}})
    assert render(given={"networkPolicy": {"egress": [{"to": peers}]}})
