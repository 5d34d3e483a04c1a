"""The status: the conditions after an outcome, their transition times, and the contents of the hash."""

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
    has_same_ready_condition,
    next_status,
    object_versions,
    ready_condition,
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
UNREACHABLE = Failed(ProviderError("Key Vault shop is away"))
FOREIGN = Failed(OwnershipError("another owner"))


def after(*outcomes: Reportable, now: datetime = THEN) -> SecretSyncStatus:
    """Return the status after these outcomes, five minutes apart."""
    status = EMPTY
    for number, outcome in enumerate(outcomes):
        status = next_status(META, status, make_provider_class(), outcome, now + number * timedelta(minutes=5))
    return status


def condition_statuses(status: SecretSyncStatus) -> dict[str, str]:
    return {item.type: item.status for item in status.conditions}


def condition_of(status: SecretSyncStatus, kind: ConditionType) -> Condition:
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
        ([PARTIAL, UNREACHABLE], "False", "True", "False"),
        pytest.param([WRITTEN, UNREACHABLE], "False", "True", "False", id="vault unreachable, Secret remains"),
    ],
)
def test_conditions_follow_from_the_outcomes(
    outcomes: list[Reportable], ready: str, created: str, updated: str
) -> None:
    status = after(*outcomes)
    assert condition_statuses(status) == {"Ready": ready, "SecretCreated": created, "SecretUpdated": updated}
    for item in status.conditions:
        assert (item.reason, item.message) == (outcomes[-1].reason, outcomes[-1].message)
        assert item.observed_generation == status.observed_generation == META.generation


@pytest.mark.parametrize(("began", "reported"), [(-1, WRITTEN), (0, WRITTEN), (1, SAME)])
def test_record_of_a_poll_does_not_replace_a_report_since_its_start(began: int, reported: Synced) -> None:
    poll = GroupPoll(group="g", time=format_time(THEN + timedelta(seconds=began)))
    recorded = msgspec.structs.replace(SAME, poll=poll)
    status = next_status(META, after(WRITTEN), make_provider_class(), recorded, LATER)
    assert status.last_group_poll == poll
    assert condition_of(status, ConditionType.READY).message == reported.message
    assert status.last_successful_sync_time == format_time(THEN if reported is WRITTEN else LATER)


def test_record_of_a_poll_reports_a_new_generation() -> None:
    recorded = msgspec.structs.replace(SAME, poll=GroupPoll(group="g", time=format_time(THEN)))
    edited = msgspec.structs.replace(META, generation=META.generation + 1)
    status = next_status(edited, after(WRITTEN), make_provider_class(), recorded, LATER)
    assert status.observed_generation == edited.generation
    assert condition_of(status, ConditionType.READY).message == SAME.message


@pytest.mark.parametrize("outcomes", [[UNREACHABLE], [FOREIGN], [FOREIGN, UNREACHABLE], [UNREACHABLE, FOREIGN]])
def test_failure_before_the_first_success_reports_no_update_attempt(outcomes: list[Reportable]) -> None:
    """The result is that of upstream's initConditions and updateStatusConditions."""
    status = after(*outcomes)
    assert condition_statuses(status) == {"Ready": "False", "SecretCreated": "False", "SecretUpdated": "Unknown"}
    assert condition_of(status, ConditionType.SECRET_CREATED).reason == outcomes[-1].reason
    assert condition_of(status, ConditionType.SECRET_UPDATED).reason == "NoUpdatesAttemptedYet"
    assert condition_statuses(after(*outcomes, WRITTEN)) == {
        "Ready": "True",
        "SecretCreated": "True",
        "SecretUpdated": "True",
    }


@pytest.mark.parametrize(
    ("outcomes", "moved"),
    [
        pytest.param([WRITTEN, SAME], False, id="another reason, same status"),
        pytest.param([UNREACHABLE, PARTIAL], False, id="another failure"),
        pytest.param([WRITTEN, UNREACHABLE], True, id="no longer ready"),
        pytest.param([UNREACHABLE, WRITTEN], True, id="now ready"),
    ],
)
def test_transition_time_changes_only_with_the_condition_status(outcomes: list[Reportable], moved: bool) -> None:
    since = condition_of(after(*outcomes), ConditionType.READY).last_transition_time
    assert since == ("2030-01-01T12:05:00Z" if moved else "2030-01-01T12:00:00Z")


