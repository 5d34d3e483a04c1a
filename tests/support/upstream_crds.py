"""The fields of the two upstream CRDs without their descriptions: path, type and validation keywords.

They were copied from the Secrets Store Sync Controller's secretsyncs CRD (2026-06) and the Secrets Store CSI Driver's
secretproviderclasses CRD (v1). The tables have only a summary of the message of each CEL rule, which no test compares.
"""

from typing import Any

from tools.codegen import crds

_PATH = r"^[A-Za-z0-9.]([-A-Za-z0-9]+([-._a-zA-Z0-9]?[A-Za-z0-9])*)?(\/([0-9]+))*$"
_DNS = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_RULES = "x-kubernetes-validations"


def _text(**keywords: Any) -> dict[str, Any]:
    return {"type": "string", **keywords}


_OBJECT: dict[str, Any] = {"type": "object"}
_LIST: dict[str, Any] = {"type": "array"}
_CONDITION = "status.conditions[]"

SECRET_SYNC: dict[str, dict[str, Any]] = {
    "": _OBJECT,
    "apiVersion": _text(),
    "kind": _text(),
    "metadata": _OBJECT,
    "spec": {**_OBJECT, "required": ["secretObject", "secretProviderClassName", "serviceAccountName"]},
    "spec.forceSynchronization": _text(
        maxLength=253, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9]+([-._a-zA-Z0-9]?[A-Za-z0-9])*)?$"
    ),
    "spec.secretObject": {**_OBJECT, "required": ["data"]},
    "spec.secretObject.annotations": {**_OBJECT, _RULES: ["keys and values < 253", "reserved prefix"]},
    "spec.secretObject.annotations{}": _text(),
    "spec.secretObject.data": {
        **_LIST,
        "minItems": 1,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["targetKey"],
    },
    "spec.secretObject.data[]": {**_OBJECT, "required": ["sourcePath", "targetKey"]},
    "spec.secretObject.data[].sourcePath": _text(minLength=1, maxLength=253, pattern=_PATH),
    "spec.secretObject.data[].targetKey": _text(minLength=1, maxLength=253, pattern=_PATH),
    "spec.secretObject.labels": {**_OBJECT, _RULES: ["keys and values < 63", "reserved prefix"]},
    "spec.secretObject.labels{}": _text(),
    "spec.secretObject.type": _text(default="Opaque", maxLength=253, pattern=r"^[^\s]+$"),
    "spec.secretProviderClassName": _text(minLength=1, maxLength=253, pattern=_DNS),
    "spec.secretSyncControllerName": _text(default=""),
    "spec.serviceAccountName": _text(minLength=1, maxLength=253, pattern=_DNS),
    "status": _OBJECT,
    "status.conditions": {
        **_LIST,
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    },
    _CONDITION: {**_OBJECT, "required": ["lastTransitionTime", "message", "reason", "status", "type"]},
    f"{_CONDITION}.lastTransitionTime": _text(format="date-time"),
    f"{_CONDITION}.message": _text(maxLength=32768),
    f"{_CONDITION}.observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
    f"{_CONDITION}.reason": _text(minLength=1, maxLength=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"),
    f"{_CONDITION}.status": _text(enum=["False", "True", "Unknown"]),
    f"{_CONDITION}.type": _text(
        maxLength=316,
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
        r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
    ),
    "status.lastSuccessfulSyncTime": _text(format="date-time"),
    "status.syncHash": _text(),
}

_SECRET = "spec.secretObjects[]"

SECRET_PROVIDER_CLASS: dict[str, dict[str, Any]] = {
    "": _OBJECT,
    "apiVersion": _text(),
    "kind": _text(),
    "metadata": _OBJECT,
    "spec": _OBJECT,
    "spec.parameters": _OBJECT,
    "spec.parameters{}": _text(),
    "spec.provider": _text(),
    "spec.secretObjects": _LIST,
    _SECRET: _OBJECT,
    f"{_SECRET}.annotations": _OBJECT,
    f"{_SECRET}.annotations{{}}": _text(),
    f"{_SECRET}.data": _LIST,
    f"{_SECRET}.data[]": _OBJECT,
    f"{_SECRET}.data[].key": _text(),
    f"{_SECRET}.data[].objectName": _text(),
    f"{_SECRET}.labels": _OBJECT,
    f"{_SECRET}.labels{{}}": _text(),
    f"{_SECRET}.secretName": _text(),
    f"{_SECRET}.type": _text(),
    "status": _OBJECT,
    "status.byPod": _LIST,
    "status.byPod[]": _OBJECT,
    "status.byPod[].id": _text(),
    "status.byPod[].namespace": _text(),
}


def flatten_schema(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """Return a schema as a table like `SECRET_SYNC`. Lists whose order has no meaning are sorted."""
    inner = ("properties", "items", "additionalProperties", "description")
    said = {keyword: value for keyword, value in schema.items() if keyword not in inner}
    table = {path: {k: sorted(v) if k in ("required", "enum") else v for k, v in said.items()}}
    for name, field in schema.get("properties", {}).items():
        table |= flatten_schema(field, f"{path}.{name}".lstrip("."))
    for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if keyword in schema:
            table |= flatten_schema(schema[keyword], f"{path}{mark}")
    return table


def unflatten_schema(table: dict[str, dict[str, Any]], path: str = "") -> dict[str, Any]:
    """Return the schema of a table like `SECRET_SYNC`, without the CEL rules."""
    schema = {keyword: value for keyword, value in table[path].items() if keyword != _RULES}
    start = f"{path}." if path else ""
    fields = [
        name for name in table if name.startswith(start) and name != path and not set(name[len(start) :]) & set(".[{")
    ]
    if fields:
        schema["properties"] = {name[len(start) :]: unflatten_schema(table, name) for name in fields}
    for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if path and f"{path}{mark}" in table:
            schema[keyword] = unflatten_schema(table, f"{path}{mark}")
    return schema


def build_upstream_crds() -> list[dict[str, Any]]:
    """Return both upstream CRDs, with a CEL rule and a field of SecretSync that this project does not have."""
    made = []
    for crd, table in ((crds.secret_sync(), SECRET_SYNC), (crds.secret_provider_class(), SECRET_PROVIDER_CLASS)):
        crd["metadata"] = {"name": crd["metadata"]["name"]}
        crd["spec"]["names"].pop("shortNames", None)
        for version in crd["spec"]["versions"]:
            version.pop("additionalPrinterColumns", None)
            version["schema"]["openAPIV3Schema"] = unflatten_schema(table)
        made.append(crd)
    body = made[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    body["theirOwn"] = {"type": "string"}
    body["secretObject"]["properties"]["labels"][_RULES] = [
        {"rule": "self.all(key, key.size() < 63)", "message": "theirs"}
    ]
    return made
