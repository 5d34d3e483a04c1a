"""What the ARM templates share: the chart's settings as parameters, and the frame around them."""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import inspect

from tools.cli.common import helm
from tools.codegen import values

Json = dict[str, Any]

SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
CLUSTER: Json = {
    "type": "string",
    "minLength": 1,
    "metadata": {"description": "The name of the Arc-enabled cluster, in the resource group of this deployment."},
}
CLUSTER_SCOPE = "[format('Microsoft.Kubernetes/connectedClusters/{0}', parameters('clusterName'))]"

_SET_BY_ARC = frozenset({"Azure", "global"})
"""Groups of values that the extension manager itself fills in."""


class NamesCollideError(Exception):
    """Two settings would be one parameter."""


def template(parameters: Mapping[str, Json], resources: list[Json], **more: Json) -> str:
    """A template's text; `more`: variables, outputs."""
    content = {"$schema": SCHEMA, "contentVersion": "1.0.0.0", "parameters": parameters, **more, "resources": resources}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def of_cluster() -> str:
    """The flags by which az knows what is installed where, as a command's second line."""
    return (
        f'\\\n  --name {helm.RELEASE} --cluster-type connectedClusters --cluster-name "$CLUSTER_NAME"'
        ' --resource-group "$RESOURCE_GROUP"'
    )


def settings(chart: values.ChartValues) -> Iterator[values.LeafValue]:
    """The chart's values that people set, with that chart's defaults."""
    for entry in values.walk(chart):
        if isinstance(entry, values.LeafValue) and entry.path.split(".")[0] not in _SET_BY_ARC:
            yield entry


def name(path: str) -> str:
    """The parameter of a setting: `image.pullPolicy` is `imagePullPolicy`. Resource Manager allows no dots."""
    first, *others = path.split(".")
    return first + "".join(word[0].upper() + word[1:] for word in others)


def text(description: str, default: str) -> Json:
    """A parameter that is a string and may be left out."""
    return {"type": "string", "defaultValue": default, "metadata": {"description": description}}


def parameters(own: Mapping[str, Json], described: Mapping[str, Json]) -> dict[str, Json]:
    """The template's own parameters and the settings'. Resource Manager does not tell upper case from lower."""
    names = [one.lower() for one in (*own, *described)]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise NamesCollideError(
            f"two parameters are called {', '.join(twice)}: rename a value in tools/codegen/values/"
        )
    return {**own, **described}


def parameter(leaf: values.LeafValue) -> Json:
    """The setting as a parameter of its own type, with its bounds, its default and its description."""
    known = _schema_of(leaf.path)
    bounds = {
        mine: known[theirs]
        for theirs, mine in (
            ("minimum", "minValue"),
            ("maximum", "maxValue"),
            ("minLength", "minLength"),
            ("maxLength", "maxLength"),
        )
        if theirs in known
    }
    described: Json = {"type": _TYPES[type(leaf.type)], "defaultValue": leaf.default, **bounds}
    if isinstance(leaf.type, inspect.LiteralType):
        described["allowedValues"] = list(leaf.type.values)
    return described | {"metadata": {"description": leaf.description}}


_TYPES: Mapping[type[inspect.Type], str] = {
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.StrType: "string",
    inspect.LiteralType: "string",
    inspect.UnionType: "string",  # a number or a share
    inspect.ListType: "array",
    inspect.DictType: "object",
}


def _schema_of(path: str) -> Json:
    """What the chart's own schema says of a value."""
    node = _chart_schema()
    for word in path.split("."):
        node = node["properties"][word]
    return node


@functools.cache
def _chart_schema() -> Json:
    return values.schema()


def escape(word: str) -> str:
    """A key inside a dotted one, as helm's --set has it."""
    return word.replace(".", r"\.")
