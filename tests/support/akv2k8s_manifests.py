"""Build the objects that `tools/migrate akv2k8s` converts. Each argument has a usable default."""

from typing import Any

from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.workloads import TEMPLATES

VERSION_ID = "0123456789abcdef" * 2


def make_source(
    kind: str = "secret", name: str = "db", version: str = "v2beta1", object_name: str = "x", **output: Any
) -> Manifest:
    """Return an AzureKeyVaultSecret. `output` is its spec.output; fields of the vault's object begin with `object_`."""
    object_fields = {key.removeprefix("object_"): output.pop(key) for key in list(output) if key.startswith("object_")}
    vault = {"name": "shop-vault", "object": {"name": object_name, "type": kind, **object_fields}}
    spec = {"vault": vault} | ({"output": output} if output else {})
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": f"spv.no/{version}", "kind": "AzureKeyVaultSecret", "metadata": meta, "spec": spec}


def make_output(name: str = "s", **fields: Any) -> Manifest:
    return {"name": name, "dataKey": "k", **fields}


def make_workload(kind: str = "Deployment", init: bool = False, **env: str) -> Manifest:
    pod_spec: Manifest = {"containers": [{"name": "web", "env": [{"name": n, "value": v} for n, v in env.items()]}]}
    if init:
        pod_spec["initContainers"] = pod_spec["containers"]
    body: Manifest = {"spec": pod_spec}
    for step in reversed(TEMPLATES[kind]):
        body = {step: body}
    meta = {"name": "web", "namespace": "shop"}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, **body}


ALL_MANIFESTS = [
    make_source(secret=make_output(type="Opaque"), transform=["base64decode"], object_version=VERSION_ID),
    make_source(
        "certificate", name="web", secret=make_output("web", type="kubernetes.io/tls", chainOrder="ensureserverfirst")
    ),
    make_source(name="env"),
    make_workload(init=True, A="env@azurekeyvault", B="db@azurekeyvault"),
    make_workload("CronJob", A="env@azurekeyvault"),
    make_source(name="c", configMap={"name": "c", "dataKey": "d"}),
]
