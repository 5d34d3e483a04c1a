"""What is made, mended, pruned and told of AKVSyncs, and when, in virtual time."""

from typing import Any

import pytest

from controller.api.conditions import Reason
from tests.unit.akvsync.reconciler.stage import FRESH, A, B, Stage, foreign, parts

SSH = {"kubernetesSecretType": "kubernetes.io/ssh-auth"}

# The way of things


def test_it_is_made_at_once_and_told_as_its_parts_are_synced(stage: Stage) -> None:
    stage.has([A, B])
    stage.passes(0.1)
    assert stage.did == FRESH
    assert stage.ready()[:2] == ("False", Reason.IN_PROGRESS)
    stage.passes(5)
    stage.synced("a", keys=2)
    stage.passes(1)
    assert stage.objects["akvsyncs", "shop"]["status"]["summary"] == "1/2"
    assert [item["targetKey"] for item in parts(stage)["a"]["versions"]] == ["v0", "v1"]
    stage.synced("b", reason=Reason.PROVIDER_ERROR, message="the vault is away")
    stage.passes(1)
    assert stage.ready() == ("False", Reason.PROVIDER_ERROR, "1/2 ready; b: the vault is away")
    stage.synced("b")
    stage.passes(1)
    assert stage.ready()[0] == "True"


def test_nothing_is_polled(settled: Stage) -> None:
    settled.asked.clear()
    settled.passes(100_000)
    assert settled.asked == []
    # News that makes no difference is not told either.
    settled.put("secretsyncs", "a", {"metadata": {"labels": {"x": "y"}}})
    settled.passes(60)
    assert settled.asked == []


def test_an_edit_makes_mends_and_prunes(settled: Stage) -> None:
    settled.has([A | {"labels": {"x": "1"}}, {"secretInAKV": "c"}])
    settled.passes(1)
    assert settled.did == [
        "DELETE secretsyncs b",
        "PATCH secretproviderclasses shop",
        "PATCH secretsyncs a",
        "POST secretsyncs c",
    ]
    assert settled.names() == ["a", "c"]


def test_ready_speaks_of_the_latest_edit(settled: Stage) -> None:
    settled.lag = 2.0
    settled.has([A | {"labels": {"x": "1"}}, B])
    settled.passes(3)
    # It was mended, and neither the watch nor the Reconciler has told of it yet.
    assert settled.ready()[2].startswith("1/2 ready; a: the SecretSync a was just written")
    settled.passes(60)
    assert settled.ready()[2].startswith("1/2 ready; a: the SecretSync a was just written")
    settled.synced("a")
    settled.passes(5)
    assert settled.ready()[0] == "True"


def test_what_has_gone_wrong_is_told_before_what_goes_on(stage: Stage) -> None:
    stage.has([A, B])
    stage.passes(5)
    stage.synced("b", reason=Reason.SPC_ERROR, message="no")
    stage.passes(5)
    assert stage.ready()[2] == "0/2 ready; b: no (and 1 more: see status.parts)"


def test_a_burst_of_news_is_told_in_one_status(stage: Stage) -> None:
    stage.has([{"secretInAKV": f"s{number}"} for number in range(100)])
    stage.passes(5)
    stage.asked.clear()
    for number in range(100):
        stage.synced(f"s{number}")
        stage.passes(0.001)
    stage.passes(5)
    assert stage.ready()[2].startswith("100/100")
    assert len(stage.asked) == 1


# Hands


@pytest.mark.parametrize(
    ("plural", "name", "spec"),
    [
        ("secretsyncs", "a", {"serviceAccountName": "other"}),
        ("secretsyncs", "a", {"secretSyncControllerName": "other"}),
        ("secretsyncs", "a", {"secretObject": {"labels": {"by": "hand"}}}),
        ("secretsyncs", "a", {"secretObject": {"data": [{"sourcePath": "b", "targetKey": "mine"}]}}),
        ("secretproviderclasses", "shop", {"parameters": {"cloudName": "other"}}),
        ("secretproviderclasses", "shop", {"provider": "aws", "parameters": {"objects": ""}}),
    ],
)
def test_what_is_edited_by_hand_is_mended(plural: str, name: str, spec: dict[str, Any], settled: Stage) -> None:
    before = settled.objects[plural, name]["spec"]
    settled.put(plural, name, {"spec": spec})
    settled.passes(1)
    assert settled.did == [f"PATCH {plural} {name}"]
    after = settled.objects[plural, name]["spec"]
    assert {key: value for key, value in after.items() if value} == before


@pytest.mark.parametrize(("plural", "name"), [("secretsyncs", "a"), ("secretproviderclasses", "shop")])
def test_what_is_deleted_by_hand_is_made_anew(plural: str, name: str, settled: Stage) -> None:
    settled.remove(plural, name)
    settled.passes(1)
    assert settled.did == [f"POST {plural} {name}"]


def test_a_forced_look_at_the_vault_stays(settled: Stage) -> None:
    settled.put("secretsyncs", "a", {"spec": {"forceSynchronization": "now"}})
    settled.passes(1)
    assert settled.did == []
    settled.has([A | {"labels": {"x": "1"}}, B])
    settled.passes(1)
    assert settled.objects["secretsyncs", "a"]["spec"]["forceSynchronization"] == "now"


