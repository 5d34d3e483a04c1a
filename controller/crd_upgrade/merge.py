"""Merge the spec of a served CRD with the one of this release: the result is a superset of both.

No version, field or short name is removed, and the result accepts everything that either of the two accepts. So no
stored object becomes invalid, and no other controller, nor an older release of this product, loses a field. CEL rules
cannot be compared: those of another release of this product are replaced, and those of other products remain.
"""

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_LOWER = ("minLength", "minItems", "minProperties", "minimum")
_UPPER = ("maxLength", "maxItems", "maxProperties", "maximum")
_RULES = "x-kubernetes-validations"
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
# These keywords do not affect validation.
_WORDS = ("description", "title", "example", "externalDocs")


class MergeConflict(Exception):  # noqa: N818 - a conflict of two CRDs
    """No schema accepts everything that both accept. The message begins with the path of the difference."""


def merge_crd_schemas(served: Schema, ours: Schema, *, replace_rules: bool) -> Schema:
    """Return the `spec` of a CRD that accepts everything that either accepts.

    Raise `MergeConflict` if there is none.
    """
    for fixed in ("group", "scope"):
        if served[fixed] != ours[fixed]:
            raise MergeConflict(f"spec.{fixed}: {served[fixed]} is served, this release has {ours[fixed]}")
    mine = {version["name"]: version for version in ours["versions"]}
    versions = [
        _merge_version(version, mine[version["name"]], replace_rules=replace_rules)
        if version["name"] in mine
        else version
        for version in served["versions"]
    ]
    known = {version["name"] for version in versions}
    # The stored version remains: a change would require a write of every object.
    versions += [version | {"storage": False} for name, version in mine.items() if name not in known]
    names = dict(served["names"])
    for listed in ("shortNames", "categories"):
        if together := _union_of(names.get(listed), ours["names"].get(listed)):
            names[listed] = together
    return served | {"versions": versions, "names": names}


def _merge_version(served: Schema, ours: Schema, *, replace_rules: bool) -> Schema:
    name = served["name"]
    if ("status" in served.get("subresources", {})) is not ("status" in ours.get("subresources", {})):
        raise MergeConflict(f"{name}: only one of the two has the status subresource")
    root = _merge_schema(
        served["schema"]["openAPIV3Schema"], ours["schema"]["openAPIV3Schema"], name, replace_rules=replace_rules
    )
    result = served | {"served": served["served"] or ours["served"], "schema": {"openAPIV3Schema": root}}
    for shown in ("additionalPrinterColumns", "deprecated", "deprecationWarning"):
        if shown in ours:
            result[shown] = ours[shown]
    return result


def _merge_schema(served: Schema, ours: Schema, path: str, *, replace_rules: bool) -> Schema:
    def inner(one: Schema, other: Schema, step: str) -> Schema:
        return _merge_schema(one, other, f"{path}{step}", replace_rules=replace_rules)

    result: Schema = {}
    for keyword in served | ours:
        left, right = served.get(keyword), ours.get(keyword)
        if left == right:
            value = left
        elif keyword in _WORDS:
            value = right or left
        elif keyword == "properties":
            theirs, mine = _drop_preserved(left or {}, ours), _drop_preserved(right or {}, served)
            value = _merge_fields(theirs, mine, inner) or None
        elif keyword in ("items", "additionalProperties") and isinstance(left, dict) and isinstance(right, dict):
            value = inner(left, right, "[]" if keyword == "items" else "{}")
        elif keyword == _RULES:
            value = right if replace_rules else left
        elif keyword == "default":
            value = right if left is None else left
        elif keyword in ("nullable", _PRESERVE):
            value = left or right
        elif keyword in _BOUNDS:
            # A bound of only one schema is not a bound for the other's objects.
            value = None if left is None or right is None else _BOUNDS[keyword](left, right)
        else:
            raise MergeConflict(f"{path}: {keyword} is {left!r} where it is served and {right!r} in this release")
        if value is not None:
            result[keyword] = value
    return result


def _drop_preserved(fields: Schema, other: Schema) -> Schema:
    """Leave out the fields that the other schema preserves without a schema: it accepts every value of them."""
    listed = other.get("properties") or {}
    return {name: field for name, field in fields.items() if name in listed or not other.get(_PRESERVE)}


def _merge_fields(served: Schema, ours: Schema, inner: Callable[[Schema, Schema, str], Schema]) -> Schema:
    both = {name: inner(schema, ours[name], f".{name}") for name, schema in served.items() if name in ours}
    return served | ours | both


def _union_of(left: list[str] | None, right: list[str] | None) -> list[str]:
    return [*(left or ()), *(item for item in right or () if item not in (left or ()))]


def _either_pattern(left: str, right: str) -> str:
    """Return a pattern that matches everything that either matches. It is stable if the left one was created here."""
    return left if f"(?:{right})" in left else f"(?:{left})|(?:{right})"


_BOUNDS: dict[str, Callable[[Any, Any], Any]] = (
    dict.fromkeys(_LOWER, min)
    | dict.fromkeys(_UPPER, max)
    | {
        "pattern": _either_pattern,
        "enum": _union_of,
        "required": lambda left, right: [name for name in left if name in right] or None,
    }
)
