"""Test AKVSyncs that select objects: added, kept and removed objects, list calls and reports, in virtual time."""

import pytest

from controller.akvsync import selections
from controller.akvsync.selections import EDIT_INTERVAL, LIST_COST
from controller.api.akvsync import MAX_GENERATED
from controller.api.conditions import Reason
from controller.domain.provider_class import read_class
from controller.domain.snapshot import VaultSnapshot
from controller.errors import AccessDenied, PolicyRefused, ProviderError
from controller.runtime import budgets
from controller.runtime.work_queue import Key
from tests.support.builders import make_item
from tests.unit.akvsync.reconciler.harness import AKVSyncHarness, put_foreign_object

HOUR = 3600
KEEP_SHOP = {"select": {"namePrefix": "shop-"}, "stripPrefix": "shop-"}
REMOVE_SHOP = KEEP_SHOP | {"whenGone": "Remove"}
LISTED = "2030-01-01T12:00:00Z"


def read_kept_flags(harness: AKVSyncHarness) -> dict[str, bool]:
    source = harness.classes.get(Key("team", "shop"))
    return {name: found.keep for name, found in read_class(source).objects.items()}  # type: ignore[arg-type]


def read_status(harness: AKVSyncHarness) -> dict[str, object]:
    return dict(harness.objects["akvsyncs", "shop"]["status"])


@pytest.fixture
def two_selected(harness: AKVSyncHarness) -> AKVSyncHarness:
    """Provide an AKVSync that selects two of three objects, both synced."""
    harness.vault_items = [make_item("shop-a"), make_item("shop-b"), make_item("other")]
    harness.apply([KEEP_SHOP])
    harness.advance(5)
    harness.report_all_synced()
    harness.advance(5)
    assert harness.get_ready()[2] == "2/2 ready: every Secret has the values of the vault"
    assert harness.list_calls == [(0, "select")]
    assert harness.list_names() == ["a", "b"]
    harness.requests.clear()
    return harness


def test_new_object_is_added_by_the_next_poll_without_another_call(two_selected: AKVSyncHarness) -> None:
    two_selected.vault_items.append(make_item("shop-c"))
    two_selected.advance(HOUR)
    assert two_selected.list_names() == ["a", "b", "c"]
    assert two_selected.list_calls == [(0, "select"), (HOUR, "poll")]
    assert two_selected.take_writes() == ["PATCH secretproviderclasses shop", "POST secretsyncs c"]


def test_polls_without_a_change_write_only_the_status(two_selected: AKVSyncHarness) -> None:
    two_selected.advance(2 * HOUR)
    assert [call for _, call in two_selected.list_calls] == ["select", "poll", "poll"]
    assert {what for _, what in two_selected.requests} <= {"PATCH akvsyncs shop/status"}
    assert len(two_selected.requests) <= 2


def test_object_that_leaves_the_selection_keeps_its_last_value(two_selected: AKVSyncHarness) -> None:
    two_selected.vault_items = [make_item("shop-a", enabled=False), make_item("shop-b", tags={"x": "y"})]
    two_selected.advance(5 * HOUR)
    assert two_selected.list_names() == ["a", "b"]
    assert read_kept_flags(two_selected) == {"shop-a": True, "shop-b": False}
    assert two_selected.take_writes() == ["PATCH secretproviderclasses shop"]
    ready, reason, message = two_selected.get_ready()
    assert (ready, reason) == ("True", Reason.UP_TO_DATE)
    assert message == "2/2 ready: 1 keep values of objects that are no longer selected (see status.parts)"
    two_selected.vault_items = [make_item("shop-a"), make_item("shop-b")]
    two_selected.advance(HOUR)
    assert read_kept_flags(two_selected) == {"shop-a": False, "shop-b": False}


@pytest.mark.parametrize("name", ["Keep", "Remove"])
def test_missing_object_is_removed_only_by_remove_and_after_two_polls(two_selected: AKVSyncHarness, name: str) -> None:
    two_selected.apply([KEEP_SHOP | {"whenGone": name}])
    two_selected.advance(5)
    two_selected.vault_items = [make_item("shop-a")]
    two_selected.advance(HOUR)
    assert two_selected.list_names() == ["a", "b"]
    two_selected.advance(HOUR)
    assert two_selected.list_names() == (["a"] if name == "Remove" else ["a", "b"])
    two_selected.advance(HOUR)
    assert read_kept_flags(two_selected) == (
        {"shop-a": False} if name == "Remove" else {"shop-a": False, "shop-b": True}
    )


