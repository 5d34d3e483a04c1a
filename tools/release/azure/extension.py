"""The chart as an extension of an Arc-enabled cluster: an ARM template, and the command lines of `az k8s-extension`.

The extension manager passes every setting to helm as a string with its dotted name. Therefore the template converts
each parameter to a string, such as `true`, `120` or `a,b`. It converts a structured parameter to one setting for each
part, such as `resources.limits.memory`. It leaves out settings with the chart's default, because an automatic upgrade
must be able to change the defaults, above all the image.
"""

import json
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from tools.cli.common import helm
from tools.codegen import values
from tools.release.azure import arm

API_VERSION = "2023-05-01"
_RESTS = "Keys are the rest of the setting's dotted name, such as {example}; values are strings."
_FIELDS = "The keys of each item are the rest of the setting's dotted name after {path}[N].; values are strings."


def extension_template(chart: values.ChartValues) -> str:
    """Return the template of Microsoft.KubernetesConfiguration/extensions."""
    leaves = list(arm.list_settings(chart))
    own: dict[str, arm.Json] = {
        "clusterName": arm.CLUSTER,
        "extensionName": arm.text_parameter("The name of the extension and of the helm release.", helm.RELEASE),
        "extensionType": {
            "type": "string",
            "minLength": 1,
            "metadata": {"description": "The extension type under which this chart is registered."},
        },
        "extensionVersion": arm.text_parameter(
            "The version to install and keep; empty: the newest of the release train, upgraded automatically.", ""
        ),
        "releaseTrain": arm.text_parameter("The release train, if no version is given.", "Stable"),
        "releaseNamespace": arm.text_parameter("The namespace to install into.", helm.RELEASE),
    }
    texts = {leaf.path: text for leaf in leaves if (text := _as_text(leaf))}
    protected = {path: texts[path] for path in texts if path in arm.PROTECTED}
    plain = {path: texts[path] for path in texts if path not in arm.PROTECTED}
    parts = {arm.parameter_name(leaf.path): _as_parts(leaf) for leaf in leaves if leaf.path not in texts}
    merged = ", ".join(f"variables('{name}')" for name in ("plainSettings", *parts))
    follows = "[empty(parameters('extensionVersion'))]"
    properties: arm.Json = {
        "extensionType": "[parameters('extensionType')]",
        "autoUpgradeMinorVersion": follows,
        "releaseTrain": f"[if({follows[1:-1]}, parameters('releaseTrain'), null())]",
        "version": f"[if({follows[1:-1]}, null(), parameters('extensionVersion'))]",
        "scope": {"cluster": {"releaseNamespace": "[parameters('releaseNamespace')]"}},
        "configurationSettings": _changed_ones("settings"),
        "configurationProtectedSettings": _changed_ones("protectedSettings"),
    }
    resource = {
        "type": "Microsoft.KubernetesConfiguration/extensions",
        "apiVersion": API_VERSION,
        "name": "[parameters('extensionName')]",
        "scope": arm.CLUSTER_SCOPE,
        "properties": properties,
    }
    return arm.build_template(
        arm.merge_parameters(own, {arm.parameter_name(leaf.path): _extension_parameter(leaf) for leaf in leaves}),
        [resource],
        variables={
            "defaults": [f"{key}={value}" for leaf in leaves for key, value in as_settings(leaf, leaf.default)],
            "plainSettings": plain,
            "protectedSettings": protected,
            **parts,
            "settings": f"[union({merged})]",
        },
    )


def _changed_ones(variable: str) -> str:
    """Return the expression for the settings of that variable that differ from the defaults."""
    at_default = (
        "contains(variables('defaults'), concat(lambdaVariables('one').key, '=', lambdaVariables('one').value))"
    )
    return (
        f"[toObject(filter(items(variables('{variable}')), lambda('one', not({at_default}))),"
        " lambda('one', lambdaVariables('one').key), lambda('one', lambdaVariables('one').value))]"
    )


