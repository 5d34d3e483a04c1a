"""Test the status: the conditions after an outcome, their transition times, and the contents of the hash."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from controller.api.akvsync import AKVSync
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import GroupPoll, ObjectVersion, SecretSync, SecretSyncStatus
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.status import (
    Failed,
    PartiallySynced,
    Reportable,
    Synced,
    find_condition,
    generation_hash,
    has_same_ready_condition,
    next_status,
    object_versions,
    ready_condition,
    sync_hash,
)
from controller.domain.values import SecretBytes, VaultValue
from controller.errors import (
    ControllerError,
    InputError,
    ObjectError,
    OwnershipError,
    ProviderError,
    Retry,
    UnusableValue,
)
from controller.keyvault.errors import throttled_error
from controller.runtime.clock import format_time
from tests.support.builders import make_owner, make_provider_class, make_sync, make_value
from tests.support.outcomes import make_outcome
from tests.support.process_stats import thread_seconds

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


def apply_outcomes(*outcomes: Reportable, now: datetime = THEN) -> SecretSyncStatus:
    """Return the status after these outcomes, five minutes apart."""
    status = EMPTY
    for number, outcome in enumerate(outcomes):
        status = next_status(META, status, make_provider_class(), outcome, now + number * timedelta(minutes=5))
    return status


def list_statuses(status: SecretSyncStatus) -> dict[str, str]:
    return {item.type: item.status for item in status.conditions}


def get_condition(status: SecretSyncStatus, kind: ConditionType) -> Condition:
    found = find_condition(status, kind)
    assert found
    return found


# Outcomes

DISABLED = ObjectError("secret pass is disabled")
UNUSABLE = UnusableValue("secret pass has no property")
OLDER = ObjectVersion(target_key="user", object="secret/user", version="v0")


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(WRITTEN, Reason.WRITTEN), (SAME, Reason.UP_TO_DATE), (PARTIAL, Reason.PARTIAL), (FOREIGN, Reason.LABEL_ERROR)],
)
def test_outcome_has_the_reason_of_the_conditions(outcome: Reportable, reason: Reason) -> None:
    assert outcome.reason is reason


def test_success_without_a_fetch_knows_no_versions_and_no_warnings() -> None:
    outcome = Synced(message="2 keys equal")
    assert (outcome.reason, outcome.objects, outcome.warnings) == (Reason.UP_TO_DATE, None, None)


@pytest.mark.parametrize(
    ("errors", "retry", "retry_after", "is_vault_failure"),
    [
        pytest.param([ProviderError("m")], Retry.BACKOFF, 0.0, True, id="unreachable vault"),
        pytest.param(
            [ProviderError("m", retry_after=5), ProviderError("m", retry_after=9)],
            Retry.BACKOFF,
            9,
            True,
            id="the longest time counts",
        ),
        pytest.param([ProviderError("m"), DISABLED], Retry.BACKOFF, 0.0, False, id="one object failed"),
        pytest.param([UNUSABLE, UNUSABLE], Retry.ON_NEW_VALUE, 0.0, False, id="unusable values"),
        pytest.param([UNUSABLE, DISABLED], Retry.BACKOFF, 0.0, False, id="unusable value and failed object"),
        pytest.param(
            [throttled_error("shop", 5), throttled_error("shop", 3), ProviderError("m", retry_after=9)],
            Retry.THROTTLED,
            3,
            False,
            id="throttled vault",
        ),
    ],
)
def test_errors_of_the_keys_decide_the_next_attempt_of_a_partial_sync(
    errors: list[ControllerError], retry: Retry, retry_after: float, is_vault_failure: bool
) -> None:
    failed = {str(number): error for number, error in enumerate(errors)}
    outcome = PartiallySynced(message="m", failed=failed, objects=[])
    assert (outcome.retry, outcome.retry_after) == (retry, retry_after)
    assert outcome.is_vault_failure is is_vault_failure


@pytest.mark.parametrize(
    ("error", "retry", "retry_after", "is_vault_failure"),
    [
        (ProviderError("m", retry_after=7), Retry.BACKOFF, 7, True),
        (DISABLED, Retry.BACKOFF, None, False),
        (throttled_error("shop", 5), Retry.THROTTLED, 5, False),
        (InputError("m"), Retry.ON_EDIT, None, False),
    ],
)
def test_error_decides_the_next_attempt_after_a_failure(
    error: ControllerError, retry: Retry, retry_after: float | None, is_vault_failure: bool
) -> None:
    outcome = Failed(error)
    assert (outcome.message, outcome.retry, outcome.retry_after) == (error.message, retry, retry_after)
    assert outcome.is_vault_failure is is_vault_failure


# Conditions


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
    status = apply_outcomes(*outcomes)
    assert list_statuses(status) == {"Ready": ready, "SecretCreated": created, "SecretUpdated": updated}
    for item in status.conditions:
        assert (item.reason, item.message) == (outcomes[-1].reason, outcomes[-1].message)
        assert item.observed_generation == status.observed_generation == META.generation


@pytest.mark.parametrize(("began", "reported"), [(-1, WRITTEN), (0, WRITTEN), (1, SAME)])
def test_record_of_a_poll_does_not_replace_a_report_since_its_start(began: int, reported: Synced) -> None:
    poll = GroupPoll(group="g", time=format_time(THEN + timedelta(seconds=began)))
    recorded = msgspec.structs.replace(SAME, poll=poll)
    status = next_status(META, apply_outcomes(WRITTEN), make_provider_class(), recorded, LATER)
    assert status.last_group_poll == poll
    assert get_condition(status, ConditionType.READY).message == reported.message
    assert status.last_successful_sync_time == format_time(THEN if reported is WRITTEN else LATER)


@pytest.mark.parametrize(
    ("before", "time"),
    [
        pytest.param([UNREACHABLE], format_time(THEN), id="never synced"),
        pytest.param([WRITTEN], "yesterday", id="unreadable time"),
    ],
)
def test_record_of_a_poll_reports_the_sync_if_the_times_cannot_be_compared(before: list[Reportable], time: str) -> None:
    poll = GroupPoll(group="g", time=time)
    recorded = msgspec.structs.replace(SAME, poll=poll)
    status = next_status(META, apply_outcomes(*before), make_provider_class(), recorded, LATER)
    assert (status.last_group_poll, status.last_successful_sync_time) == (poll, format_time(LATER))
    assert get_condition(status, ConditionType.READY).message == SAME.message


@pytest.mark.parametrize("outcome", [SAME, PARTIAL, UNREACHABLE])
def test_outcome_without_a_poll_keeps_the_recorded_one(outcome: Reportable) -> None:
    poll = GroupPoll(group="g", time=format_time(THEN))
    before = msgspec.structs.replace(apply_outcomes(WRITTEN), last_group_poll=poll)
    assert next_status(META, before, make_provider_class(), outcome, LATER).last_group_poll == poll


def test_record_of_a_poll_reports_a_new_generation() -> None:
    recorded = msgspec.structs.replace(SAME, poll=GroupPoll(group="g", time=format_time(THEN)))
    edited = msgspec.structs.replace(META, generation=META.generation + 1)
    status = next_status(edited, apply_outcomes(WRITTEN), make_provider_class(), recorded, LATER)
    assert status.observed_generation == edited.generation
    assert get_condition(status, ConditionType.READY).message == SAME.message


@pytest.mark.parametrize("outcomes", [[UNREACHABLE], [FOREIGN], [FOREIGN, UNREACHABLE], [UNREACHABLE, FOREIGN]])
def test_failure_before_the_first_success_reports_no_update_attempt(outcomes: list[Reportable]) -> None:
    """Compare with upstream's initConditions and updateStatusConditions, which have the same result."""
    status = apply_outcomes(*outcomes)
    assert list_statuses(status) == {"Ready": "False", "SecretCreated": "False", "SecretUpdated": "Unknown"}
    assert get_condition(status, ConditionType.SECRET_CREATED).reason == outcomes[-1].reason
    updated = get_condition(status, ConditionType.SECRET_UPDATED)
    assert updated.reason == "NoUpdatesAttemptedYet"
    assert updated.message == "no update was attempted yet; the condition SecretCreated has the cause"
    assert list_statuses(apply_outcomes(*outcomes, WRITTEN)) == {
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
    since = get_condition(apply_outcomes(*outcomes), ConditionType.READY).last_transition_time
    assert since == ("2030-01-01T12:05:00Z" if moved else "2030-01-01T12:00:00Z")


def test_failure_that_only_an_edit_can_correct_is_stalled() -> None:
    status = apply_outcomes(WRITTEN, Failed(InputError("no key")))
    assert list_statuses(status) == {
        "Ready": "False",
        "SecretCreated": "True",
        "SecretUpdated": "False",
        "Stalled": "True",
    }
    stalled = get_condition(status, ConditionType.STALLED)
    assert (stalled.reason, stalled.message) == (Reason.INPUT_INVALID, "no key")
    assert find_condition(apply_outcomes(WRITTEN, Failed(InputError("no key")), WRITTEN), ConditionType.STALLED) is None


@pytest.mark.parametrize(
    ("outcomes", "exists", "created", "updated"),
    [
        pytest.param([], True, "True", "False", id="written, and not reported"),
        pytest.param([], False, "False", "Unknown", id="never written"),
        pytest.param([WRITTEN], False, "False", "False", id="deleted by another client"),
    ],
)
def test_failure_reports_whether_the_secret_exists(
    outcomes: list[Reportable], exists: bool, created: str, updated: str
) -> None:
    before = apply_outcomes(*outcomes)
    status = next_status(META, before, make_provider_class(), UNREACHABLE, LATER, secret_exists=exists)
    assert list_statuses(status) == {"Ready": "False", "SecretCreated": created, "SecretUpdated": updated}


def test_failure_keeps_secret_created_unknown_if_the_status_had_no_condition() -> None:
    status = SecretSyncStatus(sync_hash="a hash")
    for _ in range(2):
        status = next_status(META, status, make_provider_class(), UNREACHABLE, THEN)
        assert list_statuses(status) == {"Ready": "False", "SecretCreated": "Unknown", "SecretUpdated": "False"}


def test_each_condition_has_its_own_transition_time() -> None:
    status = apply_outcomes(WRITTEN, UNREACHABLE)
    assert get_condition(status, ConditionType.SECRET_CREATED).last_transition_time == "2030-01-01T12:00:00Z"
    assert get_condition(status, ConditionType.SECRET_UPDATED).last_transition_time == "2030-01-01T12:05:00Z"


def test_repeated_failure_yields_an_equal_status() -> None:
    # For that reason, a retry with the same failure writes nothing.
    assert (
        apply_outcomes(UNREACHABLE)
        == apply_outcomes(UNREACHABLE, UNREACHABLE)
        == apply_outcomes(UNREACHABLE, UNREACHABLE, UNREACHABLE)
    )
    assert apply_outcomes(PARTIAL) == apply_outcomes(PARTIAL, PARTIAL)


def test_status_is_equal_after_encoding_and_decoding() -> None:
    status = apply_outcomes(WRITTEN, PARTIAL)
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
    assert apply_outcomes(*outcomes).last_successful_sync_time == last


@pytest.mark.parametrize("outcome", [PARTIAL, UNREACHABLE, FOREIGN])
@pytest.mark.parametrize(
    ("before", "equal_at", "last"),
    [
        pytest.param(format_time(THEN), None, format_time(THEN), id="no poll"),
        pytest.param(format_time(THEN), LATER, format_time(LATER), id="later poll"),
        pytest.param(format_time(LATER), THEN, format_time(LATER), id="earlier poll"),
        pytest.param("2030-01-01T13:00:00+01:00", THEN, "2030-01-01T13:00:00+01:00", id="same time"),
        pytest.param(None, THEN, format_time(THEN), id="no time in the status"),
        pytest.param(None, None, None, id="never equal"),
    ],
)
def test_failure_reports_when_the_secret_was_last_equal(
    outcome: Reportable, before: str | None, equal_at: datetime | None, last: str | None
) -> None:
    known = msgspec.structs.replace(apply_outcomes(WRITTEN), last_successful_sync_time=before)
    now = LATER + timedelta(hours=1)
    status = next_status(META, known, make_provider_class(), outcome, now, last_equal=equal_at)
    assert status.last_successful_sync_time == last


@pytest.mark.parametrize(
    ("outcome", "objects"),
    [
        (msgspec.structs.replace(WRITTEN, objects=[OLDER]), [OLDER]),
        (msgspec.structs.replace(PARTIAL, objects=[OLDER]), [OLDER]),
        pytest.param(Synced(message="2 keys equal"), [USER], id="no value was fetched"),
        (UNREACHABLE, [USER]),
    ],
)
def test_status_lists_the_versions_that_the_keys_hold(outcome: Reportable, objects: list[ObjectVersion]) -> None:
    assert apply_outcomes(WRITTEN, outcome).objects == objects


@pytest.mark.parametrize(
    ("outcome", "source", "is_new"),
    [
        (msgspec.structs.replace(WRITTEN, objects=[OLDER]), make_provider_class(), True),
        (msgspec.structs.replace(PARTIAL, objects=[OLDER]), make_provider_class(), False),
        (msgspec.structs.replace(WRITTEN, objects=[OLDER]), None, False),
    ],
)
def test_only_full_success_with_a_class_changes_the_hash(
    outcome: Reportable, source: SecretProviderClass | None, is_new: bool
) -> None:
    before = apply_outcomes(WRITTEN)
    known = sync_hash(META, make_provider_class(), [OLDER]) if is_new else before.sync_hash
    assert next_status(META, before, source, outcome, LATER).sync_hash == known


@pytest.mark.parametrize("outcome", [UNREACHABLE, FOREIGN])
def test_failure_keeps_versions_and_hash(outcome: Reportable) -> None:
    good = apply_outcomes(WRITTEN)
    bad = apply_outcomes(WRITTEN, outcome)
    assert good.sync_hash
    assert (bad.objects, bad.sync_hash) == (good.objects, good.sync_hash)


def test_long_message_is_cut_to_the_limit_of_the_crd() -> None:
    endless = Failed(ProviderError("x" * 100_000))
    assert len(get_condition(apply_outcomes(endless), ConditionType.READY).message) == 32_768


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


def make_generated_class(user: str = "", other: str = "", generation: int = 1) -> SecretProviderClass:
    """Return a class that an AKVSync generates, with these lines in its items `user` and `pass`."""
    source = make_provider_class(generation)
    owner = make_owner("uid-of-the-akvsync", "shop", AKVSync.kind, AKVSync.group)
    items = (f"  - |\n    objectName: {name}\n{lines}" for name, lines in (("user", user), ("pass", other)))
    return msgspec.structs.replace(
        source,
        metadata=msgspec.structs.replace(source.metadata, owner_references=[owner]),
        spec=msgspec.structs.replace(source.spec, parameters={"objects": "array:\n" + "".join(items)}),
    )


HISTORY = "    objectVersionHistory: 2\n"


@pytest.mark.parametrize(
    ("source", "is_same"),
    [
        pytest.param(make_generated_class(generation=2), True, id="generation"),
        pytest.param(make_generated_class(other=HISTORY), True, id="item of another object"),
        pytest.param(make_generated_class(user=HISTORY), False, id="item of its object"),
    ],
)
def test_hash_covers_only_the_items_of_a_generated_class_that_are_used(
    source: SecretProviderClass, is_same: bool
) -> None:
    objects = [USER, msgspec.structs.replace(USER, object="without-a-type")]
    before = make_generated_class()
    assert (sync_hash(META, source, objects) == sync_hash(META, before, objects)) is is_same
    assert (generation_hash(META, source, objects) == generation_hash(META, before, objects)) is (
        source.metadata.generation == 1
    )


def test_hash_equals_that_of_earlier_versions() -> None:
    """Otherwise all values are fetched again after an upgrade."""
    assert sync_hash(META, make_provider_class(), [USER]) == "42d1efe7867f44d8b00670726a15de1e"
    assert generation_hash(META, make_generated_class(), [USER]) == "42d1efe7867f44d8b00670726a15de1e"
    assert sync_hash(META, make_generated_class(), [USER]) == "c2cf3f2e52e1f170fc004b21799a7364"


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


HOST, PORT = (
    ObjectVersion(target_key=key, object="secret/db", version="v0", expanded_from="db/*") for key in ("host", "port")
)
NEW_HOST = ObjectVersion(target_key="host", object="secret/db", version="v1", expanded_from="db/*")
NEW_USER = ObjectVersion(target_key="user", object="secret/user", version="v1")


def make_property_value() -> VaultValue:
    return VaultValue(value=SecretBytes(b""), version="v1", expanded_from="db/*")


@pytest.mark.parametrize(
    ("fetched", "before", "after"),
    [
        pytest.param({"db/*": DISABLED}, [HOST, USER, PORT], [HOST, PORT], id="failed item"),
        pytest.param(
            {"user": make_value(), "db/*": DISABLED}, [USER, HOST], [NEW_USER, HOST], id="only another value was read"
        ),
        pytest.param(
            {"host": make_property_value(), "db/*": UNUSABLE}, [HOST, PORT], [NEW_HOST], id="one property is unusable"
        ),
        pytest.param(
            {"host": DISABLED, "db/*": DISABLED},
            [HOST, PORT],
            [HOST, PORT],
            id="another item has the key of a property",
        ),
        pytest.param({"host": make_property_value()}, [PORT], [NEW_HOST], id="all properties were read"),
    ],
)
def test_failed_expanded_item_keeps_the_versions_of_its_properties(
    fetched: dict[str, VaultValue | ControllerError], before: list[ObjectVersion], after: list[ObjectVersion]
) -> None:
    wanted = {key: ObjectVersionRef(VaultObject(name=name)) for key, name in (("db/*", "db"), ("user", "user"))}
    assert object_versions(fetched, wanted, SecretSyncStatus(objects=before)) == after


def test_time_for_failed_expanded_items_grows_linearly_with_their_number() -> None:
    """All work for statuses runs on the event loop. A spec of 128 KiB can have 3,700 keys."""
    fetched = {f"k{number}/*": UNUSABLE for number in range(3700)} | {"user": make_value()}
    before = [msgspec.structs.replace(HOST, target_key=f"p{n}", expanded_from=f"k{n}/*") for n in range(3700)]
    wanted = {"user": ObjectVersionRef(VaultObject(name="user"))}
    assert thread_seconds(lambda: object_versions(fetched, wanted, SecretSyncStatus(objects=before))) < 0.2


# Comparison of the Ready condition


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
def test_ready_condition_differs_by_status_reason_or_message(first: Reportable, then: Reportable, same: bool) -> None:
    assert has_same_ready_condition(apply_outcomes(first), apply_outcomes(first, then)) is same


def test_first_status_has_another_ready_condition() -> None:
    assert not has_same_ready_condition(EMPTY, apply_outcomes(WRITTEN))
    assert not has_same_ready_condition(apply_outcomes(WRITTEN), EMPTY)
    assert ready_condition(EMPTY) is None
