"""Test that a merged CRD accepts all objects that the served CRD or that of this release accepts."""

import copy
from typing import Any

import pytest

from controller.crd_upgrade import job
from controller.crd_upgrade.merge import MergeConflict, merge_crd_schemas
from tests.support import upstream_crds
from tools.codegen import crds

OURS = crds.secret_sync()
LOWER_BOUNDS = ("minLength", "minItems", "minProperties", "minimum")
UPPER_BOUNDS = ("maxLength", "maxItems", "maxProperties", "maximum")
WORDS = ("description", "title", "example", "externalDocs")
FLAGS = ("nullable", "x-kubernetes-preserve-unknown-fields")
PRESERVED = {"x-kubernetes-preserve-unknown-fields": True}


def make_spec(schema: dict[str, Any], **version: Any) -> dict[str, Any]:
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


def merge_field(served: dict[str, Any], ours: dict[str, Any], *, replace_rules: bool = False) -> dict[str, Any]:
    """Merge two CRDs with one field. Return the keywords of this field in the result."""

    def make_schema(field: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "properties": {"a": field}}

    result = merge_crd_schemas(
        make_spec(make_schema(served)), make_spec(make_schema(ours)), replace_rules=replace_rules
    )
    field: dict[str, Any] = result["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"]
    return field


