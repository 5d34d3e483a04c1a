"""Test that the chart refuses invalid values with their path, and that each value changes a manifest."""

import functools
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import inspect

from tests.chart.rendering import (
    NEWEST,
    WITHOUT_POLICIES,
    build_environment,
    nested,
    parse_objects,
    render,
    render_text,
)
from tools.cli.common import helm
from tools.codegen import values


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (["--set", "rotationPollIntervalInSeconds=0"], "rotationPollIntervalInSeconds"),
        (["--set-string", "rotationPollIntervalInSeconds=0"], "rotationPollIntervalInSeconds"),
        (["--set", "rotationPollIntervalInSeconds=soon"], "rotationPollIntervalInSeconds"),
        (["--set", "jitterSeconds=-1"], "jitterSeconds"),
        # helm would read this number as octal.
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
def test_wrong_value_is_refused_with_its_path(args: list[str], path: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(*args)
    assert any(problem.startswith(f"{path}: ") for problem in refused.value.problems), refused.value.problems


IMAGES = ("image", "test.image")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((f"{image}.registry", text) for image in IMAGES for text in ("a\nb", "a b", "https://a", "a/B", "/", "a//b")),
        *((f"{image}.repository", text) for image in IMAGES for text in ("a\nb", "A", "a:1", "a@sha256:0", "/a", "a/")),
        *((f"{image}.tag", text) for image in IMAGES for text in ("a\nb", "-a", "a:b", "a" * 129, "a@sha256:0")),
        ("global.registry", "a\nb"),
        ("proxy.noProxy", "a b"),
        ("proxy.noProxy", "a\nb"),
        ("logs.otlp.certificate.issuerRef.kind", "a\nb"),
        ("logs.otlp.ca.key", "a/b"),
        ("metrics.tls.secretName", "A"),
        ("priorityClassName", "a" * 254),
    ],
)
def test_text_that_cannot_be_a_name_is_refused(path: str, value: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(given=nested({path: value}))
    assert any(problem.startswith(f"{path}: ") for problem in refused.value.problems), refused.value.problems


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(
            ("image.registry", text)
            for text in ("localhost:5000", "Registry.example/a/b__c", "[fd00::1]:5000/x", "ghcr.io/a-b/c.d/", "")
        ),
        ("image.repository", "registry.example:5000/mirror/akv-secret-store"),
        ("image.tag", "1.0_a-B"),
        ("image.tag", f"1.0@sha256:{'0' * 64}"),
        ("proxy.noProxy", "10.0.0.0/8, .svc,\n*.example.com:8443,\n"),
        ("proxy.noProxy", ["10.0.0.0/8", ".svc,a"]),
        ("proxy.noProxy", ["10.0.0.0/8, .svc", " a"]),
    ],
)
def test_text_that_can_be_a_name_is_accepted(path: str, value: object) -> None:
    assert render(given=nested({path: value}))


# The last words of values that name an object, an image, a host or a key.
NAMES = re.compile(
    r"(?i)(name|namespaces?|registry|repository|tag|driver|group|[a-z]id|noproxy|issuerref\.kind|[a-z.]key)(\.\[\])?$"
)
# `controllerName` is any text, as in SecretSyncs. Azure Arc sets the values below `Azure`.
ANY_TEXT = re.compile(r"controllerName|Azure\..*|dnsConfig\.options\.\[\]\.name|.*\.nodeAffinity\..*")


