"""ValidatingAdmissionPolicies that limit the controller, and an attacker with its token, to the controller's tasks.

RBAC cannot express "only Secrets that a SecretSync owns", and the answer to a patch contains the whole object.
Therefore these rules check the requests of the controller's ServiceAccount. Two policies check the requests of other
accounts. Each refusal explains its rule. Admission sees only the object that is written, so no rule can compare a
Secret with its SecretSync. With `paramKind: SecretSync`, the API server would evaluate the rule for each SecretSync of
the namespace, on every write of a Secret. Source: Kubernetes documentation, "Validating Admission Policy"
(admissionregistration.k8s.io/v1).
"""

from controller.api.akvsync import AKVSync
from controller.api.conditions import Reason
from controller.api.lease import Lease
from controller.api.meta import CustomResourceDefinition, Event, Resource, Secret, ServiceAccount
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, TYPE_STAYS, SecretSync
from controller.config.settings import FOREIGN_SECRET, TOKEN_AUDIENCE, TOKEN_SECONDS
from controller.domain import reserved
from controller.domain.decision import SYNC_LABEL
from controller.kube import overlap, permissions
from controller.kube.event_recorder import ACTION, MAX_NOTE, REPORTER
from controller.kube.policy_guard import NEVER_WRITTEN, ONE_AUDIENCE, PROBE_AUDIENCE
from controller.secretsync.status_reporter import ATTENTION
from tools.codegen.deployment import PROBE_SECRET_TYPE
from tools.codegen.policies.policy import (
    AdmissionPolicy,
    PolicyCondition,
    PolicyValidation,
    owned_by,
    owner_as_written,
    pattern,
    text,
    unchanged,
)
from tools.codegen.rbac import FULL_NAME

# The first Kubernetes release that serves ValidatingAdmissionPolicy as v1.
SINCE = "1.30"
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
# Helm expressions for the allowed types and the served namespaces. A JSON list of texts is also a CEL list.
_ALLOWED_TYPES = "{{ include `akv-secret-store.list` .Values.validatingAdmissionPolicies.allowedSecretTypes }}"
_SERVED = "{{ include `akv-secret-store.namespaces` . }}"
# The served namespaces for a sentence, at most 300 characters.
_SERVED_SHOWN = (
    "{{ include `akv-secret-store.namespaces` . | fromJsonArray | join `, ` | trunc 300 | default `all namespaces` }}"
)
_HOME = "'{{ include `akv-secret-store.namespace` . }}'"
_EXCLUDED = "{{ include `akv-secret-store.excluded` . }}"
_NOT_EXCLUDED = PolicyValidation(
    f"!has(request.namespace) || !(request.namespace in {_EXCLUDED})",
    "this namespace is among the chart's validatingAdmissionPolicies.excludedNamespaces and is not in watchNamespaces",
)
_NO_FINALIZERS = "the controller neither adds nor removes finalizers"


_AKV_SYNC = PolicyCondition('include "akv-secret-store.on" .Values.akvSync.enabled', lambda settings: settings.akv_sync)
_WATCHING = PolicyCondition(
    'include "akv-secret-store.namespaces" . | fromJsonArray', lambda settings: bool(settings.watch_namespaces)
)


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


_SECRETS = AdmissionPolicy(
    name="secrets",
    why="The controller writes only Secrets of the allowed types whose owner is the SecretSync with the same name.",
    group=Secret.group,
    version=Secret.version,
    resource=Secret.plural,
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
        PolicyValidation(unchanged("finalizers", "[]", "!variables.isUpdate"), _NO_FINALIZERS),
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
        _NOT_EXCLUDED,
    ),
)

_NO_DELETE = AdmissionPolicy(
    name="no-delete",
    why="The controller never deletes a Secret. The garbage collector deletes it after its SecretSync.",
    group=Secret.group,
    version=Secret.version,
    resource=Secret.plural,
    operations=("DELETE",),
    validations=(PolicyValidation("false", "the controller does not delete Secrets: delete their SecretSync"),),
)

