"""Azure's published schemas of the resources in this project's templates.

Sources:
- Azure/azure-resource-manager-schemas, schemas/2023-05-01/Microsoft.KubernetesConfiguration.json, for extensions;
- Azure/bicep-types-az, Microsoft.KubernetesConfiguration 2024-11-01, for fluxConfigurations;
- the template reference on learn.microsoft.com of Microsoft.ManagedIdentity 2023-01-31, of
  Microsoft.Authorization/roleAssignments 2022-04-01 and of Microsoft.Resources/deployments 2022-09-01;
- "Understand the structure and syntax of ARM templates" on learn.microsoft.com, for the template itself.

The schemas reject unknown properties, because Azure ignores them or fails the deployment.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
SECONDS: Schema = {"type": "integer", "minimum": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
OR_NULL = [TEXT, {"type": "null"}]


def object_schema(required: str = "", **properties: Schema) -> Schema:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


_KUSTOMIZATION = object_schema(
    path=TEXT,
    dependsOn={"type": "array", "items": TEXT},
    timeoutInSeconds=SECONDS,
    syncIntervalInSeconds=SECONDS,
    retryIntervalInSeconds=SECONDS,
    prune=TRUTH,
    force=TRUTH,
    wait=TRUTH,
    postBuild=object_schema(substitute=TEXTS),
)
_OCI_REPOSITORY = object_schema(
    url={"type": "string", "pattern": "^oci://"},
    repositoryRef=object_schema(tag=TEXT, semver=TEXT, digest=TEXT),
    layerSelector=object_schema(mediaType=TEXT, operation={"enum": ["extract", "copy"]}),
    serviceAccountName=TEXT,
    syncIntervalInSeconds=SECONDS,
    timeoutInSeconds=SECONDS,
)
_PROPERTIES: dict[str, tuple[str, Schema]] = {
    "Microsoft.KubernetesConfiguration/extensions": (
        "2023-05-01",
        object_schema(
            extensionType=TEXT,
            autoUpgradeMinorVersion=TRUTH,
            releaseTrain={"anyOf": OR_NULL},
            version={"anyOf": OR_NULL},
            scope=object_schema(
                cluster=object_schema(releaseNamespace=TEXT), namespace=object_schema(targetNamespace=TEXT)
            ),
            configurationSettings=TEXTS,
            configurationProtectedSettings=TEXTS,
        ),
    ),
    "Microsoft.KubernetesConfiguration/fluxConfigurations": (
        "2024-11-01",
        object_schema(
            scope={"enum": ["cluster", "namespace"]},
            namespace={"type": "string", "pattern": "^[a-z0-9.-]{1,253}$"},
            sourceKind={"enum": ["GitRepository", "Bucket", "AzureBlob", "OCIRepository"]},
            suspend=TRUTH,
            ociRepository=_OCI_REPOSITORY,
            kustomizations={"type": "object", "additionalProperties": _KUSTOMIZATION},
        ),
    ),
    "Microsoft.ManagedIdentity/userAssignedIdentities": ("2023-01-31", object_schema()),
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials": (
        "2023-01-31",
        object_schema(
            "issuer subject audiences",
            issuer=TEXT,
            subject=TEXT,
            audiences={"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1},
        ),
    ),
    "Microsoft.Authorization/roleAssignments": (
        "2022-04-01",
        object_schema(
            "principalId roleDefinitionId",
            principalId=TEXT,
            roleDefinitionId=TEXT,
            principalType={"enum": ["Device", "ForeignGroup", "Group", "ServicePrincipal", "User"]},
        ),
    ),
    "Microsoft.Resources/deployments": (
        "2022-09-01",
        object_schema(
            "mode",
            mode={"enum": ["Incremental", "Complete"]},
            expressionEvaluationOptions=object_schema(scope={"enum": ["inner", "outer", "NotSpecified"]}),
            parameters={"type": "object", "additionalProperties": object_schema("value", value={})},
            template={"type": "object"},
        ),
    ),
}


def resource_schema(kind: str) -> Schema:
    """Return the schema of a resource of that type. Its expressions are already evaluated."""
    version, properties = _PROPERTIES[kind]
    needs_properties = "" if kind.endswith("userAssignedIdentities") else " properties"
    return object_schema(
        f"type apiVersion name{needs_properties}",
        type={"const": kind},
        apiVersion={"const": version},
        name=TEXT,
        scope=TEXT,
        location=TEXT,
        resourceGroup=TEXT,
        dependsOn={"type": "array", "items": TEXT},
        properties=properties,
    )


PARAMETER: Schema = object_schema(
    "type",
    type={"enum": ["string", "securestring", "int", "bool", "object", "secureObject", "array"]},
    defaultValue={},
    allowedValues={"type": "array", "minItems": 1},
    minValue={"type": "integer"},
    maxValue={"type": "integer"},
    minLength={"type": "integer"},
    maxLength={"type": "integer"},
    metadata=object_schema("description", description={"type": "string", "minLength": 1}),
)
_TEMPLATE_PARTS: dict[str, Schema] = {
    "$schema": {"const": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"},
    "contentVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+\.\d+$"},
    "parameters": {
        "type": "object",
        "maxProperties": 256,
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": PARAMETER,
    },
    "variables": {"type": "object", "maxProperties": 256},
    "resources": {"type": "array", "minItems": 1},
    "outputs": {"type": "object"},
}
TEMPLATE: Schema = object_schema("$schema contentVersion resources", **_TEMPLATE_PARTS)
