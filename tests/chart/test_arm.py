"""What Azure hands to helm: every parameter of the templates reaches its setting, and only what was changed travels."""

import base64
import itertools
import json
from typing import Any

import pytest
import yaml
from msgspec import inspect

from tests.chart.rendering import NEWEST, WITHOUT_POLICIES, text
from tests.chart.test_values import leaves, other, outcome
from tests.unit.arm_expressions import Deployment
from tools import arc, arm, flux, helm, values

CHART = values.ChartValues()
EXTENSION = json.loads(arc.extension(CHART))
FLUX = json.loads(flux.configuration(CHART, "registry.example/akv", "manifests", "0.1.0"))
REQUIRED = {"clusterName": "edge", "extensionType": "example.secretstore"}


def settings(given: dict[str, Any]) -> dict[str, str]:
    """What the extension manager would get."""
    deployment = Deployment(EXTENSION, REQUIRED | given)
    [resource] = map(deployment.value, EXTENSION["resources"])
    return dict(resource["properties"]["configurationSettings"])


def manifest_values(given: dict[str, Any]) -> Any:
    """What the Secret beside the HelmRelease would hold."""
    deployment = Deployment(FLUX, REQUIRED | given)
    [resource] = map(deployment.value, FLUX["resources"])
    substituted = resource["properties"]["kustomizations"]["settings"]["postBuild"]["substitute"]
    secret = flux.manifests("registry.example/akv", "chart", "0.1.0")["settings/secret.yaml"].decode()
    for name, value in substituted.items():
        secret = secret.replace(f"${{{name}}}", value)
    return yaml.safe_load(base64.b64decode(yaml.safe_load(secret)["data"]["values.yaml"], validate=True))


def as_helm_gets_it(given: dict[str, str]) -> list[str]:
    pairs = ((key, value.replace(",", r"\,")) for key, value in given.items())
    return list(itertools.chain.from_iterable(("--set-string", f"{key}={value}") for key, value in pairs))


def nested(leaf: values.Leaf) -> tuple[Any, Any]:
    """Another value of the setting in its own type, and the values that say so."""
    changed: Any = other(leaf)
    match leaf.type:
        case inspect.BoolType():
            changed = changed == "true"
        case inspect.IntType():
            changed = int(changed)
    given: Any = changed
    for name in reversed(leaf.path.split(".")):
        given = {name: given}
    return changed, given


def as_parameter(leaf: values.Leaf, changed: Any) -> Any:
    """As the template of the extension takes it: deep values by the rest of their dotted names."""
    match leaf.type:
        case inspect.DictType(value_type=inspect.StrType()):
            return changed
        case inspect.DictType():
            return {key.removeprefix(f"{leaf.path}."): value for key, value in arc.as_settings(leaf, changed)}
    return changed


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.path)
def test_every_parameter_reaches_its_setting(leaf: values.Leaf) -> None:
    if leaf not in list(arm.settings(CHART)):
        pytest.fail("no parameter")
    changed, given = nested(leaf)
    name = arm.name(leaf.path)
    handed = settings({name: as_parameter(leaf, changed)})
    assert handed, "left out as if it were the default"
    assert all(key.startswith(leaf.path) for key in handed)
    for version in (NEWEST, WITHOUT_POLICIES):
        expected = outcome(given, version)
        try:
            found = text("--no-hooks", *as_helm_gets_it(handed), version=version)
        except helm.BadValues as refused:
            found = str(refused)
        assert found == expected
        assert outcome(manifest_values({name: changed}), version) == expected


def test_defaults_do_not_travel() -> None:
    assert settings({}) == {}
    assert settings({"resources": {"limits.memory": "1Gi", "requests.cpu": "20m"}}) == {
        "resources.limits.memory": "1Gi"
    }


def test_dots_in_names_part_nothing() -> None:
    handed = settings({"podLabels": {"example.com/team": "edge"}})
    assert handed == {r"podLabels.example\.com/team": "edge"}
    assert "example.com/team: edge" in text(*as_helm_gets_it(handed))


def test_a_list_keeps_its_order() -> None:
    handed = settings({"tolerations": [{"key": "b", "operator": "Exists"}, {"key": "a", "operator": "Exists"}]})
    assert list(handed.items()) == [
        ("tolerations[0].key", "b"),
        ("tolerations[0].operator", "Exists"),
        ("tolerations[1].key", "a"),
        ("tolerations[1].operator", "Exists"),
    ]
