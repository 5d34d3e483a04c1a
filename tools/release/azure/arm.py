"""The parts that all ARM templates share: the chart's settings as parameters, and the frame of a template."""

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
"""Groups of values that the extension manager sets itself."""


PROTECTED = frozenset({"proxy.http", "proxy.https"})
"""Settings that can have a password. Azure shows other settings and parameters to every reader of the resource."""


class NamesCollideError(Exception):
    """Two settings would have the same parameter."""


def build_template(parameters: Mapping[str, Json], resources: list[Json], **more: Json) -> str:
    """Return the text of a template. `more` can have variables and outputs."""
    content = {
        "$schema": SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": parameters,
        **more,
        "resources": resources,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def of_cluster() -> str:
    """Return the flags of az that name the extension and the cluster, as the second line of a command."""
    return (
        f'\\\n  --name {helm.RELEASE} --cluster-type connectedClusters --cluster-name "$CLUSTER_NAME"'
        ' --resource-group "$RESOURCE_GROUP"'
    )


def list_settings(chart: values.ChartValues) -> Iterator[values.LeafValue]:
    """Yield the chart's values that users can set, with the defaults of this chart."""
    for entry in values.walk(chart):
        if isinstance(entry, values.LeafValue) and entry.path.split(".")[0] not in _SET_BY_ARC:
            yield entry


def parameter_name(path: str) -> str:
    """Return the parameter of a setting: `imagePullPolicy` for `image.pullPolicy`. A parameter cannot have dots."""
    first, *others = path.split(".")
    return first + "".join(word[0].upper() + word[1:] for word in others)


def text_parameter(description: str, default: str) -> Json:
    """Return an optional parameter with a string."""
    return {"type": "string", "defaultValue": default, "metadata": {"description": description}}


def merge_parameters(own: Mapping[str, Json], described: Mapping[str, Json]) -> dict[str, Json]:
    """Return the template's own parameters and those of the settings.

    Raise `NamesCollideError` if two names differ only in upper and lower case, which Resource Manager ignores.
    """
    names = [one.lower() for one in (*own, *described)]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise NamesCollideError(
            f"two parameters have the name {', '.join(twice)}: rename a value in tools/codegen/values/"
        )
    return {**own, **described}


def setting_parameter(leaf: values.LeafValue) -> Json:
    """Return the parameter of a setting with its type, bounds, default and description."""
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
    kind = "securestring" if leaf.path in PROTECTED else _TYPES[type(leaf.type)]
    described: Json = {"type": kind, "defaultValue": leaf.default, **bounds}
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
    """Return the schema of a value in the chart's schema."""
    node = _chart_schema()
    for word in path.split("."):
        node = node["properties"][word]
    return node


@functools.cache
def _chart_schema() -> Json:
    return values.schema()


def escape_dots(word: str) -> str:
    """Escape the dots of a key, so that it can be part of a dotted name of helm's --set."""
    return word.replace(".", r"\.")
