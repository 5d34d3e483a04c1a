"""AKVSyncs that select objects, in virtual time: what arrives, what stays, what is listed when, and what is told."""

import pytest

from controller.akvsync import selections
from controller.akvsync.selections import EDIT_INTERVAL, LIST_COST
from controller.api.conditions import Reason
from controller.domain.provider_class import read_class
from controller.domain.snapshot import VaultSnapshot
from controller.errors import AccessDenied, ProviderError
from controller.runtime import budgets
from controller.runtime.work_queue import Key
from tests.support.builders import make_item
from tests.unit.akvsync.reconciler.stage import Stage

HOUR = 3600
SHOP = {"select": {"namePrefix": "shop-"}, "stripPrefix": "shop-"}
REMOVE = SHOP | {"whenGone": "Remove"}
LISTED = "2030-01-01T12:00:00Z"


def is_kept(stage: Stage) -> dict[str, bool]:
    source = stage.classes.get(Key("team", "shop"))
    return {name: found.keep for name, found in read_class(source).objects.items()}  # type: ignore[arg-type]


def status(stage: Stage) -> dict[str, object]:
    return dict(stage.objects["akvsyncs", "shop"]["status"])


@pytest.fixture
def two(stage: Stage) -> Stage:
    """Two of three objects are selected, and synced."""
    stage.vault = [make_item("shop-a"), make_item("shop-b"), make_item("other")]
    stage.has([SHOP])
    stage.passes(5)
    stage.all_synced()
    stage.passes(5)
    assert stage.ready()[2] == "2/2 ready: every Secret has the values of the vault"
    assert stage.lists == [(0, "select")]
    assert stage.names() == ["a", "b"]
    stage.asked.clear()
    return stage


def test_a_new_object_arrives_with_the_next_poll_and_without_another_call(two: Stage) -> None:
    two.vault.append(make_item("shop-c"))
    two.passes(HOUR)
    assert two.names() == ["a", "b", "c"]
    assert two.lists == [(0, "select"), (HOUR, "poll")]
    assert two.did == ["PATCH secretproviderclasses shop", "POST secretsyncs c"]


def test_polls_that_find_no_change_write_nothing_but_their_time(two: Stage) -> None:
    two.passes(2 * HOUR)
    assert [call for _, call in two.lists] == ["select", "poll", "poll"]
    assert {what for _, what in two.asked} <= {"PATCH akvsyncs shop/status"}
    assert len(two.asked) <= 2


def test_what_leaves_keeps_its_last_value(two: Stage) -> None:
    two.vault = [make_item("shop-a", enabled=False), make_item("shop-b", tags={"x": "y"})]
    two.passes(5 * HOUR)
    assert two.names() == ["a", "b"]
    assert is_kept(two) == {"shop-a": True, "shop-b": False}
    assert two.did == ["PATCH secretproviderclasses shop"]
    ready, reason, message = two.ready()
    assert (ready, reason) == ("True", Reason.UP_TO_DATE)
    assert message == "2/2 ready: 1 keep values of objects that are gone (see status.parts)"
    two.vault = [make_item("shop-a"), make_item("shop-b")]
    two.passes(HOUR)
    assert is_kept(two) == {"shop-a": False, "shop-b": False}


@pytest.mark.parametrize("name", ["Keep", "Remove"])
def test_only_remove_removes_and_only_after_two_polls_in_a_row(two: Stage, name: str) -> None:
    two.has([SHOP | {"whenGone": name}])
    two.passes(5)
    two.vault = [make_item("shop-a")]
    two.passes(HOUR)
    assert two.names() == ["a", "b"]
    two.passes(HOUR)
    assert two.names() == (["a"] if name == "Remove" else ["a", "b"])
    two.passes(HOUR)
    assert is_kept(two) == ({"shop-a": False} if name == "Remove" else {"shop-a": False, "shop-b": True})


