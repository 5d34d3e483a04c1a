"""ValidatingAdmissionPolicies that hold the controller, or whoever stole its token, to what it is for.

RBAC cannot say "only Secrets that you own", and a patch answers with what it patched. So requests of the controller's
own ServiceAccount are judged by these rules, and only one policy judges the requests of others. Each refusal tells the
rule in words. Admission sees no other object than the one that is written, so no rule can compare a Secret with its
SecretSync: with `paramKind: SecretSync` the API server would evaluate the rule for each SecretSync of the namespace, on
every write of a Secret.
Source: Kubernetes documentation, "Validating Admission Policy" (admissionregistration.k8s.io/v1).
"""

from controller import permissions, reserved
from controller.api.akvsync import AKVSync
from controller.api.conditions import Reason
from controller.api.lease import Lease
from controller.api.meta import CustomResourceDefinition, Event, Resource, Secret, ServiceAccount
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, TYPE_STAYS, SecretSync
from controller.events import ACTION, MOST_NOTE, REPORTER
from controller.plan import OUR_LABEL
from controller.policy_guard import NEVER_WRITTEN, ONE_AUDIENCE, PROBE_AUDIENCE
from controller.report import ATTENTION
from controller.settings import FOREIGN_SECRET, TOKEN_AUDIENCE, TOKEN_SECONDS
from tools.deployment import PROBE_SECRET_TYPE
from tools.policy import Policy, Validation, When, owned_by, owner_as_written, pattern, text, unchanged
from tools.rbac import FULL_NAME

# The first Kubernetes release that serves ValidatingAdmissionPolicy as v1.
SINCE = "1.30"
# What is refused even where somebody lists it as allowed. A token of a ServiceAccount would be written into a Secret
# of the first type; one of the second lets a machine join the cluster; the third is for the readiness probe.
NEVER_ALLOWED = (
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    PROBE_SECRET_TYPE,
)
# … nor any type that begins so: helm's records of releases.
NEVER_ALLOWED_PREFIX = "helm.sh/"
# What the chart's templates put in: a JSON list of texts is a CEL list, too.
_ALLOWED_TYPES = "{{ include `akv-secret-store.list` .Values.validatingAdmissionPolicies.allowedSecretTypes }}"
_SERVED = "{{ include `akv-secret-store.namespaces` . }}"
_HOME = "'{{ include `akv-secret-store.namespace` . }}'"
_EXCLUDED = "{{ include `akv-secret-store.excluded` . }}"
_NOT_EXCLUDED = Validation(
    f"!has(request.namespace) || !(request.namespace in {_EXCLUDED})",
    "this namespace is among the chart's validatingAdmissionPolicies.excludedNamespaces, and watchNamespaces does not"
    " name it",
)
_NO_FINALIZERS = "finalizers are neither added nor removed by the controller"


_AKV_SYNC = When('include "akv-secret-store.on" .Values.akvSync.enabled', lambda settings: settings.akv_sync)
_WATCHING = When(
    'include "akv-secret-store.namespaces" . | fromJsonArray', lambda settings: bool(settings.watch_namespaces)
)


def _sole_owner(which: str) -> str:
    """CEL: that object's one and only owner is the SecretSync of its name."""
    name = f"{which}.metadata.ownerReferences[0].name == {which}.metadata.name"
    return f"{owned_by(which, SecretSync)} && {name}"


def _labelled(which: str) -> str:
    key, value = OUR_LABEL
    labels = f"{which}.metadata.labels"
    return f"(has({labels}) && {text(key)} in {labels} && {labels}[{text(key)}] == {text(value)})"


def _entries(field: str) -> list[tuple[str, str]]:
    """CEL variables: the labels or annotations of both objects."""
    new, old = (f"{which}.metadata.{field}" for which in ("object", "oldObject"))
    return [
        (field, f"has({new}) ? {new} : {{}}"),
        (f"old{field.capitalize()}", f"variables.isUpdate && has({old}) ? {old} : {{}}"),
    ]


def _kept(field: str) -> str:
    """CEL: every reserved label or annotation is as it was."""
    new, old = f"variables.{field}", f"variables.old{field.capitalize()}"

    def all_in(one: str, other: str) -> str:
        is_reserved = f"key.matches({pattern(reserved.KEY)})"
        if field == "labels":
            is_reserved += f" || key == {text(reserved.HELM_OWNER[0])} && {one}[key] == {text(reserved.HELM_OWNER[1])}"
        return f"{one}.all(key, !({is_reserved}) || (key in {other} && {one}[key] == {other}[key]))"

    return f"{all_in(new, old)} && {all_in(old, new)}"


