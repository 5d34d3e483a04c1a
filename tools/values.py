"""The chart's values, typed: one source of chart/values.yaml, values.schema.json and the table in chart/README.md.

Every setting may arrive as a string, because Azure Arc passes all of them so: "120" is a number and "false" is false,
here as in the templates.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, inspect

from controller.api.akvsync import SECRET_TYPES
from controller.api.meta import CLIENT_ID, TENANT_ID
from controller.api.secretsync import REFRESH_INTERVAL
from controller.settings import BUILT_IN_CLOUDS, DEFAULT_CLOUD, Cloud, Settings

Schema = dict[str, Any]
Free = dict[str, Any]
_DEFAULTS = Settings()
NumberOrShare = Annotated[int | str, Meta(extra_json_schema={"pattern": "^([0-9]+%?)?$"})]
RenderMode = Literal["failIfMissing", "skipIfMissing", "alwaysRender"]
RENDER_MODE = (
    "Where the cluster does not serve that kind: failIfMissing says so, skipIfMissing leaves it out, alwaysRender does"
    " not ask."
)
# The image's own user and group, as its Containerfile has them.
IMAGE_USER = 65532
PROXY_URL = r"^(https?://\S+)?$"
DURATION = r"^([0-9]+(ms|[smhd]))+$"


def _port(port: int | str, protocol: str = "TCP") -> Free:
    return {"port": port, "protocol": protocol}


class Values(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """Base of all groups of values."""


class Open(Values, forbid_unknown_fields=False):
    """Base of groups that somebody else fills, and may fill with more than is known here."""


class Global(Open):
    """What a chart shares with those that it is installed with."""

    image_pull_secrets: Annotated[
        list[Free], Meta(description="Secrets for pulling images, besides imagePullSecrets.")
    ] = msgspec.field(default_factory=list)


class Proxy(Values):
    """The proxy on the way to Entra and the vaults. It is kept in a Secret, for it may have a password.

    The API server is never asked through it, whatever noProxy says.
    """

    http: Annotated[
        str,
        Meta(
            pattern=PROXY_URL, description="As http://host:port; for http addresses, of which there are none in Azure."
        ),
    ] = ""
    https: Annotated[
        str,
        Meta(
            pattern=PROXY_URL,
            description="As http://host:port or http://user:password@host:port; for https addresses.",
        ),
    ] = ""
    no_proxy: Annotated[
        list[str],
        Meta(
            description="Hosts that are reached without it, as a list or comma-separated: names, or ends of names such"
            " as .example.com. Networks such as 10.0.0.0/8 are not understood."
        ),
    ] = msgspec.field(default_factory=list)


class Disruption(Values):
    """A PodDisruptionBudget. With one replica and minAvailable 1, no node can be drained."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    min_available: Annotated[NumberOrShare, Meta(description="How many pods stay, as a number or a percentage.")] = ""
    max_unavailable: Annotated[
        NumberOrShare, Meta(description="Or how many may be missing; where neither is given: 1.")
    ] = ""


class Network(Values):
    """A NetworkPolicy for the controller's pods."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    ingress: Annotated[list[Free], Meta(description="Who may come in: to the probes and metrics, everybody.")] = (
        msgspec.field(default_factory=lambda: [{"ports": [_port("http")]}])
    )
    egress: Annotated[
        list[Free],
        Meta(
            description="Where it may go: DNS, the API server (443 or 6443), Entra and the vaults (443). The ports of"
            " the proxy and of clouds are added."
        ),
    ] = msgspec.field(
        default_factory=lambda: [{"ports": [_port(53, "UDP"), _port(53)]}, {"ports": [_port(443), _port(6443)]}]
    )


class Monitor(Values):
    """A ServiceMonitor of the Prometheus Operator, and the Service that it needs."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    render_mode: Annotated[RenderMode, Meta(description=RENDER_MODE)] = "failIfMissing"
    additional_labels: Annotated[
        dict[str, str], Meta(description="More labels, such as those by which your Prometheus finds it.")
    ] = msgspec.field(default_factory=dict)
    interval: Annotated[str, Meta(pattern=DURATION, description="How often it is scraped.")] = "30s"
    scrape_timeout: Annotated[str, Meta(pattern=DURATION, description="After how long a scrape is given up.")] = "25s"


