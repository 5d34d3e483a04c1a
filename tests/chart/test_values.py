"""The chart's values: wrong ones are refused by their path, every one changes something."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from msgspec import inspect

from tests.chart.rendering import NEWEST, WITHOUT_POLICIES, render, text
from tools import helm, values


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (["--set", "rotationPollIntervalInSeconds=0"], "rotationPollIntervalInSeconds"),
        (["--set-string", "rotationPollIntervalInSeconds=0"], "rotationPollIntervalInSeconds"),
        (["--set", "rotationPollIntervalInSeconds=soon"], "rotationPollIntervalInSeconds"),
        (["--set", "jitterSeconds=-1"], "jitterSeconds"),
        # helm would read it as octal.
        (["--set-string", "jitterSeconds=010"], "jitterSeconds"),
        (["--set", "jitterSeconds=1.5"], "jitterSeconds"),
        (["--set", "enablePartialSecretSync=maybe"], "enablePartialSecretSync"),
        (["--set", "logLevel=loud"], "logLevel"),
        (["--set", "image.pullPolicy=Sometimes"], "image.pullPolicy"),
        (["--set", "image.digest=sha256:abc"], "image.digest"),
        (["--set", "image.repo=x"], "image.repo"),
        (["--set", "rotationPollInterval=3"], "rotationPollInterval"),
        (["--set", "validatingAdmissionPolicies.applyPolicy=true"], "validatingAdmissionPolicies.applyPolicy"),
        (["--set", "clouds.Stack.authority=https://a"], "clouds.Stack.vaultUrl"),
        (
            ["--set", "clouds.Stack.authority=http://a,clouds.Stack.vaultUrl=https://{vault}.b"],
            "clouds.Stack.authority",
        ),
        (["--set", "clouds.Stack.host=x"], "clouds.Stack.host"),
        (["--set", "watchNamespaces.a=1"], "watchNamespaces"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(args: list[str], path: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(*args)
    assert any(problem.startswith(f"{path}: ") for problem in refused.value.problems), refused.value.problems


def test_what_helm_itself_puts_there_is_taken() -> None:
    assert render("--set", "global.anything=1")


def other(leaf: values.Leaf) -> Any:
    """A value of the leaf's type that is not its default, as a string where it is a scalar."""
    special = {
        "image.digest": f"sha256:{'b' * 64}",
        "test.image.digest": f"sha256:{'b' * 64}",
        "test.sample.sha256": "b" * 64,
        "defaultCloud": "AzureChinaCloud",
        "clouds": {"Stack": {"authority": "https://a", "vaultUrl": "https://{vault}.b"}},
        "tolerations": [{"operator": "Exists"}],
        "imagePullSecrets": [{"name": "x"}],
        "global.imagePullSecrets": [{"name": "x"}],
        "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["x"]}],
        "extraEnv": [{"name": "TZ", "value": "x"}],
        "extraVolumes": [{"name": "x", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}],
        "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}],
        "topologySpreadConstraints": [{"maxSkew": 1}],
        "networkPolicy.ingress": [{}],
        "networkPolicy.egress": [{}],
        "caBundle": "-----BEGIN CERTIFICATE-----",
        "Azure.proxySettings.proxyCert": "-----BEGIN CERTIFICATE-----",
        "proxy.http": "http://proxy:1",
        "proxy.https": "http://proxy:1",
        "serviceMonitor.interval": "1m",
        "logs.otlp.endpoint": "https://other:4318",
        "logs.otlp.certificate.duration": "90m",
        "logs.otlp.certificate.renewBefore": "60m",
        "serviceMonitor.scrapeTimeout": "5s",
    }
    if leaf.path in special:
        return special[leaf.path]
    match leaf.type:
        case inspect.BoolType():
            return str(not leaf.default).lower()
        case inspect.IntType():
            return str(leaf.default + 1)
        case inspect.LiteralType():
            return next(value for value in leaf.type.values if value != leaf.default)
        case inspect.UnionType():
            return "50%"
        case inspect.StrType():
            return "changed"
        case inspect.ListType():
            return ["changed"]
        case inspect.DictType():
            return {"changed": "x"}
    raise AssertionError(leaf)


def leaves() -> Iterator[values.Leaf]:
    return (entry for entry in values.walk() if isinstance(entry, values.Leaf))


