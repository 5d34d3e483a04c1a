"""What an admission policy of the chart consists of, and the CEL expressions that several policies share.

Source: Kubernetes documentation, "Validating Admission Policy" and "CEL in Kubernetes".
"""

from collections.abc import Callable
from dataclasses import dataclass

from controller.api.meta import Resource
from controller.config.settings import Settings

CONTROLLER_ACCOUNT = 'include "akv-secret-store.serviceAccountName" .'


@dataclass(frozen=True)
class PolicyValidation:
    """A CEL expression that must hold, and what the refusal says; `said` is CEL for a text with more detail."""

    expression: str
    message: str
    said: str = ""


@dataclass(frozen=True)
class PolicyCondition:
    """Where there is a policy: the condition in the chart, and the same by what the Deployment tells the controller."""

    template: str
    holds: Callable[[Settings], bool]


@dataclass(frozen=True)
class AdmissionPolicy:
    """One policy with its binding; `name` begins the object's name."""

    name: str
    why: str
    group: str
    version: str
    resource: str
    operations: tuple[str, ...]
    validations: tuple[PolicyValidation, ...]
    variables: tuple[tuple[str, str], ...] = ()
    # Whether it binds everybody, in the namespaces that are served, and not the controller alone.
    everybody: bool = False
    # Instead, whether it binds all accounts but the controller's, in all namespaces, for requests of this condition.
    # Such a policy reads the release's Lease as its parameter, and allows everything where that is missing.
    others: str = ""
    # Without one it is always there.
    when: PolicyCondition | None = None
    # The ServiceAccount whose requests it judges, in the release's namespace: a Helm expression.
    account: str = CONTROLLER_ACCOUNT

    def there(self, settings: Settings) -> bool:
        """Whether a release whose controller has these settings brings it."""
        return self.when is None or self.when.holds(settings)


def text(value: str) -> str:
    """Return a CEL string. The values here hold nothing that would have to be escaped."""
    if not value.isprintable() or set(value) & set("'\\{}"):
        raise ValueError(f"{value!r} cannot stand in a CEL string as it is")
    return f"'{value}'"


def pattern(value: str) -> str:
    """Return a CEL raw string, for a regular expression."""
    if not value.isprintable() or set(value) & set("'{}"):
        raise ValueError(f"{value!r} cannot stand in a CEL string as it is")
    return f"r'{value}'"


def owned_by(which: str, kind: type[Resource]) -> str:
    """Return CEL: that object has one owner and no other, of that kind."""
    owners = f"{which}.metadata.ownerReferences"
    return (
        f"has({owners}) && {owners}.size() == 1"
        f" && {owners}[0].kind == {text(kind.kind)}"
        f" && {owners}[0].apiVersion.startsWith({text(kind.group + '/')})"
    )


def owner_as_written(kind: type[Resource], *, controls: bool) -> str:
    """Return CEL: the one owner is referred to exactly as the controller does.

    The garbage collector never deletes an object whose owner has an apiVersion that the cluster does not serve.
    """
    owner = "object.metadata.ownerReferences[0]"
    controller = f"has({owner}.controller) && {owner}.controller" if controls else f"!has({owner}.controller)"
    return f"{owner}.apiVersion == {text(kind.api_version())} && {controller} && !has({owner}.blockOwnerDeletion)"


def unchanged(field: str, empty: str, create: str = "request.operation == 'CREATE'") -> str:
    """Return CEL: a field of metadata is absent from a new object, and stays as it is in another.

    `empty` is the CEL literal for its absence.
    """
    old, new = (f"(has({which}.metadata.{field}) ? {which}.metadata.{field} : {empty})" for which in _BOTH)
    return f"{new} == ({create} ? {empty} : {old})"


_BOTH = ("oldObject", "object")
