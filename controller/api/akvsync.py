"""AKVSync (secret-sync.x-k8s.io/v1alpha1): a vault and the Secrets to create from it, in one object.

Source: SSE reference, "AKVSync resources". The API server refuses all mistakes that it can see, with an explanation. It
estimates the cost of a CEL rule from the bounds, so every list and text here has a bound.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from controller.api.conditions import Condition
from controller.api.meta import NO_STATUS, Resource, Wire, field_schema, validation_rule
from controller.api.secretsync import DEFAULT_TYPE, MAX_TEXT, NAME, TLS_TYPE, ObjectVersion, unreserved
from controller.api.select import MAX_SELECTS, Select, SkippedObject

BASIC_AUTH_TYPE = "kubernetes.io/basic-auth"
SECRET_TYPES = (
    DEFAULT_TYPE,
    TLS_TYPE,
    "kubernetes.io/ssh-auth",
    BASIC_AUTH_TYPE,
    "kubernetes.io/dockercfg",
    "kubernetes.io/dockerconfigjson",
)
# SSE does not document these bounds. A status with this many parts, each with its message and versions, is well below
# the limit of the API server (1.5 MB).
MAX_PARTS = 256
MAX_OBJECTS = 128
MAX_MAPPED = 100
MAX_VERSIONS = 500
MAX_SKIPPED = 64
MAX_LABELS = 32
# Bytes of all generated SecretSyncs together, as JSON: 8 KiB for each of 256. etcd stores all of them, and so does each
# program that watches SecretSyncs.
MAX_GENERATED = 2 * 2**20

_IN_VAULT = field_schema(
    minLength=1,
    maxLength=127,
    pattern=r"^[0-9A-Za-z][0-9A-Za-z-]*$",
    explanation="an object's name in Key Vault: letters, digits and -, a letter or digit first",
)

# The path of a property. Python and RE2 read the pattern alike, and each text matches in one way only.
PROPERTY_LETTER = r"[^\[\].\\]|\\."
PROPERTY_INDEX = r"\[[0-9]{1,6}\]"
PROPERTY_PATTERN = rf"(\.?({PROPERTY_LETTER}|{PROPERTY_INDEX}))+"
PROPERTY_RULE = r"names with dots between them, \. for a dot in a name, .0 or [0] for the first item of a list"
ENCODINGS = ("utf-8", "base64", "hex")


def _name_in_cel(what: str) -> str:
    """Return CEL for the name of an object's Secret, or for the prefix of its names."""
    names = (f"{what}.kubernetesSecretName", f"{what}.secretInAKV", f"{what}.certInAKV")
    return f"(has({names[0]}) ? {names[0]} : {' : '.join(f'has({n}) ? {n}.lowerAscii()' for n in names[1:])} : '')"


def _first_name_in_cel(what: str) -> str:
    """Return CEL for the name of the first Secret of an object."""
    typed = f"has({what}.kubernetesSecretType) && {what}.kubernetesSecretType != '{DEFAULT_TYPE}'"
    several = f"has({what}.versionHistory) && {what}.versionHistory > 1"
    return f"({_name_in_cel(what)} + ({typed} && {several} ? '-v0' : ''))"