_TOKENS = AdmissionPolicy(
    name="tokens",
    why="The controller requests only tokens for Entra. The Kubernetes API does not accept these tokens.",
    group=ServiceAccount.group,
    version=ServiceAccount.version,
    resource=f"{ServiceAccount.plural}/token",
    operations=("CREATE",),
    validations=(
        PolicyValidation(
            "has(object.spec.audiences) && object.spec.audiences.size() == 1"
            f" && object.spec.audiences[0] == {text(TOKEN_AUDIENCE)}",
            ONE_AUDIENCE,
        ),
        PolicyValidation(
            f"has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= {TOKEN_SECONDS}",
            f"the lifetime of a token is at most {TOKEN_SECONDS} seconds",
        ),
        # The API server sends null for an absent field.
        PolicyValidation(
            "!has(object.spec.boundObjectRef) || object.spec.boundObjectRef == null",
            "a token must not be bound to another object",
        ),
        _NOT_EXCLUDED,
    ),
)

_EVENTS = AdmissionPolicy(
    name="events",
    why="The controller writes only events about SecretSyncs and AKVSyncs, with its own name and its own reasons.",
    group=Event.group,
    version=Event.version,
    resource=Event.plural,
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        PolicyValidation("request.operation == 'CREATE'", "the controller neither changes nor deletes events"),
        PolicyValidation(
            f"has(object.reportingController) && object.reportingController == {text(REPORTER)}"
            f" && has(object.action) && object.action == {text(ACTION)}"
            f" && has(object.reason) && object.reason in [{', '.join(map(text, (*Reason, ATTENTION)))}]"
            " && has(object.type) && object.type in ['Normal', 'Warning']",
            f"an event must have the reportingController {REPORTER}, its action, one of its reasons, and the type"
            f" Normal"
            " or Warning",
        ),
        PolicyValidation(
            "has(object.regarding) && has(object.regarding.kind)"
            f" && object.regarding.kind in [{text(SecretSync.kind)}, {text(AKVSync.kind)}]"
            f" && has(object.regarding.apiVersion) && object.regarding.apiVersion == {text(SecretSync.api_version())}"
            " && has(object.regarding.namespace) && object.regarding.namespace == request.namespace"
            " && has(object.regarding.name) && !has(object.related)",
            f"an event must be about a {SecretSync.kind} or {AKVSync.kind} of its own namespace",
        ),
        PolicyValidation(
            f"!has(object.note) || object.note.size() <= {MAX_NOTE}",
            f"the note of an event must have at most {MAX_NOTE} characters",
        ),
        PolicyValidation(
            "!has(object.metadata.labels) && !has(object.metadata.annotations) && !has(object.metadata.finalizers)"
            " && !has(object.metadata.ownerReferences) && !has(object.series)"
            " && (!has(object.deprecatedSource) || !has(object.deprecatedSource.component))",
            "an event must not have labels, annotations, finalizers, owners, a series or a deprecated source",
        ),
    ),
)


def _metadata_stays(who: str, of: str) -> PolicyValidation:
    fields = (("finalizers", "[]"), ("ownerReferences", "[]"), ("labels", "{}"), ("annotations", "{}"))
    return PolicyValidation(
        " && ".join(f"({unchanged(field, empty)})" for field, empty in fields),
        f"{who} does not change the labels, annotations, finalizers and owners of {of}",
    )


_LEASES = AdmissionPolicy(
    name="lease",
    why="The controller creates and renews its own Lease. It does not write other Leases.",
    group=Lease.group,
    version=Lease.version,
    resource=Lease.plural,
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        PolicyValidation(
            f"request.operation != 'DELETE' && request.namespace == {_HOME} && object.metadata.name == '{FULL_NAME}'",
            "the controller creates and updates only its own Lease, and deletes none",
        ),
        _metadata_stays("the controller", "its Lease"),
    ),
)

