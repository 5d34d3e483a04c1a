"""Test the values that Azure passes to helm: each parameter reaches its setting, and only changed values are sent."""

import base64
import itertools
import json
from typing import Any

import pytest
import yaml
from msgspec import inspect

from controller.runtime import bounded_yaml
from tests.chart.rendering import render_text
from tests.support.arm_expressions import Deployment
from tools.cli.common import helm
from tools.codegen import values
from tools.release.azure import arm, extension, flux

CHART = values.ChartValues()
SETTINGS = list(arm.list_settings(CHART))
EXTENSION = json.loads(extension.extension_template(CHART))
FLUX = json.loads(flux.flux_template(CHART, "registry.example/akv", "flux", "0.1.0"))
SECRET = flux.flux_manifests("registry.example/akv", "chart", "0.1.0")["settings/secret.yaml"].decode()
DEFAULTS = yaml.safe_load((helm.CHART / "values.yaml").read_bytes())
REQUIRED = {"clusterName": "edge", "extensionType": "example.secretstore"}


def make_settings(**given: Any) -> dict[str, str]:
    """Return the settings that the extension manager receives."""
    shown, protected = make_groups(**given)
    assert not shown.keys() & protected.keys()
    return shown | protected


def make_groups(**given: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the settings that readers of the extension see, and those that Azure never shows."""
    deployment = Deployment(EXTENSION, REQUIRED | given)
    [resource] = map(deployment.evaluate_node, EXTENSION["resources"])
    properties = resource["properties"]
    return dict(properties["configurationSettings"]), dict(properties["configurationProtectedSettings"])


def read_secret_values(**given: Any) -> Any:
    """Return the contents of the Secret of the HelmRelease."""
    deployment = Deployment(FLUX, REQUIRED | given)
    [resource] = map(deployment.evaluate_node, FLUX["resources"])
    substituted = resource["properties"]["kustomizations"]["settings"]["postBuild"]["substitute"]
    secret = SECRET
    for name, value in substituted.items():
        secret = secret.replace(f"${{{name}}}", value)
    [manifest] = bounded_yaml.load_all(secret)
    [found] = bounded_yaml.load_all(base64.b64decode(manifest["data"]["values.yaml"], validate=True).decode())
    return found


def make_helm_flags(given: dict[str, str]) -> list[str]:
    pairs = ((key, value.replace(",", r"\,")) for key, value in given.items())
    return list(itertools.chain.from_iterable(("--set-string", f"{key}={value}") for key, value in pairs))


def get_value(path: str, whole: Any) -> Any:
    for name in path.split("."):
        whole = whole[name]
    return whole


def change_value(leaf: values.LeafValue) -> tuple[Any, Any]:
    """Return a value that is not the default, as a parameter of the extension and as a value of the chart."""
    match leaf.type:
        case inspect.BoolType():
            return not leaf.default, str(not leaf.default).lower()
        case inspect.IntType():
            return leaf.default + 1, str(leaf.default + 1)
        case inspect.LiteralType():
            one = next(value for value in leaf.type.values if value != leaf.default)
            return one, one
        case inspect.StrType() | inspect.UnionType():
            return "a, b = {c}", "a, b = {c}"
        case inspect.ListType(item_type=inspect.StrType()):
            return ["one", "two"], "one,two"
        case inspect.ListType():
            items = [{"key": "b", "deep.key": 1}, {"key": "a"}]
            return items, [{"key": "b", "deep": {"key": "1"}}, {"key": "a"}]
        case inspect.DictType(value_type=inspect.StrType()):
            return {"example.com/x": "y"}, {**leaf.default, "example.com/x": "y"}
        case inspect.DictType():
            return {"deep.key": True, r"example\.com/x": "y"}, {
                **leaf.default,
                "deep": {"key": "True"},
                "example.com/x": "y",
            }
    raise AssertionError(leaf)


@pytest.fixture(scope="module")
def found_values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the values that helm makes of each changed setting, by the path of its leaf.

    One run of helm renders all of them: each leaf has its own copy of the chart's values, under its own name.
    """
    names = {leaf.path: f"leaf{number}" for number, leaf in enumerate(SETTINGS)}
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "templates").mkdir()
    (folder / "Chart.yaml").write_text("{apiVersion: v2, name: mirror, version: 0.1.0}")
    (folder / "values.yaml").write_text(json.dumps(dict.fromkeys(names.values(), DEFAULTS)))
    (folder / "templates" / "values.yaml").write_text("{{ toJson .Values }}")
    received = {
        f"{names[leaf.path]}.{key}": value
        for leaf in SETTINGS
        for key, value in make_settings(**{arm.parameter_name(leaf.path): change_value(leaf)[0]}).items()
    }
    found = json.loads(helm.run(["template", str(folder), *make_helm_flags(received)]).partition(".yaml\n")[2])
    return {path: found[name] for path, name in names.items()}


@pytest.mark.parametrize("leaf", SETTINGS, ids=lambda leaf: leaf.path)
def test_every_parameter_of_the_extension_reaches_its_setting(
    leaf: values.LeafValue, found_values: dict[str, Any]
) -> None:
    found = found_values[leaf.path]
    assert get_value(leaf.path, found) == change_value(leaf)[1]
    differing = [one.path for one in SETTINGS if get_value(one.path, found) != get_value(one.path, DEFAULTS)]
    assert differing == [leaf.path]


@pytest.mark.parametrize("leaf", SETTINGS, ids=lambda leaf: leaf.path)
def test_every_parameter_of_the_flux_configuration_reaches_its_value(leaf: values.LeafValue) -> None:
    given = [{"deep": ["$", "'", '"', "ä"]}] if isinstance(leaf.type, inspect.ListType) else {"of": leaf.path}
    found = read_secret_values(**{arm.parameter_name(leaf.path): given})
    for one in SETTINGS:
        assert get_value(one.path, found) == (given if one == leaf else one.default)


@pytest.mark.parametrize("name", ["proxyHttp", "proxyHttps"])
def test_proxy_that_can_have_a_password_is_protected(name: str) -> None:
    """Azure shows other settings of an extension, and other parameters of a deployment, to every reader."""
    url = "http://user:password@proxy:3128"
    shown, protected = make_groups(**{name: url}, proxyNoProxy=["a.example"])
    assert (shown, list(protected.values())) == ({"proxy.noProxy": "a.example"}, [url])
    for template in (EXTENSION, FLUX):
        assert template["parameters"][name]["type"] == "securestring"


def test_every_value_is_a_setting_of_the_extension() -> None:
    """Exceptions are the values that Arc sets and those of a parent chart."""
    every = [entry for entry in values.walk() if isinstance(entry, values.LeafValue)]
    assert {leaf.path.split(".")[0] for leaf in every if leaf not in SETTINGS} <= {"Azure", "global"}


def test_default_values_as_strings_render_the_same_manifests() -> None:
    scalars = [leaf for leaf in SETTINGS if not isinstance(leaf.type, inspect.DictType)]
    received = dict(
        pair
        for leaf in scalars
        for pair in extension.as_settings(leaf, leaf.default)
        if not isinstance(leaf.default, list)
    )
    assert len(received) > 20
    assert render_text(*make_helm_flags(received)) == render_text()


def test_default_values_are_not_sent() -> None:
    assert make_settings() == {}
    assert make_settings(resources={"limits.memory": "1Gi", "requests.cpu": "20m"}) == {
        "resources.limits.memory": "1Gi"
    }