@pytest.mark.parametrize(
    ("served", "ours", "result"),
    [
        ({"maxLength": 300}, {"maxLength": 253}, {"maxLength": 300}),
        ({"maxLength": 100}, {"maxLength": 253}, {"maxLength": 253}),
        ({"minItems": 0}, {"minItems": 1}, {"minItems": 0}),
        *(({bound: 1}, {bound: 2}, {bound: 1}) for bound in LOWER_BOUNDS),
        *(({bound: 1}, {bound: 2}, {bound: 2}) for bound in UPPER_BOUNDS),
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
        *(({word: "old"}, {word: "new"}, {word: "new"}) for word in WORDS),
        ({"description": "old"}, {}, {"description": "old"}),
        ({}, {"description": "new"}, {"description": "new"}),
        ({"default": "x"}, {"default": "y"}, {"default": "x"}),
        ({}, {"default": "y"}, {"default": "y"}),
        ({"default": {"x": 1}}, {"default": {"x": 2}}, {"default": {"x": 1}}),
        *(({flag: True}, {}, {flag: True}) for flag in FLAGS),
        *(({}, {flag: True}, {flag: True}) for flag in FLAGS),
        ({"properties": {"theirs": {}}}, {}, {"properties": {"theirs": {}}}),
        ({}, {"properties": {"ours": {}}}, {"properties": {"ours": {}}}),
        (
            {"properties": {"theirs": {"type": "string"}}},
            {"properties": {"ours": {"type": "string"}}},
            {"properties": {"theirs": {"type": "string"}, "ours": {"type": "string"}}},
        ),
        (PRESERVED, {"properties": {"ours": {"type": "string"}}}, PRESERVED),
        ({"properties": {"theirs": {"type": "string"}}}, PRESERVED, PRESERVED),
        (
            PRESERVED | {"properties": {"both": {"maxLength": 1}, "theirs": {}}},
            {"properties": {"both": {"maxLength": 2}, "ours": {}}},
            PRESERVED | {"properties": {"both": {"maxLength": 2}, "theirs": {}}},
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
def test_each_keyword_is_merged_by_its_rule(
    served: dict[str, Any], ours: dict[str, Any], result: dict[str, Any]
) -> None:
    assert merge_field(served, ours) == result


def test_rules_are_replaced_only_in_crds_of_this_product() -> None:
    theirs, ours = {"x-kubernetes-validations": [{"rule": "a"}]}, {"x-kubernetes-validations": [{"rule": "b"}]}
    assert merge_field(theirs, ours) == theirs
    assert merge_field({}, ours) == {}
    assert merge_field(theirs, ours, replace_rules=True) == ours


STRING, INTEGER = {"type": "string"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("served", "ours", "message"),
    [
        (STRING, INTEGER, "v1.a: type is 'string' where it is served and 'integer' in this release"),
        (
            {"x-kubernetes-list-type": "map"},
            {"x-kubernetes-list-type": "atomic"},
            "v1.a: x-kubernetes-list-type is 'map' where it is served and 'atomic' in this release",
        ),
        (
            {"anyOf": [{"minLength": 1}]},
            {},
            "v1.a: anyOf is [{'minLength': 1}] where it is served and None in this release",
        ),
        (
            {"additionalProperties": STRING},
            {},
            "v1.a: additionalProperties is {'type': 'string'} where it is served and None in this release",
        ),
        (
            {"additionalProperties": True},
            {"additionalProperties": STRING},
            "v1.a: additionalProperties is True where it is served and {'type': 'string'} in this release",
        ),
        (
            {"items": STRING},
            {"items": INTEGER},
            "v1.a[]: type is 'string' where it is served and 'integer' in this release",
        ),
        (
            {"additionalProperties": {"properties": {"b": STRING}}},
            {"additionalProperties": {"properties": {"b": INTEGER}}},
            "v1.a{}.b: type is 'string' where it is served and 'integer' in this release",
        ),
    ],
)
def test_schemas_without_a_superset_are_an_error_that_names_the_field(
    served: dict[str, Any], ours: dict[str, Any], message: str
) -> None:
    with pytest.raises(MergeConflict) as caught:
        merge_field(served, ours)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("served", "ours", "result"),
    [
        ({}, {}, {}),
        ({"shortNames": ["a"]}, {}, {"shortNames": ["a"]}),
        (
            {"shortNames": ["a"], "categories": ["x"]},
            {"shortNames": ["b", "a"], "categories": ["y"]},
            {"shortNames": ["a", "b"], "categories": ["x", "y"]},
        ),
    ],
)
def test_short_names_and_categories_are_added(
    served: dict[str, Any], ours: dict[str, Any], result: dict[str, Any]
) -> None:
    names = {"kind": "Thing", "plural": "things"}
    served_spec, our_spec = make_spec({}) | {"names": names | served}, make_spec({}) | {"names": names | ours}
    assert merge_crd_schemas(served_spec, our_spec, replace_rules=True)["names"] == names | result
    assert served_spec["names"] == names | served


@pytest.mark.parametrize(
    ("served", "ours", "result"),
    [
        ({"served": False}, {"served": True}, {"served": True}),
        ({"served": True}, {"served": False}, {"served": True}),
        ({"served": False}, {"served": False}, {"served": False}),
        ({"deprecated": True}, {}, {"deprecated": True}),
        *(
            ({shown: "old"}, {shown: "new"}, {shown: "new"})
            for shown in ("additionalPrinterColumns", "deprecated", "deprecationWarning")
        ),
    ],
)
def test_version_is_served_if_either_is_and_gets_the_new_columns(
    served: dict[str, Any], ours: dict[str, Any], result: dict[str, Any]
) -> None:
    found = merge_crd_schemas(make_spec({}, **served), make_spec({}, **ours), replace_rules=True)
    assert found == make_spec({}, **result)


def test_new_version_is_added_and_the_stored_one_is_unchanged() -> None:
    served = make_spec({"type": "object"}, name="v1alpha1")
    ours = make_spec({"type": "object"}, name="v1")
    result = merge_crd_schemas(served, ours, replace_rules=True)
    assert [(version["name"], version["storage"]) for version in result["versions"]] == [
        ("v1alpha1", True),
        ("v1", False),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": "other"}, "spec.group: other is served, this release has example.com"),
        ({"scope": "Cluster"}, "spec.scope: Cluster is served, this release has Namespaced"),
    ],
)
def test_other_group_or_scope_is_a_conflict(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MergeConflict) as caught:
        merge_crd_schemas(make_spec({}) | change, make_spec({}), replace_rules=True)
    assert str(caught.value) == message


def remove_subresources(crd: dict[str, Any]) -> dict[str, Any]:
    del crd["versions"][0]["subresources"]
    return crd


@pytest.mark.parametrize(
    ("served", "ours"),
    [
        (make_spec({}, subresources={}), make_spec({})),
        (make_spec({}), make_spec({}, subresources={})),
        (remove_subresources(make_spec({})), make_spec({})),
        (make_spec({}), remove_subresources(make_spec({}))),
    ],
)
def test_status_subresource_is_neither_added_nor_removed(served: dict[str, Any], ours: dict[str, Any]) -> None:
    with pytest.raises(MergeConflict) as caught:
        merge_crd_schemas(served, ours, replace_rules=True)
    assert str(caught.value) == "v1: only one of the two has the status subresource"


def test_crds_without_the_status_subresource_are_merged() -> None:
    crd = remove_subresources(make_spec({}))
    assert merge_crd_schemas(crd, crd, replace_rules=True) == crd


def test_merge_of_equal_crds_changes_nothing() -> None:
    for crd in crds.build_all():
        assert merge_crd_schemas(crd["spec"], crd["spec"], replace_rules=True) == crd["spec"]


def make_upstream_crd() -> dict[str, Any]:
    """Return the SecretSync CRD of the Secrets Store Sync Controller."""
    crd = copy.deepcopy(OURS)
    crd["metadata"] = {"name": OURS["metadata"]["name"], "resourceVersion": "7"}
    crd["spec"]["names"].pop("shortNames")
    [version] = crd["spec"]["versions"]
    del version["additionalPrinterColumns"]
    version["schema"]["openAPIV3Schema"] = upstream_crds.unflatten_schema(upstream_crds.SECRET_SYNC)
    return crd


def test_upstream_crd_gets_the_fields_that_the_controller_needs() -> None:
    body = job.widening_patch(make_upstream_crd(), OURS)
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
    # A widened CRD needs no further patch.
    assert job.widening_patch(make_upstream_crd() | {"spec": body["spec"]}, OURS) is None


def test_provider_class_crd_is_widened_only_if_this_product_installed_it() -> None:
    ours = crds.secret_provider_class()
    served = copy.deepcopy(ours)
    served["metadata"]["resourceVersion"] = "7"
    served["spec"]["versions"].pop()
    assert job.widening_patch(served, ours) is not None
    del served["metadata"]["labels"]
    assert job.widening_patch(served, ours) is None
