"""Define JSON schemas for values that go into manifests unchanged.

helm refuses an invalid value with its path before it installs anything. Only rules that hold in every supported version
of Kubernetes are here.
"""

from typing import Any

Schema = dict[str, Any]

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_KEY = rf"^({_SUBDOMAIN}/)?{_NAME}$"
_DNS_LABEL = f"^{_LABEL}$"
_DNS_NAME: Schema = {"type": "string", "maxLength": 253, "pattern": f"^{_SUBDOMAIN}$"}
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_GROUP = r"[0-9a-fA-F]{1,4}"
_IPV6 = "|".join(
    [
        rf"({_GROUP}:){{7}}{_GROUP}",
        *(rf"({_GROUP}:){{1,{7 - after}}}(:{_GROUP}){{1,{after}}}" for after in range(1, 7)),
        rf"({_GROUP}:){{1,7}}:",
        rf":(:{_GROUP}){{1,7}}",
        "::",
    ]
)
_ADDRESS: Schema = {"type": "string", "pattern": rf"^({_BYTE}(\.{_BYTE}){{3}}|{_IPV6})$"}
_QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(m|k|[KMGTPE]i?|[eE][0-9]+)?$"
_NONE = [0, "0%"]
_SHARE = {"type": ["integer", "string"], "minimum": 0, "pattern": r"^(100|[1-9]?[0-9])%$"}
_TEXT = {"type": "string"}