class Rules(Values):
    """A PrometheusRule with the alarms that the chart's README explains."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    render_mode: Annotated[RenderMode, Meta(description=RENDER_MODE)] = "failIfMissing"
    additional_labels: Annotated[
        dict[str, str], Meta(description="More labels, such as those by which your Prometheus finds it.")
    ] = msgspec.field(default_factory=dict)


class Dashboard(Values):
    """A ConfigMap with a dashboard, as Grafana's sidecar looks for it."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    sidecar_label: Annotated[str, Meta(min_length=1, description="The label by which the sidecar finds it.")] = (
        "grafana_dashboard"
    )
    sidecar_label_value: Annotated[str, Meta(description="… and its value.")] = "1"
    annotations: Annotated[dict[str, str], Meta(description="Annotations, such as the folder for the sidecar.")] = (
        msgspec.field(default_factory=dict)
    )
    extra_labels: Annotated[dict[str, str], Meta(description="More labels.")] = msgspec.field(default_factory=dict)


class AzureCluster(Open, rename="pascal"):
    """The Arc-enabled cluster."""

    resource_id: Annotated[str, Meta(description="Its id in Azure; told in an annotation of the Deployment.")] = ""
    region: Annotated[str, Meta(description="Its region; told there, too.")] = ""
    distribution: Annotated[
        str, Meta(description="Its distribution; told there, and openshift counts as OpenShift (podSecurityContext).")
    ] = ""
    infrastructure: Annotated[str, Meta(description="What it runs on; told there, too.")] = ""
    cloud: Annotated[
        str, Meta(description="Its cloud, such as AZUREPUBLICCLOUD; the default cloud, where defaultCloud names none.")
    ] = ""


class AzureProxy(Open):
    """The proxy that the cluster was connected with. What proxy and caBundle say goes before it."""

    is_proxy_enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    http_proxy: Annotated[str, Meta(description="As proxy.http.")] = ""
    https_proxy: Annotated[str, Meta(description="As proxy.https.")] = ""
    no_proxy: Annotated[str, Meta(description="As proxy.noProxy, comma-separated.")] = ""
    proxy_cert: Annotated[
        str, Meta(description="Certificates to trust, as PEM or its base64; they count without a proxy, too.")
    ] = ""
    is_custom_cert: Annotated[
        bool, Meta(description="Whether they came without a proxy; told in an annotation of the Deployment.")
    ] = False
    autonomous_fqdn: Annotated[
        str, Meta(description="The domain of a cloud of one's own; told there, too. Its vaults must stand in clouds.")
    ] = ""


class AzureIdentity(Open):
    """The extension's own identity. The controller reads vaults as those that SecretSyncs name, never as this one."""

    is_enabled: Annotated[bool, Meta(description="Whether it has one; told in an annotation of the Deployment.")] = (
        msgspec.field(default=False, name="isEnabled")
    )
    type: Annotated[str, Meta(description="Its type; told there, too.")] = msgspec.field(default="", name="Type")


class AzureExtension(Open, rename="pascal"):
    """The extension of which this is the release."""

    name: Annotated[str, Meta(description="Its name; told in an annotation of the Deployment.")] = ""
    resource_id: Annotated[str, Meta(description="Its id in Azure; told there, too.")] = ""


class Azure(Open):
    """What the extension manager of Azure Arc says. Nobody else need set any of it."""

    cluster: AzureCluster = msgspec.field(default_factory=AzureCluster, name="Cluster")
    proxy_settings: AzureProxy = msgspec.field(default_factory=AzureProxy)
    identity: AzureIdentity = msgspec.field(default_factory=AzureIdentity, name="Identity")
    extension: AzureExtension = msgspec.field(default_factory=AzureExtension, name="Extension")


