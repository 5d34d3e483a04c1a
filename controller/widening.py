"""What becomes of a served CRD's spec when a release brings its own: a superset of both.

Nothing that is served goes away (versions, fields, columns' short names), and whatever either of the two accepts, the
result accepts. So no stored object becomes invalid, and no other controller, nor an older release of ours, loses a
field. CEL rules cannot be compared: those of another release of ours are replaced, somebody else's stay as they are.
"""

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_LOWER = ("minLength", "minItems", "minProperties", "minimum")
_UPPER = ("maxLength", "maxItems", "maxProperties", "maximum")
_RULES = "x-kubernetes-validations"
# Neither of these decides what is accepted.
_WORDS = ("description", "title", "example", "externalDocs")


class Irreconcilable(Exception):  # noqa: N818 -- a state of two CRDs
    """No schema accepts what both accept; the message begins with the path where they part."""


def widened(served: Schema, ours: Schema, *, replace_rules: bool) -> Schema:
    """The `spec` of a CRD that accepts what either accepts. Raises `Irreconcilable`."""
    for fixed in ("group", "scope"):
        if served[fixed] != ours[fixed]:
            raise Irreconcilable(f"spec.{fixed}: {served[fixed]} is served, {ours[fixed]} is wanted")
    mine = {version["name"]: version for version in ours["versions"]}
    versions = [
        _version(version, mine[version["name"]], replace_rules=replace_rules) if version["name"] in mine else version
        for version in served["versions"]
    ]
    known = {version["name"] for version in versions}
    # Which version is stored stays as it is: a change would need every object to be written anew.
    versions += [version | {"storage": False} for name, version in mine.items() if name not in known]
    names = dict(served["names"])
    for listed in ("shortNames", "categories"):
        if together := _union(names.get(listed), ours["names"].get(listed)):
            names[listed] = together
    return served | {"versions": versions, "names": names}


def _version(served: Schema, ours: Schema, *, replace_rules: bool) -> Schema:
    name = served["name"]
    if ("status" in served.get("subresources", {})) is not ("status" in ours.get("subresources", {})):
        raise Irreconcilable(f"{name}: one of the two has the status subresource and the other has not")
    root = _schema(
        served["schema"]["openAPIV3Schema"], ours["schema"]["openAPIV3Schema"], name, replace_rules=replace_rules
    )
    result = served | {"served": served["served"] or ours["served"], "schema": {"openAPIV3Schema": root}}
    for shown in ("additionalPrinterColumns", "deprecated", "deprecationWarning"):
        if shown in ours:
            result[shown] = ours[shown]
    return result


def _schema(served: Schema, ours: Schema, path: str, *, replace_rules: bool) -> Schema:
    def inner(one: Schema, other: Schema, step: str) -> Schema:
        return _schema(one, other, f"{path}{step}", replace_rules=replace_rules)

    result: Schema = {}
    for keyword in [*served, *(keyword for keyword in ours if keyword not in served)]:
        left, right = served.get(keyword), ours.get(keyword)
        if left == right:
            value = left
        elif keyword in _WORDS:
            value = right or left
        elif keyword == "properties":
            value = _fields(left or {}, right or {}, inner)
        elif keyword in ("items", "additionalProperties") and isinstance(left, dict) and isinstance(right, dict):
            value = inner(left, right, "[]" if keyword == "items" else "{}")
        elif keyword == _RULES:
            value = right if replace_rules else left
        elif keyword == "default":
            value = right if left is None else left
        elif keyword in ("nullable", "x-kubernetes-preserve-unknown-fields"):
            value = left or right
        elif keyword in _BOUNDS:
            # A bound that only one of them has is a bound that the other's objects do not keep.
            value = None if left is None or right is None else _BOUNDS[keyword](left, right)
        else:
            raise Irreconcilable(f"{path}: {keyword} is {left!r} where it is served and {right!r} in this release")
        if value is not None:
            result[keyword] = value
    return result


def _fields(served: Schema, ours: Schema, inner: Callable[[Schema, Schema, str], Schema]) -> Schema:
    both = {name: inner(schema, ours[name], f".{name}") for name, schema in served.items() if name in ours}
    return served | ours | both


def _union(left: list[str] | None, right: list[str] | None) -> list[str]:
    return [*(left or ()), *(item for item in right or () if item not in (left or ()))]


def _either(left: str, right: str) -> str:
    """A pattern that matches what either matches; the same again where the left one came from here."""
    return left if f"(?:{right})" in left else f"(?:{left})|(?:{right})"


_BOUNDS: dict[str, Callable[[Any, Any], Any]] = (
    dict.fromkeys(_LOWER, min)
    | dict.fromkeys(_UPPER, max)
    | {
        "pattern": _either,
        "enum": _union,
        "required": lambda left, right: [name for name in left if name in right] or None,
    }
)