def find_texts(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the schema of each text below, with its path."""
    prefix = f"{path}." if path else ""
    for name, below in schema.get("properties", {}).items():
        yield from find_texts(below, f"{prefix}{name}")
    for word, keyword in (("[]", "items"), ("*", "additionalProperties")):
        if isinstance(schema.get(keyword), dict):
            yield from find_texts(schema[keyword], f"{prefix}{word}")
    if "string" in schema.get("type", ()):
        yield path, schema


def test_no_value_that_names_something_accepts_a_line_break() -> None:
    """The API server accepts such an image, and refuses such a name only after the first objects were created."""
    named = {path: text for path, text in find_texts(values.schema()) if NAMES.search(path) and "enum" not in text}
    assert len(named) > 50
    lax = [path for path, text in named.items() if re.search(text.get("pattern", ""), "a\nb")]
    assert [path for path in lax if not ANY_TEXT.fullmatch(path)] == []


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
def test_secret_type_that_is_never_written_cannot_be_listed(kind: str, write: Callable[[str], str]) -> None:
    for types in (["Opaque", write(kind)], f"Opaque, {write(kind)}")[: 1 if write is not str else 2]:
        with pytest.raises(helm.BadValues, match=r"validatingAdmissionPolicies\.allowedSecretTypes.*never written"):
            render(given={"validatingAdmissionPolicies": {"allowedSecretTypes": types}})


@pytest.mark.parametrize("kind", [" Opaque", "Opaque ", "a b", "a'] + ['b", "{{ x }}", '"', "-a", "a/"])
def test_invalid_secret_type_is_refused(kind: str) -> None:
    with pytest.raises(helm.BadValues, match=r"allowedSecretTypes: .* is not a type of a Secret"):
        render(given={"validatingAdmissionPolicies": {"allowedSecretTypes": [kind]}})


@pytest.mark.parametrize("types", [[], "", " , "])
def test_allowed_secret_types_name_at_least_one(types: Any) -> None:
    with pytest.raises(helm.BadValues, match=r"allowedSecretTypes: is empty"):
        render(given={"validatingAdmissionPolicies": {"allowedSecretTypes": types}})


@pytest.mark.parametrize(("version", "applied"), [(WITHOUT_POLICIES, True), (NEWEST, False)])
def test_allowed_secret_types_can_be_empty_without_policies(version: str, *, applied: bool) -> None:
    group = {"allowedSecretTypes": [], "applyPolicies": applied}
    given = {"validatingAdmissionPolicies": group, "acceptUnrestrictedTokens": True}
    assert "ALLOWED_SECRET_TYPES" not in build_environment(render(given=given, version=version))


def test_values_that_helm_adds_are_accepted() -> None:
    assert render("--set", "global.anything=1")


def make_other_value(leaf: values.LeafValue) -> Any:
    """Return a value of the leaf's type that is not its default. Scalars are strings."""
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
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "x", "whenUnsatisfiable": "ScheduleAnyway"},
        ],
        "strategy": {"type": "Recreate"},
        "affinity": {"podAffinity": {}},
        "dnsConfig": {"searches": ["x"]},
        "podSecurityContext": {"fsGroup": 1},
        "securityContext": {"privileged": False},
        "extraContainers": [{"name": "x", "image": "x"}],
        "extraInitContainers": [{"name": "x", "image": "x"}],
        "global.tolerations": [{"operator": "Exists"}],
        "serviceMonitor.relabelings": [{"action": "labeldrop", "regex": "x"}],
        "serviceMonitor.metricRelabelings": [{"action": "labeldrop", "regex": "x"}],
        **{f"{group}resources": {"requests": {"cpu": "1"}} for group in ("", "crds.job.", "test.")},
        "networkPolicy.ingress": [{}],
        "networkPolicy.egress": [{}],
        "caBundle": "-----BEGIN CERTIFICATE-----",
        "Azure.Cluster.Cloud": "AzureChinaCloud",
        "Azure.proxySettings.proxyCert": "-----BEGIN CERTIFICATE-----",
        "proxy.http": "http://proxy:1",
        "proxy.https": "http://proxy:1",
        "Azure.proxySettings.httpProxy": "http://proxy:2",
        "Azure.proxySettings.httpsProxy": "http://proxy:2",
        "serviceMonitor.interval": "1m",
        "extraArgs": ["--listen-address=::"],
        "metrics.port": "9090",
        "healthPort": "9091",
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


def list_leaves() -> Iterator[values.LeafValue]:
    return (entry for entry in values.walk() if isinstance(entry, values.LeafValue))


def render_outcome(given: Any) -> str:
    """Return the manifests with those of hooks and tests, or the error."""
    try:
        return render_text(given=given, tests=True)
    except helm.BadValues as refused:
        return str(refused)


