"""Test the conversion of the permissions table to RBAC rules. Merged rules keep all reasons."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from controller.api.meta import CustomResourceDefinition, Event, Secret, ServiceAccount
from controller.kube import permissions
from controller.kube.resources import CreateAccess, CreatePatch, CreateToken, ListWatch, ResourceClient
from tools.codegen import rbac
from tools.codegen.rbac import PolicyRule
from tools.helm_test import permissions as release_test


def list_granted(rules: Iterable[PolicyRule]) -> set[tuple[str, str, str, tuple[str, ...]]]:
    return {(r.group, resource, verb, r.names) for r in rules for resource in r.resources for verb in r.verbs}


def list_requested(handles: Iterable[ResourceClient[Any]]) -> set[tuple[str, str, str, tuple[str, ...]]]:
    return {
        (
            handle.resource.group,
            handle.resource.plural + (f"/{handle.subresource}" if handle.subresource else ""),
            verb,
            getattr(handle, "names", ()),
        )
        for handle in handles
        for verb in handle.verbs
    }


def list_for_test_name(handles: Iterable[ResourceClient[Any]]) -> set[tuple[str, str, str, tuple[str, ...]]]:
    return {(group, resource, verb, (rbac.TEST_NAME,)) for group, resource, verb, _ in list_requested(handles)}


def test_rules_grant_exactly_the_permissions_table() -> None:
    assert list_granted(rbac.controller()) | list_granted(rbac.tokens()) == list_requested(permissions.CONTROLLER)
    assert list_granted(rbac.tokens()) == list_requested([permissions.TOKENS])
    assert not list_granted(rbac.controller()) & list_granted(rbac.tokens())
    assert list_granted(rbac.akv_sync()) == list_requested(permissions.AKV_SYNC)
    assert list_granted(rbac.crd_job()) == list_requested(permissions.CRD_JOB)
    assert list_granted(rbac.identity()) == list_requested(permissions.IDENTITY)
    assert list_granted(rbac.metrics_access()) == list_requested(permissions.METRICS_ACCESS)
    assert list_granted(rbac.home()) == {
        (group, resource, verb, (rbac.FULL_NAME,)) for group, resource, verb, _ in list_requested(permissions.HOME)
    }
    assert list_granted(rbac.test_sample()) == list_requested(release_test.MAKE) | list_for_test_name(
        release_test.SAMPLE
    )
    assert list_granted(rbac.test_vault()) == list_for_test_name(release_test.OWN_VAULT)
    assert list_granted(rbac.probe()) == {("", "secrets", "create", ())}


def test_view_and_edit_roles_cover_the_kinds_that_users_write() -> None:
    view, edit = rbac.people()
    kinds = {(kind.group, kind.plural) for kind in rbac.WRITTEN_BY_PEOPLE}
    assert kinds == {
        (handle.resource.group, handle.resource.plural)
        for handle in (*permissions.CONTROLLER, *permissions.AKV_SYNC)
        if isinstance(handle, ListWatch)
    }
    for role in (view, edit):
        assert {(group, resource) for group, resource, _, _ in list_granted(role.rules)} == kinds
    assert {verb for _, _, verb, _ in list_granted(view.rules)} == {"get", "list", "watch"}
    assert "edit" in edit.to
    assert "view" not in edit.to


def test_no_rule_has_a_wildcard_or_reads_secrets() -> None:
    rules = [
        *rbac.controller(),
        *rbac.akv_sync(),
        *rbac.identity(),
        *rbac.home(),
        *rbac.crd_job(),
        *rbac.probe(),
    ]
    assert all("*" not in (rule.group, *rule.resources, *rule.verbs) for rule in rules)
    assert not {verb for _, resource, verb, _ in list_granted(rules) if resource == "secrets"} - {"create", "patch"}


def test_rules_with_equal_resources_or_equal_verbs_are_merged() -> None:
    rules = rbac.rules(
        [
            CreateAccess(Secret, "make them"),
            CreatePatch(Secret, "patch them"),
            CreatePatch(ServiceAccount, "why not"),
            CreateToken(ServiceAccount, "tokens"),
            ListWatch(Event, "see them"),
        ]
    )
    assert rules == [
        PolicyRule(
            "",
            ("secrets", "serviceaccounts"),
            ("create", "patch"),
            why=("secrets: make them", "secrets: patch them", "serviceaccounts: why not"),
        ),
        PolicyRule("", ("serviceaccounts/token",), ("create",), why=("tokens",)),
        PolicyRule("events.k8s.io", ("events",), ("list", "watch"), why=("see them",)),
    ]


@pytest.mark.parametrize(("table", "rules"), [("CONTROLLER", rbac.controller), ("AKV_SYNC", rbac.akv_sync)])
def test_right_on_a_cluster_scoped_kind_is_an_error(
    table: str, rules: Callable[[], list[PolicyRule]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, table, (ListWatch(CustomResourceDefinition, "probe"),))
    with pytest.raises(rbac.ScopeError, match="customresourcedefinitions is cluster-scoped"):
        rules()