@pytest.mark.parametrize("between", ["object returns", "list fails", "get does not confirm", "restart"])
def test_interruption_between_two_polls_keeps_the_object(two_selected: AKVSyncHarness, between: str) -> None:
    two_selected.apply([REMOVE_SHOP])
    two_selected.advance(5)
    two_selected.vault_items = [make_item("shop-a")]
    two_selected.advance(HOUR)
    if between == "object returns":
        two_selected.vault_items = [make_item("shop-a"), make_item("shop-b")]
    elif between == "list fails":
        two_selected.vault_error = ProviderError("down")
    elif between == "get does not confirm":
        two_selected.confirmed_gone = frozenset()
    else:
        two_selected.regain_leadership()
    two_selected.advance(HOUR - 10 if between == "list fails" else HOUR)
    two_selected.vault_items, two_selected.vault_error, two_selected.confirmed_gone = [make_item("shop-a")], None, None
    two_selected.advance(20)
    assert two_selected.list_names() == ["a", "b"]


def test_object_that_lost_its_tag_is_not_removed(harness: AKVSyncHarness) -> None:
    harness.vault_items = [make_item("a", tags={"app": "shop"})]
    harness.apply([{"select": {"tags": {"app": "shop"}}, "whenGone": "Remove"}])
    harness.advance(5)
    harness.vault_items = [make_item("a", tags={"app": "other"})]
    harness.advance(5 * HOUR)
    assert harness.list_names() == ["a"]
    assert read_kept_flags(harness) == {"a": True}


def test_tag_that_is_removed_and_added_only_patches_the_class(harness: AKVSyncHarness) -> None:
    harness.vault_items = [make_item("a", tags={"app": "shop"}), make_item("b", tags={"app": "shop"})]
    harness.apply([{"select": {"tags": {"app": "shop"}}}])
    harness.advance(5)
    harness.report_all_synced()
    harness.advance(5)
    harness.requests.clear()
    for number in range(6):
        harness.vault_items[0] = make_item("a", tags={"app": "shop"} if number % 2 else {})
        harness.advance(HOUR)
    assert set(harness.take_writes()) == {"PATCH secretproviderclasses shop"}
    assert harness.list_names() == ["a", "b"]


@pytest.mark.parametrize(
    "objects", [[KEEP_SHOP], [KEEP_SHOP | {"kubernetesSecretName": "all"}], [KEEP_SHOP, {"secretInAKV": "x"}]]
)
def test_restart_lists_and_writes_nothing_and_keeps_the_poll_time(
    harness: AKVSyncHarness, objects: list[dict[str, object]]
) -> None:
    harness.vault_items = [make_item("shop-a"), make_item("shop-b")]
    harness.apply(objects)
    harness.advance(5)
    harness.vault_items = [make_item("shop-a")]
    harness.advance(HOUR)
    harness.report_all_synced()
    harness.advance(5)
    before = (harness.list_names(), read_kept_flags(harness), read_status(harness))
    harness.requests.clear()
    lists = len(harness.list_calls)
    harness.advance(HOUR / 2)
    harness.regain_leadership()
    harness.advance(60)
    assert len(harness.list_calls) == lists
    assert harness.take_writes() == []
    assert (harness.list_names(), read_kept_flags(harness), read_status(harness)) == before
    harness.advance(HOUR / 2)
    assert len(harness.list_calls) == lists + 1
    assert harness.list_names() == before[0]


@pytest.mark.parametrize(
    ("refused", "edit"),
    [
        ("POST secretsyncs b", {}),
        ("PATCH secretsyncs b", {"labels": {"x": "y"}}),
        ("DELETE secretsyncs b", {"select": {"namePrefix": "shop-a"}}),
        ("", {"kubernetesSecretType": "kubernetes.io/tls"}),
        ("", {"annotations": {"x": "y" * MAX_GENERATED}}),
    ],
)
def test_restart_still_reports_what_could_not_be_written(
    harness: AKVSyncHarness, refused: str, edit: dict[str, object]
) -> None:
    """The SecretSyncs alone do not show what is missing, so the vault is listed again."""
    harness.vault_items = [make_item("shop-a"), make_item("shop-b")]
    if refused:
        harness.failures[refused] = PolicyRefused("the policy denied it", status=422)
    for objects in ([KEEP_SHOP], [KEEP_SHOP | edit]):
        harness.apply(objects)
        harness.advance(15)
        harness.report_all_synced()
        harness.advance(60)
    before = harness.get_ready()
    assert before[0] == "False"
    harness.regain_leadership()
    harness.advance(60)
    assert harness.get_ready() == before


