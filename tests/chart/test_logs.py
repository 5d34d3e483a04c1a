"""Test the log export: its Certificate, Bundle, mounts and environment. All of them are missing when it is disabled."""

from typing import Any

import pytest

from controller.config.settings import Settings
from tests.chart.rendering import (
    FULL_NAME,
    Manifest,
    build_environment,
    get_container,
    get_object,
    get_pod_spec,
    list_kinds,
    render,
    render_text,
)
from tests.logs import page
from tools.cli.common import helm

ENDPOINT = "https://collector.observability.svc:4318"
KINDS = ("cert-manager.io/v1/Certificate", "trust.cert-manager.io/v1alpha1/Bundle")
SERVED = [word for kind in KINDS for word in ("--api-versions", kind)]


def make_values(**otlp: Any) -> dict[str, Any]:
    """Return values as Arc passes them. `otlp` replaces groups."""
    groups = {"certificate": {"issuerRef": {"name": "issuer"}}, "ca": {"secretName": "root"}}
    return {"logs": {"otlp": {"enabled": "true", "endpoint": ENDPOINT, **groups, **otlp}}}


def list_sources(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the sources of the files in the mounted folder."""
    mount = next(mount for mount in get_container(manifests)["volumeMounts"] if mount["name"] == "logs")
    assert Settings.from_environment(build_environment(manifests)).otlp_folder == mount["mountPath"]
    volume = next(volume for volume in get_pod_spec(manifests)["volumes"] if volume["name"] == "logs")
    return {kind: about for source in volume["projected"]["sources"] for kind, about in source.items()}


def test_disabled_log_export_renders_nothing() -> None:
    rendered = render_text(*SERVED)
    assert "OTLP" not in rendered
    assert "akv-secret-store-logs" not in rendered
    disabled = make_values()
    disabled["logs"]["otlp"]["enabled"] = "False"
    assert render_text(*SERVED, given=disabled) == rendered


def test_mounted_files_come_from_the_certificate_and_the_bundle() -> None:
    manifests = render(*SERVED, given=make_values())
    assert list_kinds(manifests) - list_kinds(render()) == {"Certificate", "Bundle"}
    certificate, bundle = get_object(manifests, "Certificate"), get_object(manifests, "Bundle")
    found = list_sources(manifests)
    assert found["secret"]["name"] == certificate["spec"]["secretName"]
    assert {item["key"]: item["path"] for item in found["secret"]["items"]} == {
        "tls.crt": "tls.crt",
        "tls.key": "tls.key",
    }
    # trust-manager's ConfigMap has the Bundle's name.
    assert found["configMap"]["name"] == bundle["metadata"]["name"]
    assert found["configMap"]["items"] == [{"key": bundle["spec"]["target"]["configMap"]["key"], "path": "ca.crt"}]
    # The controller also starts and syncs without these files.
    assert found["secret"]["optional"] is found["configMap"]["optional"] is True
    assert certificate["spec"]["issuerRef"] == {"name": "issuer", "kind": "Issuer", "group": "cert-manager.io"}
    assert certificate["spec"]["usages"] == ["digital signature", "client auth"]
    assert bundle["spec"]["sources"] == [{"secret": {"name": "root", "key": "tls.crt"}}]
    namespace = certificate["metadata"]["namespace"]
    assert bundle["spec"]["target"]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    assert build_environment(manifests)["OTLP_ENDPOINT"] == ENDPOINT


def test_bundle_names_fit_a_label_and_differ_between_namespaces() -> None:
    """trust-manager writes the name of the Bundle into a label, and a Bundle is cluster-scoped."""
    names = set()
    for namespace in ("a" * 63, "b" * 63):
        manifests = render(*SERVED, given=make_values() | {"fullnameOverride": "n" * 53}, namespace=namespace)
        names.add(get_object(manifests, "Bundle")["metadata"]["name"])
        names.add(get_object(manifests, "Certificate")["metadata"]["name"])
    assert len(names) == 3
    assert max(map(len, names)) <= 63


def test_own_secret_and_configmap_need_no_certificate_and_bundle() -> None:
    own = make_values(certificate={"secretName": "mine"}, ca={"configMapName": "roots", "key": "all.pem"})
    manifests = render(given=own)
    assert list_kinds(manifests) == list_kinds(render())
    found = list_sources(manifests)
    assert (found["secret"]["name"], found["configMap"]["name"]) == ("mine", "roots")
    assert found["configMap"]["items"] == [{"key": "all.pem", "path": "ca.crt"}]


@pytest.mark.parametrize(
    ("group", "kind", "owner", "alternative"),
    [
        ("certificate", KINDS[0], "cert-manager", "logs.otlp.certificate.secretName"),
        ("ca", KINDS[1], "trust-manager", "logs.otlp.ca.configMapName"),
    ],
)
def test_kind_that_the_cluster_does_not_serve_is_refused_or_skipped(
    group: str, kind: str, owner: str, alternative: str
) -> None:
    (other,) = set(KINDS) - {kind}
    served = ["--api-versions", other]
    with pytest.raises(helm.BadValues) as refused:
        render(*served, given=make_values())
    assert str(refused.value).startswith(f"logs.otlp.enabled: the cluster does not serve {kind}, {owner}'s; ")
    assert alternative in str(refused.value)
    mode = f"logs.otlp.{group}.renderMode"
    assert f"set {mode} to skipIfMissing" in str(refused.value)
    short_kind = kind.rpartition("/")[2]
    assert short_kind not in list_kinds(render(*served, "--set", f"{mode}=skipIfMissing", given=make_values()))
    assert short_kind in list_kinds(render(*served, "--set", f"{mode}=alwaysRender", given=make_values()))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"endpoint": ""}, "logs.otlp.endpoint"),
        ({"endpoint": "http://plain:4318"}, "logs.otlp.endpoint"),
        ({"certificate": {}}, "logs.otlp.certificate.issuerRef.name"),
        ({"certificate": {"duration": "90d"}}, "logs.otlp.certificate.duration"),
        ({"ca": {}}, "logs.otlp.ca.secretName"),
    ],
)
def test_missing_value_of_the_log_export_is_named_by_its_path(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(*SERVED, given=make_values(**changes))
    assert any(problem.startswith(f"{path}: ") for problem in refused.value.problems), refused.value.problems


def test_network_policy_opens_the_port_of_the_collector() -> None:
    manifests = render(*SERVED, given=make_values() | {"networkPolicy": {"enabled": "true"}})
    ports = [
        port["port"]
        for rule in get_object(manifests, "NetworkPolicy", FULL_NAME)["spec"]["egress"]
        for port in rule["ports"]
    ]
    # DNS, also OpenShift's; HTTPS and API servers; the collector; the vault of helm test.
    assert ports == [53, 53, 5353, 5353, 443, 6443, 4318, 8443]


def test_certificate_renewal_restarts_no_pod() -> None:
    """The pod reads renewed certificates from files. Values in its template would change only with an upgrade."""
    manifests = render(*SERVED, given=make_values())
    annotations = get_object(manifests, "Deployment")["spec"]["template"]["metadata"].get("annotations", {})
    assert annotations == get_object(render(), "Deployment")["spec"]["template"]["metadata"].get("annotations", {})


def test_values_of_the_readme_enable_the_log_export() -> None:
    manifests = render(*SERVED, given=page.read_blocks()[0])
    assert list_kinds(manifests) - list_kinds(render()) == {"Certificate", "Bundle"}
    assert build_environment(manifests)["OTLP_ENDPOINT"] == ENDPOINT
