"""Limit which Secrets the controller writes: those of an allowed type that their SecretSync owns.

Admission sees only the object that is written, so no rule can compare a Secret with its SecretSync. With
`paramKind: SecretSync`, the API server would evaluate the rule for each SecretSync of the namespace, on every write of
a Secret.
"""

from controller.api.meta import Secret
from controller.api.secretsync import SecretSync
from controller.config.settings import FOREIGN_SECRET
from controller.domain import reserved
from controller.domain.decision import SYNC_LABEL
from controller.kube.policy_guard import NEVER_WRITTEN
from tools.codegen.deployment import PROBE_SECRET_TYPE
from tools.codegen.policies.policy import (
    NO_FINALIZERS,
    NOT_EXCLUDED,
    AdmissionPolicy,
    PolicyValidation,
    ResourceRule,
    owned_by,
    owner_as_written,
    pattern,
    text,
    unchanged,
)

# Types that are refused even if the values allow them. Kubernetes writes a token of a ServiceAccount into a Secret of
# the first type. A Secret of the second type lets a machine join the cluster. The third type is for the readiness
# probe.
NEVER_ALLOWED = (
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    PROBE_SECRET_TYPE,
)
# Types with this prefix are also refused: helm stores releases in them.
NEVER_ALLOWED_PREFIX = "helm.sh/"
# A Helm expression for the allowed types. A JSON list of texts is also a CEL list.
_ALLOWED_TYPES = "{{ include `akv-secret-store.list` .Values.validatingAdmissionPolicies.allowedSecretTypes }}"


def _sole_owner(which: str) -> str:
    """Return CEL: the only owner of that object is the SecretSync with its name."""
    name = f"{which}.metadata.ownerReferences[0].name == {which}.metadata.name"
    return f"{owned_by(which, SecretSync)} && {name}"


def _is_labelled(which: str) -> str:
    key, value = SYNC_LABEL
    labels = f"{which}.metadata.labels"
    return f"(has({labels}) && {text(key)} in {labels} && {labels}[{text(key)}] == {text(value)})"


def _entry_variables(field: str) -> list[tuple[str, str]]:
    """Return CEL variables: the labels or annotations of the new and the old object."""
    new, old = (f"{which}.metadata.{field}" for which in ("object", "oldObject"))
    return [
        (field, f"has({new}) ? {new} : {{}}"),
        (f"old{field.capitalize()}", f"variables.isUpdate && has({old}) ? {old} : {{}}"),
    ]


def _is_kept(field: str) -> str:
    """Return CEL: every reserved label or annotation is unchanged."""
    new, old = f"variables.{field}", f"variables.old{field.capitalize()}"

    def all_in(one: str, other: str) -> str:
        is_reserved = f"key.matches({pattern(reserved.KEY)})"
        if field == "labels":
            is_reserved += f" || key == {text(reserved.HELM_OWNER[0])} && {one}[key] == {text(reserved.HELM_OWNER[1])}"
        return f"{one}.all(key, !({is_reserved}) || (key in {other} && {one}[key] == {other}[key]))"

    return f"{all_in(new, old)} && {all_in(old, new)}"


SECRETS = AdmissionPolicy(
    name="secrets",
    why="The controller writes only Secrets of the allowed types whose owner is the SecretSync with the same name.",
    rule=ResourceRule.of(Secret),
    operations=("CREATE", "UPDATE"),
    variables=(
        ("isUpdate", "request.operation == 'UPDATE'"),
        # A missing type is Opaque. The API server sets it before admission.
        ("secretType", "has(object.type) ? object.type : 'Opaque'"),
        *_entry_variables("labels"),
        *_entry_variables("annotations"),
    ),
    # The order matters: the answer has the message of the first validation that fails.
    validations=(
        PolicyValidation(
            f"!variables.isUpdate || ({_sole_owner('oldObject')})",
            # The answer to a patch without changes has the whole Secret. This rule prevents it, but not a JSON patch
            # that makes the API server quote a value in an error of its own, before admission (see the README).
            f"{FOREIGN_SECRET}: its one owner must be that SecretSync",
        ),
        PolicyValidation(
            _sole_owner("object"),
            "the only owner of a Secret must be the SecretSync with its name",
        ),
        PolicyValidation(
            "!variables.isUpdate || object.metadata.ownerReferences == oldObject.metadata.ownerReferences",
            # Another owner could make the garbage collector delete the Secret, or never delete it.
            "the owner of a Secret must not change",
        ),
        PolicyValidation(
            f"variables.isUpdate || ({owner_as_written(SecretSync, controls=False)})",
            f"the owner of a Secret must be a {SecretSync.api_version()} without controller and blockOwnerDeletion",
        ),
        PolicyValidation(
            "variables.isUpdate || !has(object.metadata.generateName)"
            + "".join(f" && !object.metadata.name.startsWith({text(each)})" for each in reserved.NAME_PREFIXES),
            f"the name of a Secret must not begin with {' or '.join(reserved.NAME_PREFIXES)} and must not be generated",
        ),
        PolicyValidation(unchanged("finalizers", "[]", "!variables.isUpdate"), NO_FINALIZERS),
        PolicyValidation(
            "(has(object.immutable) && object.immutable)"
            " == (variables.isUpdate && has(oldObject.immutable) && oldObject.immutable)",
            "the controller neither sets nor removes immutable",
        ),
        PolicyValidation(
            # If the label was removed, the controller can add it again, and can write the Secret before that.
            f"{_is_labelled('object')} || (variables.isUpdate && !{_is_labelled('oldObject')})",
            f"the Secret must have the label {SYNC_LABEL[0]}",
        ),
        PolicyValidation(
            f"!(variables.secretType in [{', '.join(map(text, NEVER_ALLOWED))}])"
            f" && !variables.secretType.startsWith({text(NEVER_ALLOWED_PREFIX)})",
            NEVER_WRITTEN,
        ),
        PolicyValidation(
            f"variables.secretType in {_ALLOWED_TYPES}",
            "this type of Secret is not among the chart's validatingAdmissionPolicies.allowedSecretTypes",
        ),
        PolicyValidation(
            f"{_is_kept('labels')} && {_is_kept('annotations')}",
            f"the controller does not set, change or remove labels and annotations of {reserved.SHOWN}",
        ),
        NOT_EXCLUDED,
    ),
)

NO_DELETE = AdmissionPolicy(
    name="no-delete",
    why="The controller never deletes a Secret. The garbage collector deletes it after its SecretSync.",
    rule=ResourceRule.of(Secret),
    operations=("DELETE",),
    validations=(PolicyValidation("false", "the controller does not delete Secrets: delete their SecretSync"),),
)
