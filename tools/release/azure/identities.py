"""The identities that read the vault, as an ARM template: what they may, and which ServiceAccounts they are.

An identity takes 20 federated credentials, and refuses two that are made at the same time (409). So the ServiceAccounts
are dealt out to as many identities as it takes, and their credentials are made one after another.
"""

from tools.release.azure import arm

MOST_CREDENTIALS = 20
"""Of one identity: Entra's limit."""

AUDIENCE = "api://AzureADTokenExchange"
ROLES = {
    "21090545-7ca7-4776-b22c-e363652d74d2": "Key Vault Reader",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
}
"""Azure's built-in roles by their ids: one reads what there is and its versions, the other the values."""

_IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"
_CREDENTIALS = f"{_IDENTITIES}/federatedIdentityCredentials"
_IDENTITY_VERSION = "2023-01-31"
_COUNT = f"[div(add(length(parameters('serviceAccounts')), {MOST_CREDENTIALS - 1}), {MOST_CREDENTIALS})]"
_MINE = f"format('{{0}}-{{1}}', parameters('identityName'), add(div(copyIndex(), {MOST_CREDENTIALS}), 1))"
"""The identity of the ServiceAccount at copyIndex()."""
_NAME = "format('{0}-{1}', parameters('identityName'), copyIndex(1))"
_ACCOUNT = "parameters('serviceAccounts')[copyIndex()]"


def template() -> str:
    """Deployed into the resource group of the identities; the vault may lie in another."""
    parameters: dict[str, arm.Json] = {
        "identityName": {
            "type": "string",
            "defaultValue": "akv-secret-store",
            "minLength": 3,
            "maxLength": 120,
            "metadata": {"description": "What the identities are called, before -1, -2 and so on."},
        },
        "location": arm.text("Where they are made.", "[resourceGroup().location]"),
        "vaultName": {
            "type": "string",
            "minLength": 3,
            "maxLength": 24,
            "metadata": {"description": "The vault; its permission model must be Azure role-based access control."},
        },
        "vaultResourceGroup": arm.text("The vault's resource group.", "[resourceGroup().name]"),
        "issuer": {
            "type": "string",
            "minLength": 1,
            "metadata": {
                "description": "The cluster's OIDC issuer: az connectedk8s show --query oidcIssuerProfile.issuerUrl."
            },
        },
        "serviceAccounts": {
            "type": "array",
            "minLength": 1,
            "metadata": {
                "description": "Those that SecretSyncs name, as {namespace, name}. Each"
                f" {MOST_CREDENTIALS} share an identity; new ones go to the end, so that none changes its identity."
            },
        },
    }
    identity = {
        "type": _IDENTITIES,
        "apiVersion": _IDENTITY_VERSION,
        "name": f"[{_NAME}]",
        "location": "[parameters('location')]",
        "copy": {"name": "identities", "count": _COUNT},
    }
    credential = {
        "type": _CREDENTIALS,
        "apiVersion": _IDENTITY_VERSION,
        "name": f"[format('{{0}}/{{1}}', {_MINE}, guid(parameters('issuer'), {_ACCOUNT}.namespace, {_ACCOUNT}.name))]",
        "copy": {
            "name": "credentials",
            "count": "[length(parameters('serviceAccounts'))]",
            "mode": "serial",
            "batchSize": 1,
        },
        "dependsOn": ["identities"],
        "properties": {
            "issuer": "[parameters('issuer')]",
            "subject": f"[format('system:serviceaccount:{{0}}:{{1}}', {_ACCOUNT}.namespace, {_ACCOUNT}.name)]",
            "audiences": [AUDIENCE],
        },
    }
    outputs: arm.Json = {
        "tenantID": {"type": "string", "value": "[tenant().tenantId]"},
        "serviceAccounts": {
            "type": "array",
            "metadata": {"description": "The clientID for the SecretProviderClasses of each."},
            "copy": {
                "count": "[length(parameters('serviceAccounts'))]",
                "input": {
                    "namespace": f"[{_ACCOUNT}.namespace]",
                    "name": f"[{_ACCOUNT}.name]",
                    "clientID": f"[{_reference_to(_MINE)}.clientId]",
                },
            },
        },
    }
    return arm.template(parameters, [identity, _role_deployments(), credential], outputs=outputs)


def commands() -> str:
    """The page about the identities."""
    return """\
## The identities that read the vault

A managed identity with both roles on the vault, and a federated credential for each ServiceAccount that SecretSyncs
name; with more than 20 ServiceAccounts, as many identities as it takes. The outputs say which clientID goes into whose
SecretProviderClass.

```console
az deployment group create --resource-group "$RESOURCE_GROUP" --template-file identity.json \\
  --parameters vaultName="$KEYVAULT_NAME" issuer="$SERVICE_ACCOUNT_ISSUER" \\
  serviceAccounts='[{"namespace": "my-namespace", "name": "my-service-account"}]' --query properties.outputs
```
"""


def _role_deployments() -> arm.Json:
    """Both roles of each identity: a deployment of its own, since it goes into the vault's resource group."""
    inner = {
        "$schema": arm.SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": {name: {"type": "string"} for name in ("vaultName", "identityName", "principalId")},
        "variables": {"roles": list(ROLES)},
        "resources": [
            {
                "type": "Microsoft.Authorization/roleAssignments",
                "apiVersion": "2022-04-01",
                "name": "[guid(parameters('vaultName'), parameters('identityName'), parameters('principalId'),"
                " variables('roles')[copyIndex()])]",
                "scope": "[format('Microsoft.KeyVault/vaults/{0}', parameters('vaultName'))]",
                "copy": {"name": "roles", "count": "[length(variables('roles'))]"},
                "properties": {
                    "roleDefinitionId": "[subscriptionResourceId('Microsoft.Authorization/roleDefinitions',"
                    " variables('roles')[copyIndex()])]",
                    "principalId": "[parameters('principalId')]",
                    # Entra need not have heard of the identity yet.
                    "principalType": "ServicePrincipal",
                },
            }
        ],
    }
    return {
        "type": "Microsoft.Resources/deployments",
        "apiVersion": "2022-09-01",
        # Of deployments a resource group keeps one by each name.
        "name": f"[format('roles-{{0}}', uniqueString(resourceGroup().id, {_NAME}))]",
        "resourceGroup": "[parameters('vaultResourceGroup')]",
        "copy": {"name": "roles", "count": _COUNT},
        "dependsOn": ["identities"],
        "properties": {
            "mode": "Incremental",
            "expressionEvaluationOptions": {"scope": "inner"},
            "parameters": {
                "vaultName": {"value": "[parameters('vaultName')]"},
                "identityName": {"value": f"[{_NAME}]"},
                "principalId": {"value": f"[{_reference_to(_NAME)}.principalId]"},
            },
            "template": inner,
        },
    }


def _reference_to(name: str) -> str:
    return f"reference(resourceId('{_IDENTITIES}', {name}), '{_IDENTITY_VERSION}')"