_SECRETS = Policy(
    name="secrets",
    why="The controller writes Secrets that a SecretSync of their name owns, of the allowed types, and no others.",
    group=Secret.group,
    version=Secret.version,
    resource=Secret.plural,
    operations=("CREATE", "UPDATE"),
    variables=(
        ("isUpdate", "request.operation == 'UPDATE'"),
        # A missing type is Opaque; the API server has filled it in by now.
        ("secretType", "has(object.type) ? object.type : 'Opaque'"),
        *_entries("labels"),
        *_entries("annotations"),
    ),
    # In this order: the first that fails is the one that the answer tells.
    validations=(
        Validation(
            f"!variables.isUpdate || ({_sole_owner('oldObject')})",
            # A patch that changes nothing answers with the whole Secret. This stops that; it cannot stop a JSON patch
            # that makes the API server quote a value in an error of its own, before admission (see the README).
            f"{FOREIGN_SECRET}: its one owner must be that SecretSync",
        ),
        Validation(
            _sole_owner("object"),
            "the one owner of a Secret must be the SecretSync of its name",
        ),
        Validation(
            "!variables.isUpdate || object.metadata.ownerReferences == oldObject.metadata.ownerReferences",
            # … else the garbage collector could be made to delete it, or never to do so.
            "the owner of a Secret may not change",
        ),
        Validation(
            f"variables.isUpdate || ({owner_as_written(SecretSync, controls=False)})",
            f"the owner of a Secret must be a {SecretSync.api_version()} without controller and blockOwnerDeletion",
        ),
        Validation(
            "variables.isUpdate || !has(object.metadata.generateName)"
            + "".join(f" && !object.metadata.name.startsWith({text(each)})" for each in reserved.NAME_PREFIXES),
            f"the name of a Secret must not begin with {' or '.join(reserved.NAME_PREFIXES)}, nor be generated",
        ),
        Validation(unchanged("finalizers", "[]", "!variables.isUpdate"), _NO_FINALIZERS),
        Validation(
            "(has(object.immutable) && object.immutable)"
            " == (variables.isUpdate && has(oldObject.immutable) && oldObject.immutable)",
            "immutable is neither set nor unset by the controller",
        ),
        Validation(
            # Where somebody took the label away it may be put back, and looked at meanwhile.
            f"{_labelled('object')} || (variables.isUpdate && !{_labelled('oldObject')})",
            f"the Secret must carry the label {OUR_LABEL[0]}",
        ),
        Validation(
            f"!(variables.secretType in [{', '.join(map(text, NEVER_ALLOWED))}])"
            f" && !variables.secretType.startsWith({text(NEVER_ALLOWED_PREFIX)})",
            NEVER_WRITTEN,
        ),
        Validation(
            f"variables.secretType in {_ALLOWED_TYPES}",
            "this type of Secret is not among the chart's validatingAdmissionPolicies.allowedSecretTypes",
        ),
        Validation(
            f"{_kept('labels')} && {_kept('annotations')}",
            f"labels and annotations of {reserved.SHOWN} are neither set, changed nor removed by the controller",
        ),
        _NOT_EXCLUDED,
    ),
)

_NO_DELETE = Policy(
    name="no-delete",
    why="The controller never deletes a Secret: the garbage collector does, when the SecretSync is gone.",
    group=Secret.group,
    version=Secret.version,
    resource=Secret.plural,
    operations=("DELETE",),
    validations=(Validation("false", "Secrets are not deleted by the controller: delete their SecretSync"),),
)

_TOKENS = Policy(
    name="tokens",
    why="The controller asks for tokens that Entra takes, and for no others: none that the Kubernetes API would take.",
    group=ServiceAccount.group,
    version=ServiceAccount.version,
    resource=f"{ServiceAccount.plural}/token",
    operations=("CREATE",),
    validations=(
        Validation(
            "has(object.spec.audiences) && object.spec.audiences.size() == 1"
            f" && object.spec.audiences[0] == {text(TOKEN_AUDIENCE)}",
            ONE_AUDIENCE,
        ),
        Validation(
            f"has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= {TOKEN_SECONDS}",
            f"tokens last {TOKEN_SECONDS} seconds at most",
        ),
        # Where it is absent the API server has put null there.
        Validation(
            "!has(object.spec.boundObjectRef) || object.spec.boundObjectRef == null",
            "tokens are bound to no other object",
        ),
        _NOT_EXCLUDED,
    ),
)

