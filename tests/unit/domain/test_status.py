"""The status: what it says of an outcome, when a condition's time moves, and what the hash covers."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.secretsync import GroupPoll, ObjectVersion, SecretSync, SecretSyncStatus
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.status import (
    Failed,
    Reportable,
    Synced,
    find_condition,
    next_status,
    object_versions,
    ready_condition,
    same_news,
    sync_hash,
)
from controller.domain.values import SecretBytes, VaultValue
from controller.errors import ObjectError, OwnershipError, ProviderError
from controller.runtime.backoff import format_time
from tests.support.builders import make_provider_class, make_sync, make_value
from tests.support.outcomes import make_outcome

THEN = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
LATER = THEN + timedelta(minutes=5)
META = make_sync().metadata
EMPTY = SecretSyncStatus()
USER = ObjectVersion(target_key="user", object="secret/user", version="v1", updated="2029-12-31T00:00:00Z")

WRITTEN = Synced(message="2 keys written", changed=True, objects=[USER])
SAME = Synced(message="2 keys equal", objects=[USER])
PARTIAL = make_outcome(Reason.PARTIAL, "[]", [USER])
AWAY = Failed(ProviderError("Key Vault shop is away"))
FOREIGN = Failed(OwnershipError("not ours"))


def after(*outcomes: Reportable, now: datetime = THEN) -> SecretSyncStatus:
    """Return the status after these outcomes, five minutes apart."""
    status = EMPTY
    for number, outcome in enumerate(outcomes):
        status = next_status(META, status, make_provider_class(), outcome, now + number * timedelta(minutes=5))
    return status


def told(status: SecretSyncStatus) -> dict[str, str]:
    return {item.type: item.status for item in status.conditions}


def of(status: SecretSyncStatus, kind: ConditionType) -> Condition:
    found = find_condition(status, kind)
    assert found
    return found


@pytest.mark.parametrize(
    ("outcomes", "ready", "created", "updated"),
    [
        ([WRITTEN], "True", "True", "True"),
        ([SAME], "True", "True", "True"),
        ([PARTIAL], "False", "True", "False"),
        ([WRITTEN, FOREIGN], "False", "False", "False"),
        ([PARTIAL, AWAY], "False", "True", "False"),
        pytest.param([WRITTEN, AWAY], "False", "True", "False", id="the Secret stays while the vault is away"),
    ],
)
def test_conditions(outcomes: list[Reportable], ready: str, created: str, updated: str) -> None:
    status = after(*outcomes)
    assert told(status) == {"Ready": ready, "SecretCreated": created, "SecretUpdated": updated}
    for item in status.conditions:
        assert (item.reason, item.message) == (outcomes[-1].reason, outcomes[-1].message)
        assert item.observed_generation == status.observed_generation == META.generation


@pytest.mark.parametrize(("began", "reported"), [(-1, WRITTEN), (0, WRITTEN), (1, SAME)])
def test_record_of_a_poll_leaves_what_that_poll_changed(began: int, reported: Synced) -> None:
    poll = GroupPoll(group="g", time=format_time(THEN + timedelta(seconds=began)))
    recorded = msgspec.structs.replace(SAME, poll=poll)
    status = next_status(META, after(WRITTEN), make_provider_class(), recorded, LATER)
    assert status.last_group_poll == poll
    assert of(status, ConditionType.READY).message == reported.message
    assert status.last_successful_sync_time == format_time(THEN if reported is WRITTEN else LATER)


def test_record_of_a_poll_reports_a_new_generation() -> None:
    recorded = msgspec.structs.replace(SAME, poll=GroupPoll(group="g", time=format_time(THEN)))
    edited = msgspec.structs.replace(META, generation=META.generation + 1)
    status = next_status(edited, after(WRITTEN), make_provider_class(), recorded, LATER)
    assert status.observed_generation == edited.generation
    assert of(status, ConditionType.READY).message == SAME.message


@pytest.mark.parametrize("outcomes", [[AWAY], [FOREIGN], [FOREIGN, AWAY], [AWAY, FOREIGN]])
def test_before_first_success_creation_fails_and_no_update_was_attempted(outcomes: list[Reportable]) -> None:
    """As upstream's initConditions and updateStatusConditions leave them."""
    status = after(*outcomes)
    assert told(status) == {"Ready": "False", "SecretCreated": "False", "SecretUpdated": "Unknown"}
    assert of(status, ConditionType.SECRET_CREATED).reason == outcomes[-1].reason
    assert of(status, ConditionType.SECRET_UPDATED).reason == "NoUpdatesAttemptedYet"
    assert told(after(*outcomes, WRITTEN)) == {"Ready": "True", "SecretCreated": "True", "SecretUpdated": "True"}


@pytest.mark.parametrize(
    ("outcomes", "moved"),
    [
        pytest.param([WRITTEN, SAME], False, id="another reason, the same status"),
        pytest.param([AWAY, PARTIAL], False, id="another failure"),
        pytest.param([WRITTEN, AWAY], True, id="ready no more"),
        pytest.param([AWAY, WRITTEN], True, id="ready at last"),
    ],
)
def test_a_transition_time_moves_with_the_status_alone(outcomes: list[Reportable], moved: bool) -> None:
    since = of(after(*outcomes), ConditionType.READY).last_transition_time
    assert since == ("2030-01-01T12:05:00Z" if moved else "2030-01-01T12:00:00Z")