@pytest.mark.parametrize("between", ["it is back", "the list fails", "the get does not confirm it", "a restart"])
def test_whatever_comes_between_two_polls_keeps_the_object(two: Stage, between: str) -> None:
    two.has([REMOVE])
    two.passes(5)
    two.vault = [make_item("shop-a")]
    two.passes(HOUR)
    if between == "it is back":
        two.vault = [make_item("shop-a"), make_item("shop-b")]
    elif between == "the list fails":
        two.vault_fails = ProviderError("down")
    elif between == "the get does not confirm it":
        two.gone = frozenset()
    else:
        two.next_term()
    two.passes(HOUR - 10 if between == "the list fails" else HOUR)
    two.vault, two.vault_fails, two.gone = [make_item("shop-a")], None, None
    two.passes(20)
    assert two.names() == ["a", "b"]


def test_what_left_by_its_tags_is_not_removed(stage: Stage) -> None:
    stage.vault = [make_item("a", tags={"app": "shop"})]
    stage.has([{"select": {"tags": {"app": "shop"}}, "whenGone": "Remove"}])
    stage.passes(5)
    stage.vault = [make_item("a", tags={"app": "other"})]
    stage.passes(5 * HOUR)
    assert stage.names() == ["a"]
    assert is_kept(stage) == {"a": True}


def test_a_tag_that_comes_and_goes_writes_the_class_and_nothing_else(stage: Stage) -> None:
    stage.vault = [make_item("a", tags={"app": "shop"}), make_item("b", tags={"app": "shop"})]
    stage.has([{"select": {"tags": {"app": "shop"}}}])
    stage.passes(5)
    stage.all_synced()
    stage.passes(5)
    stage.asked.clear()
    for number in range(6):
        stage.vault[0] = make_item("a", tags={"app": "shop"} if number % 2 else {})
        stage.passes(HOUR)
    assert set(stage.did) == {"PATCH secretproviderclasses shop"}
    assert stage.names() == ["a", "b"]


@pytest.mark.parametrize("objects", [[SHOP], [SHOP | {"kubernetesSecretName": "all"}], [SHOP, {"secretInAKV": "x"}]])
def test_a_restart_lists_nothing_writes_nothing_and_keeps_the_time_of_the_next_poll(
    stage: Stage, objects: list[dict[str, object]]
) -> None:
    stage.vault = [make_item("shop-a"), make_item("shop-b")]
    stage.has(objects)
    stage.passes(5)
    stage.vault = [make_item("shop-a")]
    stage.passes(HOUR)
    stage.all_synced()
    stage.passes(5)
    before = (stage.names(), is_kept(stage), status(stage))
    stage.asked.clear()
    lists = len(stage.lists)
    stage.passes(HOUR / 2)
    stage.next_term()
    stage.passes(60)
    assert len(stage.lists) == lists
    assert stage.did == []
    assert (stage.names(), is_kept(stage), status(stage)) == before
    stage.passes(HOUR / 2)
    assert len(stage.lists) == lists + 1
    assert stage.names() == before[0]


def test_an_edit_of_the_entries_lists_at_once_but_not_each_time(two: Stage) -> None:
    for number in range(20):
        two.has([{"select": {"namePattern": f"shop-?{'*' * number}"}}])
        two.passes(0.5)
    two.passes(60)
    assert 1 <= len(two.lists) - 1 <= 2 + 20 * 0.5 / EDIT_INTERVAL
    assert two.names() == ["shop-a", "shop-b"]
    # Another edit of the AKVSync needs no list.
    lists = len(two.lists)
    two.has([{"select": {"namePattern": f"shop-?{'*' * 19}"}, "labels": {"x": "y"}}])
    two.passes(60)
    assert len(two.lists) == lists


def test_where_lists_are_forbidden_that_is_told_and_nothing_changes(two: Stage) -> None:
    two.vault_fails = AccessDenied("identity client may not read the list")
    two.has([{"select": {"namePrefix": "x"}}, {"secretInAKV": "explicit"}])
    two.passes(HOUR)
    assert two.names() == ["a", "b", "explicit"]
    assert is_kept(two) == {"explicit": False, "shop-a": False, "shop-b": False}
    ready, reason, message = two.ready()
    assert (ready, reason) == ("False", Reason.PROVIDER_ERROR)
    assert message == (
        "3/3 ready; select: identity client may not read the list; until then nothing of it is changed"
        if "3/3" in message
        else "2/3 ready; select: identity client may not read the list; until then nothing of it is changed"
    )
    calls = len(two.lists)
    two.passes(HOUR)
    assert len(two.lists) - calls <= HOUR / 150 + 1
    # Once they are allowed, the edit is carried out.
    two.vault_fails = None
    two.vault = [make_item("x1")]
    two.passes(300)
    assert two.names() == ["explicit", "x1"]