_EVENTS = Policy(
    name="events",
    why="The controller writes events about SecretSyncs and AKVSyncs, in its own name, with its own reasons.",
    group=Event.group,
    version=Event.version,
    resource=Event.plural,
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        Validation("request.operation == 'CREATE'", "the controller neither changes nor deletes events"),
        Validation(
            f"has(object.reportingController) && object.reportingController == {text(REPORTER)}"
            f" && has(object.action) && object.action == {text(ACTION)}"
            f" && has(object.reason) && object.reason in [{', '.join(map(text, (*Reason, ATTENTION)))}]"
            " && has(object.type) && object.type in ['Normal', 'Warning']",
            f"events are those of {REPORTER}: with its reasons, and of the type Normal or Warning",
        ),
        Validation(
            "has(object.regarding) && has(object.regarding.kind)"
            f" && object.regarding.kind in [{text(SecretSync.kind)}, {text(AKVSync.kind)}]"
            f" && has(object.regarding.apiVersion) && object.regarding.apiVersion == {text(SecretSync.api_version())}"
            " && has(object.regarding.namespace) && object.regarding.namespace == request.namespace"
            " && has(object.regarding.name) && !has(object.related)",
            f"events are about a {SecretSync.kind} or {AKVSync.kind} of their own namespace",
        ),
        Validation(
            f"!has(object.note) || object.note.size() <= {MOST_NOTE}",
            f"the note of an event has at most {MOST_NOTE} characters",
        ),
        Validation(
            "!has(object.metadata.labels) && !has(object.metadata.annotations) && !has(object.metadata.finalizers)"
            " && !has(object.metadata.ownerReferences) && !has(object.series)"
            " && (!has(object.deprecatedSource) || !has(object.deprecatedSource.component))",
            "events have no labels, annotations, finalizers, owners, series or deprecated source",
        ),
    ),
)


def _metadata_stays(who: str, of: str) -> Validation:
    fields = (("finalizers", "[]"), ("ownerReferences", "[]"), ("labels", "{}"), ("annotations", "{}"))
    return Validation(
        " && ".join(f"({unchanged(field, empty)})" for field, empty in fields),
        f"{who} leaves the labels, annotations, finalizers and owners of {of} as they are",
    )


_LEASES = Policy(
    name="lease",
    why="The controller creates and renews its own Lease, and touches no other.",
    group=Lease.group,
    version=Lease.version,
    resource=Lease.plural,
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        Validation(
            f"request.operation != 'DELETE' && request.namespace == {_HOME} && object.metadata.name == '{FULL_NAME}'",
            "the controller creates and updates its own Lease, and creates, changes or deletes no other",
        ),
        _metadata_stays("the controller", "its Lease"),
    ),
)

_NAMESPACES = Policy(
    name="namespaces",
    why="With `watchNamespaces` the controller changes nothing elsewhere, and nothing of the cluster's own; at home"
    " there is its Lease.",
    group="*",
    version="*",
    resource="*/*",
    operations=("*",),
    variables=(
        # A Namespace counts as within itself, and is the cluster's own all the same.
        (
            "place",
            "has(request.namespace) && request.resource.resource != 'namespaces' ? request.namespace : ''",
        ),
        ("lease", f"request.resource.resource == {text(Lease.plural)}"),
        # The controller is not ready until the policies on Secrets and tokens refuse one of each. No other policy may
        # answer in their place.
        (
            "probe",
            f"request.operation == 'CREATE' && request.resource.resource == {text(Secret.plural)} && request.dryRun"
            f" || request.operation == 'CREATE' && request.resource.resource == {text(ServiceAccount.plural)}"
            " && request.subResource == 'token'"
            f" && has(object.spec.audiences) && object.spec.audiences == [{text(PROBE_AUDIENCE)}]",
        ),
    ),
    validations=(
        Validation(
            f"variables.place in {_SERVED} || variables.place == {_HOME} && (variables.lease || variables.probe)",
            "the controller changes nothing outside the chart's watchNamespaces",
        ),
    ),
    when=_WATCHING,
)


