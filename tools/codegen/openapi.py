"""Convert structs into structural schemas, the form of OpenAPI v3 schemas that a CustomResourceDefinition uses.

`SchemaError` names the path of a field that the API server would refuse, or would ignore without a message: unknown
keywords and types, keywords that do not fit their type, patterns that RE2 does not support, list-map keys that an item
can lack. Source: CustomResourceDefinition v1, JSONSchemaProps; "Specifying a structural schema" in its documentation.
"""

import inspect as python_inspect
import re
from typing import Any

import msgspec
from msgspec import inspect

from controller.api.meta import ObjectMeta, Resource

Schema = dict[str, Any]

_ANYWHERE = frozenset({"description", "default", "x-kubernetes-validations"})
_KEYWORDS: dict[str, frozenset[str]] = {
    # `explanation` is not a keyword of OpenAPI: see _add_explanation.
    "string": frozenset({"format", "pattern", "minLength", "maxLength", "enum", "explanation"}),
    "integer": frozenset({"format", "minimum", "maximum"}),
    "boolean": frozenset(),
    "array": frozenset({"minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"}),
    "object": frozenset({"minProperties", "maxProperties", "x-kubernetes-map-type"}),
}
_FORMATS = {"string": {"date-time", "byte", "duration"}, "integer": {"int32", "int64"}}
# RE2 has neither look-around nor back-references.
_BEYOND_RE2 = re.compile(r"\(\?<?[=!]|\(\?P=|\\[1-9]")


class SchemaError(Exception):
    """A structural schema cannot express a type. The message begins with the field's path."""


def structural(kind: Any, path: str = "") -> Schema:
    """Return the schema of a type: str, int, bool, Literal of strings, list, dict with str keys, Struct, or `X | None`.

    Descriptions come from `Meta`, or else from a Struct's docstring. `X | None` is an optional X: in JSON, null means
    that the field is missing. A default is in the schema only with `field_schema(default=...)`, because the API server
    writes such a default into every object. Raise `SchemaError`.
    """
    return _node_schema(inspect.type_info(kind), path or getattr(kind, "__name__", "type"))


def resource(kind: type[Resource], *, status: Any = None) -> Schema:
    """Return the schema of a whole object. `status` is the type of the status if the Struct lacks one."""
    schema = _node_schema(inspect.type_info(kind), kind.__name__)
    properties = {
        "apiVersion": {"type": "string", "description": "The version of this object's schema."},
        "kind": {"type": "string", "description": "The REST resource that this object represents."},
        **schema["properties"],
    }
    if status is not None:
        properties["status"] = structural(status, f"{kind.__name__}.status")
    return {**schema, "properties": properties}


def _node_schema(node: inspect.Type, path: str) -> Schema:
    given: Schema = {}
    while isinstance(node, inspect.Metadata):
        given = {**(node.extra_json_schema or {}), **given}
        node = node.type
    made = _build_schema(node, path)
    schema = {**made, **given}
    for keyword in given:
        if keyword not in _ANYWHERE | _KEYWORDS[made["type"]]:
            raise SchemaError(f"{path}: a structural schema has no keyword {keyword} for the type {made['type']}")
        if keyword in made and keyword != "description":
            raise SchemaError(f"{path}: {keyword} is given twice")
    _check_schema(schema, path)
    return _add_explanation(schema, path)


def _build_schema(node: inspect.Type, path: str) -> Schema:
    match node:
        case inspect.StrType():
            return {"type": "string"} | _drop_unset(
                minLength=node.min_length, maxLength=node.max_length, pattern=node.pattern
            )
        case inspect.IntType(gt=None, lt=None, multiple_of=None):
            return {"type": "integer"} | _drop_unset(minimum=node.ge, maximum=node.le)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.LiteralType() if all(isinstance(value, str) for value in node.values):
            return {"type": "string", "enum": list(node.values)}
        case inspect.ListType():
            items = _node_schema(node.item_type, f"{path}[]")
            return {"type": "array", "items": items} | _drop_unset(minItems=node.min_length, maxItems=node.max_length)
        case inspect.DictType(key_type=inspect.StrType(min_length=None, max_length=None, pattern=None)):
            values = _node_schema(node.value_type, f"{path}{{}}")
            return {"type": "object", "additionalProperties": values} | _drop_unset(
                minProperties=node.min_length, maxProperties=node.max_length
            )
        case inspect.StructType() if node.cls is ObjectMeta:
            return {"type": "object"}  # the API server has the schema of metadata, and accepts no other
        case inspect.StructType(tag=None, array_like=False):
            return _struct_schema(node, path)
        case inspect.UnionType() if len(present := [t for t in node.types if not isinstance(t, inspect.NoneType)]) == 1:
            return _node_schema(present[0], path)
    raise SchemaError(f"{path}: a structural schema cannot express {type(node).__name__}: {node}")


def _struct_schema(node: inspect.StructType, path: str) -> Schema:
    schema: Schema = {
        "type": "object",
        "description": python_inspect.cleandoc(node.cls.__doc__ or ""),
        "properties": {
            field.encode_name: _node_schema(field.type, f"{path}.{field.encode_name}") for field in node.fields
        },
    }
    required = [
        # The API server writes a default into every object, so a field with a default is not required.
        field.encode_name
        for field in node.fields
        if field.required and "default" not in schema["properties"][field.encode_name]
    ]
    return schema | ({"required": required} if required else {})


def _drop_unset(**keywords: Any) -> Schema:
    return {keyword: value for keyword, value in keywords.items() if value is not None}


def _check_schema(schema: Schema, path: str) -> None:
    if (form := schema.get("format")) and form not in _FORMATS[schema["type"]]:
        raise SchemaError(f"{path}: the format {form} is not known for the type {schema['type']}")
    if (pattern := schema.get("pattern")) and (beyond := _BEYOND_RE2.search(pattern)):
        raise SchemaError(f"{path}: the API server's RE2 does not support {beyond[0]} in the pattern {pattern}")
    is_map = schema.get("x-kubernetes-list-type") == "map"
    if is_map is not bool(keys := schema.get("x-kubernetes-list-map-keys")):
        raise SchemaError(f"{path}: x-kubernetes-list-type: map and x-kubernetes-list-map-keys need each other")
    for key in keys or ():
        item = schema["items"]
        if key not in item.get("required", ()) and "default" not in item.get("properties", {}).get(key, {}):
            raise SchemaError(f"{path}: the list-map key {key} must be required or have a default")
    for item in schema.get("x-kubernetes-validations", ()):
        if not item.keys() <= {"rule", "message", "messageExpression", "reason", "fieldPath"}:
            raise SchemaError(f"{path}: x-kubernetes-validations has no {', '.join(item)}")
    try:
        msgspec.json.encode(schema)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{path}: {error}") from error


def _add_explanation(schema: Schema, path: str) -> Schema:
    """Replace `explanation` with a CEL rule, because the API server's message for a pattern is hard to read."""
    if not (text := schema.pop("explanation", None)):
        return schema
    if "pattern" not in schema or "maxLength" not in schema or "'" in schema["pattern"]:
        raise SchemaError(f"{path}: an explanation needs a pattern without ' and, for its cost, a maxLength")
    explained = {"rule": f"self.matches(r'{schema['pattern']}')", "message": text}
    return {**schema, "x-kubernetes-validations": [explained, *schema.get("x-kubernetes-validations", ())]}