# Rules in CEL that the API server checks (Kubernetes documentation, "Validation rules"). For one key of `mapping`:
_MAPPING_RULES = [
    validation_rule(
        "has(self.secretInAKV) != has(self.certInAKV)",
        "a mapping's entry names exactly one of secretInAKV and certInAKV",
    ),
    validation_rule(
        "has(self.secretInAKV) || !has(self.property) && !has(self.encoding)",
        "property and encoding go with secretInAKV",
    ),
]
# For one entry of `objects`:
_ENTRY_RULES = [
    validation_rule(
        "[has(self.secretInAKV), has(self.certInAKV), has(self.mapping), has(self.select)]"
        ".filter(given, given).size() == 1",
        "an object is exactly one of secretInAKV, certInAKV, select, or kubernetesSecretName with mapping",
    ),
    validation_rule(
        "has(self.select) || !has(self.stripPrefix) && !has(self.whenGone)",
        "stripPrefix and whenGone go with select alone",
    ),
    validation_rule(
        "!has(self.select) || !has(self.versionHistory)",
        "versionHistory does not go with select: name that object in an entry of its own",
    ),
    validation_rule(
        "!has(self.select) || !has(self.kubernetesSecretName) || !has(self.kubernetesSecretType)"
        f" || self.kubernetesSecretType == '{DEFAULT_TYPE}'",
        f"select with kubernetesSecretName makes a Secret of type {DEFAULT_TYPE}",
    ),
    validation_rule(
        "!has(self.mapping) || has(self.kubernetesSecretName)",
        "mapping needs kubernetesSecretName, the name of the Secret that it makes",
    ),
    validation_rule(
        "!has(self.mapping) || !has(self.versionHistory)",
        "versionHistory does not go with mapping: give each entry its version instead",
    ),
    validation_rule(
        "!has(self.expand) || !self.expand || has(self.secretInAKV)"
        " && !has(self.versionHistory) && (!has(self.kubernetesSecretType)"
        f" || self.kubernetesSecretType == '{DEFAULT_TYPE}')",
        f"expand goes with secretInAKV and type {DEFAULT_TYPE}, without versionHistory",
    ),
    validation_rule(
        "!has(self.includeCA) || !self.includeCA || has(self.certInAKV)"
        f" && has(self.kubernetesSecretType) && self.kubernetesSecretType == '{TLS_TYPE}'",
        f"includeCA goes with certInAKV and kubernetesSecretType {TLS_TYPE}",
    ),
    validation_rule(
        "!has(self.certInAKV) || !has(self.kubernetesSecretType)"
        f" || self.kubernetesSecretType in ['{DEFAULT_TYPE}', '{TLS_TYPE}']",
        f"a certificate becomes a Secret of type {DEFAULT_TYPE} or {TLS_TYPE}",
    ),
    validation_rule(
        f"!{_name_in_cel('self')}.endsWith('-')",
        "this name makes no Secret's name: set kubernetesSecretName",
    ),
]
# For all entries of `objects` together:
_LIST_RULES = [
    validation_rule(
        # The nested list makes the API server compute the names only once.
        f"[self.map(a, {_first_name_in_cel('a')})].all(names, names.all(a, a == '' || names.exists_one(b, a == b)))",
        "two objects make Secrets of the same name: give one another kubernetesSecretName",
    ),
    validation_rule(
        f"self.filter(a, has(a.select)).size() <= {MAX_SELECTS}",
        f"at most {MAX_SELECTS} objects of an AKVSync have select: combine them, or split the AKVSync",
    ),
]


class MappedKey(Wire, frozen=True, kw_only=True):
    """One key of a Secret that combines several objects of the vault."""

    data_key: Annotated[
        str,
        field_schema(
            "Key in the Secret's data.",
            minLength=1,
            maxLength=253,
            pattern=r"^[-._A-Za-z0-9]+$",
            explanation="a key of a Secret holds letters, digits, - . _ and nothing else",
        ),
    ]
    secret_in_akv: Annotated[str, _IN_VAULT, Meta(description="Name of the secret in Key Vault.")] = msgspec.field(
        default="", name="secretInAKV"
    )
    cert_in_akv: Annotated[
        str,
        _IN_VAULT,
        Meta(description="Name of the certificate in Key Vault; the value is its certificate and key in one PEM."),
    ] = msgspec.field(default="", name="certInAKV")
    version: Annotated[
        int,
        field_schema(
            "Version: 0 is the newest, 1 the one before it.",
            format="int32",
            minimum=0,
            maximum=MAX_VERSIONS - 1,
        ),
    ] = 0
    property_path: Annotated[
        str,
        field_schema(
            "Path of a property in the secret's JSON or YAML, such as database.password or servers.0.name; \\. is a"
            " dot in a name. If it is left out, the whole value.",
            minLength=1,
            maxLength=128,
            pattern=rf"^{PROPERTY_PATTERN}$",
            explanation=PROPERTY_RULE,
        ),
    ] = msgspec.field(default="", name="property")
    encoding: Annotated[
        str,
        field_schema(
            "Encoding of the value, or of its property, in the vault; the Secret gets the decoded bytes. Default:"
            " utf-8.",
            enum=list(ENCODINGS),
        ),
    ] = "utf-8"


