"""SecretSync (secret-sync.x-k8s.io/v1alpha1): which objects of a SecretProviderClass become which keys of a Secret.

Source: SSE reference, "SecretSync resources". Field names, bounds and patterns are those of the Secrets Store Sync
Controller's CRD. `tools/codegen/crds.py` lists the fields that are wider here, with the reason.
"""

from typing import Annotated, Self

import msgspec
from msgspec import Meta

from controller.api.conditions import Condition
from controller.api.meta import DNS_SUBDOMAIN, NO_STATUS, Resource, Wire, field_schema, validation_rule

RESERVED_PREFIX = "secrets-store.sync.x-k8s.io"
DEFAULT_TYPE = "Opaque"
TLS_TYPE = "kubernetes.io/tls"
WHOLE_TYPE = "secretObject.type is a Secret's whole type, such as Opaque or kubernetes.io/tls"
# Other types are allowed. These values can only be mistakes.
_IS_WHOLE_TYPE = "!(self in ['opaque', 'tls', 'TLS', 'ssh-auth', 'basic-auth', 'dockercfg', 'dockerconfigjson'])"
TYPE_STAYS = "secretObject.type cannot change: delete the SecretSync and create it with the new type"
# An annotation, because the fields are upstream's: the seconds between two polls of the vault, where that is allowed.
REFRESH_INTERVAL = "akv-secret-store/refresh-interval-in-seconds"

NAME = field_schema(
    minLength=1,
    maxLength=253,
    pattern=DNS_SUBDOMAIN,
    explanation="an object's name: small letters, digits, - and ., beginning and ending with a letter or digit",
)
# The API server needs a bound to estimate the cost of the CEL rules on each item, and refuses a bound twice as high. No
# Secret reaches it: at 1 MiB, 256 bytes would remain for each key with its value.
MAX_KEYS = 4096
# The maximum number of characters of all labels, and of all annotations, with their keys. It is half of Kubernetes'
# limit for one object's annotations, and the limit of the controller for a whole spec.
MAX_TEXT = 128 * 1024


def unreserved(what: str) -> list[dict[str, str]]:
    """Return the rules for keys of the Secret's labels or annotations."""
    return [
        validation_rule(
            "self.all(key, key.size() <= 317)",
            f"a key of {what} has more than 317 characters",
        ),
        validation_rule(
            f"self.all(key, !key.startsWith('{RESERVED_PREFIX}'))",
            f"keys of {what} that start with {RESERVED_PREFIX} are reserved for the controller: choose another key",
        ),
        validation_rule(
            f"self.map(key, key.size() + self[key].size()).sum() <= {MAX_TEXT}",
            f"all {what} with their keys have more than {MAX_TEXT} characters together: shorten them",
        ),
    ]


SOURCE_PATH = r"^[A-Za-z0-9.][-._A-Za-z0-9]*(/[-._A-Za-z0-9]+)*$"


class SecretObjectData(Wire, frozen=True, kw_only=True):
    """One key of the Secret."""

    source_path: Annotated[
        str,
        field_schema(
            "Source in the SecretProviderClass: an object's name or alias, `<name>/0` for the newest of several"
            " versions, `<name>/tls.crt` or `<name>/tls.key` for the parts of a certificate.",
            minLength=1,
            maxLength=253,
            pattern=SOURCE_PATH,
            explanation="an object's name or alias, then /0 or /1 for a version, /tls.crt or /tls.key for a part of a"
            " certificate: letters, digits, - . _ between the slashes, a letter, digit or . first",
        ),
    ]
    target_key: Annotated[
        str,
        field_schema(
            "The key in the Secret's data.",
            minLength=1,
            maxLength=253,
            pattern=r"^[-._A-Za-z0-9]+(/[0-9]+)*$",
            explanation="a key of a Secret holds letters, digits, - . _ and nothing else",
        ),
    ]


class SecretObject(Wire, frozen=True, kw_only=True):
    """The Secret to write."""

    data: Annotated[
        list[SecretObjectData],
        field_schema(
            "Keys of the Secret and the source of each key.",
            minItems=1,
            maxItems=MAX_KEYS,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["targetKey"],
        ),
    ]
    type: Annotated[
        str,
        field_schema(
            "Type of the Secret, such as Opaque or kubernetes.io/tls. It cannot change later.",
            minLength=1,
            maxLength=253,
            default=DEFAULT_TYPE,
            x_kubernetes_validations=[
                validation_rule("self == oldSelf", TYPE_STAYS),
                validation_rule(_IS_WHOLE_TYPE, WHOLE_TYPE),
            ],
        ),
    ] = DEFAULT_TYPE
    labels: Annotated[
        dict[str, Annotated[str, field_schema(maxLength=63)]],
        field_schema("Labels of the Secret.", x_kubernetes_validations=unreserved("labels")),
    ] = msgspec.field(default_factory=dict)
    annotations: Annotated[
        dict[str, Annotated[str, field_schema(maxLength=MAX_TEXT)]],
        field_schema("Annotations of the Secret.", x_kubernetes_validations=unreserved("annotations")),
    ] = msgspec.field(default_factory=dict)


