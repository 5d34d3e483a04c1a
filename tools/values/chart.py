"""All values of the chart in their order, with the controller's own defaults."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, inspect

from controller.api.meta import CLIENT_ID, TENANT_ID
from controller.api.secretsync import REFRESH_INTERVAL
from controller.settings import BUILT_IN_CLOUDS, DEFAULT_CLOUD, Cloud, Settings
from tools.values.azure import Azure
from tools.values.base import NAMESPACES, Free, Values
from tools.values.logs import Logs
from tools.values.observing import Dashboard, Monitor, Rules
from tools.values.pod import IMAGE_USER, Disruption, Global, Image, Network, Proxy, ServiceAccount
from tools.values.release_test import Test
from tools.values.rights import AkvSync, Crds, Policies, Rbac

_DEFAULTS = Settings()


class ChartValues(Values):
    """The whole of values.yaml, in its order."""

    rotation_poll_interval_in_seconds: Annotated[
        int, Meta(ge=1, description="How often each SecretSync is checked against its Key Vault, in seconds.")
    ] = _DEFAULTS.rotation_poll_interval
    enable_partial_secret_sync: Annotated[
        bool,
        Meta(
            description="true: each key that could be fetched is written, the others keep their last good value."
            " false: a Secret is written only when all its keys could be fetched."
        ),
    ] = _DEFAULTS.enable_partial_secret_sync
    jitter_seconds: Annotated[
        int,
        Meta(
            ge=0,
            description="The longest random wait before each look at a vault, in seconds; it spreads a fleet's calls.",
        ),
    ] = _DEFAULTS.jitter
    drift_interval_in_seconds: Annotated[
        int,
        Meta(ge=1, description="How often each Secret is checked for edits and deletion by others, in seconds."),
    ] = _DEFAULTS.drift_interval
    shortest_refresh_interval_in_seconds: Annotated[
        int,
        Meta(
            ge=0,
            description=f"0: every SecretSync is checked as often as rotationPollIntervalInSeconds says. More: the"
            f" annotation {REFRESH_INTERVAL} of a SecretSync may say otherwise, and no less than this many seconds.",
        ),
    ] = _DEFAULTS.shortest_refresh_interval
    identity_from_service_account: Annotated[
        bool,
        Meta(
            description="Whether clientID and tenantID may be left out of a SecretProviderClass: they are then read"
            f" from the annotations {CLIENT_ID} and {TENANT_ID} of the ServiceAccount. Grants the controller to get"
            " ServiceAccounts."
        ),
    ] = _DEFAULTS.identity_from_service_account
    akv_sync: AkvSync = msgspec.field(default_factory=AkvSync)
    controller_name: Annotated[
        str,
        Meta(
            description="SecretSyncs whose secretSyncControllerName is this are ours, besides those where it is empty."
        ),
    ] = _DEFAULTS.controller_name
    watch_namespaces: Annotated[
        list[str],
        Meta(
            description="The namespaces to serve, as a list or comma-separated; empty: all. With a list the controller"
            " has rights in these namespaces alone, and none in the cluster at large.",
            extra_json_schema=NAMESPACES,
        ),
    ] = msgspec.field(default_factory=list)
    clouds: Annotated[
        dict[str, Cloud],
        Meta(
            description="Clouds besides "
            + ", ".join(BUILT_IN_CLOUDS)
            + ". An entry under one of these names changes the fields that it sets, such as apiVersion."
            " A SecretProviderClass can name a cloud (cloudName) and never a host, so only what stands here can be"
            " reached.",
            examples=[
                {
                    "Stack": {
                        "authority": "https://login.stack.example",
                        "vaultUrl": "https://{vault}.vault.stack.example",
                        "audience": "https://vault.stack.example",
                        "ca": "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n",
                    }
                }
            ],
        ),
    ] = msgspec.field(default_factory=dict)
    default_cloud: Annotated[
        str,
        Meta(
            description="The cloud of a SecretProviderClass that names none; empty: what Azure.Cluster.Cloud says,"
            f" or else {DEFAULT_CLOUD}."
        ),
    ] = ""
    proxy: Proxy = msgspec.field(default_factory=Proxy)
    ca_bundle: Annotated[
        str,
        Meta(
            description="Certificates to trust on the way to Entra and the vaults, besides the system's and those of"
            " clouds: PEM, or its base64."
        ),
    ] = ""
    validating_admission_policies: Policies = msgspec.field(default_factory=Policies)
    accept_unrestricted_tokens: Annotated[
        bool,
        Meta(
            description="Whether to install for all namespaces without admission policies (before Kubernetes 1.30, or"
            " with applyPolicies=false). The controller can then ask for a token of any ServiceAccount and any"
            " audience: whoever gets hold of it is the cluster's administrator."
        ),
    ] = False
    replica_count: Annotated[
        int,
        Meta(
            ge=1,
            description="How many pods run. One of them leads and does everything; with 2, another takes over within"
            " 15 seconds where the leader's node is lost, and at once where its pod is deleted.",
        ),
    ] = 1
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe lines to log.")
    ] = _DEFAULTS.log_level
    logs: Logs = msgspec.field(default_factory=Logs)
    image: Image = msgspec.field(default_factory=Image)
    global_: Global = msgspec.field(default_factory=Global, name="global")
    image_pull_secrets: Annotated[
        list[Free], Meta(description="Secrets for pulling the image.", examples=[[{"name": "registry"}]])
    ] = msgspec.field(default_factory=list)
    crds: Crds = msgspec.field(default_factory=Crds)
    name_override: Annotated[str, Meta(max_length=40, description="Replaces the chart's name in objects' names.")] = ""
    fullname_override: Annotated[str, Meta(max_length=53, description="Replaces the whole of that name.")] = ""
    namespace_override: Annotated[
        str,
        Meta(
            max_length=63,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$",
            description="The namespace to install into, instead of the release's; it must exist.",
        ),
    ] = ""
    common_labels: Annotated[dict[str, str], Meta(description="Labels of all objects and of the pods.")] = (
        msgspec.field(default_factory=dict)
    )
    service_account: ServiceAccount = msgspec.field(default_factory=ServiceAccount)
    rbac: Rbac = msgspec.field(default_factory=Rbac)
    strategy: Annotated[
        Free, Meta(description="How pods are replaced: the new one is ready before the old one ends.")
    ] = msgspec.field(
        default_factory=lambda: {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    )
    revision_history_limit: Annotated[
        int, Meta(ge=0, description="How many old ReplicaSets are kept, to roll back to.")
    ] = 10
    deployment_annotations: Annotated[dict[str, str], Meta(description="Annotations of the Deployment.")] = (
        msgspec.field(default_factory=dict)
    )
    pod_annotations: Annotated[dict[str, str], Meta(description="Annotations of the pod.")] = msgspec.field(
        default_factory=dict
    )
    pod_labels: Annotated[dict[str, str], Meta(description="Labels of the pod.")] = msgspec.field(default_factory=dict)
    pod_security_context: Annotated[
        Free,
        Meta(
            description="The pods' securityContext. Where the cluster is OpenShift, the user and group below are left"
            " out, because it gives every namespace its own."
        ),
    ] = msgspec.field(
        default_factory=lambda: {
            "runAsNonRoot": True,
            "runAsUser": IMAGE_USER,
            "runAsGroup": IMAGE_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    )
    security_context: Annotated[Free, Meta(description="The containers' securityContext.")] = msgspec.field(
        default_factory=lambda: {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    )
    resources: Annotated[
        Free, Meta(description="CPU and memory. No limit of CPU: it would only make the controller slower.")
    ] = msgspec.field(
        default_factory=lambda: {"requests": {"cpu": "20m", "memory": "100Mi"}, "limits": {"memory": "256Mi"}}
    )
    node_selector: Annotated[dict[str, str], Meta(description="Labels of the nodes that the pod may run on.")] = (
        msgspec.field(default_factory=lambda: {"kubernetes.io/os": "linux"})
    )
    tolerations: Annotated[list[Free], Meta(description="Taints that the pod tolerates.")] = msgspec.field(
        default_factory=list
    )
    affinity: Annotated[Free, Meta(description="Where the pod would rather run.")] = msgspec.field(default_factory=dict)
    topology_spread_constraints: Annotated[
        list[Free],
        Meta(
            description="How the pods are spread over zones or nodes; one without labelSelector is for the controller's"
            " pods. Empty: over nodes, where there are several pods and it can be done."
        ),
    ] = msgspec.field(default_factory=list)
    priority_class_name: Annotated[str, Meta(description="The pod's PriorityClass.")] = ""
    host_aliases: Annotated[
        list[Free],
        Meta(
            description="Addresses for names that the cluster's DNS does not know, such as those of private endpoints.",
            examples=[[{"ip": "10.1.2.3", "hostnames": ["my-vault.vault.azure.net"]}]],
        ),
    ] = msgspec.field(default_factory=list)
    dns_config: Annotated[
        Free,
        Meta(
            description="Servers and options besides those of the cluster's DNS.",
            examples=[{"nameservers": ["10.1.0.2"], "options": [{"name": "ndots", "value": "2"}]}],
        ),
    ] = msgspec.field(default_factory=dict)
    extra_args: Annotated[
        list[str],
        Meta(
            description="More arguments of the controller; settings that values of the chart have are not among them.",
            examples=[["--listen-address=::"]],
        ),
    ] = msgspec.field(default_factory=list)
    extra_env: Annotated[
        list[Free],
        Meta(
            description="More environment variables of the controller; its settings are not among them.",
            examples=[[{"name": "TZ", "value": "Europe/Zurich"}]],
        ),
    ] = msgspec.field(default_factory=list)
    extra_volumes: Annotated[list[Free], Meta(description="More volumes of the controller's pods.")] = msgspec.field(
        default_factory=list
    )
    extra_volume_mounts: Annotated[list[Free], Meta(description="… and where they are mounted.")] = msgspec.field(
        default_factory=list
    )
    extra_objects: Annotated[
        list[Free], Meta(description="More objects to install with the release; templates in them are rendered.")
    ] = msgspec.field(default_factory=list)
    pod_disruption_budget: Disruption = msgspec.field(default_factory=Disruption)
    network_policy: Network = msgspec.field(default_factory=Network)
    service_monitor: Monitor = msgspec.field(default_factory=Monitor)
    prometheus_rule: Rules = msgspec.field(default_factory=Rules)
    grafana_dashboard: Dashboard = msgspec.field(default_factory=Dashboard)
    azure: Azure = msgspec.field(default_factory=Azure, name="Azure")
    test: Test = msgspec.field(default_factory=Test)


class Leaf(msgspec.Struct, frozen=True):
    """One value: its dotted path, its type, its default as JSON has it, and what is said of it."""

    path: str
    type: inspect.Type
    default: Any
    description: str
    examples: tuple[Any, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """A group of values, such as `image`."""

    path: str
    description: str


def walk(values: msgspec.Struct | None = None, prefix: str = "") -> Iterator[Leaf | Group]:
    """Every value in its order, a group before what is in it."""
    values = values or ChartValues()
    for field in msgspec.inspect.type_info(type(values)).fields:  # type: ignore[attr-defined]  # a StructType
        path = f"{prefix}{field.encode_name}"
        default = getattr(values, field.name)
        if isinstance(default, Values):
            yield Group(path, " ".join((type(default).__doc__ or "").split()))
            yield from walk(default, f"{path}.")
            continue
        said = field.type.extra_json_schema or {}
        yield Leaf(
            path, field.type.type, msgspec.to_builtins(default), said["description"], tuple(said.get("examples", ()))
        )