def test_a_fight_over_a_field_is_fought_less_and_less(settled: Stage) -> None:
    for _ in range(600):
        if settled.objects["secretsyncs", "a"]["spec"]["serviceAccountName"] == "robot":
            settled.put("secretsyncs", "a", {"spec": {"serviceAccountName": "other"}})
        settled.passes(0.1)
    assert 3 < len(settled.did) < 10


def test_one_that_is_being_deleted_is_made_anew_when_it_is_gone(settled: Stage) -> None:
    settled.put("secretsyncs", "a", {"metadata": {"deletionTimestamp": "2030-01-01T12:00:00Z"}})
    settled.passes(60)
    assert settled.did == []
    assert settled.ready()[1:] == (
        Reason.IN_PROGRESS,
        "1/2 ready; a: the SecretSync a is being deleted; the controller recreates it when it is gone; if it"
        " remains, look at its finalizers",
    )
    settled.remove("secretsyncs", "a")
    settled.passes(1)
    assert settled.did == ["POST secretsyncs a"]


# What is not ours


def test_somebody_elses_secretsync_is_told_and_the_others_go_on(stage: Stage) -> None:
    foreign(stage, "secretsyncs", "a")
    stage.synced("a")
    stage.passes(1)
    stage.has([A, B])
    stage.passes(60)
    assert parts(stage)["a"]["versions"] == []
    assert stage.did == ["POST secretproviderclasses shop", "POST secretsyncs b"]
    stage.synced("b")
    stage.passes(1)
    status, reason, message = stage.ready()
    assert (status, reason) == ("False", Reason.NAME_TAKEN)
    assert message.startswith("1/2 ready; a: a SecretSync a exists that does not belong to this AKVSync")
    # It is free again, and nothing had to be polled for that.
    stage.remove("secretsyncs", "a")
    stage.passes(1)
    assert stage.did == ["POST secretsyncs a"]


def test_somebody_elses_class_holds_everything_up(stage: Stage) -> None:
    foreign(stage, "secretproviderclasses", "shop")
    stage.passes(1)
    stage.has([A, B])
    stage.passes(60)
    assert stage.did == []
    assert "a SecretProviderClass shop exists that does not belong to this AKVSync" in stage.ready()[2]
    stage.remove("secretproviderclasses", "shop")
    stage.passes(1)
    assert stage.did == FRESH


@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        ({"name": "shop", "uid": "an-earlier-one"}, Reason.IN_PROGRESS),
        ({"name": "other", "uid": "of-another"}, Reason.NAME_TAKEN),
        ({"name": "shop", "uid": "an-earlier-one", "owners": 2}, Reason.NAME_TAKEN),
        ({"name": "shop", "uid": "x", "kind": "ConfigMap"}, Reason.NAME_TAKEN),
        ({"name": "shop", "uid": "x", "apiVersion": "example.com/v1"}, Reason.NAME_TAKEN),
    ],
)
def test_ours_is_what_this_very_akvsync_owns(owner: dict[str, Any], reason: Reason, stage: Stage) -> None:
    foreign(stage, "secretsyncs", "a", **owner)
    stage.passes(1)
    stage.has([A])
    stage.passes(60)
    assert stage.did == ["POST secretproviderclasses shop"]
    assert stage.ready()[1] == reason


def test_what_others_own_is_not_pruned(settled: Stage) -> None:
    foreign(settled, "secretsyncs", "mine")
    foreign(settled, "secretsyncs", "theirs", name="other", uid="of-another")
    settled.has([A])
    settled.passes(5)
    assert settled.did == ["DELETE secretsyncs b", "PATCH secretproviderclasses shop"]


def test_two_akvsyncs_that_want_the_same_name(settled: Stage) -> None:
    settled.has([A], name="other")
    settled.passes(5)
    assert settled.ready("other")[1] == Reason.NAME_TAKEN
    settled.has([B])
    settled.passes(5)
    settled.did  # noqa: B018 -- forgotten
    assert settled.objects["secretsyncs", "a"]["metadata"]["ownerReferences"][0]["name"] == "other"
    assert settled.ready("other")[1] == Reason.IN_PROGRESS


# Types


def test_a_new_type_waits_and_leaves_the_old_one_alone(settled: Stage) -> None:
    settled.has([A | SSH, B])
    settled.passes(60)
    assert settled.did == []
    assert settled.ready()[1:] == (
        Reason.TYPE_CHANGE_WAITS,
        "1/2 ready; a: the Secret is of type Opaque, which cannot change: delete the SecretSync a, which deletes"
        " its Secret; the controller recreates both with type kubernetes.io/ssh-auth",
    )
    settled.remove("secretsyncs", "a")
    settled.passes(1)
    assert settled.did == ["POST secretsyncs a"]
    assert settled.objects["secretsyncs", "a"]["spec"]["secretObject"]["type"] == "kubernetes.io/ssh-auth"