LOGS = {
    "logs.otlp.enabled": "true",
    "logs.otlp.endpoint": "https://collector:4318",
    "logs.otlp.certificate.issuerRef.name": "issuer",
    "logs.otlp.ca.secretName": "root",
}
LOGS_RENDERED = {f"logs.otlp.{group}.renderMode": "alwaysRender" for group in ("certificate", "ca")}
# The values that must be set before another value has an effect, by the path of that value.
BASES: dict[str, dict[str, Any]] = {
    "proxy.noProxy": {"proxy.https": "http://proxy:1"},
    "podDisruptionBudget.minAvailable": {"podDisruptionBudget.enabled": "true"},
    "podDisruptionBudget.maxUnavailable": {"podDisruptionBudget.enabled": "true"},
    "podDisruptionBudget.unhealthyPodEvictionPolicy": {"podDisruptionBudget.enabled": "true"},
    "networkPolicy.ingress": {"networkPolicy.enabled": "true"},
    "networkPolicy.egress": {"networkPolicy.enabled": "true"},
    "metrics.authentication.enabled": {"metrics.tls.secretName": "x"},
    "validatingAdmissionPolicies.applyPolicies": {"acceptUnrestrictedTokens": "true"},
    "extraVolumeMounts": {"extraVolumes": [{"name": "x", "emptyDir": {}}]},
    "test.sample.keyvaultName": {f"test.sample.{name}": "x" for name in ("secretName", "clientID", "tenantID")},
    "logs.otlp.enabled": {path: value for path, value in (LOGS | LOGS_RENDERED).items() if path != "logs.otlp.enabled"},
    **{
        f"{kind}.{name}": {f"{kind}.{other}": value}
        for kind in ("serviceMonitor", "prometheusRule")
        for name, other, value in (("renderMode", "enabled", "true"), ("enabled", "renderMode", "alwaysRender"))
    },
    "prometheusRule.additionalLabels": {"prometheusRule.enabled": "true", "prometheusRule.renderMode": "alwaysRender"},
    **{
        f"serviceMonitor.{name}": {"serviceMonitor.enabled": "true", "serviceMonitor.renderMode": "alwaysRender"}
        for name in (
            "namespace",
            "additionalLabels",
            "interval",
            "scrapeTimeout",
            "relabelings",
            "metricRelabelings",
        )
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


def is_default(paths: Iterable[str], base: Mapping[str, Any]) -> bool:
    """Return whether nulls at these paths render what the chart renders without them."""
    given = nested({**base, **dict.fromkeys(paths)})
    return render_outcome(given) == render_outcome(nested(base))


def test_null_value_has_the_default() -> None:
    """Render the nulls that need the same other values together, and each one alone only if the result differs."""
    together: dict[tuple[int, str], list[str]] = defaultdict(list)
    for entry in values.walk():
        base = {name: value for name, value in BASES.get(entry.path, {}).items() if name != entry.path}
        # The null of a group would hide the nulls of its values.
        depth = 0 if isinstance(entry, values.LeafValue) else entry.path.count(".") + 1
        together[depth, json.dumps(base)].append(entry.path)
    for (_, text), paths in together.items():
        base = json.loads(text)
        if not is_default(paths, base):
            wrong = [path for path in paths if not is_default([path], base)]
            pytest.fail(f"null means something else than the default: {wrong or paths}")


def test_null_value_of_a_parent_chart_has_the_default(tmp_path: Path) -> None:
    """Helm drops a null in the user's values, but passes a null of a parent chart to its dependency."""

    def rendered(given: dict[str, Any]) -> str:
        metadata = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
        (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(metadata))
        (tmp_path / "values.yaml").write_text(yaml.safe_dump({"akv-secret-store": given}))
        shutil.copytree(helm.CHART, tmp_path / "charts" / "akv-secret-store", dirs_exist_ok=True)
        return helm.run(["template", "release", str(tmp_path), "--kube-version", NEWEST])

    defaults = rendered({})
    assert "kind: Deployment" in defaults
    assert rendered({leaf.path.split(".")[0]: None for leaf in list_leaves()}) == defaults
    assert rendered(nested({leaf.path: None for leaf in list_leaves()})) == defaults


def test_every_template_fills_in_defaults_first() -> None:
    for template in (helm.CHART / "templates").iterdir():
        if not template.name.startswith("_"):
            assert 'include "akv-secret-store.defaults" .' in "".join(template.read_text().splitlines()[:2]), template


UNCHECKED = "--skip-schema-validation"
"""With this flag, helm takes a third less time, and the schema refuses no value."""
DECIDING = {
    "enabled": NEWEST,
    "acceptUnrestrictedTokens": WITHOUT_POLICIES,
    "serviceMonitor.renderMode": NEWEST,
    "prometheusRule.renderMode": NEWEST,
    "logs.otlp.certificate.renderMode": NEWEST,
    "logs.otlp.ca.renderMode": NEWEST,
}
"""Values that decide only whether the chart is refused, each with a Kubernetes version for which they decide it."""


def render_effect(given: Any, hooks: bool) -> str:
    """Return the manifests. Without `hooks`, leave out their pods, which would hide other changes."""
    return render_text(UNCHECKED, *([] if hooks else ["--no-hooks"]), given=given, tests=hooks)


@functools.cache
def render_without(path: str, hooks: bool) -> str:
    """Return the manifests with the values that this value needs, but without this value."""
    return render_effect(nested(BASES.get(path, {})), hooks)


@pytest.mark.parametrize(
    "leaf", [leaf for leaf in list_leaves() if leaf.path not in DECIDING], ids=lambda leaf: leaf.path
)
def test_every_value_changes_a_manifest(leaf: values.LeafValue) -> None:
    given = nested({**BASES.get(leaf.path, {}), leaf.path: make_other_value(leaf)})
    hooks = leaf.path.startswith(("test.", "crds."))
    known = leaf.path if leaf.path in BASES else ""
    assert render_effect(given, hooks) != render_without(known, hooks)


def is_refused(given: Mapping[str, Any], version: str) -> bool:
    try:
        render_text(given=nested(given), version=version)
    except helm.BadValues:
        return True
    return False


@pytest.mark.parametrize(("path", "version"), DECIDING.items())
def test_deciding_value_changes_whether_the_chart_is_refused(path: str, version: str) -> None:
    leaf = next(leaf for leaf in list_leaves() if leaf.path == path)
    base = BASES.get(path, {})
    assert is_refused(base, version) != is_refused({**base, path: make_other_value(leaf)}, version)


def test_values_that_need_others_exist() -> None:
    assert {path for value, base in BASES.items() for path in (value, *base)} <= {leaf.path for leaf in list_leaves()}


def test_values_yaml_has_the_typed_defaults() -> None:
    written = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    for leaf in list_leaves():
        found = written
        for name in leaf.path.split("."):
            found = found[name]
        assert found == leaf.default, leaf.path


@pytest.mark.parametrize("leaf", list(list_leaves()), ids=lambda leaf: leaf.path)
def test_description_of_a_value_names_its_subject(leaf: values.LeafValue) -> None:
    """The table in the README has no headings of groups."""
    first = leaf.description.split()[0]
    assert first[0].isupper(), leaf.description
    assert first not in ("Its", "It", "As", "Or", "They"), leaf.description
    assert not leaf.description.startswith(("Whether there is", "Whether they", "Whether it")), leaf.description


def test_schema_has_the_default_of_each_value() -> None:
    for leaf in list_leaves():
        node = values.schema()
        for name in leaf.path.split("."):
            node = node["properties"][name]
        assert node["default"] == leaf.default, leaf.path


def test_disabled_chart_names_the_condition_of_its_parent() -> None:
    with pytest.raises(helm.BadValues, match=r"^enabled: .*`condition: akv-secret-store\.enabled`"):
        render(given={"enabled": False})


def test_parent_chart_can_disable_this_one(tmp_path: Path) -> None:
    dependency = {"name": "akv-secret-store", "version": "*", "condition": "akv-secret-store.enabled"}
    metadata = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(metadata))
    shutil.copytree(helm.CHART, tmp_path / "charts" / "akv-secret-store")
    command = ["template", "release", str(tmp_path), "--kube-version", NEWEST]
    assert "kind: Deployment" in helm.run(command)
    assert "kind:" not in helm.run([*command, "--set", "akv-secret-store.enabled=false"])


def list_pods(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the specs of the controller's, the CRD Job's and the test's pods, with their labels."""
    for manifest in render(given=given, tests=True):
        if manifest["kind"] == "Pod":
            yield manifest["spec"] | {"labels": manifest["metadata"]["labels"]}
        elif manifest["kind"] in ("Deployment", "Job"):
            template = manifest["spec"]["template"]
            yield template["spec"] | {"labels": template["metadata"]["labels"]}


GLOBAL: dict[str, Any] = {
    "registry": "parent.example",
    "imagePullSecrets": [{"name": "parent"}],
    "labels": {"team": "parent", "stage": "test"},
    "nodeSelector": {"pool": "parent", "zone": "a"},
    "tolerations": [{"operator": "Exists"}],
    "priorityClassName": "parent",
}


def test_globals_of_a_parent_chart_reach_every_pod() -> None:
    found = list(list_pods({"global": GLOBAL}))
    assert len(found) == 4
    for pod in found:
        assert pod["labels"].items() >= GLOBAL["labels"].items()
        assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", **GLOBAL["nodeSelector"]}
        assert (pod["tolerations"], pod["priorityClassName"]) == (GLOBAL["tolerations"], "parent")
        assert pod["imagePullSecrets"] == GLOBAL["imagePullSecrets"]
        assert pod["containers"][0]["image"].startswith("parent.example/akv-secret-store")


def test_values_of_the_chart_override_globals() -> None:
    own: dict[str, Any] = {
        "commonLabels": {"team": "own"},
        "nodeSelector": {"pool": "own"},
        "tolerations": [{"key": "own", "operator": "Exists"}],
        "priorityClassName": "own",
    }
    for pod in list_pods({"global": GLOBAL, **own}):
        assert (pod["labels"]["team"], pod["nodeSelector"]["pool"]) == ("own", "own")
        assert pod["tolerations"] == own["tolerations"] + GLOBAL["tolerations"]
        assert pod["priorityClassName"] == "own"


def test_common_annotations_and_labels_are_on_all_objects() -> None:
    given = nested({**LOGS, **LOGS_RENDERED}) | {
        "commonAnnotations": {"example.com/owner": "x"},
        "commonLabels": {"team": "x"},
        "serviceAccount": {"annotations": {"a": "b"}},
        "networkPolicy": {"enabled": True},
        "podDisruptionBudget": {"enabled": True},
        "serviceMonitor": {"enabled": True, "renderMode": "alwaysRender"},
        "prometheusRule": {"enabled": True, "renderMode": "alwaysRender"},
        "grafanaDashboard": {"enabled": True},
        "proxy": {"https": "http://proxy:1"},
        "caBundle": "-----BEGIN CERTIFICATE-----",
        "tokenRequest": {"serviceAccounts": ["shop/akv-reader"]},
        "metrics": {"tls": {"secretName": "x"}, "authentication": {"enabled": True}},
    }
    for manifest in render(given=given, tests=True):
        name = (manifest["kind"], manifest["metadata"]["name"])
        assert manifest["metadata"].get("annotations", {}).get("example.com/owner") == "x", name
        assert manifest["metadata"]["labels"]["team"] == "x", name


class UniqueKeyLoader(yaml.SafeLoader):
    """A loader that refuses a mapping with a key that occurs twice, as Argo CD and kustomize do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping, or fail the test."""
        keys = [key.value for key, _ in node.value]
        assert sorted(keys) == sorted(set(keys)), f"a key occurs twice in line {node.start_mark.line + 1}"
        return super().construct_mapping(node, deep)


EVERY_OBJECT = {
    "networkPolicy": {"enabled": True},
    "podDisruptionBudget": {"enabled": True},
    "serviceMonitor": {"enabled": True, "renderMode": "alwaysRender"},
    "prometheusRule": {"enabled": True, "renderMode": "alwaysRender"},
    "grafanaDashboard": {"enabled": True},
    "tokenRequest": {"serviceAccounts": ["shop/akv-reader"]},
    "metrics": {"tls": {"secretName": "x"}, "authentication": {"enabled": True}},
    "Azure": {"Cluster": {"Region": "westeurope"}},
}


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        (
            "labels",
            ("commonLabels", "podLabels", "deploymentLabels", "crds.job.labels", "test.labels", "global.labels"),
        ),
        ("annotations", ("commonAnnotations", "deploymentAnnotations", "crds.job.annotations", "test.annotations")),
    ],
)
def test_key_of_the_chart_is_rendered_once_if_the_user_sets_it_too(kind: str, groups: tuple[str, ...]) -> None:
    """The chart's own labels take precedence, because selectors need them."""
    plain = render(given=EVERY_OBJECT, tests=True)
    keys = {key for each in plain for key in each["metadata"].get(kind, {}) if not key.startswith("helm.sh/hook")}
    for group in groups:
        text = render_text(given=EVERY_OBJECT | nested({group: dict.fromkeys(keys, "x")}), tests=True)
        found = parse_objects(text)
        for _ in yaml.load_all(text, Loader=UniqueKeyLoader):
            pass
        if kind == "labels":
            for before, after in zip(plain, found, strict=True):
                own = before["metadata"]["labels"]
                assert after["metadata"]["labels"].items() >= own.items(), (group, before["kind"])


@pytest.mark.parametrize("key", ["helm.sh/hook", "helm.sh/hook-weight", "helm.sh/hook-delete-policy"])
@pytest.mark.parametrize(
    "group",
    [
        "commonAnnotations",
        "crds.job.annotations",
        "deploymentAnnotations",
        "grafanaDashboard.annotations",
        "serviceAccount.annotations",
        "test.annotations",
    ],
)
def test_annotation_that_makes_an_object_a_hook_is_refused(group: str, key: str) -> None:
    """An object that is a hook is no part of the release: helm neither updates nor deletes it."""
    with pytest.raises(helm.BadValues, match=rf"^{group}: {key} "):
        render(given=nested({group: {key: "pre-install"}}))
    assert render(given=nested({group: {"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-wave": "1"}}))
