"""The permissions table as rules of a Role or ClusterRole (rbac.authorization.k8s.io/v1)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from controller import permissions
from controller.api.akvsync import AKVSync
from controller.api.meta import Resource
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube import Handle
from tools.release_test import permissions as release_test

# The release's name in the chart's templates, and that of all that its test makes.
FULL_NAME = "{{ include `akv-secret-store.fullname` . }}"
ACCOUNT_NAME = "{{ include `akv-secret-store.serviceAccountName` . }}"
TEST_NAME = "{{ include `akv-secret-store.testName` . }}"
WRITTEN_BY_PEOPLE: tuple[type[Resource], ...] = (AKVSync, SecretSync, SecretProviderClass)


class ScopeError(Exception):
    """A permission that cannot be given in a namespace alone."""


@dataclass(frozen=True)
class Rule:
    """Verbs on resources of one group; `why` has a line for each permission that is in it."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


def rules(handles: Iterable[Handle[Any]]) -> list[Rule]:
    """The fewest rules that grant the verbs of these handles and no more, in the order of the table."""
    verbs: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    why: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for handle in handles:
        resource = "/".join(filter(None, (handle.resource.plural, handle.subresource)))
        place = (handle.resource.group, resource, getattr(handle, "names", ()))
        known = verbs.setdefault(place, [])
        known += [verb for verb in handle.verbs if verb not in known]
        why.setdefault(place, []).append(handle.why)
    together: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (group, resource, names), allowed in verbs.items():
        together.setdefault((group, tuple(allowed), names), []).append(resource)
    return [
        Rule(
            group,
            tuple(resources),
            allowed,
            names,
            tuple(
                f"{resource}: {reason}" if len(resources) > 1 else reason
                for resource in resources
                for reason in why[group, resource, names]
            ),
        )
        for (group, allowed, names), resources in together.items()
    ]


def controller() -> list[Rule]:
    """What the controller may do in each namespace that it serves. Raises `ScopeError`."""
    return _in_namespaces(permissions.CONTROLLER)


def akv_sync() -> list[Rule]:
    """What akvSync.enabled adds to that. Raises `ScopeError`."""
    return _in_namespaces(permissions.AKV_SYNC)


def identity() -> list[Rule]:
    """What identityFromServiceAccount adds to that. Raises `ScopeError`."""
    return _in_namespaces(permissions.IDENTITY)


def _in_namespaces(handles: tuple[Handle[Any], ...]) -> list[Rule]:
    for handle in handles:
        if not handle.resource.namespaced:
            raise ScopeError(f"{handle.resource.plural} has no namespace, so watchNamespaces could not hold it in")
    return rules(handles)


def home() -> list[Rule]:
    """What the controller may do in its own namespace, with the one object whose name the chart makes up."""
    return [replace(rule, names=(FULL_NAME,)) for rule in rules(permissions.HOME)]


def lease() -> list[Rule]:
    """Return what the controller may create there."""
    return rules(permissions.HOME_CREATED)


def probe() -> list[Rule]:
    """What readiness needs in the controller's own namespace: to try, dry, whether policies refuse a Secret."""
    secrets = permissions.SECRETS.resource
    return [Rule(secrets.group, (secrets.plural,), ("create",), why=("try, dry, whether the policies are in force",))]


def token_probe() -> list[Rule]:
    """What readiness needs there besides: to try, with the controller's own account, whether a token is refused."""
    tokens = permissions.TOKENS
    resource = f"{tokens.resource.plural}/{tokens.subresource}"
    why = "try, with a token that is of no use, whether the policies are in force"
    return [Rule(tokens.resource.group, (resource,), tokens.verbs, (ACCOUNT_NAME,), why=(why,))]


@dataclass(frozen=True)
class People:
    """A ClusterRole that Kubernetes adds to some of its own: view, edit and admin."""

    name: str
    to: tuple[str, ...]
    rules: tuple[Rule, ...]


def people() -> list[People]:
    """What people may do with the kinds that they write, never with a status: that is the controller's word."""
    return [
        People("view", ("view", "edit", "admin"), _on_kinds(("get", "list", "watch"))),
        People("edit", ("edit", "admin"), _on_kinds(("create", "update", "patch", "delete", "deletecollection"))),
    ]


def _on_kinds(verbs: tuple[str, ...]) -> tuple[Rule, ...]:
    return tuple(Rule(kind.group, (kind.plural,), verbs) for kind in WRITTEN_BY_PEOPLE)


def crd_job() -> list[Rule]:
    """What the CRD upgrade Job may do in the cluster."""
    return rules(permissions.CRD_JOB)


def test_sample() -> list[Rule]:
    """What the Pod of `helm test` may do where its sample is."""
    return [*rules(release_test.MAKE), *(replace(rule, names=(TEST_NAME,)) for rule in rules(release_test.SAMPLE))]


def test_vault() -> list[Rule]:
    """What it may do in the release's namespace where it brings its own vault."""
    return [replace(rule, names=(TEST_NAME,)) for rule in rules(release_test.OWN_VAULT)]
