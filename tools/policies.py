"""ValidatingAdmissionPolicies that hold the controller, or whoever stole its token, to what it is for.

RBAC cannot say "only Secrets that you own", and a patch answers with what it patched. So requests of the controller's
own ServiceAccount are judged by these rules; nobody else's are. Each refusal tells the rule in words.
Source: Kubernetes documentation, "Validating Admission Policy" (admissionregistration.k8s.io/v1).
"""

from collections.abc import Callable
from dataclasses import dataclass

from controller.api.akvsync import AKVSync
from controller.api.lease import Lease
from controller.api.meta import Resource, Secret, ServiceAccount
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, TYPE_STAYS, SecretSync
from controller.plan import OUR_LABEL
from controller.settings import FOREIGN_SECRET, TOKEN_AUDIENCE, TOKEN_SECONDS, Settings
from tools.deployment import PROBE_SECRET_TYPE
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
# What the chart's templates put in: a JSON list of texts is a CEL list, too.
_ALLOWED_TYPES = "{{ include `akv-secret-store.list` .Values.validatingAdmissionPolicies.allowedSecretTypes }}"
_SERVED = "{{ include `akv-secret-store.namespaces` . }}"
_HOME = "'{{ include `akv-secret-store.namespace` . }}'"


@dataclass(frozen=True)
class Validation:
    """A CEL expression that must hold, and what the refusal says."""

    expression: str
    message: str


@dataclass(frozen=True)
class When:
    """Where there is a policy: the condition in the chart, and the same by what the Deployment tells the controller."""

    template: str
    holds: Callable[[Settings], bool]


_AKV_SYNC = When('include "akv-secret-store.on" .Values.akvSync.enabled', lambda settings: settings.akv_sync)
_WATCHING = When(
    'include "akv-secret-store.namespaces" . | fromJsonArray', lambda settings: bool(settings.watch_namespaces)
)


@dataclass(frozen=True)
class Policy:
    """One policy with its binding; `name` begins the object's name."""

    name: str
    why: str
    group: str
    version: str
    resource: str
    operations: tuple[str, ...]
    validations: tuple[Validation, ...]
    variables: tuple[tuple[str, str], ...] = ()
    # Whether it binds everybody, in the namespaces that are served, and not the controller alone.
    everybody: bool = False
    # Without one it is always there.
    when: When | None = None

    def there(self, settings: Settings) -> bool:
        """Whether a release whose controller has these settings brings it."""
        return self.when is None or self.when.holds(settings)


def _owned_by(which: str, kind: type[Resource]) -> str:
    """CEL: that object has one owner and no other, of that kind."""
    owners = f"{which}.metadata.ownerReferences"
    return (
        f"has({owners}) && {owners}.size() == 1"
        f" && {owners}[0].kind == {_text(kind.kind)}"
        f" && {owners}[0].apiVersion.startsWith({_text(kind.group + '/')})"
    )


def _sole_owner(which: str) -> str:
    """CEL: that object's one and only owner is the SecretSync of its name."""
    name = f"{which}.metadata.ownerReferences[0].name == {which}.metadata.name"
    return f"{_owned_by(which, SecretSync)} && {name}"


def _labelled(which: str) -> str:
    key, value = OUR_LABEL
    labels = f"{which}.metadata.labels"
    return f"(has({labels}) && {_text(key)} in {labels} && {labels}[{_text(key)}] == {_text(value)})"


def _text(value: str) -> str:
    """A CEL string. Ours hold nothing that would have to be escaped."""
    if not value.isprintable() or set(value) & set("'\\{}"):
        raise ValueError(f"{value!r} cannot stand in a CEL string as it is")
    return f"'{value}'"


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
            "!variables.isUpdate || object.metadata.ownerReferences[0].uid =="
            " oldObject.metadata.ownerReferences[0].uid",
            # … else the garbage collector could be made to delete it.
            "the owner of a Secret may not change",
        ),
        Validation(
            # Where somebody took the label away it may be put back, and looked at meanwhile.
            f"{_labelled('object')} || (variables.isUpdate && !{_labelled('oldObject')})",
            f"the Secret must carry the label {OUR_LABEL[0]}",
        ),
        Validation(
            f"!(variables.secretType in [{', '.join(map(_text, NEVER_ALLOWED))}])",
            f"Secrets of the types {', '.join(NEVER_ALLOWED[:2])} are never written",
        ),
        Validation(
            f"variables.secretType in {_ALLOWED_TYPES}",
            "this type of Secret is not among the chart's validatingAdmissionPolicies.allowedSecretTypes",
        ),
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
            f" && object.spec.audiences[0] == {_text(TOKEN_AUDIENCE)}",
            f"tokens are for the audience {TOKEN_AUDIENCE} alone",
        ),
        Validation(
            f"has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= {TOKEN_SECONDS}",
            f"tokens last {TOKEN_SECONDS} seconds at most",
        ),
    ),
)


_LEASES = Policy(
    name="lease",
    why="The controller renews the Lease that the chart made for it, and touches no other.",
    group=Lease.group,
    version=Lease.version,
    resource=Lease.plural,
    operations=("CREATE", "UPDATE", "DELETE"),
    validations=(
        Validation(
            f"request.operation == 'UPDATE' && request.namespace == {_HOME} && request.name == '{FULL_NAME}'",
            "the controller updates its own Lease, and makes, changes or deletes no other",
        ),
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
        ("lease", f"request.resource.resource == {_text(Lease.plural)}"),
        # The controller is not ready until the policy on Secrets refuses one that it tries, dry, to create.
        (
            "probe",
            f"request.operation == 'CREATE' && request.resource.resource == {_text(Secret.plural)} && request.dryRun",
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
    return f"(has({field}) ? {field} : {_text(DEFAULT_TYPE)})"


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
                f"request.operation == 'CREATE' || ({_owned_by('oldObject', AKVSync)})",
                f"this {kind.kind} does not belong to an AKVSync",
            ),
            Validation(
                f"request.operation == 'DELETE' || ({_owned_by('object', AKVSync)})",
                f"the one owner of a {kind.kind} must be an AKVSync",
            ),
            Validation(
                "request.operation != 'UPDATE' || object.metadata.ownerReferences[0].uid =="
                " oldObject.metadata.ownerReferences[0].uid",
                f"the owner of a {kind.kind} may not change",
            ),
        ),
        when=_AKV_SYNC,
    )


POLICIES: tuple[Policy, ...] = (
    _SECRETS,
    _NO_DELETE,
    _TOKENS,
    _LEASES,
    _NAMESPACES,
    _TYPE_STAYS,
    _made(SecretSync),
    _made(SecretProviderClass),
)
