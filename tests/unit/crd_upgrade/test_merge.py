"""A served CRD and ours: the result accepts what either accepts, and nothing that is served goes away."""

import copy
from typing import Any

import pytest

from controller.crd_upgrade import job as job
from controller.crd_upgrade.merge import MergeConflict, merge_crd_schemas
from tests.support import upstream_crds
from tools.codegen import crds

OURS = crds.secret_sync()


def spec(schema: dict[str, Any], **version: Any) -> dict[str, Any]:
    return {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"kind": "Thing", "plural": "things"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema},
                **version,
            }
        ],
    }


def merged(served: dict[str, Any], ours: dict[str, Any], *, replace_rules: bool = False) -> dict[str, Any]:
    """Of the field `a`; its keywords are given."""

    def around(field: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "properties": {"a": field}}

    result = merge_crd_schemas(spec(around(served)), spec(around(ours)), replace_rules=replace_rules)
    field: dict[str, Any] = result["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"]
    return field


@pytest.mark.parametrize(
    ("served", "ours", "result"),
    [
        ({"maxLength": 300}, {"maxLength": 253}, {"maxLength": 300}),
        ({"maxLength": 100}, {"maxLength": 253}, {"maxLength": 253}),
        ({"minItems": 0}, {"minItems": 1}, {"minItems": 0}),
        ({}, {"maxItems": 16}, {}),
        ({"maxItems": 16}, {}, {}),
        ({"enum": ["a"]}, {"enum": ["b", "a"]}, {"enum": ["a", "b"]}),
        ({"enum": ["a"]}, {}, {}),
        ({"required": ["x", "y"]}, {"required": ["y", "z"]}, {"required": ["y"]}),
        ({"required": ["x"]}, {"required": ["z"]}, {}),
        ({"pattern": "^a$"}, {"pattern": "^a$"}, {"pattern": "^a$"}),
        ({"pattern": "^a$"}, {"pattern": "^b$"}, {"pattern": "(?:^a$)|(?:^b$)"}),
        ({"pattern": "(?:^a$)|(?:^b$)"}, {"pattern": "^b$"}, {"pattern": "(?:^a$)|(?:^b$)"}),
        ({"pattern": "^a$"}, {}, {}),
        ({"description": "old"}, {"description": "new"}, {"description": "new"}),
        ({"default": "x"}, {"default": "y"}, {"default": "x"}),
        ({}, {"default": "y"}, {"default": "y"}),
        ({"nullable": True}, {}, {"nullable": True}),
        (
            {"properties": {"theirs": {"type": "string"}}},
            {"properties": {"ours": {"type": "string"}}},
            {"properties": {"theirs": {"type": "string"}, "ours": {"type": "string"}}},
        ),
        (
            {"items": {"type": "string", "maxLength": 1}},
            {"items": {"type": "string", "maxLength": 2}},
            {"items": {"type": "string", "maxLength": 2}},
        ),
        (
            {"additionalProperties": {"type": "string"}},
            {"additionalProperties": {"type": "string", "maxLength": 2}},
            {"additionalProperties": {"type": "string"}},
        ),
    ],
)
def test_keyword_by_keyword(served: dict[str, Any], ours: dict[str, Any], result: dict[str, Any]) -> None:
    assert merged(served, ours) == result


def test_rules_are_replaced_only_in_crds_of_this_product() -> None:
    theirs, ours = {"x-kubernetes-validations": [{"rule": "a"}]}, {"x-kubernetes-validations": [{"rule": "b"}]}
    assert merged(theirs, ours) == theirs
    assert merged({}, ours) == {}
    assert merged(theirs, ours, replace_rules=True) == ours


@pytest.mark.parametrize(
    ("served", "ours"),
    [
        ({"type": "string"}, {"type": "integer"}),
        ({"x-kubernetes-list-type": "map"}, {"x-kubernetes-list-type": "atomic"}),
        ({"anyOf": [{"minLength": 1}]}, {}),
        ({"additionalProperties": {"type": "string"}}, {}),
    ],
)
def test_schemas_without_a_superset_are_an_error_that_names_the_field(
    served: dict[str, Any], ours: dict[str, Any]
) -> None:
    with pytest.raises(MergeConflict, match=r"^v1\.a: "):
        merged(served, ours)


def test_versions_are_added_and_none_is_removed_nor_the_stored_one_changed() -> None:
    served = spec({"type": "object"}, name="v1alpha1")
    ours = spec({"type": "object"}, name="v1")
    result = merge_crd_schemas(served, ours, replace_rules=True)
    assert [(version["name"], version["storage"]) for version in result["versions"]] == [
        ("v1alpha1", True),
        ("v1", False),
    ]
    off = spec({"type": "object"}, served=False)
    assert merge_crd_schemas(spec({"type": "object"}), off, replace_rules=True)["versions"][0]["served"] is True


@pytest.mark.parametrize("change", [{"group": "other"}, {"scope": "Cluster"}])
def test_another_group_or_scope_is_another_thing(change: dict[str, Any]) -> None:
    with pytest.raises(MergeConflict, match=next(iter(change))):
        merge_crd_schemas(spec({}) | change, spec({}), replace_rules=True)


def test_status_subresource_is_neither_added_nor_removed() -> None:
    with pytest.raises(MergeConflict, match="status subresource"):
        merge_crd_schemas(spec({}, subresources={}), spec({}), replace_rules=True)


def test_ours_over_ours_is_ours() -> None:
    for crd in crds.build_all():
        assert merge_crd_schemas(crd["spec"], crd["spec"], replace_rules=True) == crd["spec"]


def upstreams() -> dict[str, Any]:
    """Return the SecretSync CRD as the Secrets Store Sync Controller brings it."""
    crd = copy.deepcopy(OURS)
    crd["metadata"] = {"name": OURS["metadata"]["name"], "resourceVersion": "7"}
    crd["spec"]["names"].pop("shortNames")
    [version] = crd["spec"]["versions"]
    del version["additionalPrinterColumns"]
    version["schema"]["openAPIV3Schema"] = upstream_crds.unflatten_schema(upstream_crds.SECRET_SYNC)
    return crd


def test_upstreams_own_definition_gets_what_the_controller_needs() -> None:
    body = job.widening_patch(upstreams(), OURS)
    assert body
    assert body["metadata"] == {"resourceVersion": "7"}
    assert body["spec"]["names"]["shortNames"] == ["ssync"]
    [version] = body["spec"]["versions"]
    assert version["additionalPrinterColumns"] == OURS["spec"]["versions"][0]["additionalPrinterColumns"]
    fields = upstream_crds.flatten_schema(version["schema"]["openAPIV3Schema"])
    ours = upstream_crds.flatten_schema(OURS["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    assert fields.keys() == ours.keys()
    assert (
        ours["spec.secretObject.data[].sourcePath"]["pattern"]
        in fields["spec.secretObject.data[].sourcePath"]["pattern"]
    )
    assert "maxItems" not in fields["spec.secretObject.data"]
    # Once widened there is nothing more to do.
    assert job.widening_patch(upstreams() | {"spec": body["spec"]}, OURS) is None


def test_provider_class_crd_is_widened_only_if_this_product_installed_it() -> None:
    ours = crds.secret_provider_class()
    served = copy.deepcopy(ours)
    served["metadata"]["resourceVersion"] = "7"
    served["spec"]["versions"].pop()
    assert job.widening_patch(served, ours) is not None
    del served["metadata"]["labels"]
    assert job.widening_patch(served, ours) is None