def _object(*required: str, **properties: Schema) -> Schema:
    """Return the schema of an object whose fields are all known here."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "additionalProperties": False, "properties": properties, **needed}


def _named(*required: str, **properties: Schema) -> Schema:
    """Return the schema of an object of which some fields are known here."""
    return {"type": "object", "required": list(required), "properties": properties}


def _items(item: Schema) -> Schema:
    return {"items": item}


def _only(*names: str) -> Schema:
    return {"propertyNames": {"enum": list(names)}}


def _when(condition: Schema, consequence: Schema) -> Schema:
    return {"if": condition, "then": consequence}


LABELS: Schema = {
    "propertyNames": {"pattern": _KEY},
    "additionalProperties": {"type": "string", "pattern": f"^({_NAME})?$"},
}
ANNOTATIONS: Schema = {"propertyNames": {"pattern": _KEY}}
PULL_SECRETS = _items(_object("name", name={"type": "string", "minLength": 1}))
_TOLERATION = _object(
    key={"type": "string", "pattern": f"^$|{_KEY}"},
    operator={"enum": ["Exists", "Equal", "Lt", "Gt", ""]},
    value={"type": "string", "pattern": f"^({_NAME})?$"},
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute", ""]},
    tolerationSeconds={"type": "integer"},
)
_NO_VALUE: Schema = {"properties": {"value": {"maxLength": 0}}}
TOLERATIONS = _items(
    {
        **_TOLERATION,
        "allOf": [
            # Without a key all taints are tolerated.
            _when(
                {"not": {"required": ["key"], "properties": {"key": {"minLength": 1}}}},
                {"required": ["operator"], "properties": {"operator": {"const": "Exists"}}},
            ),
            _when({"required": ["operator"], "properties": {"operator": {"const": "Exists"}}}, _NO_VALUE),
            _when(
                {"required": ["operator"], "properties": {"operator": {"enum": ["Lt", "Gt"]}}},
                {"required": ["value"], "properties": {"value": {"pattern": "^(0|-?[1-9][0-9]*)$"}}},
            ),
            _when(
                {"required": ["tolerationSeconds"]},
                {"required": ["effect"], "properties": {"effect": {"const": "NoExecute"}}},
            ),
        ],
    }
)
_QUANTITIES: Schema = {
    "type": "object",
    # A resource of a device plugin has a domain.
    "propertyNames": {"pattern": rf"^(cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMG]i|{_SUBDOMAIN}/{_NAME})$"},
    "additionalProperties": {"type": ["integer", "number", "string"], "minimum": 0, "pattern": _QUANTITY},
}
RESOURCES: Schema = {
    **_only("requests", "limits", "claims"),
    "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES, "claims": {"type": "array"}},
}
STRATEGY: Schema = {
    **_only("type", "rollingUpdate"),
    "properties": {
        "type": {"enum": ["RollingUpdate", "Recreate"]},
        "rollingUpdate": _object(maxSurge=_SHARE, maxUnavailable=_SHARE),
    },
    # No pod could be replaced.
    "not": {
        "required": ["rollingUpdate"],
        "properties": {
            "type": {"const": "RollingUpdate"},
            "rollingUpdate": {
                "required": ["maxSurge", "maxUnavailable"],
                "properties": {"maxSurge": {"enum": _NONE}, "maxUnavailable": {"enum": _NONE}},
            },
        },
    },
}
AFFINITY: Schema = {
    **_only("nodeAffinity", "podAffinity", "podAntiAffinity"),
    "additionalProperties": {"type": "object"},
}
SPREAD = _items(
    _named(
        "maxSkew",
        "topologyKey",
        "whenUnsatisfiable",
        maxSkew={"type": "integer", "minimum": 1},
        topologyKey={"type": "string", "pattern": _KEY},
        whenUnsatisfiable={"enum": ["DoNotSchedule", "ScheduleAnyway"]},
    )
)
HOST_ALIASES = _items(
    _object(
        "ip",
        ip=_ADDRESS,
        hostnames={"type": "array", "items": _DNS_NAME},
    )
)
DNS_CONFIG: Schema = {
    **_only("nameservers", "searches", "options"),
    "properties": {
        "nameservers": {"type": "array", "maxItems": 3, "items": _ADDRESS},
        "searches": {
            "type": "array",
            "maxItems": 32,
            "items": {"type": "string", "maxLength": 253, "pattern": rf"^\.$|^{_SUBDOMAIN}\.?$"},
        },
        "options": {"type": "array", "items": _object("name", name={"type": "string", "minLength": 1}, value=_TEXT)},
    },
}
_SOURCES = ("configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef")
ENVIRONMENT = _items(
    {
        **_object(
            "name",
            name={"type": "string", "pattern": r"^[ -<>-~]+$"},
            value=_TEXT,
            valueFrom={"type": "object", "minProperties": 1, "maxProperties": 1, **_only(*_SOURCES)},
        ),
        **_when({"required": ["valueFrom"]}, {"properties": {"value": {"maxLength": 0}}}),
    }
)
VOLUMES = _items(_named("name", name={"type": "string", "pattern": _DNS_LABEL}))
VOLUME_MOUNTS = _items(
    _named(
        "name",
        "mountPath",
        name={"type": "string", "pattern": _DNS_LABEL},
        mountPath={"type": "string", "minLength": 1},
    )
)
CONTAINERS = _items(
    _named(
        "name", "image", name={"type": "string", "pattern": _DNS_LABEL}, image={"type": "string", "pattern": r"^\S+$"}
    )
)
OBJECTS = _items(
    _named(
        "apiVersion",
        "kind",
        "metadata",
        apiVersion={"type": "string", "minLength": 1},
        kind={"type": "string", "minLength": 1},
        metadata={"type": "object", "required": ["name"]},
    )
)
POD_SECURITY = _only(
    *("appArmorProfile", "fsGroup", "fsGroupChangePolicy", "runAsGroup", "runAsNonRoot", "runAsUser"),
    *("seLinuxChangePolicy", "seLinuxOptions", "seccompProfile", "supplementalGroups", "supplementalGroupsPolicy"),
    *("sysctls", "windowsOptions"),
)
CONTAINER_SECURITY = _only(
    *("allowPrivilegeEscalation", "appArmorProfile", "capabilities", "privileged", "procMount"),
    *("readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxOptions", "seccompProfile"),
    "windowsOptions",
)
INGRESS = _items(_object(**{"from": {"type": "array"}, "ports": {"type": "array"}}))
EGRESS = _items(_object(to={"type": "array"}, ports={"type": "array"}))
RELABELINGS = _items(
    _only("sourceLabels", "separator", "targetLabel", "regex", "modulus", "replacement", "action") | {"type": "object"}
)
