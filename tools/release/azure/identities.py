"""The identities that read the vault, as an ARM template with their roles and their ServiceAccounts.

An identity can have 20 federated credentials, and Azure refuses to create two of them at the same time (409). Therefore
the template distributes the ServiceAccounts to as many identities as necessary, and creates their credentials one after
another.
"""

from tools.release.azure import arm

MAX_CREDENTIALS = 20
"""The maximum number of federated credentials of one identity, by Entra's limit."""

AUDIENCE = "api://AzureADTokenExchange"
ROLES = {
    "21090545-7ca7-4776-b22c-e363652d74d2": "Key Vault Reader",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
}
"""Azure's built-in roles by their ids. The first one can list objects and versions, the second one can read values."""

_IDENTITIES = "Microsoft.ManagedIdentity/userAssignedIdentities"
_CREDENTIALS = f"{_IDENTITIES}/federatedIdentityCredentials"
_IDENTITY_VERSION = "2023-01-31"
_COUNT = f"[div(add(length(parameters('serviceAccounts')), {MAX_CREDENTIALS - 1}), {MAX_CREDENTIALS})]"
_ACCOUNT_IDENTITY = f"format('{{0}}-{{1}}', parameters('identityName'), add(div(copyIndex(), {MAX_CREDENTIALS}), 1))"
"""The identity of the ServiceAccount at copyIndex()."""
_NAME = "format('{0}-{1}', parameters('identityName'), copyIndex(1))"
_ACCOUNT = "parameters('serviceAccounts')[copyIndex()]"


def identity_template() -> str:
    """Return the template. It is deployed into the resource group of the identities, which need not be the vault's."""
    parameters: dict[str, arm.Json] = {
        "identityName": {
            "type": "string",
            "defaultValue": "akv-secret-store",
            "minLength": 3,
            "maxLength": 120,
            "metadata": {"description": "The prefix of the identities' names; -1, -2 and so on follow."},
        },
        "location": arm.text_parameter("The location of the identities.", "[resourceGroup().location]"),
        "vaultName": {
            "type": "string",
            "minLength": 3,
            "maxLength": 24,
            "metadata": {"description": "The vault; its permission model must be Azure role-based access control."},
        },
        "vaultResourceGroup": arm.text_parameter("The vault's resource group.", "[resourceGroup().name]"),
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
                "description": "The ServiceAccounts that SecretSyncs name, as {namespace, name}. Each"
                f" {MAX_CREDENTIALS} share an identity. Add new ones at the end, so that the others keep their"
                f" identity."
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
        "name": f"[format('{{0}}/{{1}}', {_ACCOUNT_IDENTITY}, guid(parameters('issuer'), {_ACCOUNT}.namespace,"
        f" {_ACCOUNT}.name))]",
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
            "metadata": {"description": "The clientID for the SecretProviderClasses of each ServiceAccount."},
            "copy": {
                "count": "[length(parameters('serviceAccounts'))]",
                "input": {
                    "namespace": f"[{_ACCOUNT}.namespace]",
                    "name": f"[{_ACCOUNT}.name]",
                    "clientID": f"[{_reference_to(_ACCOUNT_IDENTITY)}.clientId]",
                },
            },
        },
    }
    return arm.build_template(parameters, [identity, _role_deployments(), credential], outputs=outputs)


def identity_section() -> str:
    """Return the section about the identities."""
    return """\
## The identities that read the vault

The template creates a managed identity with both roles on the vault, and a federated credential for each ServiceAccount
that SecretSyncs name. For more than 20 ServiceAccounts it creates several identities. The outputs have the clientID for
the SecretProviderClasses of each ServiceAccount.

```console
az deployment group create --resource-group "$RESOURCE_GROUP" --template-file identity.json \\
  --parameters vaultName="$KEYVAULT_NAME" issuer="$SERVICE_ACCOUNT_ISSUER" \\
  serviceAccounts='[{"namespace": "my-namespace", "name": "my-service-account"}]' --query properties.outputs
```
"""


def _role_deployments() -> arm.Json:
    """Return the deployments of both roles for each identity. They are for the vault's resource group."""
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
                    # With this type, Azure does not look the identity up in Entra, which possibly does not know it yet.
                    "principalType": "ServicePrincipal",
                },
            }
        ],
    }
    return {
        "type": "Microsoft.Resources/deployments",
        "apiVersion": "2022-09-01",
        # A resource group keeps one deployment for each name.
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
