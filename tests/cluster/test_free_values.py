"""Test values that the chart copies into manifests: the API server accepts the values that the schema accepts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.chart.rendering import Manifest, nested, render
from tests.support.cluster.harness import version_flags
from tests.support.free_values import ACCEPTED, CONFLICTING
from tools.cli.common import helm
from tools.codegen.values import kubernetes
from tools.local_cluster import ClusterError, ControlPlane

Schema = dict[str, Any]
VALUES: dict[str, Schema] = {
    "tolerations": kubernetes.TOLERATIONS,
    "hostAliases": kubernetes.HOST_ALIASES,
    "dnsConfig": kubernetes.DNS_CONFIG,
    "topologySpreadConstraints": kubernetes.SPREAD,
    "strategy": kubernetes.STRATEGY,
    "podLabels": kubernetes.LABELS,
    "podAnnotations": kubernetes.ANNOTATIONS,
    "nodeSelector": kubernetes.LABELS,
    "extraEnv": kubernetes.ENVIRONMENT,
    "imagePullSecrets": kubernetes.PULL_SECRETS,
}
"""The values that the schema describes completely."""
SPACE = "free-values"
WITH_FREE_VALUES = ("Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget")
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)


def texts(schema: Schema) -> st.SearchStrategy[str]:
    """Return a strategy for texts that the schema accepts."""
    if "pattern" in schema:
        found = st.from_regex(schema["pattern"].replace("$", r"\Z"))
        return found.filter(lambda text: len(text) <= schema.get("maxLength", 40))
    return TEXT.filter(lambda text: len(text) >= schema.get("minLength", 0))


def samples(schema: Schema) -> st.SearchStrategy[Any]:
    """Return a strategy for values that the schema accepts, without regard to its conditions."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema.get("type", "array" if "items" in schema else "object")
    if isinstance(kinds, list):
        return st.one_of(*(samples({**schema, "type": kind}) for kind in kinds))
    if kinds == "integer":
        return st.integers(schema.get("minimum", -10), 1000)
    if kinds == "string":
        return texts(schema)
    if kinds == "array":
        # Generate at most one item, because two items may conflict, such as two spreads over the same key.
        return st.lists(samples(schema["items"]), max_size=min(schema.get("maxItems", 1), 1))
    if "properties" in schema:
        fields = {name: samples(field) for name, field in schema["properties"].items() if name != "valueFrom"}
        needed = schema.get("required", [])
        optional = {name: field for name, field in fields.items() if name not in needed}
        return st.fixed_dictionaries({name: fields[name] for name in needed}, optional=optional)
    keys = texts(schema["propertyNames"])
    return st.dictionaries(keys, samples(schema.get("additionalProperties", {"type": "string"})), max_size=2)


@pytest.fixture(scope="module")
def home(plane: ControlPlane) -> str:
    """Create a namespace, and return its name."""
    plane.kubectl("create", "namespace", SPACE)
    return SPACE


@settings(max_examples=30, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
@given(found=st.fixed_dictionaries({name: samples(schema) for name, schema in VALUES.items()}))
def test_api_server_accepts_values_that_the_chart_accepts(
    found: dict[str, Any], plane: ControlPlane, home: str
) -> None:
    show = ("--show-only", "templates/deployment.yaml")
    # An API server accepts these operators only with the feature gate TaintTolerationComparisonOperators.
    common = [each for each in found["tolerations"] if each.get("operator") not in ("Lt", "Gt")]
    found = found | {"tolerations": common}
    try:
        [deployment] = render_free(plane, found, *show)
    except helm.BadValues as refused:
        # Leave out each value that a condition of the schema refuses.
        wrong = {problem.split(":")[0].split(".")[0] for problem in refused.problems}
        [deployment] = render_free(plane, {name: value for name, value in found.items() if name not in wrong}, *show)
    path = f"/apis/apps/v1/namespaces/{home}/deployments?dryRun=All&fieldValidation=Strict"
    status, answer = plane.request("POST", path, deployment)
    assert status == 201, json.loads(answer)["message"]


@pytest.mark.parametrize(("path", "value"), ACCEPTED, ids=lambda part: str(part)[:60])
def test_api_server_accepts_the_examples(path: str, value: Any, plane: ControlPlane, home: str) -> None:
    create_with(plane, path, value)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Render a copy of the chart whose templates refuse no values."""
    chart = tmp_path / "chart"
    shutil.copytree(helm.CHART, chart)
    checks = chart / "templates" / "checks.yaml"
    checks.write_text(checks.read_text().replace("{{- fail ", "{{- $_ := print "))
    monkeypatch.setattr(helm, "CHART", chart)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("path", "value"), [row[:2] for row in CONFLICTING], ids=lambda part: str(part)[:60])
def test_api_server_refuses_the_conflicting_values(path: str, value: Any, plane: ControlPlane, home: str) -> None:
    with pytest.raises(ClusterError, match="is invalid: "):
        create_with(plane, path, value)


def create_with(plane: ControlPlane, path: str, value: Any) -> None:
    """Send the chart's objects that have free values to the API server in a dry run."""
    given = nested({"networkPolicy.enabled": True, "podDisruptionBudget.enabled": True, path: value})
    chosen = [each for each in render_free(plane, given) if each["kind"] in WITH_FREE_VALUES]
    assert len(chosen) >= len(WITH_FREE_VALUES)
    flags = ("--dry-run=server", "--validate=strict", "--filename", "-")
    plane.kubectl("create", *flags, stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": chosen}))


def render_free(plane: ControlPlane, given: dict[str, Any], *flags: str) -> list[Manifest]:
    """Render the chart with these values for that control plane."""
    flags = (*version_flags(plane), *flags)
    return render(*flags, version=plane.version, release="free", namespace=SPACE, given=given)