def _type_of(which: str) -> str:
    field = f"{which}.spec.secretObject.type"
    return f"(has({field}) ? {field} : {text(DEFAULT_TYPE)})"


_TYPE_STAYS = Policy(
    name="type-stays",
    why="A SecretSync keeps the type of its Secret, which cannot change it either; also where a CRD would allow that.",
    group=SecretSync.group,
    version=SecretSync.version,
    resource=SecretSync.plural,
    operations=("UPDATE",),
    validations=(Validation(f"{_type_of('object')} == {_type_of('oldObject')}", TYPE_STAYS),),
    everybody=True,
)


def _made(kind: type[Resource]) -> Policy:
    """Of objects that people write too, the controller touches those alone that it made for an AKVSync."""
    # A SecretProviderClass has the name of its AKVSync.
    owner = "object.metadata.ownerReferences[0].name"
    shares_name = kind is SecretProviderClass
    name = f"{owner} == object.metadata.name" if shares_name else f"{owner} == object.spec.secretProviderClassName"
    named = " and has its name" if shares_name else " and gives its SecretProviderClass its name"
    return Policy(
        name=kind.plural,
        why=f"The controller makes, changes and deletes a {kind.kind} only where an AKVSync is its one owner, before"
        " and after.",
        group=kind.group,
        version=kind.version,
        resource=kind.plural,
        operations=("CREATE", "UPDATE", "DELETE"),
        validations=(
            Validation(
                f"request.operation == 'CREATE' || ({owned_by('oldObject', AKVSync)})",
                f"this {kind.kind} does not belong to an AKVSync",
            ),
            Validation(
                f"request.operation == 'DELETE' || ({owned_by('object', AKVSync)})",
                f"the one owner of a {kind.kind} must be an AKVSync",
            ),
            Validation(
                "request.operation != 'UPDATE' || object.metadata.ownerReferences =="
                " oldObject.metadata.ownerReferences",
                f"the owner of a {kind.kind} may not change",
            ),
            Validation(
                f"request.operation != 'CREATE' || ({owner_as_written(AKVSync, controls=True)} && {name})",
                f"the owner of a {kind.kind} must be a {AKVSync.api_version()} that controls it{named}",
            ),
            Validation(
                f"request.operation == 'DELETE' || ({unchanged('finalizers', '[]')})",
                _NO_FINALIZERS,
            ),
            Validation(
                f"request.operation == 'DELETE' || ({unchanged('labels', '{}')} && {unchanged('annotations', '{}')}"
                " && !has(object.metadata.generateName))",
                f"a {kind.kind} has a name, labels and annotations of its own: the controller sets none",
            ),
            _NOT_EXCLUDED,
        ),
        when=_AKV_SYNC,
    )


def _kept_versions() -> str:
    """CEL: every version that was served is, with its fields; which one is stored stays."""
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


CRD_JOB = Policy(
    name="crds",
    why="The Job that widens the chart's CustomResourceDefinitions changes their versions and names, and nothing else.",
    group=CustomResourceDefinition.group,
    version=CustomResourceDefinition.version,
    resource=CustomResourceDefinition.plural,
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        Validation(
            f"request.operation == 'UPDATE' && request.name in [{', '.join(map(text, permissions.CRDS.names))}]",
            "the Job changes the chart's CustomResourceDefinitions, and makes, changes or deletes no other",
        ),
        Validation(
            "object.spec.group == oldObject.spec.group && object.spec.scope == oldObject.spec.scope"
            " && object.spec.names.kind == oldObject.spec.names.kind"
            " && object.spec.names.plural == oldObject.spec.names.plural",
            "the Job leaves group, scope, kind and plural of a CustomResourceDefinition as they are",
        ),
        Validation(
            # The API server sets the strategy None where there is none.
            "!has(object.spec.conversion) || object.spec.conversion.strategy == 'None'"
            " || (has(oldObject.spec.conversion) && object.spec.conversion == oldObject.spec.conversion)",
            "the Job sets no conversion webhook",
        ),
        Validation(_kept_versions(), "the Job takes away no version, and no field of its first level"),
        _metadata_stays("the Job", "a CustomResourceDefinition"),
    ),
    account="$name",
)


POLICIES: tuple[Policy, ...] = (
    _SECRETS,
    _NO_DELETE,
    _TOKENS,
    _EVENTS,
    _LEASES,
    _NAMESPACES,
    _TYPE_STAYS,
    _made(SecretSync),
    _made(SecretProviderClass),
)