class AKVObject(Wire, frozen=True, kw_only=True):
    """One object of the vault that becomes a Secret, several that become one, or a selection of objects."""

    secret_in_akv: Annotated[str, _IN_VAULT, Meta(description="Name of the secret in Key Vault.")] = msgspec.field(
        default="", name="secretInAKV"
    )
    cert_in_akv: Annotated[str, _IN_VAULT, Meta(description="Name of the certificate in Key Vault.")] = msgspec.field(
        default="", name="certInAKV"
    )
    mapping: Annotated[
        list[Annotated[MappedKey, field_schema(x_kubernetes_validations=_MAPPING_RULES)]],
        field_schema(
            "Keys of the Secret kubernetesSecretName, each from its own object.",
            minItems=1,
            maxItems=MAX_MAPPED,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["dataKey"],
        ),
    ] = msgspec.field(default_factory=list)
    select: Annotated[
        Select | None,
        Meta(
            description="Select every enabled object of the vault that meets these conditions. Each becomes a"
            " Secret, or with"
            " kubernetesSecretName a key of that one Secret."
        ),
    ] = None
    strip_prefix: Annotated[
        str,
        field_schema(
            "Prefix of the objects' names that the names of the selected Secrets, or keys, leave out.",
            minLength=1,
            maxLength=127,
            pattern=r"^[0-9A-Za-z-]+$",
            explanation="a prefix of names in Key Vault: letters, digits and -",
        ),
    ] = ""
    when_gone: Annotated[
        Literal["Keep", "Remove"],
        Meta(
            description="Action for the value of a selected object that is deleted or disabled in the"
            " vault: Keep, the default, or Remove after two consecutive polls without it."
        ),
    ] = "Keep"
    kubernetes_secret_name: Annotated[
        str, NAME, Meta(description="Name of the Secret; default: the object's name in lower case.")
    ] = ""
    kubernetes_secret_type: Annotated[
        str,
        field_schema(
            f"Type of the Secret; default: {DEFAULT_TYPE}. A change waits until the generated SecretSync is deleted.",
            enum=list(SECRET_TYPES),
        ),
    ] = DEFAULT_TYPE
    labels: Annotated[
        dict[str, Annotated[str, field_schema(maxLength=63)]],
        field_schema("Labels of the Secret.", maxProperties=MAX_LABELS, x_kubernetes_validations=unreserved("labels")),
    ] = msgspec.field(default_factory=dict)
    annotations: Annotated[
        dict[str, Annotated[str, field_schema(maxLength=MAX_TEXT)]],
        field_schema(
            "Annotations of the Secret.",
            maxProperties=MAX_LABELS,
            x_kubernetes_validations=unreserved("annotations"),
        ),
    ] = msgspec.field(default_factory=dict)
    version_history: Annotated[
        int,
        field_schema(
            "Number of versions, the newest first; default: 1. An Opaque Secret has them as keys v0, v1 …;"
            " with another type, each version is a Secret of its own, `<name>-v0`, `<name>-v1` …",
            format="int32",
            minimum=1,
            maximum=MAX_VERSIONS,
        ),
    ] = 1
    expand: Annotated[
        bool,
        field_schema("Make a key of each top-level property of the secret's JSON or YAML. It needs secretInAKV."),
    ] = False
    include_ca: Annotated[
        bool,
        field_schema(
            f"Add the key ca.crt, the certificate's chain without the leaf, to a Secret of type {TLS_TYPE}."
            " It needs certInAKV.",
        ),
    ] = msgspec.field(default=False, name="includeCA")


