"""Mistakes, refusals, a slow watch and a term's end: nothing is done twice, and what went wrong is told."""

import itertools
import logging
from typing import Any

import msgspec
import pytest

from controller.akvsync.children import MOST_MESSAGE, MOST_SHOWN
from controller.api.akvsync import AKVSync
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, OwnerReference
from controller.errors import PolicyRefused, Refused, Retry, Unreachable
from tests.support.builders import make_sync
from tests.unit.akvsync.reconciler.stage import FRESH, A, B, Stage, parts

# Mistakes and refusals


def test_a_mistake_changes_and_prunes_nothing(settled: Stage) -> None:
    settled.has([A, A])
    settled.passes(60)
    assert settled.did == []
    status, reason, message = settled.ready()
    assert (status, reason) == ("False", Reason.INPUT_INVALID)
    assert "both make a Secret a" in message
    assert settled.events[-1] == ("shop", "Warning", Reason.INPUT_INVALID)
    assert settled.objects["akvsyncs", "shop"]["status"]["summary"] == "2/2"


def test_one_that_cannot_be_read_says_so(settled: Stage) -> None:
    settled.unreadable()
    settled.passes(60)
    assert settled.did == []
    assert settled.ready()[1:] == (
        Reason.INPUT_INVALID,
        "this AKVSync cannot be read: Expected `array` - at `$.spec.objects`",
    )


def test_what_only_an_edit_can_mend_is_tried_again_after_the_edit_only(stage: Stage) -> None:
    stage.fails["POST secretsyncs a"] = Refused("spec: Invalid value", status=422, retry=Retry.ON_EDIT)
    stage.has([A, B])
    stage.passes(3600)
    assert "spec: Invalid value" in stage.ready()[2]
    assert [what for _, what in stage.asked].count("POST secretsyncs a") <= 2  # B's SecretSync wakes the AKVSync
    stage.fails.clear()
    stage.has([A])
    stage.passes(60)
    assert stage.names() == ["a"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PolicyRefused("ValidatingAdmissionPolicy 'x' denied", status=422), Reason.POLICY_REFUSED),
        (Refused("namespace is being terminated", status=403), Reason.SYNC_FAILED),
        (Unreachable("the Kubernetes API did not answer in time"), Reason.SYNC_FAILED),
    ],
)
def test_what_the_api_server_refuses_is_told_and_tried_less_and_less(error: Any, reason: Reason, stage: Stage) -> None:
    stage.fails["POST secretsyncs a"] = error
    stage.has([A, B])
    stage.passes(3600)
    assert stage.ready()[1] == reason
    assert error.message in stage.ready()[2]
    times = [moment for moment, what in stage.asked if what == "POST secretsyncs a"]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[-1] > 200
    assert len(times) < 30
    assert "b" in stage.names()
    stage.fails.clear()
    stage.passes(300)
    assert stage.names() == ["a", "b"]


def test_a_prune_that_fails_is_told(settled: Stage) -> None:
    settled.fails["DELETE secretsyncs b"] = Refused("no", status=403)
    settled.has([A])
    settled.passes(5)
    assert settled.ready()[1:] == (Reason.SYNC_FAILED, "1/2 ready; b: no")
    settled.fails.clear()
    settled.passes(60)
    assert settled.names() == ["a"]
    assert settled.ready()[0] == "True"


def test_a_prune_that_fails_is_told_even_where_nothing_else_can_be_done(settled: Stage) -> None:
    settled.fails["DELETE secretsyncs b"] = Refused("no", status=403)
    settled.put("secretproviderclasses", "shop", {"metadata": {"ownerReferences": []}})
    settled.has([A])
    settled.passes(5)
    assert [(name, item["reason"]) for name, item in parts(settled).items()] == [
        ("a", Reason.NAME_TAKEN),
        ("b", Reason.SYNC_FAILED),
    ]


# A watch that is slow, a status that is not taken


