"""SecretSync (secret-sync.x-k8s.io/v1alpha1): which objects of a SecretProviderClass become which keys of a Secret.

Source: SSE reference, "SecretSync resources"; the field names, bounds and patterns are those of the Secrets Store Sync
Controller's CRD. Where ours is wider, `tools/crds.py` lists the field and the reason.
"""

from typing import Annotated, Self

import msgspec
from msgspec import Meta

from controller.api.conditions import Condition
from controller.api.meta import DNS_SUBDOMAIN, Resource, Wire, rule, schema

RESERVED_PREFIX = "secrets-store.sync.x-k8s.io"
DEFAULT_TYPE = "Opaque"
TLS_TYPE = "kubernetes.io/tls"
TYPE_STAYS = "secretObject.type cannot change: delete the SecretSync and create it with the new type"
# An annotation, for the fields are upstream's: how many seconds apart the vault is looked at, where that is allowed.
REFRESH_INTERVAL = "akv-secret-store/refresh-interval-in-seconds"

NAME = schema(
    minLength=1,
    maxLength=253,
    pattern=DNS_SUBDOMAIN,
    explanation="an object's name: small letters, digits, - and ., beginning and ending with a letter or digit",
)
# The API server wants a bound before it estimates what the CEL rules on each item cost, and refuses twice as much.
# Nobody meets it: a Secret holds 1 MiB, so 256 bytes would be left for each key with its value.
_MAX_KEYS = 4096
# Characters of all labels, and of all annotations, with their keys: half of what Kubernetes takes for one object's
# annotations, and as much as the controller reads of a whole spec.
MAX_TEXT = 128 * 1024


def unreserved(what: str) -> list[dict[str, str]]:
    """The rules on keys of the Secret's labels or annotations."""
    return [
        rule(
            "self.all(key, key.size() <= 317)",
            f"a key of {what} has more than 317 characters",
        ),
        rule(
            f"self.all(key, !key.startsWith('{RESERVED_PREFIX}'))",
            f"keys of {what} that start with {RESERVED_PREFIX} are reserved for the controller: choose another key",
        ),
        rule(
            f"self.map(key, key.size() + self[key].size()).sum() <= {MAX_TEXT}",
            f"all {what} with their keys have more than {MAX_TEXT} characters together: shorten them",
        ),
    ]


SOURCE_PATH = r"^[A-Za-z0-9.][-._A-Za-z0-9]*(/[-._A-Za-z0-9]+)*$"


class SecretObjectData(Wire, frozen=True, kw_only=True):
    """One key of the Secret."""

    source_path: Annotated[
        str,
        schema(
            "What to take from the SecretProviderClass: an object's name or alias, `<name>/0` for the newest of several"
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
        schema(
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
        schema(
            "The Secret's keys and where each comes from.",
            minItems=1,
            maxItems=_MAX_KEYS,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["targetKey"],
        ),
    ]
    type: Annotated[
        str,
        schema(
            "Type of the Secret, such as Opaque or kubernetes.io/tls. It cannot change afterwards.",
            minLength=1,
            maxLength=253,
            default=DEFAULT_TYPE,
            x_kubernetes_validations=[rule("self == oldSelf", TYPE_STAYS)],
        ),
    ] = DEFAULT_TYPE
    labels: Annotated[
        dict[str, Annotated[str, schema(maxLength=63)]],
        schema("Labels of the Secret.", x_kubernetes_validations=unreserved("labels")),
    ] = msgspec.field(default_factory=dict)
    annotations: Annotated[
        dict[str, Annotated[str, schema(maxLength=MAX_TEXT)]],
        schema("Annotations of the Secret.", x_kubernetes_validations=unreserved("annotations")),
    ] = msgspec.field(default_factory=dict)


class SecretSyncSpec(Wire, frozen=True, kw_only=True):
    """What is wanted."""

    secret_provider_class_name: Annotated[
        str, NAME, Meta(description="The SecretProviderClass, in the same namespace.")
    ]
    service_account_name: Annotated[
        str, NAME, Meta(description="The ServiceAccount whose federated identity reads the vault.")
    ]
    secret_object: SecretObject
    secret_sync_controller_name: Annotated[
        str, schema("Which controller carries this out; empty for the default one.", default="")
    ] = ""
    force_synchronization: Annotated[
        str,
        schema(
            "Any change of this text means: look at the vault now.",
            maxLength=253,
            pattern=r"^[A-Za-z0-9]([-A-Za-z0-9]+([-._a-zA-Z0-9]?[A-Za-z0-9])*)?$",
            explanation="letters and digits, with - . _ one at a time between them, such as 2030-01-31.1",
        ),
    ] = ""


class ObjectVersion(Wire, frozen=True, kw_only=True):
    """Which version of which object of the vault a key holds. Never a value, nor anything made from one."""

    target_key: Annotated[str, Meta(description="The key in the Secret.")]
    object: Annotated[str, Meta(description="`<type>/<name>` in the vault.")]
    version: Annotated[str, Meta(description="The version's id in the vault.")] = ""
    updated: Annotated[str, schema("When the vault last changed that version.", format="date-time")] = ""
    expires: Annotated[
        str, schema("When it expires, by the vault's or the certificate's word.", format="date-time")
    ] = ""


class SecretSyncStatus(Wire, frozen=True, kw_only=True):
    """What was observed and done."""

    conditions: Annotated[
        list[Condition],
        schema(
            "Ready, SecretCreated, SecretUpdated.",
            maxItems=16,
            x_kubernetes_list_type="map",
            x_kubernetes_list_map_keys=["type"],
        ),
    ] = msgspec.field(default_factory=list)
    last_successful_sync_time: Annotated[
        str | None,
        schema("When the Secret was last known to equal what the vault holds.", format="date-time"),
    ] = None
    sync_hash: Annotated[
        str,
        Meta(
            description="Changes with the vault's versions and with the SecretSync and its class. It holds no value,"
            " nor anything from which one could be guessed."
        ),
    ] = ""
    observed_generation: Annotated[
        int, schema("The generation of the SecretSync that this status speaks of.", format="int64", minimum=0)
    ] = 0
    objects: Annotated[
        list[ObjectVersion],
        schema(
            "The vault's version behind each key of the Secret.",
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
    status: SecretSyncStatus = msgspec.field(default_factory=SecretSyncStatus)

    def trimmed(self) -> Self:
        """Of its annotations one is as good as a field."""
        return msgspec.structs.replace(self, metadata=self.metadata.trimmed(REFRESH_INTERVAL))
