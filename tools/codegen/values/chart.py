"""All values of the chart in their order, with the controller's own defaults."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from controller.api.meta import CLIENT_ID, TENANT_ID
from controller.api.secretsync import REFRESH_INTERVAL
from controller.config.settings import BUILT_IN_CLOUDS, DEFAULT_CLOUD, Cloud, Settings
from tools.codegen.values import kubernetes
from tools.codegen.values.azure import AzureValues
from tools.codegen.values.base import (
    NAMESPACES,
    Annotations,
    Free,
    Labels,
    Port,
    PullSecrets,
    Resources,
    Tolerations,
    ValuesGroup,
)
from tools.codegen.values.logs import LogDestinations
from tools.codegen.values.observing import AlertingRules, DashboardConfigMap, MetricsPort, ServiceMonitor
from tools.codegen.values.pod import (
    IMAGE_USER,
    DisruptionBudget,
    GlobalValues,
    ImageReference,
    NetworkPolicies,
    ProxyValues,
    ServiceAccount,
)
from tools.codegen.values.release_test import HelmTest
from tools.codegen.values.rights import AdmissionPolicies, AkvSync, CrdValues, RoleValues, TokenRequests
from tools.codegen.values.running import LeaderElection, LivenessProbe, ReadinessProbe, StartupProbe

_DEFAULTS = Settings()


class ChartValues(ValuesGroup):
    """The whole of values.yaml, in its order."""

    enabled: Annotated[
        bool,
        Meta(
            description="For a parent chart: the condition of its dependency on this chart. With false and no such"
            " condition, the chart refuses to render."
        ),
    ] = True
    rotation_poll_interval_in_seconds: Annotated[
        int, Meta(ge=1, description="Interval at which each SecretSync is checked against its Key Vault, in seconds.")
    ] = _DEFAULTS.rotation_poll_interval
    enable_partial_secret_sync: Annotated[
        bool,
        Meta(
            description="Write the keys that could be fetched, while the others keep their last good value. With"
            " false, a Secret is written only when all its keys could be fetched."
        ),
    ] = _DEFAULTS.enable_partial_secret_sync
    jitter_seconds: Annotated[
        int,
        Meta(
            ge=0,
            description="Maximum random delay before each poll of a vault, each first sync and each sync after an edit,"
            " in seconds; it spreads the calls of a fleet.",
        ),
    ] = _DEFAULTS.jitter
    drift_interval_in_seconds: Annotated[
        int,
        Meta(
            ge=1, description="Interval at which each Secret is checked for edits and deletion by others, in seconds."
        ),
    ] = _DEFAULTS.drift_interval
    shortest_refresh_interval_in_seconds: Annotated[
        int,
        Meta(
            ge=0,
            description=f"Minimum of the annotation {REFRESH_INTERVAL}, by which a SecretSync sets an interval of its"
            " own, in seconds. 0: the annotation is ignored, and rotationPollIntervalInSeconds counts for every"
            " SecretSync.",
        ),
    ] = _DEFAULTS.shortest_refresh_interval
    normal_events: Annotated[
        bool,
        Meta(
            description="Send an event when a SecretSync or AKVSync is in order, at most 100 events a minute for a"
            " namespace. With false, only problems have events, and a first sync writes each Secret and its status"
            " alone."
        ),
    ] = _DEFAULTS.normal_events
    identity_from_service_account: Annotated[
        bool,
        Meta(
            description="Read clientID and tenantID, where a SecretProviderClass leaves them out, from the annotations"
            f" {CLIENT_ID} and {TENANT_ID} of the ServiceAccount. The controller may then get ServiceAccounts."
        ),
    ] = _DEFAULTS.identity_from_service_account
    akv_sync: AkvSync = msgspec.field(default_factory=AkvSync)
    controller_name: Annotated[
        str,
        Meta(
            description="Serve the SecretSyncs whose secretSyncControllerName is this name, besides those where it is"
            " empty."
        ),
    ] = _DEFAULTS.controller_name
    watch_namespaces: Annotated[
        list[str],
        Meta(
            description="Namespaces that the controller serves, as a list or comma-separated; empty: all. With a list,"
            " the controller has rights in these namespaces only.",
            extra_json_schema=NAMESPACES,
        ),
    ] = msgspec.field(default_factory=list)
    clouds: Annotated[
        dict[str, Cloud],
        Meta(
            description="Clouds besides "
            + ", ".join(BUILT_IN_CLOUDS)
            + ". An entry under one of these names changes the fields that it sets, such as apiVersion."
            " A SecretProviderClass can name a cloud (cloudName) and never a host, so the controller reaches only the"
            " clouds that are listed here.",
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
            description="Cloud of the SecretProviderClasses that name none; empty: Azure.Cluster.Cloud, or else"
            f" {DEFAULT_CLOUD}."
        ),
    ] = ""
    proxy: ProxyValues = msgspec.field(default_factory=ProxyValues)
    ca_bundle: Annotated[
        str,
        Meta(
            description="Certificates to trust for connections to Entra and the vaults, besides the system's and those"
            " of clouds, as PEM or its base64."
        ),
    ] = ""
    validating_admission_policies: AdmissionPolicies = msgspec.field(default_factory=AdmissionPolicies)
    accept_unrestricted_tokens: Annotated[
        bool,
        Meta(
            description="Accept an installation for all namespaces without admission policies (before Kubernetes 1.30,"
            " or with applyPolicies=false). The controller can then ask for a token of any ServiceAccount and any"
            " audience: an attacker who takes over the controller is the cluster's administrator."
        ),
    ] = False
    replica_count: Annotated[
        int,
        Meta(
            ge=1,
            description="Number of the controller's pods. One of them leads and does the work. With 2, the other takes"
            " over within leaderElection.leaseDurationInSeconds (15) if the leader's node is lost, and at once if its"
            " pod is deleted.",
        ),
    ] = 1
    leader_election: LeaderElection = msgspec.field(default_factory=LeaderElection)
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Minimum log level.")] = (
        _DEFAULTS.log_level
    )
    logs: LogDestinations = msgspec.field(default_factory=LogDestinations)
    image: ImageReference = msgspec.field(default_factory=ImageReference)
    global_: GlobalValues = msgspec.field(default_factory=GlobalValues, name="global")
    image_pull_secrets: Annotated[
        PullSecrets, Meta(description="Secrets for pulling the images.", examples=[[{"name": "registry"}]])
    ] = msgspec.field(default_factory=list)
    crds: CrdValues = msgspec.field(default_factory=CrdValues)
    name_override: Annotated[
        str,
        Meta(
            max_length=40,
            description="Replacement of the chart's name in the names of objects.",
            extra_json_schema=kubernetes.LABEL_VALUE,
        ),
    ] = ""
    fullname_override: Annotated[
        str, Meta(max_length=53, description="Replacement of the full name of the release, which names its objects.")
    ] = ""
    namespace_override: Annotated[
        str,
        Meta(
            max_length=63,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$",
            description="Namespace of the objects, instead of the release's; it must exist.",
        ),
    ] = ""
    common_labels: Annotated[Labels, Meta(description="Labels of all objects and of the pods.")] = msgspec.field(
        default_factory=dict
    )
    common_annotations: Annotated[Annotations, Meta(description="Annotations of all objects, but not of the pods.")] = (
        msgspec.field(default_factory=dict)
    )
    service_account: ServiceAccount = msgspec.field(default_factory=ServiceAccount)
    rbac: RoleValues = msgspec.field(default_factory=RoleValues)
    token_request: TokenRequests = msgspec.field(default_factory=TokenRequests)
    strategy: Annotated[
        Free,
        Meta(
            description="How the Deployment replaces pods: the new one is ready before the old one ends. With"
            " hostNetwork, this default means that the old one ends first, because two cannot have the same ports of a"
            " node.",
            extra_json_schema=kubernetes.STRATEGY,
        ),
    ] = msgspec.field(
        default_factory=lambda: {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    )
    revision_history_limit: Annotated[
        int, Meta(ge=0, description="Number of old ReplicaSets that are kept for a rollback of the Deployment.")
    ] = 10
    deployment_labels: Annotated[Labels, Meta(description="Labels of the Deployment.")] = msgspec.field(
        default_factory=dict
    )
    deployment_annotations: Annotated[Annotations, Meta(description="Annotations of the Deployment.")] = msgspec.field(
        default_factory=dict
    )
    pod_annotations: Annotated[Annotations, Meta(description="Annotations of the controller's pods.")] = msgspec.field(
        default_factory=dict
    )
    pod_labels: Annotated[Labels, Meta(description="Labels of the controller's pods.")] = msgspec.field(
        default_factory=dict
    )
    pod_security_context: Annotated[
        Free,
        Meta(
            description="The securityContext of all pods. On OpenShift, the default user and group are left out,"
            " because it gives every namespace its own.",
            extra_json_schema=kubernetes.POD_SECURITY,
        ),
    ] = msgspec.field(
        default_factory=lambda: {
            "runAsNonRoot": True,
            "runAsUser": IMAGE_USER,
            "runAsGroup": IMAGE_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    )
    security_context: Annotated[
        Free,
        Meta(
            description="The securityContext of all containers.",
            extra_json_schema=kubernetes.CONTAINER_SECURITY,
        ),
    ] = msgspec.field(
        default_factory=lambda: {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    )
    resources: Annotated[
        Resources,
        Meta(description="CPU and memory of the controller's container. A CPU limit would only make it slower."),
    ] = msgspec.field(
        default_factory=lambda: {"requests": {"cpu": "20m", "memory": "100Mi"}, "limits": {"memory": "256Mi"}}
    )
    liveness_probe: LivenessProbe = msgspec.field(default_factory=LivenessProbe)
    readiness_probe: ReadinessProbe = msgspec.field(default_factory=ReadinessProbe)
    startup_probe: StartupProbe = msgspec.field(default_factory=StartupProbe)
    health_port: Annotated[
        Port, Meta(description="Port of the probes. With hostNetwork, no other process of the node can have it.")
    ] = _DEFAULTS.health_port
    node_selector: Annotated[Labels, Meta(description="Labels of the nodes that the pods may run on.")] = msgspec.field(
        default_factory=lambda: {"kubernetes.io/os": "linux"}
    )
    tolerations: Annotated[Tolerations, Meta(description="Taints of nodes that the pods tolerate.")] = msgspec.field(
        default_factory=list
    )
    affinity: Annotated[
        Free, Meta(description="Affinity of the pods to nodes and other pods.", extra_json_schema=kubernetes.AFFINITY)
    ] = msgspec.field(default_factory=dict)
    topology_spread_constraints: Annotated[
        list[Free],
        Meta(
            description="How the controller's pods are spread over zones or nodes; labelSelector may be left out."
            " Empty: over nodes, if there are several pods.",
            extra_json_schema=kubernetes.SPREAD,
        ),
    ] = msgspec.field(default_factory=list)
    priority_class_name: Annotated[
        str, Meta(description="PriorityClass of the pods.", extra_json_schema=kubernetes.NAME)
    ] = ""
    runtime_class_name: Annotated[
        str, Meta(description="RuntimeClass of the pods.", extra_json_schema=kubernetes.NAME)
    ] = ""
    host_network: Annotated[
        bool,
        Meta(description="Run the controller in its node's network, for clusters whose pod network lacks a route."),
    ] = False
    dns_policy: Annotated[
        Literal["", "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        Meta(description="DNS policy of the controller's pods; empty: what goes with hostNetwork."),
    ] = ""
    host_aliases: Annotated[
        list[Free],
        Meta(
            description="Addresses for names that the cluster's DNS does not know, such as those of private endpoints.",
            extra_json_schema=kubernetes.HOST_ALIASES,
            examples=[[{"ip": "10.1.2.3", "hostnames": ["my-vault.vault.azure.net"]}]],
        ),
    ] = msgspec.field(default_factory=list)
    dns_config: Annotated[
        Free,
        Meta(
            description="DNS servers and options besides those of the cluster.",
            extra_json_schema=kubernetes.DNS_CONFIG,
            examples=[{"nameservers": ["10.1.0.2"], "options": [{"name": "ndots", "value": "2"}]}],
        ),
    ] = msgspec.field(default_factory=dict)
    extra_args: Annotated[
        list[str],
        Meta(
            description="More arguments of the controller: the address at which it serves probes and metrics. Values"
            " of the chart set all others.",
            examples=[["--listen-address=::"]],
        ),
    ] = msgspec.field(default_factory=list)
    extra_env: Annotated[
        list[Free],
        Meta(
            description="More environment variables of the controller, except its settings and those that the chart"
            " sets.",
            extra_json_schema=kubernetes.ENVIRONMENT,
            examples=[[{"name": "TZ", "value": "Europe/Zurich"}]],
        ),
    ] = msgspec.field(default_factory=list)
    extra_volumes: Annotated[
        list[Free],
        Meta(description="More volumes of the controller's pods.", extra_json_schema=kubernetes.VOLUMES),
    ] = msgspec.field(default_factory=list)
    extra_volume_mounts: Annotated[
        list[Free],
        Meta(description="More volume mounts of the controller.", extra_json_schema=kubernetes.VOLUME_MOUNTS),
    ] = msgspec.field(default_factory=list)
    extra_containers: Annotated[
        list[Free],
        Meta(description="More containers of the controller's pods.", extra_json_schema=kubernetes.CONTAINERS),
    ] = msgspec.field(default_factory=list)
    extra_init_containers: Annotated[
        list[Free],
        Meta(description="Init containers of the controller's pods.", extra_json_schema=kubernetes.CONTAINERS),
    ] = msgspec.field(default_factory=list)
    extra_objects: Annotated[
        list[Free],
        Meta(
            description="More objects to install with the release; templates in them are rendered.",
            extra_json_schema=kubernetes.OBJECTS,
        ),
    ] = msgspec.field(default_factory=list)
    pod_disruption_budget: DisruptionBudget = msgspec.field(default_factory=DisruptionBudget)
    network_policy: NetworkPolicies = msgspec.field(default_factory=NetworkPolicies)
    metrics: MetricsPort = msgspec.field(default_factory=MetricsPort)
    service_monitor: ServiceMonitor = msgspec.field(default_factory=ServiceMonitor)
    prometheus_rule: AlertingRules = msgspec.field(default_factory=AlertingRules)
    grafana_dashboard: DashboardConfigMap = msgspec.field(default_factory=DashboardConfigMap)
    azure: AzureValues = msgspec.field(default_factory=AzureValues, name="Azure")
    test: HelmTest = msgspec.field(default_factory=HelmTest)
