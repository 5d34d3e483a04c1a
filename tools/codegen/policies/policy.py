"""Define admission policies of the chart, and the CEL expressions that several policies share.

Source: Kubernetes documentation, "Validating Admission Policy" and "CEL in Kubernetes".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from controller.api.meta import Resource
from controller.config.settings import Settings

CONTROLLER_ACCOUNT = 'include "akv-secret-store.serviceAccountName" .'


@dataclass(frozen=True)
class PolicyValidation:
    """A CEL expression that must hold, and the message of a refusal.

    `message_expression` is CEL for a message with more detail.
    """

    expression: str
    message: str
    message_expression: str = ""


@dataclass(frozen=True)
class PolicyCondition:
    """The condition under which the chart renders a policy: as Helm template, and as predicate on the settings."""

    template: str
    holds: Callable[[Settings], bool]


@dataclass(frozen=True)
class ResourceRule:
    """The resources whose requests a policy checks. `*` matches everything."""

    group: str
    version: str
    resource: str

    @classmethod
    def of(cls, kind: type[Resource], subresource: str = "") -> Self:
        """Return the rule for a kind, or for one of its subresources."""
        return cls(kind.group, kind.version, f"{kind.plural}/{subresource}" if subresource else kind.plural)


@dataclass(frozen=True)
class AdmissionPolicy:
    """One policy with its binding. `name` is the first part of the name of both objects."""

    name: str
    why: str
    rule: ResourceRule
    operations: tuple[str, ...]
    validations: tuple[PolicyValidation, ...]
    variables: tuple[tuple[str, str], ...] = ()
    # Check the requests of all accounts in the served namespaces, and not only those of the controller.
    all_accounts: bool = False
    # If set, check the requests of all accounts except the controller's, in all namespaces, that meet this CEL
    # condition. Such a policy has the release's Lease as its parameter, and allows everything if the Lease is missing.
    other_accounts: str = ""
    # None: the policy is always rendered.
    when: PolicyCondition | None = None
    # The ServiceAccount in the release's namespace whose requests are checked, as a Helm expression.
    account: str = CONTROLLER_ACCOUNT

    def is_installed(self, settings: Settings) -> bool:
        """Return whether a release has this policy if its controller has these settings."""
        return self.when is None or self.when.holds(settings)


def text(value: str) -> str:
    """Return a CEL string. Raise `ValueError` for a character that would have to be escaped."""
    if not value.isprintable() or set(value) & set("'\\{}"):
        raise ValueError(f"{value!r} needs an escape in a CEL string")
    return f"'{value}'"


def pattern(value: str) -> str:
    """Return a CEL raw string, for a regular expression. Raise `ValueError` if it would end the string."""
    if not value.isprintable() or set(value) & set("'{}"):
        raise ValueError(f"{value!r} needs an escape in a CEL string")
    return f"r'{value}'"


def owned_by(which: str, kind: type[Resource]) -> str:
    """Return CEL: the object has exactly one owner, of that kind."""
    owners = f"{which}.metadata.ownerReferences"
    return (
        f"has({owners}) && {owners}.size() == 1"
        f" && {owners}[0].kind == {text(kind.kind)}"
        f" && {owners}[0].apiVersion.startsWith({text(kind.group + '/')})"
    )


def owner_as_written(kind: type[Resource], *, controls: bool) -> str:
    """Return CEL: the reference to the only owner has exactly the form that the controller writes.

    The garbage collector never deletes an object whose owner has an apiVersion that the cluster does not serve.
    """
    owner = "object.metadata.ownerReferences[0]"
    controller = f"has({owner}.controller) && {owner}.controller" if controls else f"!has({owner}.controller)"
    return f"{owner}.apiVersion == {text(kind.api_version())} && {controller} && !has({owner}.blockOwnerDeletion)"


def unchanged(field: str, empty: str, create: str = "request.operation == 'CREATE'") -> str:
    """Return CEL: a field of metadata is absent from a new object, and does not change in an existing one.

    `empty` is the CEL literal of the absent field. `create` is CEL: the request creates the object.
    """
    old, new = (f"(has({which}.metadata.{field}) ? {which}.metadata.{field} : {empty})" for which in _BOTH)
    return f"{new} == ({create} ? {empty} : {old})"


_BOTH = ("oldObject", "object")


def metadata_stays(subject: str, of: str) -> PolicyValidation:
    """Return the validation that the labels, annotations, finalizers and owners of an object do not change."""
    fields = (("finalizers", "[]"), ("ownerReferences", "[]"), ("labels", "{}"), ("annotations", "{}"))
    return PolicyValidation(
        " && ".join(f"({unchanged(field, empty)})" for field, empty in fields),
        f"{subject} does not change the labels, annotations, finalizers and owners of {of}",
    )


_EXCLUDED = "{{ include `akv-secret-store.excluded` . }}"
NOT_EXCLUDED = PolicyValidation(
    f"!has(request.namespace) || !(request.namespace in {_EXCLUDED})",
    "this namespace is among the chart's validatingAdmissionPolicies.excludedNamespaces and is not in watchNamespaces",
)
NO_FINALIZERS = "the controller neither adds nor removes finalizers"
