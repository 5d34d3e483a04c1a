"""AKVSync (secret-sync.x-k8s.io/v1alpha1): a vault and the Secrets to make of it, without the two objects in between.

Source: SSE reference, "AKVSync resources". What the API server can see it refuses, in words; a CEL rule's cost is
estimated from the bounds, so every list and text here has one.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from controller.api.conditions import Condition
from controller.api.meta import Resource, Wire, rule, schema
from controller.api.secretsync import DEFAULT_TYPE, MAX_TEXT, NAME, TLS_TYPE, ObjectVersion, unreserved

BASIC_AUTH_TYPE = "kubernetes.io/basic-auth"
SECRET_TYPES = (
    DEFAULT_TYPE,
    TLS_TYPE,
    "kubernetes.io/ssh-auth",
    BASIC_AUTH_TYPE,
    "kubernetes.io/dockercfg",
    "kubernetes.io/dockerconfigjson",
)
# Bounds that SSE does not tell. A status with this many parts, each with its message and versions, stays well below
# what the API server stores (1.5 MB).
MOST_PARTS = 256
MOST_OBJECTS = 128
MOST_MAPPED = 100
MOST_VERSIONS = 500
_MOST_LABELS = 32
# Bytes of all generated SecretSyncs together, as JSON: 8 KiB for each of 256. Every one of them is kept in etcd, and by
# every program that watches SecretSyncs.
MAX_GENERATED = 2 * 2**20

_IN_VAULT = schema(
    minLength=1,
    maxLength=127,
    pattern=r"^[0-9A-Za-z][0-9A-Za-z-]*$",
    explanation="an object's name in Key Vault: letters, digits and -, a letter or digit first",
)


def _named(what: str) -> str:
    """CEL: what an object's Secret is called; with a history of Secrets, what their names begin with."""
    names = (f"{what}.kubernetesSecretName", f"{what}.secretInAKV", f"{what}.certInAKV")
    return f"(has({names[0]}) ? {names[0]} : {' : '.join(f'has({n}) ? {n}.lowerAscii()' for n in names[1:])} : '')"


def _first(what: str) -> str:
    """CEL: what the first Secret of an object is called."""
    typed = f"has({what}.kubernetesSecretType) && {what}.kubernetesSecretType != '{DEFAULT_TYPE}'"
    several = f"has({what}.versionHistory) && {what}.versionHistory > 1"
    return f"({_named(what)} + ({typed} && {several} ? '-v0' : ''))"


class Mapping(Wire, frozen=True, kw_only=True):
    """One key of a Secret that is put together from several objects of the vault."""

    data_key: Annotated[
        str,
        schema(
            "The key in the Secret's data.",
            minLength=1,
            maxLength=253,
            pattern=r"^[-._A-Za-z0-9]+$",
            explanation="a key of a Secret holds letters, digits, - . _ and nothing else",
        ),
    ]
    secret_in_akv: Annotated[str, _IN_VAULT, Meta(description="The secret in Key Vault.")] = msgspec.field(
        default="", name="secretInAKV"
    )
    cert_in_akv: Annotated[
        str, _IN_VAULT, Meta(description="The certificate in Key Vault: its certificate and key, in one PEM.")
    ] = msgspec.field(default="", name="certInAKV")
    version: Annotated[
        int,
        schema(
            "Which version: 0 is the newest, 1 the one before it.",
            format="int32",
            minimum=0,
            maximum=MOST_VERSIONS - 1,
        ),
    ] = 0


class AKVObject(Wire, frozen=True, kw_only=True):
    """One object of the vault that becomes a Secret, or several that become one."""

    secret_in_akv: Annotated[str, _IN_VAULT, Meta(description="The secret in Key Vault.")] = msgspec.field(
        default="", name="secretInAKV"
    )
    cert_in_akv: Annotated[str, _IN_VAULT, Meta(description="The certificate in Key Vault.")] = msgspec.field(
        default="", name="certInAKV"
    )
    mapping: Annotated[
        list[
            Annotated[
                Mapping,
                schema(
                    x_kubernetes_validations=[
                        rule(
                            "has(self.secretInAKV) != has(self.certInAKV)",
                            "a mapping's entry names exactly one of secretInAKV and certInAKV",
                        )
                    ]
                ),
            ]
        ],
        schema(
            "The keys of the Secret kubernetesSecretName, each from an object of its own.",
            minItems=1,
            maxItems=MOST_MAPPED,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["dataKey"],
        ),
    ] = msgspec.field(default_factory=list)
    kubernetes_secret_name: Annotated[
        str, NAME, Meta(description="The Secret's name; left out, the object's own in small letters.")
    ] = ""
    kubernetes_secret_type: Annotated[
        str,
        schema(
            f"The Secret's type; left out, {DEFAULT_TYPE}. A change waits until the generated SecretSync is deleted.",
            enum=list(SECRET_TYPES),
        ),
    ] = DEFAULT_TYPE
    labels: Annotated[
        dict[str, Annotated[str, schema(maxLength=63)]],
        schema("Labels of the Secret.", maxProperties=_MOST_LABELS, x_kubernetes_validations=unreserved("labels")),
    ] = msgspec.field(default_factory=dict)
    annotations: Annotated[
        dict[str, Annotated[str, schema(maxLength=MAX_TEXT)]],
        schema(
            "Annotations of the Secret.",
            maxProperties=_MOST_LABELS,
            x_kubernetes_validations=unreserved("annotations"),
        ),
    ] = msgspec.field(default_factory=dict)
    version_history: Annotated[
        int,
        schema(
            "How many versions, the newest first; left out, that one alone. An Opaque Secret has them as keys v0, v1 …;"
            " of the other types there is a Secret for each, `<name>-v0`, `<name>-v1` …",
            format="int32",
            minimum=1,
            maximum=MOST_VERSIONS,
        ),
    ] = 1