def test_polls_that_fail_change_nothing(two: Stage) -> None:
    two.vault_fails = ProviderError("the vault is down")
    two.passes(6 * HOUR)
    assert two.names() == ["a", "b"]
    assert two.did == []
    assert "the vault is down" in two.ready()[2]
    two.vault_fails = None
    two.vault = [make_item("shop-a"), make_item("shop-b"), make_item("shop-c")]
    two.passes(HOUR)
    assert two.names() == ["a", "b", "c"]


def test_unexpected_error_of_a_list_is_reported_without_its_text_and_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The text of an error that the controller does not know could contain a value."""

    async def fail(_queries: object) -> VaultSnapshot:
        raise ZeroDivisionError("a value")

    stage.vault = [make_item("shop-a")]
    with monkeypatch.context() as patch:
        patch.setattr(stage, "select", fail)
        stage.has([SHOP])
        stage.passes(5)
    assert stage.names() == []
    ready, reason, message = stage.ready()
    assert (ready, reason) == ("False", Reason.PROVIDER_ERROR)
    assert "unexpected ZeroDivisionError: the controller's log has the place" in message
    records = [each for each in caplog.records if each.name == selections.__name__]
    assert {each.message for each in records} == {"unexpected ZeroDivisionError"}
    assert all("test_selections.py" in each.__dict__["fields"]["at"] for each in records)
    assert "a value" not in message + "".join(str(each.__dict__) for each in caplog.records)
    stage.passes(300)
    assert stage.names() == ["a"]


def test_objects_without_a_secret_are_told_each(stage: Stage) -> None:
    stage.vault = [make_item("shop-a"), make_item("shop-"), make_item("shop--x")]
    stage.has([SHOP])
    stage.passes(5)
    stage.all_synced()
    stage.passes(5)
    assert stage.names() == ["a"]
    assert stage.ready()[:2] == ("False", Reason.SKIPPED)
    assert stage.ready()[2].startswith("1/1 ready; shop- has no Secret: nothing remains of its name")
    assert [each["name"] for each in status(stage)["skipped"]] == ["shop-", "shop--x"]  # type: ignore[attr-defined]


def test_an_akvsync_that_is_deleted_or_selects_no_more_is_not_polled(two: Stage) -> None:
    two.has([{"secretInAKV": "x"}])
    two.passes(5)
    assert two.names() == ["x"]
    two.has([SHOP], name="second")
    two.passes(5)
    two.remove("akvsyncs", "second")
    two.passes(5)
    lists = len(two.lists)
    two.passes(3 * HOUR)
    assert len(two.lists) == lists
    assert not two.poller.groups


def test_a_secret_sync_that_is_deleted_by_hand_comes_back_only_while_it_is_selected(two: Stage) -> None:
    two.vault = [make_item("shop-a")]
    two.passes(HOUR)
    for name in ("a", "b"):
        two.remove("secretsyncs", name)
    two.passes(HOUR)
    assert two.names() == ["a"]


def test_namespace_that_spent_its_budget_is_deferred_and_others_are_not(stage: Stage) -> None:
    spent = int(budgets.COMPARED.most)
    stage.poller.compared.spend("team", spent + 10 * LIST_COST)
    stage.poller.compared.spend("other", 1)
    assert stage.poller.compared.wait("other") == 0
    stage.vault = [make_item("shop-a")]
    stage.has([SHOP])
    stage.passes(3)
    assert stage.lists == []
    assert "has spent its budget" in stage.ready()[2]
    stage.passes(60)
    assert stage.names() == ["a"]
    # What it compares is counted, and so are lists that show nothing.
    assert stage.poller.compared.wait("team", spent) > 0
