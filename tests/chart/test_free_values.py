"""Values that the chart copies into manifests: it refuses those that the API server would refuse, with their path."""

from typing import Any

import pytest

from tests.chart.rendering import nested, render
from tools.cli.common import helm

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
    ("extraEnv", [{"name": "A", "valueFrom": {"secretRef": {}}}], "extraEnv.0.valueFrom"),
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
]


@pytest.mark.parametrize(("path", "value", "named"), REFUSED, ids=lambda part: str(part)[:60])
def test_value_that_the_api_server_would_refuse_is_refused_by_path(path: str, value: Any, named: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(given=nested({path: value}))
    assert any(problem.startswith(f"{named}:") for problem in refused.value.problems), refused.value.problems


ACCEPTED: list[tuple[str, Any]] = [
    ("commonLabels", {"example.com/a": "", "b": "x_Y.z-1"}),
    ("podAnnotations", {"example.com/a": "any text, also with spaces"}),
    ("resources", {"requests": {"cpu": 0.5, "memory": "100Mi", "ephemeral-storage": "1e3"}, "limits": {"cpu": "250m"}}),
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
]


@pytest.mark.parametrize(("path", "value"), ACCEPTED, ids=lambda part: str(part)[:60])
def test_value_that_the_api_server_accepts_is_accepted(path: str, value: Any) -> None:
    assert render(given=nested({path: value}))
