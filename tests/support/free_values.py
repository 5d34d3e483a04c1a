"""List values that the chart copies unchanged into manifests, and that the API server refuses or accepts."""

from typing import Any

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
MAX_ANNOTATIONS = 256 * 1024
"""The maximum size of an object's annotations in bytes."""


def _from_network(cidr: str, *left_out: str) -> dict[str, Any]:
    return {"from": [{"ipBlock": {"cidr": cidr, "except": list(left_out)}}]}


REFUSED: list[tuple[str, Any, str]] = [
    ("commonLabels", {"a b": "x"}, "commonLabels"),
    ("commonLabels", {"a": "no value "}, "commonLabels.a"),
    ("commonLabels", {"a": "x" * 64}, "commonLabels.a"),
    ("podLabels", {"-a": "x"}, "podLabels"),
    ("deploymentLabels", {"a/b/c": "x"}, "deploymentLabels"),
    ("podAnnotations", {"a b": "x"}, "podAnnotations"),
    ("commonAnnotations", {"/a": "x"}, "commonAnnotations"),
    ("nodeSelector", {"kubernetes.io/os": "a b"}, "nodeSelector.kubernetes.io/os"),
    ("global.labels", {"a": "!"}, "global.labels.a"),
    ("strategy", {"type": "Rolling"}, "strategy.type"),
    ("strategy", {"rollingUpdate": {"maxSurge": "many"}}, "strategy.rollingUpdate.maxSurge"),
    ("strategy", {"rollingUpdate": {"surge": 1}}, "strategy.rollingUpdate.surge"),
    ("resources", {"limits": {"memory": "256 Mi"}}, "resources.limits.memory"),
    ("resources", {"requests": {"cpu": -1}}, "resources.requests.cpu"),
    ("resources", {"request": {"cpu": 1}}, "resources"),
    ("crds.job.resources", {"limits": {"memory": "1GB"}}, "crds.job.resources.limits.memory"),
    ("test.resources", {"limits": {"memory": "much"}}, "test.resources.limits.memory"),
    ("tolerations", [{"operator": "exists"}], "tolerations.0.operator"),
    ("tolerations", [{"effect": "NoRun"}], "tolerations.0.effect"),
    ("tolerations", [{"name": "x"}], "tolerations.0.name"),
    ("tolerations", [{"effect": "NoSchedule"}], "tolerations.0"),
    ("tolerations", [{"key": "a", "operator": "Exists", "value": "b"}], "tolerations.0.value"),
    ("tolerations", [{"key": "a", "operator": "Gt", "value": "b"}], "tolerations.0.value"),
    ("tolerations", [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}], "tolerations.0.effect"),
    ("podLabels", {"a..b/c": "x"}, "podLabels"),
    ("resources", {"limits": {"memoryy": "1Gi"}}, "resources.limits"),
    ("strategy", {"rollingUpdate": {"maxSurge": 0}}, "strategy"),
    ("strategy", {"rollingUpdate": {"maxSurge": "5"}}, "strategy.rollingUpdate.maxSurge"),
    ("affinity", {"nodeAffinity": "x"}, "affinity.nodeAffinity"),
    ("hostAliases", [{"ip": "10.0.0.256"}], "hostAliases.0.ip"),
    ("hostAliases", [{"ip": "fd00:::1"}], "hostAliases.0.ip"),
    ("hostAliases", [{"ip": "10.0.0.1", "hostnames": ["a..b"]}], "hostAliases.0.hostnames.0"),
    ("dnsConfig", {"searches": ["a_b c"]}, "dnsConfig.searches.0"),
    ("extraEnv", [{"name": "A", "valueFrom": {}}], "extraEnv.0.valueFrom"),
    ("extraEnv", [{"name": "A", "valueFrom": {"secretRef": {}}}], "extraEnv.0.valueFrom.secretRef"),
    ("extraEnv", [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {}}}], "extraEnv.0.value"),
    ("global.tolerations", [{"operator": "In"}], "global.tolerations.0.operator"),
    ("affinity", {"nodeAffinities": {}}, "affinity"),
    ("topologySpreadConstraints", [{"maxSkew": 1}], "topologySpreadConstraints.0.topologyKey"),
    (
        "topologySpreadConstraints",
        [{"maxSkew": 0, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule"}],
        "topologySpreadConstraints.0.maxSkew",
    ),
    ("hostAliases", [{"ip": "my-host"}], "hostAliases.0.ip"),
    ("hostAliases", [{"hostnames": ["a"]}], "hostAliases.0.ip"),
    ("dnsConfig", {"nameserver": ["10.0.0.1"]}, "dnsConfig"),
    ("dnsConfig", {"nameservers": ["dns.example"]}, "dnsConfig.nameservers.0"),
    ("extraEnv", [{"value": "x"}], "extraEnv.0.name"),
    ("extraEnv", [{"name": "A", "from": "x"}], "extraEnv.0.from"),
    ("extraVolumes", [{"emptyDir": {}}], "extraVolumes.0.name"),
    ("extraVolumes", [{"name": "a_b", "emptyDir": {}}], "extraVolumes.0.name"),
    ("extraVolumeMounts", [{"name": "a"}], "extraVolumeMounts.0.mountPath"),
    ("extraContainers", [{"name": "Side", "image": "x"}], "extraContainers.0.name"),
    ("extraContainers", [{"name": "a"}], "extraContainers.0.image"),
    ("extraInitContainers", [{"image": "x"}], "extraInitContainers.0.name"),
    ("extraObjects", [{"kind": "ConfigMap"}], "extraObjects.0.apiVersion"),
    ("imagePullSecrets", ["registry"], "imagePullSecrets.0"),
    ("imagePullSecrets", [{"names": "x"}], "imagePullSecrets.0.name"),
    ("podSecurityContext", {"runAsUsr": 1}, "podSecurityContext"),
    ("securityContext", {"fsGroup": 1}, "securityContext"),
    ("networkPolicy.ingress", [{"to": []}], "networkPolicy.ingress.0.to"),
    ("networkPolicy.egress", [{"from": []}], "networkPolicy.egress.0.from"),
    ("serviceMonitor.relabelings", [{"source_labels": ["a"]}], "serviceMonitor.relabelings.0"),
    ("serviceMonitor.namespace", "A", "serviceMonitor.namespace"),
    ("podDisruptionBudget.unhealthyPodEvictionPolicy", "Never", "podDisruptionBudget.unhealthyPodEvictionPolicy"),
    ("dnsPolicy", "clusterFirst", "dnsPolicy"),
    ("leaderElection.leaseDurationInSeconds", 4, "leaderElection.leaseDurationInSeconds"),
    ("leaderElection.leaseDurationInSeconds", "1", "leaderElection.leaseDurationInSeconds"),
    ("leaderElection.renewIntervalInSeconds", -1, "leaderElection.renewIntervalInSeconds"),
    ("startupProbe.failureThreshold", 0, "startupProbe.failureThreshold"),
    ("nameOverride", "a b", "nameOverride"),
    ("nameOverride", "A_b", "nameOverride"),
    ("fullnameOverride", "A_b", "fullnameOverride"),
    ("serviceAccount.name", "A_b", "serviceAccount.name"),
    ("priorityClassName", "High", "priorityClassName"),
    ("global.priorityClassName", "very high", "global.priorityClassName"),
    ("runtimeClassName", "g visor", "runtimeClassName"),
    ("test.sample.serviceAccount", "A", "test.sample.serviceAccount"),
    ("podDisruptionBudget.minAvailable", "150%", "podDisruptionBudget.minAvailable"),
    ("podDisruptionBudget.minAvailable", 2**31, "podDisruptionBudget.minAvailable"),
    ("podDisruptionBudget.maxUnavailable", str(2**31), "podDisruptionBudget.maxUnavailable"),
    ("grafanaDashboard.sidecarLabel", "a b", "grafanaDashboard.sidecarLabel"),
    ("grafanaDashboard.sidecarLabelValue", "a b", "grafanaDashboard.sidecarLabelValue"),
    ("serviceMonitor.interval", "30s1m", "serviceMonitor.interval"),
    ("serviceMonitor.scrapeTimeout", "5s5s", "serviceMonitor.scrapeTimeout"),
    ("serviceMonitor.scrapeTimeout", "", "serviceMonitor.scrapeTimeout"),
    ("test.resources", {"requests": {"memory": "1Gi"}, "limits": {"memory": "1G"}}, "test.resources.requests.memory"),
    (
        "extraEnv",
        [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x"}}}],
        "extraEnv.0.valueFrom.secretKeyRef.key",
    ),
    (
        "extraEnv",
        [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}],
        "extraEnv.0.valueFrom.fieldRef.fieldPath",
    ),
    ("extraVolumes", [{"name": "a", "emptyDir": {}, "secret": {"secretName": "x"}}], "extraVolumes.0"),
    ("extraVolumes", [{"name": "a", "emptydir": {}}], "extraVolumes.0"),
    ("extraVolumes", [{"name": "a", "hostPath": {"path": "/x", "type": "Folder"}}], "extraVolumes.0.hostPath.type"),
    ("extraVolumes", [{"name": "a", "secret": {"defaultMode": 512}}], "extraVolumes.0.secret.defaultMode"),
    ("extraVolumeMounts", [{"name": "a", "mountPath": "/x", "subPath": "../b"}], "extraVolumeMounts.0.subPath"),
    ("extraContainers", [{"name": "a", "image": "x", "cmd": []}], "extraContainers.0"),
    (
        "extraContainers",
        [{"name": "a", "image": "x", "ports": [{"containerPort": 0}]}],
        "extraContainers.0.ports.0.containerPort",
    ),
    ("affinity", {"nodeAffinity": {REQUIRED: {}}}, f"affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms"),
    ("affinity", {"podAntiAffinity": {REQUIRED: [{}]}}, f"affinity.podAntiAffinity.{REQUIRED}.0.topologyKey"),
    (
        "affinity",
        {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Is"}]}]}}},
        f"affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms.0.matchExpressions.0.operator",
    ),
    ("podSecurityContext", {"runAsUser": -1}, "podSecurityContext.runAsUser"),
    ("podSecurityContext", {"seccompProfile": {"type": "Localhost"}}, "podSecurityContext.seccompProfile"),
    ("podSecurityContext", {"fsGroupChangePolicy": "Never"}, "podSecurityContext.fsGroupChangePolicy"),
    ("securityContext", {"privileged": True}, "securityContext"),
    ("securityContext", {"procMount": "Masked"}, "securityContext.procMount"),
    ("networkPolicy.egress", [{"ports": [{"port": 70000}]}], "networkPolicy.egress.0.ports.0.port"),
    (
        "networkPolicy.egress",
        [{"ports": [{"port": 80, "protocol": "ICMP"}]}],
        "networkPolicy.egress.0.ports.0.protocol",
    ),
    (
        "networkPolicy.ingress",
        [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}],
        "networkPolicy.ingress.0.from.0.ipBlock.cidr",
    ),
    (
        "networkPolicy.ingress",
        [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}],
        "networkPolicy.ingress.0.from.0",
    ),
]
CONFLICTING: list[tuple[str, Any, str]] = [
    ("dnsPolicy", "None", "dnsPolicy"),
    ("fullnameOverride", "a..b", "fullnameOverride"),
    ("fullnameOverride", "a.-b", "fullnameOverride"),
    ("nameOverride", "a-.b", "nameOverride"),
    ("resources", {"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}}, "resources.requests.cpu"),
    ("crds.job.resources", {"limits": {"memory": "1e3"}}, "crds.job.resources.requests.memory"),
    ("extraVolumes", [{"name": "a"}, {"name": "a"}], "extraVolumes.1.name"),
    ("extraVolumes", [{"name": "test-clouds"}], "extraVolumes.0.name"),
    ("extraVolumeMounts", [{"name": "missing", "mountPath": "/x"}], "extraVolumeMounts.0.name"),
    ("extraContainers", [{"name": "controller", "image": "x"}], "extraContainers.0.name"),
    ("extraContainers", [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}], "extraContainers.1.name"),
    (
        "topologySpreadConstraints",
        [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"}] * 2,
        "topologySpreadConstraints.1",
    ),
    *(
        (
            "extraInitContainers",
            [{"name": "a", "image": "x"}, {"name": "b", "image": "x", field: {}}],
            f"extraInitContainers.1.{field}",
        )
        for field in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
    ),
    ("networkPolicy.ingress", [{"ports": [{"port": 90, "endPort": 89}]}], "networkPolicy.ingress.0.ports.0.endPort"),
    (
        "networkPolicy.egress",
        [{}, {"ports": [{"port": 443}, {"port": 9000, "endPort": 80}]}],
        "networkPolicy.egress.1.ports.1.endPort",
    ),
    *(
        ("networkPolicy.ingress", [_from_network(cidr, inner)], "networkPolicy.ingress.0.from.0.ipBlock.except.0")
        for cidr, inner in (
            ("10.0.0.0/8", "11.0.0.0/16"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8", "0.0.0.0/0"),
            ("192.168.1.0/25", "192.168.1.128/26"),
            ("0.0.0.0/0", "fd00::/8"),
            ("::/0", "10.0.0.0/8"),
            ("::/0", "::/0"),
            ("fd00::/8", "fe00::/16"),
            ("2001:db8::/32", "2001:db9::/48"),
            ("1:2:3:4:5:6:7:0/112", "1:2:3:4:5:6:8:0/120"),
        )
    ),
    (
        "networkPolicy.egress",
        [{"to": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]}}]}],
        "networkPolicy.egress.0.to.1.ipBlock.except.1",
    ),
    *(
        (path, {"a": "x" * MAX_ANNOTATIONS}, path)
        for path in ("commonAnnotations", "crds.job.annotations", "deploymentAnnotations", "podAnnotations")
    ),
]
"""Values that the API server refuses because of another part of the same object, which a schema cannot compare."""
ACCEPTED: list[tuple[str, Any]] = [
    ("commonLabels", {"example.com/a": "", "b": "x_Y.z-1"}),
    ("podAnnotations", {"example.com/a": "any text, also with spaces"}),
    ("resources", {"requests": {"cpu": 0.5, "memory": "100Mi", "ephemeral-storage": "1e3"}, "limits": {"cpu": "750m"}}),
    ("strategy", {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}),
    (
        "tolerations",
        [{"operator": "Exists"}, {"key": "a/b", "value": "x", "effect": "NoExecute", "tolerationSeconds": 60}],
    ),
    ("hostAliases", [{"ip": "fd00::1", "hostnames": ["my-vault.vault.azure.net"]}]),
    (
        "dnsConfig",
        {"nameservers": ["10.1.0.2", "fd00::2"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]},
    ),
    ("extraEnv", [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]),
    ("podSecurityContext", {"fsGroup": "1000", "supplementalGroups": [1]}),
    ("networkPolicy.ingress", [{"from": [{"podSelector": {}}], "ports": [{"port": "http"}]}]),
    (
        "networkPolicy.egress",
        [
            {
                "to": [{"ipBlock": {"cidr": "fd00::/8", "except": ["fd00:1::/32"]}}],
                "ports": [{"port": 80, "endPort": 90}],
            },
            {
                "to": [
                    {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "podSelector": {}}
                ]
            },
        ],
    ),
    (
        "networkPolicy.ingress",
        [
            _from_network("0.0.0.0/0", "169.254.169.254/32", "10.0.0.0/8"),
            _from_network("192.168.1.0/25", "192.168.1.64/26"),
            _from_network("::/0", "::1/128", "fd00::/8"),
            {"ports": [{"port": 80, "endPort": 80}]},
        ],
    ),
    ("extraInitContainers", [{"name": "a", "image": "x", "livenessProbe": None}]),
    ("podAnnotations", {"a": "x" * (MAX_ANNOTATIONS - 1024 - 1)}),
    ("podDisruptionBudget.minAvailable", "100%"),
    ("podSecurityContext", {"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}, "runAsUser": "10"}),
    ("securityContext", {"privileged": True, "allowPrivilegeEscalation": True}),
    ("resources", {"requests": {"cpu": "250m", "memory": 1048576}, "limits": {"cpu": 0.25, "memory": "1Mi"}}),
    ("resources", {"requests": {"memory": "1e6"}, "limits": {"memory": "1M", "example.com/a": 1}}),
    (
        "extraVolumes",
        [
            {"name": "a", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "b", "hostPath": {"path": "/etc/x", "type": "File"}},
            {"name": "c", "secret": {"secretName": "x", "items": [{"key": "k", "path": "p", "mode": 256}]}},
            {"name": "d", "configMap": {"name": "x", "defaultMode": 292}},
            {"name": "e", "csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}},
            {"name": "f", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            {"name": "g", "nfs": {"server": "host", "path": "/"}},
        ],
    ),
    (
        "extraContainers",
        [
            {
                "name": "side",
                "image": "example.com/side:1",
                "args": ["--x"],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k", "optional": True}}}],
                "envFrom": [{"secretRef": {"name": "x"}}],
                "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
                "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"port": "web"}},
                "resources": {"limits": {"cpu": 1}},
                "securityContext": {"runAsUser": 1, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    ),
    (
        "affinity",
        {
            "nodeAffinity": {
                REQUIRED: {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [{"key": "a/b", "operator": "In", "values": ["x"]}],
                            "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["x"]}],
                        },
                        {"matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]},
                    ]
                }
            },
            "podAntiAffinity": {
                PREFERRED: [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"a": "b"}},
                            "namespaces": ["x"],
                        },
                    }
                ]
            },
        },
    ),
]