def test_restart_still_reports_a_secretsync_of_another_owner(harness: AKVSyncHarness) -> None:
    harness.vault_items = [make_item("shop-a")]
    put_foreign_object(harness, "secretsyncs", "a")
    harness.apply([KEEP_SHOP])
    harness.advance(60)
    harness.regain_leadership()
    harness.advance(60)
    assert harness.get_ready()[1] == Reason.NAME_TAKEN
    harness.remove("secretsyncs", "a")
    harness.advance(60)
    assert harness.list_names() == ["a"]


def test_class_of_another_owner_is_reported_before_the_first_list(two_selected: AKVSyncHarness) -> None:
    two_selected.regain_leadership()
    two_selected.advance(60)
    two_selected.put("secretproviderclasses", "shop", {"metadata": {"ownerReferences": []}})
    two_selected.advance(60)
    assert two_selected.get_ready()[1] == Reason.NAME_TAKEN


def test_edit_after_a_restart_takes_effect_at_once(two_selected: AKVSyncHarness) -> None:
    """The new process has not listed the vault yet, so it does not know which objects the entry selects."""
    two_selected.regain_leadership()
    two_selected.advance(60)
    two_selected.apply([KEEP_SHOP | {"labels": {"x": "y"}}])
    two_selected.advance(5)
    assert [call for _, call in two_selected.list_calls] == ["select", "select"]
    made = [two_selected.objects["secretsyncs", name]["spec"]["secretObject"] for name in two_selected.list_names()]
    assert [secret["labels"] for secret in made] == [{"x": "y"}] * 2


def test_deleted_secretsync_returns_at_once_after_a_restart(two_selected: AKVSyncHarness) -> None:
    two_selected.regain_leadership()
    two_selected.advance(60)
    two_selected.remove("secretsyncs", "a")
    two_selected.advance(5)
    assert two_selected.list_names() == ["a", "b"]
    assert [call for _, call in two_selected.list_calls] == ["select", "select"]


def test_edits_of_the_selection_list_at_once_at_a_limited_rate(two_selected: AKVSyncHarness) -> None:
    for number in range(20):
        two_selected.apply([{"select": {"namePattern": f"shop-?{'*' * number}"}}])
        two_selected.advance(0.5)
    two_selected.advance(60)
    assert 1 <= len(two_selected.list_calls) - 1 <= 2 + 20 * 0.5 / EDIT_INTERVAL
    assert two_selected.list_names() == ["shop-a", "shop-b"]
    # Another edit of the AKVSync needs no list.
    lists = len(two_selected.list_calls)
    two_selected.apply([{"select": {"namePattern": f"shop-?{'*' * 19}"}, "labels": {"x": "y"}}])
    two_selected.advance(60)
    assert len(two_selected.list_calls) == lists


def test_forbidden_list_is_reported_and_changes_no_selected_object(two_selected: AKVSyncHarness) -> None:
    two_selected.vault_error = AccessDenied("identity client may not read the list")
    two_selected.apply([{"select": {"namePrefix": "x"}}, {"secretInAKV": "explicit"}])
    two_selected.advance(HOUR)
    assert two_selected.list_names() == ["a", "b", "explicit"]
    assert read_kept_flags(two_selected) == {"explicit": False, "shop-a": False, "shop-b": False}
    ready, reason, message = two_selected.get_ready()
    assert (ready, reason) == ("False", Reason.PROVIDER_ERROR)
    assert message == (  # the new SecretSync has no status yet
        "2/3 ready; select: identity client may not read the list; until then the selected Secrets do not change"
    )
    calls = len(two_selected.list_calls)
    two_selected.advance(HOUR)
    assert len(two_selected.list_calls) - calls <= HOUR / 150 + 1
    # The edit takes effect when lists are allowed again.
    two_selected.vault_error = None
    two_selected.vault_items = [make_item("x1")]
    two_selected.advance(300)
    assert two_selected.list_names() == ["explicit", "x1"]


