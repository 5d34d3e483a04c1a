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
_DNS_LABEL: Schema = {"type": "string", "pattern": f"^{_LABEL}$"}
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
_LABEL_KEY: Schema = {"type": "string", "pattern": _KEY}
_TEXT = {"type": "string"}
_WORD: Schema = {"type": "string", "minLength": 1}
# Azure Arc passes a number as text.
_ID: Schema = {"type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]+$"}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_PROTOCOL: Schema = {"enum": ["TCP", "UDP", "SCTP"]}
_MODE: Schema = {"type": "integer", "minimum": 0, "maximum": 511}


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


def _list(item: Schema, minimum: int = 0) -> Schema:
    return {"type": "array", "items": item, **({"minItems": minimum} if minimum else {})}


NAME: Schema = {"pattern": f"^({_SUBDOMAIN})?$", "maxLength": 253}
"""The name of an object that a value refers to, or an empty text."""
KIND: Schema = {"pattern": "^[A-Za-z]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?$"}
GROUP: Schema = {"pattern": f"^{_SUBDOMAIN}$", "maxLength": 253}
DATA_KEY: Schema = {"pattern": "^[-._a-zA-Z0-9]+$", "maxLength": 253}
"""The key of a value in a Secret or a ConfigMap."""
# The grammar of image references (CNCF distribution, `reference`).
_HOST = r"(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?)(:[0-9]+)?"
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
REGISTRY: Schema = {"pattern": rf"^({_HOST}(/{_PART})*/?)?$"}
"""A registry, with the beginning of a path or without, or an empty text."""
REPOSITORY: Schema = {"pattern": rf"^({_HOST}/)?{_PART}(/{_PART})*$"}
TAG: Schema = {"pattern": r"^([a-zA-Z0-9_][-a-zA-Z0-9_.]{0,127}(@sha256:[0-9a-f]{64})?)?$"}
"""A tag, also with a digest, or an empty text."""
_HOSTS: Schema = {"pattern": r"^(\s*[^\s,]*\s*(,|$))*$"}
HOSTS: Schema = {"items": {"type": "string", "minLength": 1, **_HOSTS}, **_HOSTS}
"""Hosts as a list, or comma-separated in one text. An item of a list can have several, too."""
LABEL_KEY: Schema = {"pattern": _KEY}
LABEL_VALUE: Schema = {"pattern": f"^({_NAME})?$"}
_LABEL_VALUE: Schema = {"type": "string", **LABEL_VALUE}
LABELS: Schema = {"propertyNames": {"pattern": _KEY}, "additionalProperties": _LABEL_VALUE}
ANNOTATIONS: Schema = {"propertyNames": {"pattern": _KEY}}
PULL_SECRETS = _items(_object("name", name=_DNS_NAME))
_TOLERATION = _object(
    key={"type": "string", "pattern": f"^$|{_KEY}"},
    operator={"enum": ["Exists", "Equal", "Lt", "Gt", ""]},
    value=_LABEL_VALUE,
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
    # There can be no `claims`, because the chart's Pods have no claims of resources.
    **_only("requests", "limits"),
    "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES},
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


def _requirement(*operators: str) -> Schema:
    """Return the schema of a requirement for a label. Only the existence of a label needs no values."""
    return {
        **_object(
            "key",
            "operator",
            key=_LABEL_KEY,
            operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist", *operators]},
            values=_list(_TEXT),
        ),
        **_when(
            {"properties": {"operator": {"enum": ["Exists", "DoesNotExist"]}}},
            {"properties": {"values": {"maxItems": 0}}},
        ),
        "else": {"required": ["values"], "properties": {"values": {"minItems": 1}}},
    }


_SELECTOR = _object(
    matchLabels={"type": "object", **LABELS},
    matchExpressions=_list(_requirement()),
)
_NODE_TERM = _object(
    matchExpressions=_list(_requirement("Gt", "Lt")),
    matchFields=_list({"type": "object", "required": ["key", "operator"]}),
)
_POD_TERM = _named(
    "topologyKey",
    topologyKey=_LABEL_KEY,
    labelSelector=_SELECTOR,
    namespaceSelector=_SELECTOR,
    namespaces=_list(_DNS_LABEL),
)
_REQUIRED, _PREFERRED = (f"{kind}DuringSchedulingIgnoredDuringExecution" for kind in ("required", "preferred"))


def _preference(field: str, term: Schema) -> Schema:
    weight = {"type": "integer", "minimum": 1, "maximum": 100}
    return _list(_object("weight", field, **{"weight": weight, field: term}))


_POD_AFFINITY = _object(**{_REQUIRED: _list(_POD_TERM), _PREFERRED: _preference("podAffinityTerm", _POD_TERM)})
AFFINITY: Schema = {
    **_only("nodeAffinity", "podAffinity", "podAntiAffinity"),
    "properties": {
        "nodeAffinity": _object(
            **{
                _REQUIRED: _object("nodeSelectorTerms", nodeSelectorTerms=_list(_NODE_TERM, 1)),
                _PREFERRED: _preference("preference", _NODE_TERM),
            }
        ),
        "podAffinity": _POD_AFFINITY,
        "podAntiAffinity": _POD_AFFINITY,
    },
}
SPREAD = _items(
    {
        **_named(
            "maxSkew",
            "topologyKey",
            "whenUnsatisfiable",
            maxSkew={"type": "integer", "minimum": 1},
            topologyKey=_LABEL_KEY,
            whenUnsatisfiable={"enum": ["DoNotSchedule", "ScheduleAnyway"]},
        ),
        **_when({"required": ["minDomains"]}, {"properties": {"whenUnsatisfiable": {"const": "DoNotSchedule"}}}),
    }
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
        "options": {"type": "array", "items": _object("name", name=_WORD, value=_TEXT)},
    },
}
_FILE_KEY: Schema = {"type": "string", **DATA_KEY}
_KEY_OF = _named("name", "key", name=_DNS_NAME, key=_FILE_KEY)
_FIELDS = (
    r"metadata\.(name|namespace|uid)",
    r"metadata\.(labels|annotations)\['[^']+'\]",
    r"spec\.(nodeName|serviceAccountName)",
    r"status\.(hostIPs?|podIPs?)",
)
_SOURCE = _object(
    configMapKeyRef=_KEY_OF,
    fieldRef=_named("fieldPath", fieldPath={"type": "string", "pattern": f"^({'|'.join(_FIELDS)})$"}),
    fileKeyRef={"type": "object"},
    resourceFieldRef=_named(
        "resource",
        resource={
            "type": "string",
            "pattern": "^(limits|requests)\\.(cpu|memory|ephemeral-storage|hugepages-.+)$",
        },
    ),
    secretKeyRef=_KEY_OF,
)
ENVIRONMENT = _items(
    {
        **_object(
            "name",
            name={"type": "string", "pattern": r"^[ -<>-~]+$"},
            value=_TEXT,
            valueFrom={"minProperties": 1, "maxProperties": 1, **_SOURCE},
        ),
        **_when({"required": ["valueFrom"]}, {"properties": {"value": {"maxLength": 0}}}),
    }
)
_VOLUME_TYPES = (
    *("awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "configMap", "csi", "downwardAPI"),
    *("emptyDir", "ephemeral", "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "hostPath"),
    *("image", "iscsi", "nfs", "persistentVolumeClaim", "photonPersistentDisk", "portworxVolume", "projected"),
    *("quobyte", "rbd", "scaleIO", "secret", "storageos", "vsphereVolume"),
)
_PATH_TYPES = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
_KEYS_OF_FILES = _list(_named("key", "path", key=_FILE_KEY, path=_WORD, mode=_MODE))
_DRIVER: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9]([-A-Za-z0-9.]{0,61}[A-Za-z0-9])?$"}
VOLUMES = _items(
    {
        **_named(
            "name",
            name=_DNS_LABEL,
            configMap={
                "type": "object",
                "properties": {"name": _DNS_NAME, "defaultMode": _MODE, "items": _KEYS_OF_FILES},
            },
            csi=_named("driver", driver=_DRIVER),
            emptyDir={"type": ["object", "null"]},
            hostPath=_object("path", path=_WORD, type={"enum": list(_PATH_TYPES)}),
            persistentVolumeClaim=_object("claimName", claimName=_DNS_NAME, readOnly={}),
            projected={"type": "object", "properties": {"defaultMode": _MODE, "sources": {"type": "array"}}},
            secret=_object(secretName=_DNS_NAME, defaultMode=_MODE, items=_KEYS_OF_FILES, optional={}),
        ),
        **_only("name", *_VOLUME_TYPES),
        # A volume has one type.
        "maxProperties": 2,
    }
)
VOLUME_MOUNTS = _items(
    _object(
        "name",
        "mountPath",
        name=_DNS_LABEL,
        mountPath=_WORD,
        mountPropagation={"enum": ["None", "HostToContainer", "Bidirectional"]},
        readOnly={},
        recursiveReadOnly={"enum": ["Disabled", "IfPossible", "Enabled"]},
        subPath={"type": "string", "not": {"pattern": r"^/|(^|/)\.\.(/|$)"}},
        subPathExpr=_TEXT,
    )
)


def _profile(*types: str) -> Schema:
    return {
        **_object("type", type={"enum": ["Localhost", *types]}, localhostProfile=_TEXT),
        **_when({"properties": {"type": {"const": "Localhost"}}}, {"required": ["localhostProfile"]}),
        "else": {"not": {"required": ["localhostProfile"]}},
    }


_PROFILE = _profile("RuntimeDefault", "Unconfined")
_IDENTITY = {"runAsUser": _ID, "runAsGroup": _ID, "seccompProfile": _PROFILE, "appArmorProfile": _PROFILE}
POD_SECURITY: Schema = {
    **_only(
        *("appArmorProfile", "fsGroup", "fsGroupChangePolicy", "runAsGroup", "runAsNonRoot", "runAsUser"),
        *("seLinuxChangePolicy", "seLinuxOptions", "seccompProfile", "supplementalGroups", "supplementalGroupsPolicy"),
        *("sysctls", "windowsOptions"),
    ),
    "properties": {
        **_IDENTITY,
        "fsGroup": _ID,
        "fsGroupChangePolicy": {"enum": ["OnRootMismatch", "Always"]},
        "supplementalGroups": _list(_ID),
        "supplementalGroupsPolicy": {"enum": ["Merge", "Strict"]},
        "sysctls": _list(_object("name", "value", name={"type": "string", "pattern": r"^[a-z0-9]\S*$"}, value=_TEXT)),
    },
}
_NO_ESCALATION: Schema = {
    "required": ["allowPrivilegeEscalation"],
    "properties": {"allowPrivilegeEscalation": {"enum": [False, "false"]}},
}
CONTAINER_SECURITY: Schema = {
    **_only(
        *("allowPrivilegeEscalation", "appArmorProfile", "capabilities", "privileged", "procMount"),
        *("readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxOptions", "seccompProfile"),
        "windowsOptions",
    ),
    "properties": {
        **_IDENTITY,
        "capabilities": _object(add=_list(_WORD), drop=_list(_WORD)),
        "procMount": {"enum": ["Default", "Unmasked"]},
    },
    # Both give privileges that a process could not have otherwise.
    "not": {
        "allOf": [
            _NO_ESCALATION,
            {
                "anyOf": [
                    {"required": ["privileged"], "properties": {"privileged": {"enum": [True, "true"]}}},
                    {
                        "required": ["capabilities"],
                        "properties": {
                            "capabilities": {
                                "required": ["add"],
                                "properties": {"add": {"contains": {"const": "CAP_SYS_ADMIN"}}},
                            }
                        },
                    },
                ]
            },
        ]
    },
}
_CONTAINER_FIELDS = (
    *("args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports"),
    *("readinessProbe", "resizePolicy", "resources", "restartPolicy", "restartPolicyRules", "securityContext"),
    *("startupProbe", "stdin", "stdinOnce", "terminationMessagePath", "terminationMessagePolicy", "tty"),
    *("volumeDevices", "volumeMounts", "workingDir"),
)
CONTAINERS = _items(
    {
        **_named(
            "name",
            "image",
            name=_DNS_LABEL,
            image={"type": "string", "pattern": r"^\S+$"},
            imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
            command=_list(_TEXT),
            args=_list(_TEXT),
            env={"type": "array", **ENVIRONMENT},
            ports=_list(_named("containerPort", containerPort=_PORT, protocol=_PROTOCOL)),
            resources={"type": "object", **RESOURCES},
            securityContext={"type": "object", **CONTAINER_SECURITY},
            volumeMounts={"type": "array", **VOLUME_MOUNTS},
        ),
        **_only(*_CONTAINER_FIELDS),
    }
)
OBJECTS = _items(
    _named(
        "apiVersion",
        "kind",
        "metadata",
        apiVersion=_WORD,
        kind=_WORD,
        metadata={"type": "object", "required": ["name"]},
    )
)
_PREFIX_4, _PREFIX_6 = "(3[0-2]|[12]?[0-9])", "(12[0-8]|1[01][0-9]|[1-9]?[0-9])"
_NETWORK: Schema = {
    "type": "string",
    "pattern": rf"^({_BYTE}(\.{_BYTE}){{3}}/{_PREFIX_4}|({_IPV6})/{_PREFIX_6})$",
}
_PEER = {
    **_object(
        ipBlock=_object("cidr", cidr=_NETWORK, **{"except": _list(_NETWORK)}),
        podSelector=_SELECTOR,
        namespaceSelector=_SELECTOR,
    ),
    "minProperties": 1,
    **_when({"required": ["ipBlock"]}, {"maxProperties": 1}),
}
_PORT_NAME = {"type": "string", "maxLength": 15, "pattern": "^([a-z0-9]+-)*[a-z0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*$"}
_RULE_PORT = {
    **_object(
        port={"anyOf": [_PORT, _PORT_NAME]},
        endPort=_PORT,
        protocol=_PROTOCOL,
    ),
    **_when({"required": ["endPort"]}, {"required": ["port"], "properties": {"port": {"type": "integer"}}}),
}
INGRESS = _items(_object(**{"from": _list(_PEER), "ports": _list(_RULE_PORT)}))
EGRESS = _items(_object(to=_list(_PEER), ports=_list(_RULE_PORT)))
RELABELINGS = _items(
    _only("sourceLabels", "separator", "targetLabel", "regex", "modulus", "replacement", "action") | {"type": "object"}
)
