"""Build manifests for the CSI driver, and convert them as `tools/migrate csi` does."""

from typing import Any

from tools.cli.migrate import migration, workloads
from tools.cli.migrate.migration import Migration, MigrationOptions
from tools.cli.migrate.objects import Manifest

CLIENT, TENANT = "client-1", "tenant-1"
DATA = [{"objectName": "db-password", "key": "password"}]


def format_objects(*items: str) -> str:
    return "array:\n" + "".join("  - |\n" + "".join(f"    {line}\n" for line in item.split("; ")) for item in items)


def make_class(*items: str, name: str = "app", secret_objects: Any = None, **parameters: str) -> Manifest:
    given = {"keyvaultName": "shop-vault", "tenantId": TENANT, "clientID": CLIENT} | parameters
    given = {key: text for key, text in given.items() if text}
    spec: Manifest = {
        "provider": "azure",
        "parameters": {**given, "objects": format_objects(*items or ("objectName: a",))},
    }
    if secret_objects is not None:
        spec["secretObjects"] = secret_objects
    meta = {"name": name, "namespace": "shop"}
    return {
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": meta,
        "spec": spec,
    }


def make_workload(kind: str = "Deployment", name: str = "web", class_name: str = "app", **csi: Any) -> Manifest:
    volume = {
        "name": "secrets",
        "csi": {
            "driver": "secrets-store.csi.k8s.io",
            "readOnly": True,
            "volumeAttributes": {"secretProviderClass": class_name},
            **csi,
        },
    }
    body: Manifest = {"spec": {"serviceAccountName": "runner", "volumes": [{"name": "tmp", "emptyDir": {}}, volume]}}
    for step in reversed(workloads.TEMPLATES[kind]):
        body = {step: body}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}, **body}


def migrate_manifests(*manifests: Manifest, **options: str) -> Migration:
    return migration.migrate_objects(manifests, MigrationOptions(**options))


def select_kind(found: Migration, kind: str) -> list[Manifest]:
    return [each for each in found.manifests if each["kind"] == kind]


def join_notes(found: Migration) -> str:
    return "\n".join(map(str, found.notes))