def test_a_slow_watch_makes_nothing_twice(stage: Stage) -> None:
    stage.lag = 3.0
    stage.has([A])
    stage.passes(60)
    stage.has([A | {"labels": {"x": "1"}}])
    stage.passes(60)
    assert stage.did == ["POST secretproviderclasses shop", "POST secretsyncs a", "PATCH secretsyncs a"]


def test_a_slow_watch_has_no_status_told_twice(settled: Stage) -> None:
    settled.lag = 20.0
    settled.asked.clear()
    settled.synced("a", reason=Reason.PROVIDER_ERROR, message="the vault is away")
    settled.passes(10)  # the news of the second comes before that of the first status
    settled.synced("b", reason=Reason.PROVIDER_ERROR, message="the vault is away")
    settled.passes(60)
    assert settled.ready()[2].startswith("0/2 ready")
    assert [what for _, what in settled.asked] == ["PATCH akvsyncs shop/status"] * 2


def test_a_status_that_could_not_be_written_is_told_later(settled: Stage, caplog: pytest.LogCaptureFixture) -> None:
    settled.fails["PATCH akvsyncs shop/status"] = Unreachable("no answer")
    settled.synced("a", reason=Reason.PARTIAL, message="x" * 1000, keys=30)
    settled.passes(5)
    assert settled.ready()[0] == "True"
    assert "cannot write a status: no answer" in caplog.text
    settled.fails.clear()
    with caplog.at_level(logging.WARNING):
        settled.passes(60)
    assert settled.ready()[:2] == ("False", Reason.PARTIAL)
    assert "team/shop: 1/2 ready; a: xxx" in caplog.text
    told = parts(settled)["a"]
    assert len(told["message"]) == MOST_MESSAGE
    assert len(told["versions"]) == MOST_SHOWN


# Ends


def test_a_turn_that_a_terms_end_cut_short_is_had_in_the_next(stage: Stage) -> None:
    stage.has([A, B])
    stage.passes(stage.lag + 0.0005)  # the first request is under way
    stage.next_term()
    stage.passes(5)
    assert stage.did == FRESH
    assert stage.names() == ["a", "b"]


def test_a_next_term_begins_with_all_of_them_and_does_nothing_twice(settled: Stage) -> None:
    settled.asked.clear()
    settled.next_term()
    settled.passes(100)
    assert settled.asked == []


def test_a_deleted_one_is_left_to_the_garbage_collector(settled: Stage) -> None:
    settled.remove("akvsyncs", "shop")
    settled.passes(1)
    settled.remove("secretsyncs", "a")
    settled.passes(60)
    settled.remove("secretsyncs", "b")
    settled.passes(60)
    assert settled.asked == []
    assert (settled.akv_syncs.users, settled.akv_syncs.owned) == ({}, {})


# Other namespaces


def test_another_namespace_that_names_the_uid_as_owner_changes_nothing(settled: Stage) -> None:
    """An editor there can write any owner reference: that adds no part, neither now nor after a mistake."""
    meta = settled.objects["akvsyncs", "shop"]["metadata"]
    owner = OwnerReference(api_version=AKVSync.api_version(), kind=AKVSync.kind, name="shop", uid=meta["uid"])
    for number in range(300):
        theirs = make_sync(name=f"theirs-{number}")
        place = ObjectMeta(name=f"theirs-{number}", namespace="elsewhere", uid=f"u{number}", owner_references=[owner])
        settled.syncs.put(msgspec.structs.replace(theirs, metadata=place))
    before = settled.objects["akvsyncs", "shop"]["status"]
    settled.passes(60)
    assert settled.objects["akvsyncs", "shop"]["status"] == before
    settled.has([A, A])
    settled.passes(60)
    assert settled.did == []
    assert settled.objects["akvsyncs", "shop"]["status"]["summary"] == "2/2"
    assert parts(settled).keys() == {item["name"] for item in before["parts"]}