def test_each_condition_has_its_own_transition_time() -> None:
    status = after(WRITTEN, UNREACHABLE)
    assert condition_of(status, ConditionType.SECRET_CREATED).last_transition_time == "2030-01-01T12:00:00Z"
    assert condition_of(status, ConditionType.SECRET_UPDATED).last_transition_time == "2030-01-01T12:05:00Z"


def test_repeated_failure_yields_an_equal_status() -> None:
    # So a retry with the same failure writes nothing.
    assert after(UNREACHABLE) == after(UNREACHABLE, UNREACHABLE) == after(UNREACHABLE, UNREACHABLE, UNREACHABLE)
    assert after(PARTIAL) == after(PARTIAL, PARTIAL)


def test_status_is_equal_after_encoding_and_decoding() -> None:
    status = after(WRITTEN, PARTIAL)
    body = msgspec.json.encode({"metadata": {}, "spec": make_sync().spec, "status": status})
    assert msgspec.json.decode(body, type=SecretSync).status == status


@pytest.mark.parametrize(
    ("outcomes", "last"),
    [
        ([WRITTEN], "2030-01-01T12:00:00Z"),
        ([WRITTEN, SAME], "2030-01-01T12:05:00Z"),
        ([WRITTEN, UNREACHABLE], "2030-01-01T12:00:00Z"),
        ([WRITTEN, PARTIAL], "2030-01-01T12:00:00Z"),
        ([UNREACHABLE], None),
    ],
)
def test_only_full_success_changes_the_last_successful_sync_time(outcomes: list[Reportable], last: str | None) -> None:
    assert after(*outcomes).last_successful_sync_time == last


@pytest.mark.parametrize("outcome", [UNREACHABLE, FOREIGN])
def test_failure_keeps_versions_and_hash(outcome: Reportable) -> None:
    good = after(WRITTEN)
    bad = after(WRITTEN, outcome)
    assert good.sync_hash
    assert (bad.objects, bad.sync_hash) == (good.objects, good.sync_hash)


def test_long_message_is_cut_to_the_limit_of_the_crd() -> None:
    endless = Failed(ProviderError("x" * 100_000))
    assert len(condition_of(after(endless), ConditionType.READY).message) == 32_768


# The hash


def test_hash_changes_with_uids_generations_and_versions() -> None:
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


def test_hash_and_status_do_not_depend_on_values() -> None:
    wanted = {"user": ObjectVersionRef(VaultObject(name="user"))}
    for_values = [object_versions({"user": make_value(text)}, wanted, EMPTY) for text in ("weak", "other", "")]
    assert for_values[0] == for_values[1] == for_values[2]
    assert len({sync_hash(META, make_provider_class(), objects) for objects in for_values}) == 1


def test_hash_does_not_depend_on_the_resource_version() -> None:
    # Otherwise each status write would change the next hash.
    touched = msgspec.structs.replace(META, resource_version="999")
    assert sync_hash(touched, make_provider_class(), [USER]) == sync_hash(META, make_provider_class(), [USER])


# The version of each key


def test_versions_have_object_index_and_time() -> None:
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


def test_failed_key_keeps_its_version_and_removed_key_does_not() -> None:
    wanted = {key: ObjectVersionRef(VaultObject(name=key)) for key in ("user", "new")}
    before = SecretSyncStatus(objects=[USER, msgspec.structs.replace(USER, target_key="gone")])
    gone = ObjectError("secret user is not in Key Vault shop; create it there")
    assert object_versions({"user": gone, "new": gone}, wanted, before) == [USER]


# News


@pytest.mark.parametrize(
    ("first", "then", "same"),
    [
        (UNREACHABLE, UNREACHABLE, True),
        (WRITTEN, WRITTEN, True),
        (WRITTEN, SAME, False),
        (UNREACHABLE, PARTIAL, False),
        (UNREACHABLE, Failed(ProviderError("Key Vault shop refuses")), False),
    ],
)
def test_change_of_status_reason_or_message_is_news(first: Reportable, then: Reportable, same: bool) -> None:
    assert has_same_ready_condition(after(first), after(first, then)) is same


def test_first_status_is_news() -> None:
    assert not has_same_ready_condition(EMPTY, after(WRITTEN))
    assert ready_condition(EMPTY) is None
