"""Convert the permissions table into rules of a Role or ClusterRole (rbac.authorization.k8s.io/v1)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from controller.api.akvsync import AKVSync
from controller.api.meta import Resource
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube import permissions
from controller.kube.resources import ResourceClient
from tools.helm_test import permissions as release_test

# Helm expressions: the name of the release's objects, of its ServiceAccount, and of the objects of its test.
FULL_NAME = "{{ include `akv-secret-store.fullname` . }}"
ACCOUNT_NAME = "{{ include `akv-secret-store.serviceAccountName` . }}"
TEST_NAME = "{{ include `akv-secret-store.testName` . }}"
WRITTEN_BY_PEOPLE: tuple[type[Resource], ...] = (AKVSync, SecretSync, SecretProviderClass)


class ScopeError(Exception):
    """A permission is cluster-scoped, so a Role cannot grant it."""


@dataclass(frozen=True)
class PolicyRule:
    """Verbs on resources of one group. `why` has a line for each permission in the rule."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


def rules(handles: Iterable[ResourceClient[Any]]) -> list[PolicyRule]:
    """Return the fewest rules that grant exactly the verbs of these handles, in the order of the table."""
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
        PolicyRule(
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


def controller() -> list[PolicyRule]:
    """Return the controller's rules for each namespace that it serves, without tokens. Raise `ScopeError`."""
    return _in_namespaces(tuple(handle for handle in permissions.CONTROLLER if handle is not permissions.TOKENS))


def tokens() -> list[PolicyRule]:
    """Return the rule for tokens of ServiceAccounts. tokenRequest.serviceAccounts limits it to some names."""
    return _in_namespaces((permissions.TOKENS,))


def akv_sync() -> list[PolicyRule]:
    """Return the rules that akvSync.enabled adds. Raise `ScopeError`."""
    return _in_namespaces(permissions.AKV_SYNC)


def identity() -> list[PolicyRule]:
    """Return the rules that identityFromServiceAccount adds. Raise `ScopeError`."""
    return _in_namespaces(permissions.IDENTITY)


def metrics_access() -> list[PolicyRule]:
    """Return the cluster-wide rules that metrics.authentication.enabled adds."""
    return rules(permissions.METRICS_ACCESS)


def _in_namespaces(handles: tuple[ResourceClient[Any], ...]) -> list[PolicyRule]:
    for handle in handles:
        if not handle.resource.namespaced:
            raise ScopeError(
                f"{handle.resource.plural} is cluster-scoped, so watchNamespaces cannot limit it: put it into a table"
                " of cluster-wide permissions"
            )
    return rules(handles)


def home() -> list[PolicyRule]:
    """Return the controller's rules for its own namespace: the object with the release's name."""
    return [replace(rule, names=(FULL_NAME,)) for rule in rules(permissions.HOME)]


def lease() -> list[PolicyRule]:
    """Return the rules for creating objects in the controller's own namespace."""
    return rules(permissions.HOME_CREATED)


def probe() -> list[PolicyRule]:
    """Return the rule for the readiness probe: a dry run in the own namespace shows that policies refuse a Secret."""
    secrets = permissions.SECRETS.resource
    return [
        PolicyRule(
            secrets.group,
            (secrets.plural,),
            ("create",),
            why=("test with a dry run whether the policies are in force",),
        )
    ]


def token_probe() -> list[PolicyRule]:
    """Return the rule for the readiness probe: a request for a token of the own ServiceAccount must be refused."""
    tokens = permissions.TOKENS
    resource = f"{tokens.resource.plural}/{tokens.subresource}"
    why = "test with a token that nothing accepts whether the policies are in force"
    return [PolicyRule(tokens.resource.group, (resource,), tokens.verbs, (ACCOUNT_NAME,), why=(why,))]


@dataclass(frozen=True)
class AggregatedRole:
    """A ClusterRole that Kubernetes aggregates to its own view, edit or admin."""

    name: str
    to: tuple[str, ...]
    rules: tuple[PolicyRule, ...]


def people() -> list[AggregatedRole]:
    """Return the ClusterRoles for users of the chart's kinds, without the status, which the controller writes."""
    return [
        AggregatedRole("view", ("view", "edit", "admin"), _on_kinds(("get", "list", "watch"))),
        AggregatedRole(
            "edit", ("edit", "admin"), _on_kinds(("create", "update", "patch", "delete", "deletecollection"))
        ),
    ]


def _on_kinds(verbs: tuple[str, ...]) -> tuple[PolicyRule, ...]:
    return tuple(PolicyRule(kind.group, (kind.plural,), verbs) for kind in WRITTEN_BY_PEOPLE)


def crd_job() -> list[PolicyRule]:
    """Return the cluster-wide rules of the CRD upgrade Job."""
    return rules(permissions.CRD_JOB)


def test_sample() -> list[PolicyRule]:
    """Return the rules of the Pod of `helm test` in the namespace of its sample Secret."""
    return [*rules(release_test.MAKE), *(replace(rule, names=(TEST_NAME,)) for rule in rules(release_test.SAMPLE))]


def test_vault() -> list[PolicyRule]:
    """Return the rules of the Pod of `helm test` in the release's namespace, if the test has its own vault."""
    return [replace(rule, names=(TEST_NAME,)) for rule in rules(release_test.OWN_VAULT)]
