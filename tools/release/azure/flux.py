"""The chart through Flux, for clusters whose owner cannot register an extension type.

An OCI artifact has two folders of manifests. `release` has the OCIRepository and the HelmRelease of the chart.
`settings` has the Secret from which the HelmRelease takes its values. The template puts its parameters into the Secret
as one text in base64, so that no character of a setting needs quoting. The command line of az has no substitutions, so
it cannot use `settings`. Then the chart's defaults apply, or the values in a Secret of that name that an administrator
created.
"""

from typing import Any

from tools.cli.common import helm, templating
from tools.codegen import values
from tools.release import oci
from tools.release.azure import arm

API_VERSION = "2024-11-01"
SETTINGS = f"{helm.RELEASE}-settings"
VARIABLE = "values"
"""The variable in the Secret that the Kustomization substitutes."""

PULLS = "default"
"""The ServiceAccount whose imagePullSecrets have the registry's credentials. Without any, Flux pulls anonymously."""

RETRIES = 3
"""The number of times that Flux retries a failed install or upgrade."""

_RELEASE, _SETTINGS = "release", "settings"


def flux_manifests(registry: str, chart: str, version: str) -> oci.Files:
    """Return the folders of the artifact."""
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
            # Flux passes the chart's archive to helm without unpacking it.
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
            # This is longer than the deadline of the CRD Job, and than the pull of an image over a slow network.
            "timeout": "10m",
            "install": {"remediation": {"retries": RETRIES}},
            # Flux rolls back a failed upgrade, also after the last retry.
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


def flux_template(chart: values.ChartValues, registry: str, artifact: str, version: str) -> str:
    """Return the template of Microsoft.KubernetesConfiguration/fluxConfigurations for this version of the chart."""
    leaves = list(arm.list_settings(chart))
    own: dict[str, arm.Json] = {
        "clusterName": arm.CLUSTER,
        "artifactUrl": arm.text_parameter(
            "The address of the OCI artifact with the manifests.", f"oci://{registry}/{artifact}"
        ),
    }
    nested: arm.Json = {}
    for leaf in leaves:
        *groups, last = leaf.path.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = f"[parameters('{arm.parameter_name(leaf.path)}')]"
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
    return arm.build_template(
        arm.merge_parameters(own, {arm.parameter_name(leaf.path): arm.setting_parameter(leaf) for leaf in leaves}),
        [resource],
        variables={"values": nested},
    )


def flux_section(registry: str, artifact: str, version: str) -> str:
    """Return the section about `az k8s-configuration flux`."""
    return f"""\
## Through Flux

This way needs no extension type. The cluster needs the extension microsoft.flux. Install with the chart's defaults:

```console
az k8s-configuration flux create {arm.of_cluster()} \\
  --namespace {helm.RELEASE} --scope cluster --kind oci \\
  --url oci://{registry}/{artifact} --tag {version} --service-account-name {PULLS} \\
  --kustomization name={_RELEASE} path=./{_RELEASE} prune=true
az k8s-configuration flux show {arm.of_cluster()}
az k8s-configuration flux delete {arm.of_cluster()}
```

If the registry needs credentials, run this first:

```console
kubectl create namespace {helm.RELEASE}
kubectl create secret docker-registry registry --namespace {helm.RELEASE} \\
  --docker-server={registry.partition("/")[0]} \\
  --docker-username="$REGISTRY_USER" --docker-password="$REGISTRY_PASSWORD"
kubectl patch serviceaccount {PULLS} --namespace {helm.RELEASE} \\
  --patch '{{"imagePullSecrets": [{{"name": "registry"}}]}}'
```

The controller's pod uses the value `imagePullSecrets` for its own image. To set values, write them to a file, before or
after the installation:

```console
kubectl create secret generic {SETTINGS} --namespace {helm.RELEASE} --from-file=values.yaml
```

Alternatively, deploy the template with the values as parameters:

```console
az deployment group create --resource-group "$RESOURCE_GROUP" --template-file flux.json \\
  --parameters clusterName="$CLUSTER_NAME" rotationPollIntervalInSeconds=120
```
"""