def test_failed_polls_change_nothing(two_selected: AKVSyncHarness) -> None:
    two_selected.vault_error = ProviderError("the vault is down")
    two_selected.advance(6 * HOUR)
    assert two_selected.list_names() == ["a", "b"]
    assert two_selected.take_writes() == []
    assert "the vault is down" in two_selected.get_ready()[2]
    two_selected.vault_error = None
    two_selected.vault_items = [make_item("shop-a"), make_item("shop-b"), make_item("shop-c")]
    two_selected.advance(HOUR)
    assert two_selected.list_names() == ["a", "b", "c"]


def test_unexpected_error_of_a_list_is_reported_without_its_text(
    harness: AKVSyncHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The text of an unknown error could contain a value."""

    async def fail(_queries: object) -> VaultSnapshot:
        raise ZeroDivisionError("a value")

    harness.vault_items = [make_item("shop-a")]
    with monkeypatch.context() as patch:
        patch.setattr(harness, "select", fail)
        harness.apply([KEEP_SHOP])
        harness.advance(5)
    assert harness.list_names() == []
    ready, reason, message = harness.get_ready()
    assert (ready, reason) == ("False", Reason.PROVIDER_ERROR)
    assert "unexpected ZeroDivisionError: the controller's log has the traceback; the controller retries" in message
    records = [each for each in caplog.records if each.name == selections.__name__]
    assert {each.message for each in records} == {"unexpected ZeroDivisionError"}
    assert all("test_selections.py" in each.__dict__["fields"]["at"] for each in records)
    assert "a value" not in message + "".join(str(each.__dict__) for each in caplog.records)
    harness.advance(300)
    assert harness.list_names() == ["a"]


def test_each_object_without_a_secret_is_reported(harness: AKVSyncHarness) -> None:
    harness.vault_items = [make_item("shop-a"), make_item("shop-"), make_item("shop--x")]
    harness.apply([KEEP_SHOP])
    harness.advance(5)
    harness.report_all_synced()
    harness.advance(5)
    assert harness.list_names() == ["a"]
    assert harness.get_ready()[:2] == ("False", Reason.SKIPPED)
    assert harness.get_ready()[2].startswith("1/1 ready; shop- has no Secret: nothing remains of its name")
    assert [each["name"] for each in read_status(harness)["skipped"]] == ["shop-", "shop--x"]  # type: ignore[attr-defined]


def test_akvsync_without_a_selection_and_deleted_one_are_not_polled(two_selected: AKVSyncHarness) -> None:
    two_selected.apply([{"secretInAKV": "x"}])
    two_selected.advance(5)
    assert two_selected.list_names() == ["x"]
    two_selected.apply([KEEP_SHOP], name="second")
    two_selected.advance(5)
    two_selected.remove("akvsyncs", "second")
    two_selected.advance(5)
    lists = len(two_selected.list_calls)
    two_selected.advance(3 * HOUR)
    assert len(two_selected.list_calls) == lists
    assert not two_selected.poller.groups


def test_deleted_secretsync_is_recreated_only_while_it_is_selected(two_selected: AKVSyncHarness) -> None:
    two_selected.vault_items = [make_item("shop-a")]
    two_selected.advance(HOUR)
    for name in ("a", "b"):
        two_selected.remove("secretsyncs", name)
    two_selected.advance(HOUR)
    assert two_selected.list_names() == ["a"]


def test_namespace_that_spent_its_budget_is_deferred_and_others_are_not(harness: AKVSyncHarness) -> None:
    spent = int(budgets.COMPARED.limit)
    harness.poller.compared.spend("team", spent + 10 * LIST_COST)
    harness.poller.compared.spend("other", 1)
    assert harness.poller.compared.wait("other") == 0
    harness.vault_items = [make_item("shop-a")]
    harness.apply([KEEP_SHOP])
    harness.advance(3)
    assert harness.list_calls == []
    assert "has spent its budget" in harness.get_ready()[2]
    harness.advance(60)
    assert harness.list_names() == ["a"]
    # Comparisons count, and so do lists without a match.
    assert harness.poller.compared.wait("team", spent) > 0
