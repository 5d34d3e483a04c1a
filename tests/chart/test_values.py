"""The chart's values: wrong ones are refused by their path, every one changes something."""

import functools
from collections.abc import Callable, Iterator, Mapping
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


NOT_NAMESPACES = (",", " ", ", ", "shop,", ",shop", "shop,,web", "shop web", "Shop", "*", "a.b", "-a", "x" * 64, "a\nb")


@pytest.mark.parametrize("text", NOT_NAMESPACES)
def test_watch_namespaces_takes_only_names(text: str) -> None:
    """A text without a name must not mean all namespaces."""
    for given in (text, ["shop", text]):
        with pytest.raises(helm.BadValues, match="watchNamespaces"):
            render(given={"watchNamespaces": given})


NEVER_TYPES = (
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release.v1",
    "helm.sh/",
    "akv-secret-store/probe",
)


@pytest.mark.parametrize("kind", NEVER_TYPES)
@pytest.mark.parametrize("write", [str, str.upper, str.title, " {}".format, "{}\t".format, "\n{} ".format])
def test_types_that_are_never_written_are_not_listed(kind: str, write: Callable[[str], str]) -> None:
    for types in (["Opaque", write(kind)], f"Opaque, {write(kind)}")[: 1 if write is not str else 2]:
        with pytest.raises(helm.BadValues, match=r"validatingAdmissionPolicies\.allowedSecretTypes.*never written"):
            render(given={"validatingAdmissionPolicies": {"allowedSecretTypes": types}})


@pytest.mark.parametrize("kind", [" Opaque", "Opaque ", "a b", "a'] + ['b", "{{ x }}", '"', "-a", "a/"])
def test_what_is_not_a_type_is_not_listed(kind: str) -> None:
    with pytest.raises(helm.BadValues, match=r"allowedSecretTypes: .* is no type of a Secret"):
        render(given={"validatingAdmissionPolicies": {"allowedSecretTypes": [kind]}})


def protection(given: Any) -> list[Any]:
    """What of a release protects: rights, policies, accounts, and what its pods may do."""
    found: list[Any] = []
    for manifest in render(given=given, tests=True):
        spec = manifest.get("spec", {})
        pod = spec if manifest["kind"] == "Pod" else spec.get("template", {}).get("spec")
        if pod:
            environment = {each["name"]: each for item in pod["containers"] for each in item.get("env", [])}
            names = ("WATCH_NAMESPACES", "PROBE_SECRET_TYPE", "AKV_SYNC", "IDENTITY_FROM_SERVICE_ACCOUNT")
            found.append([environment.get(name) for name in names])
            found.append([pod.get("serviceAccountName"), pod.get("securityContext")])
            found.append([item.get("securityContext") for item in pod["containers"]])
        else:
            found.append((manifest["kind"], manifest.get("rules"), spec if "Polic" in manifest["kind"] else None))
    return found


@pytest.mark.parametrize("path", [entry.path for entry in values.walk()])
def test_null_drops_no_protection(path: str) -> None:
    """It has the default's effect, or the chart refuses it and names it."""
    # Without this value the chart refuses to render where policies are missing, which would hide that they are.
    accepting = {"acceptUnrestrictedTokens": True}
    try:
        found = protection({**accepting, **nested({path: None})})
    except helm.BadValues as refused:
        problem = str(refused)
    else:
        assert found == protection(accepting)
        return
    assert path in problem


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