def extension_section(version: str) -> str:
    """Return the section about `az k8s-extension`."""
    return f"""\
## As an extension of an Arc-enabled cluster

This needs the chart to be registered as an extension type of your own: `EXTENSION_TYPE`. Every setting of the chart's
values.yaml can be one of `--configuration-settings`, by its dotted name.

```console
az k8s-extension create {arm.of_cluster()} \\
  --extension-type "$EXTENSION_TYPE" --scope cluster --release-namespace {helm.RELEASE} \\
  --auto-upgrade-minor-version false --version {version}
az k8s-extension update {arm.of_cluster()} \\
  --configuration-settings rotationPollIntervalInSeconds=120 validatingAdmissionPolicies.applyPolicies=true
az k8s-extension show {arm.of_cluster()}
az k8s-extension delete {arm.of_cluster()}
```

Alternatively, deploy the template. It has the settings as parameters, with their bounds and descriptions:

```console
az deployment group create --resource-group "$RESOURCE_GROUP" --template-file extension.json \\
  --parameters clusterName="$CLUSTER_NAME" extensionType="$EXTENSION_TYPE" rotationPollIntervalInSeconds=120
```
"""


def _extension_parameter(leaf: values.LeafValue) -> arm.Json:
    described = arm.setting_parameter(leaf)
    match leaf.type:
        case inspect.DictType(value_type=inspect.StrType()):
            return described
        case inspect.DictType():
            flat = dict(_flatten_value(leaf.default))
            example = next(iter(flat), "NAME.FIELD")
            more = _RESTS.format(example=example)
            return described | {
                "defaultValue": flat,
                "metadata": {"description": f"{leaf.description} {more}"},
            }
        case inspect.ListType(item_type=inspect.DictType()):
            more = _FIELDS.format(path=leaf.path)
            return described | {
                "defaultValue": [dict(_flatten_value(item)) for item in leaf.default],
                "metadata": {"description": f"{leaf.description} {more}"},
            }
    return described


def _as_text(leaf: values.LeafValue) -> str:
    """Return the expression for a setting that one string can contain, or "" if it needs several settings."""
    given = f"parameters('{arm.parameter_name(leaf.path)}')"
    match leaf.type:
        case inspect.BoolType():
            return f"[if({given}, 'true', 'false')]"
        case inspect.IntType():
            return f"[string({given})]"
        case inspect.StrType() | inspect.LiteralType() | inspect.UnionType():
            return f"[{given}]"
        case inspect.ListType(item_type=inspect.StrType()):
            return f"[join({given}, ',')]"
    return ""


def _as_parts(leaf: values.LeafValue) -> str:
    """Return the expression for an object with one setting for each part of a structured setting."""
    given = f"parameters('{arm.parameter_name(leaf.path)}')"
    value = "lambda('part', string(lambdaVariables('part').value))"
    match leaf.type:
        case inspect.ListType():
            place = f"'{leaf.path}[', string(lambdaVariables('at')), '].'"
            key = f"lambda('part', concat({place}, lambdaVariables('part').key))"
            each = f"lambda('item', 'at', toObject(items(lambdaVariables('item')), {key}, {value}))"
            union = "lambda('all', 'one', union(lambdaVariables('all'), lambdaVariables('one')))"
            return f"[reduce(map({given}, {each}), createObject(), {union})]"
        case inspect.DictType(value_type=inspect.StrType()):
            # The keys of labels and annotations can have dots, which do not separate parts.
            key = f"lambda('part', concat('{leaf.path}.', replace(lambdaVariables('part').key, '.', '\\.')))"
        case _:
            key = f"lambda('part', concat('{leaf.path}.', lambdaVariables('part').key))"
    return f"[toObject(items({given}), {key}, {value})]"


def as_settings(leaf: values.LeafValue, value: Any) -> list[tuple[str, str]]:
    """Return the setting in the form of the extension manager: dotted keys and strings."""
    if isinstance(leaf.type, inspect.ListType) and isinstance(leaf.type.item_type, inspect.StrType):
        return [(leaf.path, ",".join(value))]
    return list(_flatten_value(value, leaf.path))


def _flatten_value(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for key, item in value.items():
                yield from _flatten_value(item, f"{path}.{arm.escape_dots(key)}".removeprefix("."))
        case list():
            for at, item in enumerate(value):
                yield from _flatten_value(item, f"{path}[{at}]")
        case _:
            yield path, value if isinstance(value, str) else json.dumps(value)