def outcome(given: Any, version: str, hooks: bool = False) -> str:
    """What is rendered, or why not. Without the hooks' pods, which would hide what the controller's lost."""
    try:
        return text(*([] if hooks else ["--no-hooks"]), given=given, version=version, tests=hooks)
    except helm.BadValues as refused:
        return str(refused)


LOGS = {
    "logs.otlp.enabled": "true",
    "logs.otlp.endpoint": "https://collector:4318",
    "logs.otlp.certificate.issuerRef.name": "issuer",
    "logs.otlp.ca.secretName": "root",
}
LOGS_RENDERED = {f"logs.otlp.{group}.renderMode": "alwaysRender" for group in ("certificate", "ca")}
# What has to be given for another value to matter.
BASES: dict[str, dict[str, str]] = {
    "proxy.noProxy": {"proxy.https": "http://proxy:1"},
    "podDisruptionBudget.minAvailable": {"podDisruptionBudget.enabled": "true"},
    "podDisruptionBudget.maxUnavailable": {"podDisruptionBudget.enabled": "true"},
    "networkPolicy.ingress": {"networkPolicy.enabled": "true"},
    "networkPolicy.egress": {"networkPolicy.enabled": "true"},
    "serviceMonitor.renderMode": {"serviceMonitor.enabled": "true"},
    "prometheusRule.renderMode": {"prometheusRule.enabled": "true"},
    "prometheusRule.additionalLabels": {"prometheusRule.enabled": "true", "prometheusRule.renderMode": "alwaysRender"},
    **{
        f"serviceMonitor.{name}": {"serviceMonitor.enabled": "true", "serviceMonitor.renderMode": "alwaysRender"}
        for name in ("additionalLabels", "interval", "scrapeTimeout")
    },
    **{
        f"grafanaDashboard.{name}": {"grafanaDashboard.enabled": "true"}
        for name in ("sidecarLabel", "sidecarLabelValue", "annotations", "extraLabels")
    },
    **{
        f"logs.otlp.{name}": LOGS | LOGS_RENDERED
        for name in (
            "endpoint",
            *(f"certificate.{name}" for name in ("secretName", "duration", "renewBefore")),
            *(f"certificate.issuerRef.{name}" for name in ("name", "kind", "group")),
            *(f"ca.{name}" for name in ("configMapName", "key", "secretName", "secretKey")),
        )
    },
    "logs.otlp.certificate.renderMode": LOGS | {"logs.otlp.ca.renderMode": "alwaysRender"},
    "logs.otlp.ca.renderMode": LOGS | {"logs.otlp.certificate.renderMode": "alwaysRender"},
    "Azure.proxySettings.isProxyEnabled": {"Azure.proxySettings.httpsProxy": "http://proxy:1"},
    "Azure.proxySettings.httpProxy": {"Azure.proxySettings.isProxyEnabled": "true"},
    "Azure.proxySettings.httpsProxy": {"Azure.proxySettings.isProxyEnabled": "true"},
    "Azure.proxySettings.noProxy": {
        "Azure.proxySettings.isProxyEnabled": "true",
        "Azure.proxySettings.httpsProxy": "http://proxy:1",
    },
}


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their dotted paths, as a file would say them."""
    whole: dict[str, Any] = {}
    for path, value in given.items():
        *groups, name = path.split(".")
        place = whole
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return whole


@functools.cache
def without(path: str, version: str) -> str:
    """What is rendered without that value."""
    return outcome(nested(BASES.get(path, {})), version)


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.path)
def test_every_leaf_changes_something(leaf: values.Leaf) -> None:
    given = nested({**BASES.get(leaf.path, {}), leaf.path: other(leaf)})
    if leaf.path == "crds.upgrade":
        assert "kind: Job" in text()
        assert "kind: Job" not in text(given=given)
        return
    if leaf.path.startswith("test."):
        assert outcome(given, NEWEST, hooks=True) != outcome({}, NEWEST, hooks=True)
        return
    # Where there are policies, or else where there are none.
    known = leaf.path if leaf.path in BASES else ""
    assert any(outcome(given, version) != without(known, version) for version in (NEWEST, WITHOUT_POLICIES))


def test_only_values_that_are_there_need_others() -> None:
    assert {path for value, base in BASES.items() for path in (value, *base)} <= {leaf.path for leaf in leaves()}


def test_values_yaml_says_the_typed_defaults() -> None:
    written = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    for leaf in leaves():
        found = written
        for name in leaf.path.split("."):
            found = found[name]
        assert found == leaf.default, leaf.path