class Policies(Values):
    """The admission policies that bind the controller (Kubernetes 1.30 and later)."""

    apply_policies: Annotated[
        bool,
        Meta(
            description="Whether the policies are installed. Without them the controller may ask for a token of any"
            " audience and write any Secret: see acceptUnrestrictedTokens."
        ),
    ] = True
    allowed_secret_types: Annotated[
        list[str],
        Meta(
            description="The types of Secret that the controller may write, as a list or comma-separated."
            " Service account tokens are never allowed."
        ),
    ] = msgspec.field(default_factory=lambda: list(SECRET_TYPES))


class AkvSync(Values):
    """AKVSync: a vault and the Secrets to make of it in one object (SSE has it in preview)."""

    enabled: Annotated[
        bool,
        Meta(
            description="Whether AKVSyncs are served. With false the controller has no right to make, change or delete"
            " SecretSyncs and SecretProviderClasses."
        ),
    ] = _DEFAULTS.akv_sync


class Image(Values):
    """The controller's image: registry/repository:tag, or @digest where one is given."""

    registry: Annotated[str, Meta(description="The registry's host, if it does not stand in repository.")] = ""
    repository: Annotated[str, Meta(min_length=1, description="The image's name.")] = "akv-secret-store"
    tag: Annotated[str, Meta(description="The tag; empty: the chart's appVersion.")] = ""
    digest: Annotated[
        str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?$", description="The digest, as sha256:…; it goes before the tag.")
    ] = ""
    pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Meta(description="When the kubelet pulls the image.")
    ] = "IfNotPresent"

    def reference(self, version: str) -> str:
        """The image that the chart of that version asks for, as its templates write it."""
        name = "/".join(filter(None, (self.registry.removesuffix("/"), self.repository)))
        return f"{name}@{self.digest}" if self.digest else f"{name}:{self.tag or version}"


class ServiceAccount(Values):
    """The controller's own ServiceAccount. What reads a vault are the ServiceAccounts that SecretSyncs name."""

    create: Annotated[bool, Meta(description="Whether the chart makes it; if not, it must exist.")] = True
    name: Annotated[
        str, Meta(description="Its name; empty: the release's full name, or default if it is not made.")
    ] = ""
    annotations: Annotated[dict[str, str], Meta(description="Annotations of the ServiceAccount.")] = msgspec.field(
        default_factory=dict
    )


class Rbac(Values):
    """Roles and their bindings."""

    create: Annotated[
        bool,
        Meta(
            description="Whether the chart makes them. If not, somebody else must grant what the README lists; no Job"
            " brings CRDs up to date then, and people get no rights."
        ),
    ] = True
    aggregate_to_default_roles: Annotated[
        bool,
        Meta(
            description="Whether whoever has the ClusterRole view may see AKVSyncs, SecretSyncs and"
            " SecretProviderClasses, and whoever has edit or admin may write them. Not with watchNamespaces:"
            " nothing is granted in the cluster at large then."
        ),
    ] = True


class Crds(Values):
    """The CustomResourceDefinitions: helm installs them where they are missing and never removes them."""

    upgrade: Annotated[
        bool,
        Meta(
            description="Whether a Job brings them up to date before an install or upgrade. It only ever adds to what"
            " is there, and leaves a SecretProviderClass of the CSI driver alone."
        ),
    ] = True


class TestImage(Image):
    """The image of the test's Pod, the same program's with an emulator of Key Vault and Entra beside it."""

    registry: Annotated[str, Meta(description="The registry's host; empty: that of the controller's image.")] = ""
    repository: Annotated[str, Meta(min_length=1, description="The image's name.")] = "akv-secret-store-test"


