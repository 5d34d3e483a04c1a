"""Permissions into rules: exactly what the table says, merged, with each reason."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from controller.api.meta import CustomResourceDefinition, Event, Secret, ServiceAccount
from controller.kube import permissions
from controller.kube.resources import CreateAccess, CreatePatch, CreateToken, ListWatch, ResourceClient
from tools.codegen import rbac
from tools.codegen.rbac import PolicyRule
from tools.helm_test import permissions as release_test


def granted(rules: Iterable[PolicyRule]) -> set[tuple[str, str, str, tuple[str, ...]]]:
    return {(r.group, resource, verb, r.names) for r in rules for resource in r.resources for verb in r.verbs}


def asked(handles: Iterable[ResourceClient[Any]]) -> set[tuple[str, str, str, tuple[str, ...]]]:
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


def named(handles: Iterable[ResourceClient[Any]]) -> set[tuple[str, str, str, tuple[str, ...]]]:
    return {(group, resource, verb, (rbac.TEST_NAME,)) for group, resource, verb, _ in asked(handles)}


def test_the_rules_grant_the_table_and_nothing_else() -> None:
    assert granted(rbac.controller()) | granted(rbac.tokens()) == asked(permissions.CONTROLLER)
    assert granted(rbac.tokens()) == asked([permissions.TOKENS])
    assert not granted(rbac.controller()) & granted(rbac.tokens())
    assert granted(rbac.akv_sync()) == asked(permissions.AKV_SYNC)
    assert granted(rbac.crd_job()) == asked(permissions.CRD_JOB)
    assert granted(rbac.identity()) == asked(permissions.IDENTITY)
    assert granted(rbac.metrics_access()) == asked(permissions.METRICS_ACCESS)
    assert granted(rbac.home()) == {
        (group, resource, verb, (rbac.FULL_NAME,)) for group, resource, verb, _ in asked(permissions.HOME)
    }
    assert granted(rbac.test_sample()) == asked(release_test.MAKE) | named(release_test.SAMPLE)
    assert granted(rbac.test_vault()) == named(release_test.OWN_VAULT)
    assert granted(rbac.probe()) == {("", "secrets", "create", ())}


def test_people_see_and_write_what_is_theirs_to_write() -> None:
    view, edit = rbac.people()
    kinds = {(kind.group, kind.plural) for kind in rbac.WRITTEN_BY_PEOPLE}
    assert kinds == {
        (handle.resource.group, handle.resource.plural)
        for handle in (*permissions.CONTROLLER, *permissions.AKV_SYNC)
        if isinstance(handle, ListWatch)
    }
    for role in (view, edit):
        assert {(group, resource) for group, resource, _, _ in granted(role.rules)} == kinds
    assert {verb for _, _, verb, _ in granted(view.rules)} == {"get", "list", "watch"}
    assert "edit" in edit.to
    assert "view" not in edit.to


def test_no_rule_has_a_star_and_none_reads_secrets() -> None:
    rules = [
        *rbac.controller(),
        *rbac.akv_sync(),
        *rbac.identity(),
        *rbac.home(),
        *rbac.crd_job(),
        *rbac.probe(),
    ]
    assert all("*" not in (rule.group, *rule.resources, *rule.verbs) for rule in rules)
    assert not {verb for _, resource, verb, _ in granted(rules) if resource == "secrets"} - {"create", "patch"}


def test_verbs_of_one_resource_and_resources_of_equal_verbs_are_merged() -> None:
    rules = rbac.rules(
        [
            CreateAccess(Secret, "make them"),
            CreatePatch(Secret, "mend them"),
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
            why=("secrets: make them", "secrets: mend them", "serviceaccounts: why not"),
        ),
        PolicyRule("", ("serviceaccounts/token",), ("create",), why=("tokens",)),
        PolicyRule("events.k8s.io", ("events",), ("list", "watch"), why=("see them",)),
    ]


@pytest.mark.parametrize(("table", "rules"), [("CONTROLLER", rbac.controller), ("AKV_SYNC", rbac.akv_sync)])
def test_a_right_that_watch_namespaces_could_not_hold_in_is_an_error(
    table: str, rules: Callable[[], list[PolicyRule]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, table, (ListWatch(CustomResourceDefinition, "probe"),))
    with pytest.raises(rbac.ScopeError, match="customresourcedefinitions has no namespace"):
        rules()