class AKVSyncSpec(Wire, frozen=True, kw_only=True):
    """The desired state."""

    keyvault_name: Annotated[
        str,
        field_schema(
            "Name of the Key Vault.",
            minLength=3,
            # For a longer text the API server reports only the length. The rules below explain the fix.
            maxLength=253,
            x_kubernetes_validations=[
                validation_rule(
                    "!self.contains('/') && !self.contains('.')",
                    "keyvaultName is the vault's name alone: shop-vault, not its address"
                    " https://shop-vault.vault.azure.net",
                ),
                validation_rule("self.size() <= 24", "a Key Vault's name has at most 24 characters"),
            ],
            pattern=r"^[A-Za-z](-?[A-Za-z0-9])+$",
            explanation="a Key Vault's name has 3 to 24 letters, digits and single -, a letter first",
        ),
    ]
    client_id: Annotated[
        str,
        field_schema(
            "Client id of the managed identity that reads the vault.",
            minLength=1,
            maxLength=128,
            pattern=r"^[A-Za-z0-9-]+$",
            explanation="a client id holds letters, digits and -",
        ),
    ] = msgspec.field(name="clientID")
    tenant_id: Annotated[
        str,
        field_schema(
            "Tenant of the Key Vault.",
            minLength=1,
            maxLength=253,
            pattern=r"^[A-Za-z0-9.-]+$",
            explanation="a tenant's id or domain holds letters, digits, . and -",
        ),
    ] = msgspec.field(name="tenantID")
    service_account_name: Annotated[
        str, NAME, Meta(description="ServiceAccount whose federated identity reads the vault.")
    ]
    objects: Annotated[
        list[Annotated[AKVObject, field_schema(x_kubernetes_validations=_ENTRY_RULES)]],
        field_schema(
            "Objects of the vault and the Secrets to create from them.",
            minItems=1,
            maxItems=MAX_OBJECTS,
            x_kubernetes_validations=_LIST_RULES,
        ),
    ]


class PartStatus(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One generated SecretSync and its Secret."""

    name: Annotated[str, Meta(description="Name of the SecretSync and of its Secret.")]
    ready: Annotated[bool, Meta(description="Whether the Secret has the values of the vault.")] = False
    reason: Annotated[str, Meta(description="Reason in one word.")] = ""
    message: Annotated[str, Meta(description="Cause in a sentence; the SecretSync has the full text.")] = ""
    versions: Annotated[
        list[ObjectVersion], Meta(description="Versions in the vault behind the first keys of the Secret.")
    ] = msgspec.field(default_factory=list)


class AKVSyncStatus(Wire, frozen=True, kw_only=True):
    """The observed state."""

    conditions: Annotated[
        list[Condition],
        field_schema(
            "Conditions Ready, True if every part is ready, and Stalled if only an edit can help.",
            maxItems=16,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["type"],
        ),
    ] = msgspec.field(default_factory=list)
    observed_generation: Annotated[
        int,
        field_schema(
            "Generation of the AKVSync that this status describes; -1: the controller has not written one yet.",
            format="int64",
            minimum=NO_STATUS,
            default=NO_STATUS,
        ),
    ] = NO_STATUS
    summary: Annotated[str, Meta(description="Number of ready parts and of all parts.")] = ""
    parts: Annotated[
        list[PartStatus],
        field_schema(
            "Generated SecretSyncs.",
            maxItems=MAX_PARTS,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["name"],
        ),
    ] = msgspec.field(default_factory=list)
    skipped: Annotated[
        list[SkippedObject],
        field_schema("Selected objects that have no Secret, with the cause.", maxItems=MAX_SKIPPED),
    ] = msgspec.field(default_factory=list)
    last_list_time: Annotated[
        str | None,
        field_schema(
            "Time at which the vault was last listed for select, to the hour; absent while a generated object could not"
            " be written.",
            format="date-time",
        ),
    ] = None


class AKVSync(Resource, frozen=True, kw_only=True):
    """Creates Kubernetes Secrets from the objects of an Azure Key Vault, by a SecretProviderClass and SecretSyncs."""

    group = "secret-sync.x-k8s.io"
    version = "v1alpha1"
    kind = "AKVSync"
    plural = "akvsyncs"

    spec: AKVSyncSpec
    status: Annotated[AKVSyncStatus, field_schema(default={"observedGeneration": NO_STATUS})] = msgspec.field(
        default_factory=AKVSyncStatus
    )
