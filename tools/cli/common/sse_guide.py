"""The example of SSE's guide: its shell variables and its two manifests. They work here without a change.

Source: Microsoft's "Use the Secret Store extension to fetch secrets for offline access in Azure Arc-enabled
Kubernetes clusters", sections "Create a SecretProviderClass resource" and "Create a SecretSync object". The fields, the
values and the places of comments are those of the guide. The comments below `objects` are part of a text that the
controller parses.
"""

import string
from collections.abc import Mapping
from typing import Any

import yaml

VARIABLES: Mapping[str, str] = {
    "AZURE_TENANT_ID": "00000000-0000-0000-0000-00000000000a",
    "KEYVAULT_NAME": "my-UNIQUE-kv-name",
    "KEYVAULT_SECRET_NAME": "my-secret",
    "KUBERNETES_NAMESPACE": "my-namespace",
    "SERVICE_ACCOUNT_NAME": "my-service-account",
    "USER_ASSIGNED_CLIENT_ID": "00000000-0000-0000-0000-000000000001",
}
"""The guide's shell variables with its values. The two ids are examples."""

SYNC_NAME = "secret-sync-name"
"""The name of the SecretSync, and therefore of the Secret."""

SERVICE_ACCOUNT = """\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: ${SERVICE_ACCOUNT_NAME}
  namespace: ${KUBERNETES_NAMESPACE}
"""

PROVIDER_CLASS = """\
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: secret-provider-class-name
  namespace: ${KUBERNETES_NAMESPACE}
spec:
  provider: azure
  parameters:
    clientID: "${USER_ASSIGNED_CLIENT_ID}"               # the managed identity
    keyvaultName: ${KEYVAULT_NAME}                       # the vault to read
    objects: |
      array:
        - |
          objectName: ${KEYVAULT_SECRET_NAME}            # the secret's name in the vault
          objectType: secret
          objectVersionHistory: 2                        # this many versions, the newest first
    tenantID: "${AZURE_TENANT_ID}"                       # the vault's tenant
"""

SECRET_SYNC = """\
apiVersion: secret-sync.x-k8s.io/v1alpha1
kind: SecretSync
metadata:
  name: secret-sync-name
  namespace: ${KUBERNETES_NAMESPACE}
spec:
  serviceAccountName: ${SERVICE_ACCOUNT_NAME}              # whose federated identity reads the vault
  secretProviderClassName: secret-provider-class-name
  secretObject:
    type: Opaque
    data:
    - sourcePath: ${KEYVAULT_SECRET_NAME}/0                # the newest version
      targetKey: v0
    - sourcePath: ${KEYVAULT_SECRET_NAME}/1                # the one before it
      targetKey: v1
"""  # noqa: S105 -- a manifest

AKV_SYNC = """\
apiVersion: secret-sync.x-k8s.io/v1alpha1
kind: AKVSync
metadata: {name: shop, namespace: shop}
spec:
  keyvaultName: shop-vault
  clientID: 00000000-0000-0000-0000-000000000001
  tenantID: 00000000-0000-0000-0000-000000000002
  serviceAccountName: shop
  objects:
    - secretInAKV: api-token
    - secretInAKV: db-password
      kubernetesSecretName: db
      labels: {tier: data}
      annotations: {note: rotated-weekly}
      versionHistory: 3
    - certInAKV: web
      kubernetesSecretType: kubernetes.io/tls
    - certInAKV: web-old
      versionHistory: 2
    - certInAKV: edge
      kubernetesSecretType: kubernetes.io/tls
      versionHistory: 2
    - secretInAKV: deploy-key
      kubernetesSecretType: kubernetes.io/ssh-auth
    - kubernetesSecretName: bundle
      mapping:
        - {dataKey: user, secretInAKV: db-user}
        - {dataKey: previous, secretInAKV: db-password, version: 1}
        - {dataKey: chain, certInAKV: web}
"""
"""An AKVSync with every kind of object. The chart's README shows it and the objects that it generates."""


def load_examples() -> list[Any]:
    """Return one complete object of each kind."""
    return [yaml.safe_load(substitute_variables(text)) for text in (PROVIDER_CLASS, SECRET_SYNC, AKV_SYNC)]


def substitute_variables(text: str, variables: Mapping[str, str] = VARIABLES) -> str:
    """Return the text with the values of its shell variables. Raise `KeyError` for a variable without a value."""
    return string.Template(text).substitute(variables)
