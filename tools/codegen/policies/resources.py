"""Limit the changes of custom resources and of their definitions (CRDs)."""

from controller.api.akvsync import AKVSync
from controller.api.meta import CustomResourceDefinition, Resource
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, TYPE_STAYS, SecretSync
from controller.kube import permissions
from tools.codegen.policies.policy import (
    NO_FINALIZERS,
    NOT_EXCLUDED,
    AdmissionPolicy,
    PolicyCondition,
    PolicyValidation,
    ResourceRule,
    metadata_stays,
    owned_by,
    owner_as_written,
    text,
    unchanged,
)

_AKV_SYNC = PolicyCondition('include "akv-secret-store.on" .Values.akvSync.enabled', lambda settings: settings.akv_sync)


def _type_expression(which: str) -> str:
    # The CRD does not require a spec. An error of the expression would refuse each update, also that of a finalizer.
    parents = f"has({which}.spec) && has({which}.spec.secretObject)"
    field = f"{which}.spec.secretObject.type"
    return f"({parents} && has({field}) ? {field} : {text(DEFAULT_TYPE)})"


SECRET_TYPE_STAYS = AdmissionPolicy(
    name="type-stays",
    why="The type of a SecretSync's Secret cannot change, because Kubernetes does not change the type of a Secret. The"
    " policy also applies if the installed CRD does not have this rule.",
    rule=ResourceRule.of(SecretSync),
    operations=("UPDATE",),
    validations=(PolicyValidation(f"{_type_expression('object')} == {_type_expression('oldObject')}", TYPE_STAYS),),
    all_accounts=True,
)


def generated_kind_policy(kind: type[Resource]) -> AdmissionPolicy:
    """Return the policy for a kind that users also write: the controller changes only objects of an AKVSync."""
    # A SecretProviderClass has the name of its AKVSync.
    owner = "object.metadata.ownerReferences[0].name"
    shares_name = kind is SecretProviderClass
    name = f"{owner} == object.metadata.name" if shares_name else f"{owner} == object.spec.secretProviderClassName"
    named = " and has its name" if shares_name else " and gives its SecretProviderClass its name"
    return AdmissionPolicy(
        name=kind.plural,
        why=f"The controller creates, changes and deletes a {kind.kind} only if its only owner, before and after the"
        " change, is an AKVSync.",
        rule=ResourceRule.of(kind),
        operations=("CREATE", "UPDATE", "DELETE"),
        validations=(
            PolicyValidation(
                f"request.operation == 'CREATE' || ({owned_by('oldObject', AKVSync)})",
                f"this {kind.kind} does not belong to an AKVSync",
            ),
            PolicyValidation(
                f"request.operation == 'DELETE' || ({owned_by('object', AKVSync)})",
                f"the only owner of a {kind.kind} must be an AKVSync",
            ),
            PolicyValidation(
                "request.operation != 'UPDATE' || object.metadata.ownerReferences =="
                " oldObject.metadata.ownerReferences",
                f"the owner of a {kind.kind} must not change",
            ),
            PolicyValidation(
                f"request.operation != 'CREATE' || ({owner_as_written(AKVSync, controls=True)} && {name})",
                f"the owner of a {kind.kind} must be a {AKVSync.api_version()} that controls it{named}",
            ),
            PolicyValidation(
                f"request.operation == 'DELETE' || ({unchanged('finalizers', '[]')})",
                NO_FINALIZERS,
            ),
            PolicyValidation(
                f"request.operation == 'DELETE' || ({unchanged('labels', '{}')} && {unchanged('annotations', '{}')}"
                " && !has(object.metadata.generateName))",
                f"the controller sets no labels, annotations or generateName of a {kind.kind}",
            ),
            NOT_EXCLUDED,
        ),
        when=_AKV_SYNC,
    )


def _kept_versions() -> str:
    """Return CEL: every served version stays served, with its fields, and the stored version does not change."""
    fields = (
        "(!has(before.schema.openAPIV3Schema.properties) || has(after.schema.openAPIV3Schema.properties)"
        " && before.schema.openAPIV3Schema.properties.all(field, field in after.schema.openAPIV3Schema.properties))"
    )
    return (
        "oldObject.spec.versions.all(before, object.spec.versions.exists(after, after.name == before.name"
        " && after.storage == before.storage && (after.served || !before.served)"
        " && (has(after.subresources) && has(after.subresources.status))"
        f" == (has(before.subresources) && has(before.subresources.status)) && {fields}))"
    )


CRD_JOB = AdmissionPolicy(
    name="crds",
    why="The Job that updates the chart's CustomResourceDefinitions changes only their versions and names.",
    rule=ResourceRule.of(CustomResourceDefinition),
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        PolicyValidation(
            f"request.operation == 'UPDATE' && request.name in [{', '.join(map(text, permissions.CRDS.names))}]",
            "the Job updates only the chart's CustomResourceDefinitions, and creates or deletes none",
        ),
        PolicyValidation(
            "object.spec.group == oldObject.spec.group && object.spec.scope == oldObject.spec.scope"
            " && object.spec.names.kind == oldObject.spec.names.kind"
            " && object.spec.names.plural == oldObject.spec.names.plural",
            "the Job does not change group, scope, kind and plural of a CustomResourceDefinition",
        ),
        PolicyValidation(
            # The API server sets the strategy None if the field is missing.
            "!has(object.spec.conversion) || object.spec.conversion.strategy == 'None'"
            " || (has(oldObject.spec.conversion) && object.spec.conversion == oldObject.spec.conversion)",
            "the Job sets no conversion webhook",
        ),
        PolicyValidation(_kept_versions(), "the Job removes no version, and no field of its first level"),
        metadata_stays("the Job", "a CustomResourceDefinition"),
    ),
    account="$name",
)
