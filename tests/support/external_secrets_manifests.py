"""Build the objects that `tools/migrate external-secrets` converts. Each argument has a usable default."""

from typing import Any

from tools.cli.migrate.objects import Manifest

VERSION = "0123456789abcdef" * 2
CLIENT, TENANT = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"


def make_account(namespace: str = "shop", **annotations: str) -> Manifest:
    fields = annotations or {"client-id": CLIENT, "tenant-id": TENANT}
    meta = {"name": "reader", "namespace": namespace}
    meta["annotations"] = {f"azure.workload.identity/{key}": value for key, value in fields.items()}  # type: ignore[assignment]
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}


def make_store(kind: str = "SecretStore", version: str = "v1", provider: Any = None, **azurekv: Any) -> Manifest:
    azure_fields = {
        "authType": "WorkloadIdentity",
        "vaultUrl": "https://shop-vault.vault.azure.net",
        "serviceAccountRef": {"name": "reader"},
    } | azurekv
    azure_fields = {key: value for key, value in azure_fields.items() if value is not None}
    meta = {"name": "vault"} | ({"namespace": "shop"} if kind == "SecretStore" else {})
    spec = {"provider": provider or {"azurekv": azure_fields}}
    return {"apiVersion": f"external-secrets.io/{version}", "kind": kind, "metadata": meta, "spec": spec}


def make_external_secret(
    *data: Any, name: str = "db", version: str = "v1", target: Any = None, **spec: Any
) -> Manifest:
    spec_fields = (
        {"secretStoreRef": {"name": "vault"}, "data": list(data)} | ({"target": target} if target else {}) | spec
    )
    return {
        "apiVersion": f"external-secrets.io/{version}",
        "kind": "ExternalSecret",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {key: value for key, value in spec_fields.items() if value is not None},
    }


def make_key(secret_key: str, remote: str, **ref: Any) -> Manifest:
    return {"secretKey": secret_key, "remoteRef": {"key": remote, **ref}}


def make_cluster_external_secret(**spec: Any) -> Manifest:
    given = {"externalSecretSpec": make_external_secret(make_key("a", "x"))["spec"], **spec}
    given["externalSecretSpec"]["secretStoreRef"]["kind"] = "ClusterSecretStore"
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ClusterExternalSecret",
        "metadata": {"name": "all"},
        "spec": given,
    }


def make_namespace(name: str, **labels: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


ALL_MANIFESTS = [
    make_account(),
    make_store(tenantId=TENANT, environmentType="PublicCloud", authSecretRef={"clientId": {"name": "s", "key": "k"}}),
    make_external_secret(
        {
            **make_key("pfx", "web", version=VERSION),
            "sourceRef": {"storeRef": {"name": "vault", "kind": "SecretStore"}},
        },
        target={
            "name": "t",
            "creationPolicy": "Owner",
            "deletionPolicy": "Delete",
            "immutable": False,
            "template": {
                "type": "kubernetes.io/tls",
                "engineVersion": "v2",
                "data": {"tls.crt": "{{ .pfx | b64dec | pkcs12cert }}", "tls.key": "{{ .pfx | b64dec | pkcs12key }}"},
                "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            },
        },
        refreshInterval="1h",
    ),
    make_external_secret(
        name="many", dataFrom=[{"find": {"name": {"regexp": "^x"}, "tags": {"a": "b"}}, "rewrite": [{}]}]
    ),
    make_cluster_external_secret(
        namespaceSelectors=[{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}],
        namespaces=["shop"],
        externalSecretMetadata={"labels": {"x": "y"}},
    ),
    make_namespace("shop", a="b"),
]