def test_each_condition_has_a_transition_time_of_its_own() -> None:
    status = after(WRITTEN, AWAY)
    assert of(status, ConditionType.SECRET_CREATED).last_transition_time == "2030-01-01T12:00:00Z"
    assert of(status, ConditionType.SECRET_UPDATED).last_transition_time == "2030-01-01T12:05:00Z"


def test_an_unchanged_failure_is_an_equal_status() -> None:
    # So a retry that fails alike writes nothing.
    assert after(AWAY) == after(AWAY, AWAY) == after(AWAY, AWAY, AWAY)
    assert after(PARTIAL) == after(PARTIAL, PARTIAL)


def test_an_equal_status_survives_the_way_through_the_api_server() -> None:
    status = after(WRITTEN, PARTIAL)
    body = msgspec.json.encode({"metadata": {}, "spec": make_sync().spec, "status": status})
    assert msgspec.json.decode(body, type=SecretSync).status == status


@pytest.mark.parametrize(
    ("outcomes", "last"),
    [
        ([WRITTEN], "2030-01-01T12:00:00Z"),
        ([WRITTEN, SAME], "2030-01-01T12:05:00Z"),
        ([WRITTEN, AWAY], "2030-01-01T12:00:00Z"),
        ([WRITTEN, PARTIAL], "2030-01-01T12:00:00Z"),
        ([AWAY], None),
    ],
)
def test_the_last_success_is_when_the_secret_was_last_equal(outcomes: list[Reportable], last: str | None) -> None:
    assert after(*outcomes).last_successful_sync_time == last


@pytest.mark.parametrize("outcome", [AWAY, FOREIGN])
def test_a_failure_keeps_versions_and_hash(outcome: Reportable) -> None:
    good = after(WRITTEN)
    bad = after(WRITTEN, outcome)
    assert good.sync_hash
    assert (bad.objects, bad.sync_hash) == (good.objects, good.sync_hash)


def test_an_endless_message_is_cut_to_what_the_crd_takes() -> None:
    endless = Failed(ProviderError("x" * 100_000))
    assert len(of(after(endless), ConditionType.READY).message) == 32_768


# The hash


def test_the_hash_changes_with_ids_generations_and_versions() -> None:
    base = (META, make_provider_class(), [USER])
    others = [
        (make_sync(generation=2).metadata, make_provider_class(), [USER]),
        (make_sync(uid="again").metadata, make_provider_class(), [USER]),
        (META, make_provider_class(generation=2), [USER]),
        (META, make_provider_class(uid="again"), [USER]),
        (META, make_provider_class(), [msgspec.structs.replace(USER, version="v2")]),
        (META, make_provider_class(), [msgspec.structs.replace(USER, object="secret/other")]),
        (META, make_provider_class(), []),
    ]
    hashes = [sync_hash(*case) for case in [base, *others]]
    assert len(set(hashes)) == len(hashes)
    assert sync_hash(*base) == hashes[0]


def test_the_hash_and_the_status_hold_nothing_made_from_a_value() -> None:
    wanted = {"user": ObjectVersionRef(VaultObject(name="user"))}
    for_values = [object_versions({"user": make_value(text)}, wanted, EMPTY) for text in ("weak", "other", "")]
    assert for_values[0] == for_values[1] == for_values[2]
    assert len({sync_hash(META, make_provider_class(), objects) for objects in for_values}) == 1


def test_the_resource_version_does_not_count() -> None:
    # Else every status write of ours would make the next hash another.
    touched = msgspec.structs.replace(META, resource_version="999")
    assert sync_hash(touched, make_provider_class(), [USER]) == sync_hash(META, make_provider_class(), [USER])


# Versions behind the keys


def test_versions_name_object_index_and_time() -> None:
    several = VaultObject(name="db", history=3)
    fetched = {
        "now": VaultValue(value=SecretBytes(b""), version="a1", updated=THEN, expires=THEN + timedelta(days=1)),
        "before": VaultValue(value=SecretBytes(b""), version="a0"),
    }
    assert object_versions(
        fetched, {"now": ObjectVersionRef(several, 0), "before": ObjectVersionRef(several, 1)}, EMPTY
    ) == [
        ObjectVersion(
            target_key="now",
            object="secret/db/0",
            version="a1",
            updated="2030-01-01T12:00:00Z",
            expires="2030-01-02T12:00:00Z",
        ),
        ObjectVersion(target_key="before", object="secret/db/1", version="a0"),
    ]


def test_a_key_that_failed_keeps_its_version_and_one_that_left_the_spec_does_not() -> None:
    wanted = {key: ObjectVersionRef(VaultObject(name=key)) for key in ("user", "new")}
    before = SecretSyncStatus(objects=[USER, msgspec.structs.replace(USER, target_key="gone")])
    gone = ObjectError("secret user is not in Key Vault shop; create it there")
    assert object_versions({"user": gone, "new": gone}, wanted, before) == [USER]


# What a person would call news


@pytest.mark.parametrize(
    ("first", "then", "same"),
    [
        (AWAY, AWAY, True),
        (WRITTEN, WRITTEN, True),
        (WRITTEN, SAME, False),
        (AWAY, PARTIAL, False),
        (AWAY, Failed(ProviderError("Key Vault shop refuses")), False),
    ],
)
def test_news_is_another_status_reason_or_message(first: Reportable, then: Reportable, same: bool) -> None:
    assert same_news(after(first), after(first, then)) is same


def test_the_first_status_is_news() -> None:
    assert not same_news(EMPTY, after(WRITTEN))
    assert ready_condition(EMPTY) is None
