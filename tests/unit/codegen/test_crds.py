"""Test that the CRDs are a superset of those of upstream, and that every difference is listed."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import upstream_crds
from tools.cli.common import helm
from tools.codegen import crds

SYNC, CLASS, AKV_SYNC = crds.build_all()


def get_versions(crd: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {version["name"]: version for version in crd["spec"]["versions"]}


def get_schema(crd: dict[str, Any], version: str) -> dict[str, Any]:
    found: dict[str, Any] = get_versions(crd)[version]["schema"]["openAPIV3Schema"]
    return found


def test_selectable_fields_need_support_in_every_kubernetes_version() -> None:
    """Kubernetes 1.29 refuses selectable fields. See docs/decisions/0007-no-selectable-fields.md."""
    found = re.search(r'^kubeVersion: ">=1\.(\d+)\.', (helm.CHART / "Chart.yaml").read_text(), re.MULTILINE)
    assert found
    versions = [version for crd in crds.build_all() for version in crd["spec"]["versions"]]
    assert any("selectableFields" in version for version in versions) is (int(found[1]) >= 30)


def test_crds_have_their_names_scope_and_versions() -> None:
    assert SYNC["metadata"]["name"] == "secretsyncs.secret-sync.x-k8s.io"
    assert CLASS["metadata"]["name"] == "secretproviderclasses.secrets-store.csi.x-k8s.io"
    assert AKV_SYNC["metadata"]["name"] == "akvsyncs.secret-sync.x-k8s.io"
    assert {crd["spec"]["scope"] for crd in crds.build_all()} == {"Namespaced"}
    assert {crd["metadata"]["annotations"]["helm.sh/resource-policy"] for crd in crds.build_all()} == {"keep"}
    sync = get_versions(SYNC)
    assert sync.keys() == {"v1alpha1"}
    assert sync["v1alpha1"]["subresources"] == {"status": {}}
    assert [column["name"] for column in sync["v1alpha1"]["additionalPrinterColumns"]] == [
        "Ready",
        "Reason",
        "Last-Sync",
        "Age",
        "Class",
        "Message",
    ]
    akv_sync = get_versions(AKV_SYNC)
    assert akv_sync.keys() == {"v1alpha1"}
    assert akv_sync["v1alpha1"]["subresources"] == {"status": {}}
    assert [column["name"] for column in akv_sync["v1alpha1"]["additionalPrinterColumns"]] == [
        "Ready",
        "Reason",
        "Status",
        "Age",
        "Vault",
        "Message",
    ]
    classes = get_versions(CLASS)
    assert {name: (version["served"], version["storage"]) for name, version in classes.items()} == {
        "v1": (True, True),
        "v1alpha1": (True, False),
    }
    assert classes["v1alpha1"]["deprecated"] is True
    assert "subresources" not in classes["v1"]


@pytest.mark.parametrize(
    ("crd", "version", "upstream"),
    [
        (SYNC, "v1alpha1", upstream_crds.SECRET_SYNC),
        (CLASS, "v1", upstream_crds.SECRET_PROVIDER_CLASS),
        (CLASS, "v1alpha1", upstream_crds.SECRET_PROVIDER_CLASS),
    ],
    ids=["SecretSync", "SecretProviderClass v1", "SecretProviderClass v1alpha1"],
)
def test_listed_differences_from_upstream_equal_the_real_ones(
    crd: dict[str, Any], version: str, upstream: dict[str, dict[str, Any]]
) -> None:
    kind = crd["spec"]["names"]["kind"]
    generated = upstream_crds.flatten_schema(get_schema(crd, version))
    assert upstream.keys() <= generated.keys()
    new = {path for path in generated if path not in upstream}
    different = {
        (path, keyword)
        for path, fields in upstream.items()
        for keyword in fields.keys() | generated[path].keys()
        if fields.get(keyword) != generated[path].get(keyword)
    }
    listed = [widening for widening in crds.WIDENINGS if widening.kind == kind]
    assert different == {(w.field, keyword) for w in listed for keyword in w.keywords}
    added = {w.field for w in listed if not w.keywords}
    # The fields inside a new field are not listed.
    assert {path for path in new if not any(path.startswith((f"{top}[", f"{top}.")) for top in added)} == added
    assert all(w.reason for w in listed)


@pytest.mark.parametrize("field", ["sourcePath", "targetKey"])
@given(data=st.data())
def test_text_that_upstreams_pattern_accepts_is_accepted(field: str, data: st.DataObject) -> None:
    path = f"spec.secretObject.data[].{field}"
    text = data.draw(st.from_regex(upstream_crds.SECRET_SYNC[path]["pattern"], fullmatch=True))
    assert re.fullmatch(upstream_crds.flatten_schema(get_schema(SYNC, "v1alpha1"))[path]["pattern"], text)


@pytest.mark.parametrize(
    ("field", "text", "accepted"),
    [
        ("sourcePath", "aCertificate/tls.crt", True),
        ("sourcePath", "aCertificate/0/tls.key", True),
        ("sourcePath", "web.crt", True),
        ("sourcePath", "a--b", True),
        ("sourcePath", "a/../b c", False),
        ("sourcePath", "/a", False),
        ("sourcePath", "a/", False),
        ("targetKey", ".dockerconfigjson", True),
        ("targetKey", "_netrc", True),
        ("targetKey", "a b", False),
        ("targetKey", "", False),
    ],
)
def test_pattern_accepts_only_valid_texts(field: str, text: str, accepted: bool) -> None:
    pattern = upstream_crds.flatten_schema(get_schema(SYNC, "v1alpha1"))[f"spec.secretObject.data[].{field}"]["pattern"]
    assert bool(re.search(pattern, text)) is accepted


def test_flattened_upstream_schema_equals_its_table() -> None:
    table = {
        path: {k: v for k, v in fields.items() if not k.endswith("validations")}
        for path, fields in upstream_crds.SECRET_SYNC.items()
    }
    assert upstream_crds.flatten_schema(upstream_crds.unflatten_schema(upstream_crds.SECRET_SYNC)) == table