class SecretSyncSpec(Wire, frozen=True, kw_only=True):
    """The desired state."""

    secret_provider_class_name: Annotated[str, NAME, Meta(description="SecretProviderClass in the same namespace.")]
    service_account_name: Annotated[
        str, NAME, Meta(description="ServiceAccount whose federated identity reads the vault.")
    ]
    secret_object: SecretObject
    secret_sync_controller_name: Annotated[
        str, field_schema("Controller that handles this object; empty: the default one.", default="")
    ] = ""
    force_synchronization: Annotated[
        str,
        field_schema(
            "Any change of this text makes the controller poll the vault, after the chart's jitterSeconds at most.",
            maxLength=253,
            pattern=r"^[A-Za-z0-9]([-A-Za-z0-9]+([-._a-zA-Z0-9]?[A-Za-z0-9])*)?$",
            explanation="letters and digits, with - . _ one at a time between them, such as 2030-01-31.1",
        ),
    ] = ""


class ObjectVersion(Wire, frozen=True, kw_only=True):
    """The version of a vault object behind one key. It contains no value and nothing derived from a value."""

    target_key: Annotated[str, Meta(description="Key in the Secret.")]
    object: Annotated[str, Meta(description="`<type>/<name>` in the vault.")]
    version: Annotated[str, Meta(description="Id of the version in the vault.")] = ""
    updated: Annotated[str, field_schema("Time at which the vault last changed that version.", format="date-time")] = ""
    expires: Annotated[
        str, field_schema("Expiry time that the vault or the certificate states.", format="date-time")
    ] = ""
    expanded_from: Annotated[
        str, Meta(description="`<targetKey>/*` of the expanded object, if this key is one of its properties.")
    ] = ""


class GroupPoll(Wire, frozen=True, kw_only=True):
    """The last poll that found all SecretSyncs of its group equal to the vault. One SecretSync of each group has it."""

    group: Annotated[
        str, Meta(description="Hash of the identity, the vault and the interval of the group.", max_length=64)
    ]
    time: Annotated[str, field_schema("Time at which the poll began.", format="date-time")]


class SecretSyncStatus(Wire, frozen=True, kw_only=True):
    """The observed state."""

    conditions: Annotated[
        list[Condition],
        field_schema(
            "Conditions Ready, SecretCreated, SecretUpdated, and Stalled if only an edit can help.",
            maxItems=16,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["type"],
        ),
    ] = msgspec.field(default_factory=list)
    last_successful_sync_time: Annotated[
        str | None,
        field_schema(
            "Time at which the Secret was last known to equal the vault. While nothing changes it is written once a"
            " day, though polls are more frequent.",
            format="date-time",
        ),
    ] = None
    last_group_poll: GroupPoll | None = None
    sync_hash: Annotated[
        str,
        Meta(
            description="Hash that changes with the vault's versions, the SecretSync and its class. It contains no"
            " value"
            " and reveals none."
        ),
    ] = ""
    observed_generation: Annotated[
        int,
        field_schema(
            "Generation of the SecretSync that this status describes; -1: the controller has not written one yet.",
            format="int64",
            minimum=NO_STATUS,
            default=NO_STATUS,
        ),
    ] = NO_STATUS
    objects: Annotated[
        list[ObjectVersion],
        field_schema(
            "Version in the vault behind each key of the Secret.",
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["targetKey"],
        ),
    ] = msgspec.field(default_factory=list)


class SecretSync(Resource, frozen=True, kw_only=True):
    """Copies objects of an Azure Key Vault into one Kubernetes Secret of the same name and namespace."""

    group = "secret-sync.x-k8s.io"
    version = "v1alpha1"
    kind = "SecretSync"
    plural = "secretsyncs"

    spec: SecretSyncSpec
    status: Annotated[SecretSyncStatus, field_schema(default={"observedGeneration": NO_STATUS})] = msgspec.field(
        default_factory=SecretSyncStatus
    )

    def trimmed(self) -> Self:
        """Keep one annotation, because it acts as a field."""
        return msgspec.structs.replace(self, metadata=self.metadata.trimmed(REFRESH_INTERVAL))