class TestSample(Values):
    """A real secret to test with. Without one the test brings a vault of its own and trusts it while it runs."""

    keyvault_name: Annotated[
        str, Meta(description="A Key Vault in defaultCloud; nothing in it is changed. Empty: the test's own.")
    ] = ""
    client_id: Annotated[str, Meta(description="The client id of an identity that may read it.")] = msgspec.field(
        name="clientID", default=""
    )
    tenant_id: Annotated[str, Meta(description="The identity's tenant.")] = msgspec.field(name="tenantID", default="")
    secret_name: Annotated[str, Meta(description="The name of a secret in that vault.")] = ""
    sha256: Annotated[
        str,
        Meta(
            pattern=r"^([0-9A-Fa-f]{64})?$",
            description="The SHA-256 of its value, in hexadecimal; empty: any value will do. Not for a value that could"
            " be guessed.",
        ),
    ] = ""
    service_account: Annotated[
        str,
        Meta(
            description="A ServiceAccount that is federated with the identity, in the release's namespace, or in the"
            " first of watchNamespaces where the release's is not among them. Empty: one that is there for the time of"
            " the test, called as the release with -sample behind."
        ),
    ] = ""


class Test(Values):
    """`helm test`: whether the controller that was installed syncs a secret."""

    enabled: Annotated[
        bool,
        Meta(
            description="Whether there is a test; it needs rbac.create. With false the controller does not look for the"
            " cloud that a test brings."
        ),
    ] = True
    image: TestImage = msgspec.field(default_factory=TestImage)
    sample: TestSample = msgspec.field(default_factory=TestSample)


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
            " has rights in these namespaces alone, and none in the cluster at large."
        ),
    ] = msgspec.field(default_factory=list)
    clouds: Annotated[
        dict[str, Cloud],
        Meta(
            description="Clouds besides "
            + ", ".join(BUILT_IN_CLOUDS)
            + ". A SecretProviderClass can name a cloud (cloudName) and never a host, so only what stands here can be"
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
        list[Free], Meta(description="How the pods are spread over zones or nodes.")
    ] = msgspec.field(default_factory=list)
    priority_class_name: Annotated[str, Meta(description="The pod's PriorityClass.")] = ""
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


def schema() -> Schema:
    """values.schema.json: JSON Schema (draft 7) of what helm accepts."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Generated by tools/generate from tools/values.py.",
        "title": "Values of the chart akv-secret-store",
        **_schema(inspect.type_info(ChartValues)),
    }


def _schema(node: inspect.Type) -> Schema:
    said: Schema = {}
    while isinstance(node, inspect.Metadata):
        said = {**(node.extra_json_schema or {}), **said}
        node = node.type
    schema = _made(node)
    return {**{key: said[key] for key in ("description", "examples", "pattern") if key in said}, **schema}


def _made(node: inspect.Type) -> Schema:
    match node:
        case inspect.BoolType():
            return {"enum": [True, False, "true", "false", "True", "False"]}
        case inspect.IntType(ge=int(least), le=None):
            # minimum speaks of numbers, pattern of strings.
            pattern = {0: r"^(0|[1-9][0-9]{0,8})$", 1: r"^[1-9][0-9]{0,8}$"}[least]
            return {"type": ["integer", "string"], "minimum": least, "maximum": 10**9 - 1, "pattern": pattern}
        case inspect.UnionType(types=(inspect.IntType(), inspect.StrType())):
            return {"type": ["integer", "string"], "minimum": 0}
        case inspect.StrType():
            return {"type": "string"} | {
                keyword: value
                for keyword, value in (
                    ("minLength", node.min_length),
                    ("maxLength", node.max_length),
                    ("pattern", node.pattern),
                )
                if value is not None
            }
        case inspect.LiteralType():
            return {"enum": list(node.values)}
        case inspect.ListType(item_type=inspect.StrType()):
            # … or comma-separated in one string.
            return {"type": ["array", "string"], "items": {"type": "string", "minLength": 1}}
        case inspect.ListType():
            return {"type": "array", "items": _schema(node.item_type)}
        case inspect.DictType(value_type=inspect.AnyType()):
            return {"type": "object"}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _schema(node.value_type)}
        case inspect.StructType():
            return {
                "type": "object",
                "description": " ".join((node.cls.__doc__ or "").split()),
                "additionalProperties": issubclass(node.cls, Open),
                "properties": {field.encode_name: _schema(field.type) for field in node.fields},
            } | ({"required": required} if (required := [f.encode_name for f in node.fields if f.required]) else {})
    raise TypeError(f"{node} has no place among the chart's values")


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
