"""Generate docs/reference.md: every field of the three kinds with its limits, and the controller's settings."""

from collections.abc import Iterator
from typing import Any

import msgspec

from controller.config.settings import BUILT_IN_CLOUDS, Settings
from controller.domain.vault_objects import ENCODINGS, FORMATS, MAX_HISTORY, TYPES
from tools.cli.common import templating
from tools.codegen import crds
from tools.codegen.docs import table
from tools.codegen.openapi import Schema

OBJECT_FIELDS = {
    "objectName": "The object's name in the vault. Required.",
    "objectType": f"One of {', '.join(TYPES)}; default: {TYPES[0]}. A certificate with its private key is a secret.",
    "objectVersion": "The id of a version; default: the newest.",
    "objectVersionHistory": f"The number of versions, beginning with objectVersion; at most {MAX_HISTORY}. Above 1,"
    " sourcePaths end in `/0`, `/1` and so on.",
    "objectAlias": "Replaces the name in a sourcePath.",
    "objectFormat": f"The format of a certificate's secret: {' or '.join(FORMATS)}; default: {FORMATS[0]}.",
    "objectEncoding": f"The encoding of the value in the vault: {', '.join(ENCODINGS)}; default: {ENCODINGS[0]}.",
    "objectProperty": "The path of a property in a secret's JSON or YAML: [One JSON property](json-property.md). SSE"
    " ignores it.",
    "objectExpand": "`true`: each top-level property of a secret's JSON or YAML becomes a key, and there is no key with"
    " the name targetKey. SSE ignores it.",
    "objectKeep": "`true`: the controller no longer reads the object, and Secrets keep its last value. An AKVSync"
    " writes it for an object that is no longer selected.",
    "filePermission": "A field of the CSI driver; the controller ignores it.",
}
"""The fields of an item of a class's `objects`, which is YAML within a text and therefore has no schema."""

UNUSED_REASONS = {
    "UnknownError": ("SSE", "each error has its own reason; the nearest is `ControllerSyncFailed`"),
    "InvalidClusterSecretAnnotationError": (
        "SSE",
        "the owner reference decides: `InvalidClusterSecretLabelError`; a wrong annotation is"
        " `UserInputValidationFailed`",
    ),
    "CreateSucceeded": ("SSE", "`UpdateValueChangeOrForceUpdateSucceeded`"),
    "ControllerSPCError": ("SSE, in an older spelling", "`ControllerSpcError`"),
    "SyncStarting": ("upstream", "the first status is written after the first attempt"),
    "CreateSuccessful": ("upstream", "`UpdateValueChangeOrForceUpdateSucceeded`"),
    "SecretUpToDate": ("upstream", "`UpdateNoValueChangeSucceeded`"),
    "SecretProviderClassMisconfigured": ("upstream", "`ControllerSpcError`"),
    "RemoteSecretStoreFetchFailed": ("upstream", "`ProviderError`, or `PartialSync`"),
    "ControllerSyncError": ("upstream", "`ProviderError`, or `ControllerSyncFailed`"),
    "ControllerPatchError": ("upstream", "`ControllerSyncFailed`, or `ValidatingAdmissionPolicyCheckFailed`"),
}
"""Reasons that SSE or the Secrets Store Sync Controller (upstream) writes and this controller does not."""

_BOUNDS = (
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " keys"),
    ("minimum", "maximum", ""),
)


def page() -> str:
    """Return the page as Markdown."""
    settings = msgspec.json.schema_components([Settings])[1]["Settings"]["properties"]
    return templating.render_template(
        "reference.md",
        kinds=[_render_kind(definition) for definition in crds.build_all()],
        clouds=list(BUILT_IN_CLOUDS),
        object_fields=OBJECT_FIELDS,
        unused_reasons=table(
            ("reason", "of", "here"), [(f"`{reason}`", *about) for reason, about in UNUSED_REASONS.items()]
        ),
        settings=table(
            ("variable", "default", "meaning"),
            [
                (f"`{name.upper()}`", f"`{templating.to_inline_yaml(about.get('default', ''))}`", about["description"])
                for name, about in settings.items()
            ],
        ),
    )


def _render_kind(definition: crds.Manifest) -> dict[str, Any]:
    """Return the values of the page's template for the first version of a kind."""
    spec = definition["spec"]
    version = spec["versions"][0]
    body = version["schema"]["openAPIV3Schema"]
    parts = [row for name in ("spec", "status") for row in _field_rows(body["properties"][name], name, required=False)]
    return {
        "name": spec["names"]["kind"],
        "group_version": f"{spec['group']}/{version['name']}",
        "short_names": spec["names"].get("shortNames", []),
        "description": body["description"],
        "fields": table(("field", "type", "limits, and messages of a refusal", "meaning"), parts),
    }


def _field_rows(node: Schema, path: str, *, required: bool) -> Iterator[tuple[str, ...]]:
    """Yield a row for the field and for each field below it."""
    yield f"`{path}`", _type_name(node), _describe_bounds(node, required=required), node.get("description", "")
    if isinstance(values := node.get("additionalProperties"), dict) and (
        bounds := _describe_bounds(values, required=False)
    ):
        yield f"`{path}{{}}`", _type_name(values), bounds, values.get("description", "")
    items = node.get("items", {})
    if items and "properties" not in items:
        yield f"`{path}[]`", _type_name(items), _describe_bounds(items, required=False), items.get("description", "")
    for below, mark in ((node, ""), (items, "[]")):
        for name, child in below.get("properties", {}).items():
            yield from _field_rows(child, f"{path}{mark}.{name}", required=name in below.get("required", ()))


def _type_name(node: Schema) -> str:
    if items := node.get("items"):
        return f"list of {_type_name(items)}s"
    if values := node.get("additionalProperties"):
        return f"map of {_type_name(values)}s"
    return str(node["type"])


def _describe_bounds(node: Schema, *, required: bool) -> str:
    """Return the API server's limits of a value as text. The explanation of a pattern is one of the rules."""
    said = ["required"] if required else []
    if "default" in node:
        said.append(f"default `{templating.to_inline_yaml(node['default'])}`")
    if "enum" in node:
        said.append("one of " + ", ".join(f"`{value}`" for value in node["enum"]))
    for least, most, what in _BOUNDS:
        if least in node and most in node:
            said.append(f"{node[least]} to {node[most]}{what}")
        elif least in node or most in node:
            said.append(f"at least {node[least]}{what}" if least in node else f"at most {node[most]}{what}")
    inside = node.get("items", {}) if "properties" in node.get("items", {}) else {}
    rules = [*node.get("x-kubernetes-validations", ()), *inside.get("x-kubernetes-validations", ())]
    return "; ".join([*said, *(rule["message"] for rule in rules)])
