"""Test the conversion of structs to structural schemas, and its errors for types that the API server would refuse."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from controller.api.meta import Resource, Wire, field_schema, validation_rule
from tools.codegen.openapi import SchemaError, resource, structural


class Item(Wire, frozen=True, kw_only=True):
    """One item.

    A longer description.
    """

    key: Annotated[str, field_schema("Its key.", maxLength=5)]
    some_text: str | None = None


class Spec(Wire, frozen=True, kw_only=True):
    """The desired state."""

    items: Annotated[
        list[Item], field_schema(minItems=1, x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["key"])
    ] = msgspec.field(default_factory=list)
    level: Literal["b", "a"] = "a"
    count: Annotated[int, field_schema(format="int64", minimum=0)] = 0
    labels: dict[str, Annotated[str, field_schema(maxLength=63)]] = msgspec.field(default_factory=dict)
    kind: Annotated[str, field_schema(default="Opaque")]


class Thing(Resource, frozen=True, kw_only=True):
    """A thing."""

    group, version, kind, plural = "example.com", "v1", "Thing", "things"
    spec: Spec


class State(Wire, frozen=True, kw_only=True):
    """The observed state."""

    ready: bool = False


def test_struct_becomes_a_schema_with_all_its_keywords() -> None:
    assert structural(Spec) == {
        "type": "object",
        "description": "The desired state.",
        "properties": {
            "items": {
                "type": "array",
                "minItems": 1,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["key"],
                "items": {
                    "type": "object",
                    "description": "One item.\n\nA longer description.",
                    "properties": {
                        "key": {"type": "string", "description": "Its key.", "maxLength": 5},
                        "someText": {"type": "string"},
                    },
                    "required": ["key"],
                },
            },
            "level": {"type": "string", "enum": ["a", "b"]},
            "count": {"type": "integer", "format": "int64", "minimum": 0},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
            # The API server sets the default, so the field is not required.
            "kind": {"type": "string", "default": "Opaque"},
        },
    }


def test_resource_schema_has_the_standard_fields_and_a_status() -> None:
    schema = resource(Thing, status=State)
    assert list(schema["properties"]) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert schema["properties"]["metadata"] == {"type": "object"}
    assert schema["required"] == ["spec"]
    assert schema["properties"]["status"]["properties"]["ready"] == {"type": "boolean"}


def test_msgspec_constraints_become_keywords() -> None:
    assert structural(Annotated[str, Meta(min_length=1, max_length=3, pattern="^a$")]) == {
        "type": "string",
        "minLength": 1,
        "maxLength": 3,
        "pattern": "^a$",
    }
    assert structural(Annotated[int, Meta(ge=1, le=2)]) == {"type": "integer", "minimum": 1, "maximum": 2}


def test_explanation_becomes_a_rule_beside_the_pattern() -> None:
    kind = Annotated[
        str,
        field_schema(
            maxLength=9,
            pattern=r"^\d$",
            explanation="a digit",
            x_kubernetes_validations=[validation_rule("true", "no")],
        ),
    ]
    schema = structural(kind)
    assert schema["pattern"] == r"^\d$"
    assert "explanation" not in schema
    assert schema["x-kubernetes-validations"] == [
        {"rule": r"self.matches(r'^\d$')", "message": "a digit"},
        {"rule": "true", "message": "no"},
    ]


class Optional(Wire, frozen=True, kw_only=True):
    """Its key may be missing."""

    key: str = ""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Annotated[str, field_schema(uniqueItems=True)], "has no keyword uniqueItems"),
        (Annotated[str, field_schema(minimum=1)], "has no keyword minimum"),
        (Annotated[int, field_schema(maxLength=1)], "has no keyword maxLength"),
        (Annotated[str, field_schema(format="email")], "format email"),
        (Annotated[str, field_schema(pattern="^(?!a)b$")], r"RE2 does not support \(\?!"),
        (Annotated[str, field_schema(pattern="(?<=a)b")], r"RE2 does not support \(\?<="),
        (Annotated[str, field_schema(pattern=r"(a)\1")], r"RE2 does not support \\1"),
        (Annotated[str, field_schema(pattern="a", explanation="why")], "maxLength"),
        (Annotated[str, Meta(max_length=3), field_schema(maxLength=4)], "given twice"),
        (Annotated[str, field_schema(x_kubernetes_validations=[{"rule": "true", "msg": "x"}])], "rule, msg"),
        (Annotated[int, Meta(gt=0)], "IntType"),
        (int | str, "UnionType"),
        (Any, "AnyType"),
        (float, "FloatType"),
        (dict[int, str], "DictType"),
        (Literal[1, 2], "LiteralType"),
        (tuple[str, ...], "VarTupleType"),
        (
            Annotated[list[Optional], field_schema(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["key"])],
            "key key must be required",
        ),
        (Annotated[list[Item], field_schema(x_kubernetes_list_type="map")], "need each other"),
        (Annotated[list[Item], field_schema(x_kubernetes_list_map_keys=["key"])], "need each other"),
    ],
)
def test_type_without_a_structural_schema_is_an_error(kind: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        structural(kind)


def test_schema_error_names_the_field() -> None:
    class Inner(Wire, frozen=True, kw_only=True):
        """Inner."""

        bad_one: Annotated[str, field_schema(const="x")]

    class Outer(Wire, frozen=True, kw_only=True):
        """Outer."""

        parts: list[Inner]

    with pytest.raises(SchemaError, match=r"^Outer\.parts\[\]\.badOne: .*const"):
        structural(Outer)