class AKVSyncSpec(Wire, frozen=True, kw_only=True):
    """What is wanted."""

    keyvault_name: Annotated[
        str,
        schema(
            "The Key Vault's name.",
            minLength=3,
            maxLength=24,
            pattern=r"^[A-Za-z](-?[A-Za-z0-9])+$",
            explanation="a Key Vault's name has 3 to 24 letters, digits and single -, a letter first",
        ),
    ]
    client_id: Annotated[
        str,
        schema(
            "The client id of the managed identity that reads the vault.",
            minLength=1,
            maxLength=128,
            pattern=r"^[A-Za-z0-9-]+$",
            explanation="a client id holds letters, digits and -",
        ),
    ] = msgspec.field(name="clientID")
    tenant_id: Annotated[
        str,
        schema(
            "The Key Vault's tenant.",
            minLength=1,
            maxLength=253,
            pattern=r"^[A-Za-z0-9.-]+$",
            explanation="a tenant's id or domain holds letters, digits, . and -",
        ),
    ] = msgspec.field(name="tenantID")
    service_account_name: Annotated[
        str, NAME, Meta(description="The ServiceAccount whose federated identity reads the vault.")
    ]
    objects: Annotated[
        list[
            Annotated[
                AKVObject,
                schema(
                    x_kubernetes_validations=[
                        rule(
                            "[has(self.secretInAKV), has(self.certInAKV), has(self.mapping)]"
                            ".filter(given, given).size() == 1",
                            "an object is exactly one of secretInAKV, certInAKV, or kubernetesSecretName with mapping",
                        ),
                        rule(
                            "!has(self.mapping) || has(self.kubernetesSecretName)",
                            "mapping needs kubernetesSecretName, the name of the Secret that it makes",
                        ),
                        rule(
                            "!has(self.mapping) || !has(self.versionHistory)",
                            "versionHistory does not go with mapping: give each entry its version instead",
                        ),
                        rule(
                            f"has(self.mapping) || !has(self.kubernetesSecretType)"
                            f" || self.kubernetesSecretType != '{BASIC_AUTH_TYPE}'",
                            f"{BASIC_AUTH_TYPE} needs a mapping with the dataKeys username and password",
                        ),
                        rule(
                            "!has(self.certInAKV) || !has(self.kubernetesSecretType)"
                            f" || self.kubernetesSecretType in ['{DEFAULT_TYPE}', '{TLS_TYPE}']",
                            f"a certificate becomes a Secret of type {DEFAULT_TYPE} or {TLS_TYPE}",
                        ),
                        rule(
                            f"!{_named('self')}.endsWith('-')",
                            "this name makes no Secret's name: set kubernetesSecretName",
                        ),
                    ]
                ),
            ]
        ],
        schema(
            "What to make of the vault's objects.",
            minItems=1,
            maxItems=MOST_OBJECTS,
            x_kubernetes_validations=[
                rule(
                    # The list of one list is there to have the names made only once.
                    f"[self.map(a, {_first('a')})].all(names, names.all(a, names.exists_one(b, a == b)))",
                    "two objects make Secrets of the same name: give one another kubernetesSecretName",
                )
            ],
        ),
    ]


class Part(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One generated SecretSync, and so one Secret."""

    name: Annotated[str, Meta(description="The name of the SecretSync and of its Secret.")]
    ready: Annotated[bool, Meta(description="Whether the Secret holds what the vault holds.")] = False
    reason: Annotated[str, Meta(description="Why, in one word.")] = ""
    message: Annotated[str, Meta(description="Why, in a sentence; the SecretSync has the whole of it.")] = ""
    versions: Annotated[
        list[ObjectVersion], Meta(description="The vault's version behind the Secret's first keys.")
    ] = msgspec.field(default_factory=list)


class AKVSyncStatus(Wire, frozen=True, kw_only=True):
    """What was made of it."""

    conditions: Annotated[
        list[Condition],
        schema(
            "Ready: whether every part is.",
            maxItems=16,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["type"],
        ),
    ] = msgspec.field(default_factory=list)
    observed_generation: Annotated[
        int, schema("The generation of the AKVSync that this status speaks of.", format="int64", minimum=0)
    ] = 0
    summary: Annotated[str, Meta(description="How many parts are ready, of how many.")] = ""
    parts: Annotated[
        list[Part],
        schema(
            "The generated SecretSyncs.",
            maxItems=MOST_PARTS,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["name"],
        ),
    ] = msgspec.field(default_factory=list)


class AKVSync(Resource, frozen=True, kw_only=True):
    """Makes Kubernetes Secrets of an Azure Key Vault's objects, by SecretSyncs and a SecretProviderClass of its own."""

    group = "secret-sync.x-k8s.io"
    version = "v1alpha1"
    kind = "AKVSync"
    plural = "akvsyncs"

    spec: AKVSyncSpec
    status: AKVSyncStatus = msgspec.field(default_factory=AKVSyncStatus)