_NAMESPACES = AdmissionPolicy(
    name="namespaces",
    why="With `watchNamespaces`, the controller writes only to these namespaces, and its Lease in its own namespace. It"
    " does not write cluster-scoped objects.",
    group="*",
    version="*",
    resource="*/*",
    operations=("*",),
    variables=(
        # For a Namespace, request.namespace is its own name, although the object is cluster-scoped.
        (
            "place",
            "has(request.namespace) && request.resource.resource != 'namespaces' ? request.namespace : ''",
        ),
        ("lease", f"request.resource.resource == {text(Lease.plural)}"),
        # The controller is ready only after the policies on Secrets and tokens refused one request each. This policy
        # must not refuse these requests first.
        (
            "probe",
            f"request.operation == 'CREATE' && request.resource.resource == {text(Secret.plural)} && request.dryRun"
            f" || request.operation == 'CREATE' && request.resource.resource == {text(ServiceAccount.plural)}"
            " && request.subResource == 'token'"
            f" && has(object.spec.audiences) && object.spec.audiences == [{text(PROBE_AUDIENCE)}]",
        ),
    ),
    validations=(
        PolicyValidation(
            f"variables.place in {_SERVED} || variables.place == {_HOME} && (variables.lease || variables.probe)",
            "the controller does not write outside the chart's watchNamespaces",
        ),
    ),
    when=_WATCHING,
)


_OVERLAP = AdmissionPolicy(
    name=overlap.POLICY,
    why="Another release asks by a dry run whether this release serves its namespaces. While a replica of this release"
    " leads, the policy answers yes by a refusal. It refuses no other request.",
    group=Lease.group,
    version=Lease.version,
    resource=Lease.plural,
    operations=("CREATE",),
    others="request.dryRun && has(object.spec) && has(object.spec.holderIdentity)"
    f" && object.spec.holderIdentity.startsWith({text(overlap.SERVES_PREFIX)})",
    variables=(
        ("asked", f"object.spec.holderIdentity.substring({len(overlap.SERVES_PREFIX)})"),
        ("theirs", "variables.asked.split(',')"),
        ("served", _SERVED),
        (
            "overlaps",
            "variables.asked == '' || variables.served.size() == 0"
            " || variables.served.exists(each, each in variables.theirs)",
        ),
        (
            "leads",
            "has(params.spec) && has(params.spec.holderIdentity) && params.spec.holderIdentity != ''",
        ),
    ),
    validations=(
        PolicyValidation(
            "!(variables.overlaps && variables.leads)",
            overlap.SERVED,
            said=f"'release ' + {_HOME} + '/{FULL_NAME} serves {_SERVED_SHOWN}; ' + params.spec.holderIdentity"
            " + ' leads it since its renewal at '"
            " + (has(params.spec.renewTime) ? string(params.spec.renewTime) : 'no time')",
        ),
    ),
)


def _type_expression(which: str) -> str:
    field = f"{which}.spec.secretObject.type"
    return f"(has({field}) ? {field} : {text(DEFAULT_TYPE)})"


_TYPE_STAYS = AdmissionPolicy(
    name="type-stays",
    why="The type of a SecretSync's Secret cannot change, because Kubernetes does not change the type of a Secret. The"
    " policy also applies if the installed CRD does not have this rule.",
    group=SecretSync.group,
    version=SecretSync.version,
    resource=SecretSync.plural,
    operations=("UPDATE",),
    validations=(PolicyValidation(f"{_type_expression('object')} == {_type_expression('oldObject')}", TYPE_STAYS),),
    everybody=True,
)


def _generated_kind_policy(kind: type[Resource]) -> AdmissionPolicy:
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
        group=kind.group,
        version=kind.version,
        resource=kind.plural,
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
                _NO_FINALIZERS,
            ),
            PolicyValidation(
                f"request.operation == 'DELETE' || ({unchanged('labels', '{}')} && {unchanged('annotations', '{}')}"
                " && !has(object.metadata.generateName))",
                f"the controller sets no labels, annotations or generateName of a {kind.kind}",
            ),
            _NOT_EXCLUDED,
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
    group=CustomResourceDefinition.group,
    version=CustomResourceDefinition.version,
    resource=CustomResourceDefinition.plural,
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
        _metadata_stays("the Job", "a CustomResourceDefinition"),
    ),
    account="$name",
)


POLICIES: tuple[AdmissionPolicy, ...] = (
    _SECRETS,
    _NO_DELETE,
    _TOKENS,
    _EVENTS,
    _LEASES,
    _NAMESPACES,
    _OVERLAP,
    _TYPE_STAYS,
    _generated_kind_policy(SecretSync),
    _generated_kind_policy(SecretProviderClass),
)
