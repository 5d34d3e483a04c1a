"""The chart through Flux, for clusters whose owner cannot register an extension type.

An OCI artifact holds two folders of manifests. `release` has the OCIRepository and the HelmRelease of the chart.
`settings` has the Secret from which the HelmRelease takes its values; what is in it comes from the template's
parameters, as one text in base64: whatever is in a setting, nothing needs quoting. Without `settings` (the command line
of az has no substitutions) the chart's defaults hold, or the values in a Secret of that name that somebody made.
"""

from typing import Any

from tools.cli.common import helm, templating
from tools.codegen import values
from tools.release import oci
from tools.release.azure import arm

API_VERSION = "2024-11-01"
SETTINGS = f"{helm.RELEASE}-settings"
VARIABLE = "values"
"""What the Kustomization substitutes in the Secret."""

PULLS = "default"
"""The ServiceAccount whose imagePullSecrets open the registry; without any, it is asked as nobody."""

RETRIES = 3
"""How often Flux tries a failed install or upgrade again."""

_RELEASE, _SETTINGS = "release", "settings"


def manifests(registry: str, chart: str, version: str) -> oci.Files:
    """The folders of the artifact."""
    names = {"name": helm.RELEASE, "namespace": helm.RELEASE}
    repository = {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "OCIRepository",
        "metadata": names,
        "spec": {
            "interval": "10m",
            "url": f"oci://{registry}/{chart}",
            "ref": {"tag": version},
            "serviceAccountName": PULLS,
            # The chart goes to helm as it is.
            "layerSelector": {"mediaType": oci.CHART.layer, "operation": "copy"},
        },
    }
    release = {
        "apiVersion": "helm.toolkit.fluxcd.io/v2",
        "kind": "HelmRelease",
        "metadata": names,
        "spec": {
            "interval": "10m",
            "releaseName": helm.RELEASE,
            "chartRef": {"kind": "OCIRepository", "name": helm.RELEASE},
            "valuesFrom": [{"kind": "Secret", "name": SETTINGS, "optional": True}],
            # Longer than the deadline of the CRD Job, and than a slow site pulls an image.
            "timeout": "10m",
            "install": {"remediation": {"retries": RETRIES}},
            # A failed upgrade is rolled back, also after the last try.
            "upgrade": {"remediation": {"retries": RETRIES, "remediateLastFailure": True, "strategy": "rollback"}},
            "driftDetection": {"mode": "enabled"},
        },
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SETTINGS, "namespace": helm.RELEASE},
        "data": {"values.yaml": f"${{{VARIABLE}}}"},
    }
    return {
        **_kustomize_folder(_RELEASE, {"ocirepository.yaml": repository, "helmrelease.yaml": release}),
        **_kustomize_folder(_SETTINGS, {"secret.yaml": secret}),
    }


def _kustomize_folder(name: str, objects: dict[str, Any]) -> dict[str, bytes]:
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(objects),
    }
    return {
        f"{name}/{file}": templating.to_yaml(content).encode()
        for file, content in {**objects, "kustomization.yaml": kustomization}.items()
    }


def configuration(chart: values.ChartValues, registry: str, artifact: str, version: str) -> str:
    """The template of Microsoft.KubernetesConfiguration/fluxConfigurations, for this version of the chart alone."""
    leaves = list(arm.settings(chart))
    own: dict[str, arm.Json] = {
        "clusterName": arm.CLUSTER,
        "artifactUrl": arm.text("Where the OCI artifact with the manifests lies.", f"oci://{registry}/{artifact}"),
    }
    nested: arm.Json = {}
    for leaf in leaves:
        *groups, last = leaf.path.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = f"[parameters('{arm.name(leaf.path)}')]"
    always: arm.Json = {"prune": True, "wait": True, "syncIntervalInSeconds": 600, "retryIntervalInSeconds": 60}
    resource = {
        "type": "Microsoft.KubernetesConfiguration/fluxConfigurations",
        "apiVersion": API_VERSION,
        "name": helm.RELEASE,
        "scope": arm.CLUSTER_SCOPE,
        "properties": {
            "scope": "cluster",
            "namespace": helm.RELEASE,
            "sourceKind": "OCIRepository",
            "ociRepository": {
                "url": "[parameters('artifactUrl')]",
                "repositoryRef": {"tag": version},
                "serviceAccountName": PULLS,
                "syncIntervalInSeconds": 600,
            },
            "kustomizations": {
                _SETTINGS: {
                    "path": f"./{_SETTINGS}",
                    "postBuild": {"substitute": {VARIABLE: "[base64(string(variables('values')))]"}},
                    **always,
                },
                _RELEASE: {"path": f"./{_RELEASE}", "dependsOn": [_SETTINGS], **always},
            },
        },
    }
    return arm.template(
        arm.parameters(own, {arm.name(leaf.path): arm.parameter(leaf) for leaf in leaves}),
        [resource],
        variables={"values": nested},
    )


def commands(registry: str, artifact: str, version: str) -> str:
    """The page about `az k8s-configuration flux`."""
    return f"""\
## Through Flux

For whoever cannot register an extension type; the cluster needs the extension microsoft.flux. With the chart's
defaults:

```console
az k8s-configuration flux create {arm.of_cluster()} \\
  --namespace {helm.RELEASE} --scope cluster --kind oci \\
  --url oci://{registry}/{artifact} --tag {version} --service-account-name {PULLS} \\
  --kustomization name={_RELEASE} path=./{_RELEASE} prune=true
az k8s-configuration flux show {arm.of_cluster()}
az k8s-configuration flux delete {arm.of_cluster()}
```

Where the registry wants credentials, before that:

```console
kubectl create namespace {helm.RELEASE}
kubectl create secret docker-registry registry --namespace {helm.RELEASE} \\
  --docker-server={registry.partition("/")[0]} \\
  --docker-username="$REGISTRY_USER" --docker-password="$REGISTRY_PASSWORD"
kubectl patch serviceaccount {PULLS} --namespace {helm.RELEASE} \\
  --patch '{{"imagePullSecrets": [{{"name": "registry"}}]}}'
```

The controller's own pod pulls with the value `imagePullSecrets`. Other values, before or after, from a file of them:

```console
kubectl create secret generic {SETTINGS} --namespace {helm.RELEASE} --from-file=values.yaml
```

Or as parameters:

```console
az deployment group create --resource-group "$RESOURCE_GROUP" --template-file flux.json \\
  --parameters clusterName="$CLUSTER_NAME" rotationPollIntervalInSeconds=120
```
"""
