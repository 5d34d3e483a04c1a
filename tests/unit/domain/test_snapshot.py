"""Test which keys are stale according to a snapshot of the vault."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from controller.api.secretsync import ObjectVersion
from controller.domain.provider_class import ObjectPart, ObjectVersionRef, VaultObject
from controller.domain.snapshot import ListedObject, VaultSnapshot, settled_time
from controller.errors import UnusableValue

THEN = datetime(2030, 1, 1, 12, 0, 5, tzinfo=UTC)
USER = VaultObject(name="user")
NEWEST = ObjectVersionRef(USER)
PINNED = VaultObject(name="user", version="v1")
HISTORY = VaultObject(name="user", history=3)
HISTORY_OF_TWO = VaultObject(name="user", history=2)


def make_known(
    object_name: str = "secret/user", version: str = "v1", updated: str = "2030-01-01T12:00:05Z"
) -> ObjectVersion:
    return ObjectVersion(target_key="k", object=object_name, version=version, updated=updated)


def make_list_snapshot(
    name: str = "user", updated: datetime | None = THEN, enabled: bool = True, kind: str = "secret"
) -> VaultSnapshot:
    return VaultSnapshot(listed={kind: {name: ListedObject(updated, enabled)}})


def make_versions_snapshot(*ids: str) -> VaultSnapshot:
    return VaultSnapshot(versions={HISTORY: ids})


@pytest.mark.parametrize(
    ("snapshot", "wanted", "before", "stale"),
    [
        pytest.param(make_list_snapshot(), NEWEST, [make_known()], False, id="equal"),
        pytest.param(make_list_snapshot(), NEWEST, [], True, id="never synced"),
        pytest.param(make_list_snapshot(), NEWEST, [make_known(object_name="secret/other")], True, id="another object"),
        pytest.param(
            make_list_snapshot(), NEWEST, [make_known(object_name="secret/user/0")], True, id="had a history before"
        ),
        pytest.param(
            make_list_snapshot(updated=THEN + timedelta(seconds=1)), NEWEST, [make_known()], True, id="updated later"
        ),
        pytest.param(
            make_list_snapshot(updated=THEN - timedelta(days=1)),
            NEWEST,
            [make_known()],
            True,
            id="restored from a backup",
        ),
        pytest.param(
            make_list_snapshot(updated=THEN + timedelta(microseconds=9)),
            NEWEST,
            [make_known()],
            False,
            id="less than a second later",
        ),
        pytest.param(make_list_snapshot(updated=None), NEWEST, [make_known()], True, id="list without a time"),
        pytest.param(
            make_list_snapshot(updated=None),
            NEWEST,
            [make_known(updated="")],
            True,
            id="list and status without a time",
        ),
        pytest.param(make_list_snapshot(), NEWEST, [make_known(updated="")], True, id="fetched within the second"),
        pytest.param(make_list_snapshot(enabled=False), NEWEST, [make_known()], True, id="disabled"),
        pytest.param(VaultSnapshot(), NEWEST, [make_known()], True, id="not in the snapshot"),
        pytest.param(VaultSnapshot(listed={"secret": {}}), NEWEST, [make_known()], True, id="deleted"),
        pytest.param(make_list_snapshot(kind="cert"), NEWEST, [make_known()], True, id="certificate of the same name"),
        pytest.param(
            make_list_snapshot(kind="cert"),
            ObjectVersionRef(VaultObject(name="user", type="cert")),
            [make_known("cert/user")],
            False,
            id="certificate",
        ),
        pytest.param(
            make_list_snapshot(kind="key", updated=THEN - timedelta(seconds=1)),
            ObjectVersionRef(VaultObject(name="user", type="key")),
            [make_known("key/user")],
            True,
            id="changed key",
        ),
        pytest.param(
            make_list_snapshot(), ObjectVersionRef(USER, 0, ObjectPart.PRIVATE_KEY), [make_known()], False, id="part"
        ),
        pytest.param(
            make_list_snapshot(),
            ObjectVersionRef(VaultObject(name="USER")),
            [make_known("secret/USER")],
            False,
            id="name in capitals",
        ),
        pytest.param(
            make_list_snapshot(),
            ObjectVersionRef(VaultObject(name="User")),
            [make_known()],
            True,
            id="class changed the case",
        ),
        pytest.param(
            make_list_snapshot(updated=THEN + timedelta(9)),
            ObjectVersionRef(PINNED),
            [make_known()],
            False,
            id="pinned version",
        ),
        pytest.param(
            make_list_snapshot(),
            ObjectVersionRef(PINNED),
            [make_known(version="v0")],
            True,
            id="pinned to another version",
        ),
        pytest.param(
            VaultSnapshot(listed={"secret": {}}),
            ObjectVersionRef(PINNED),
            [make_known()],
            True,
            id="deleted pinned version",
        ),
        pytest.param(
            make_versions_snapshot("v2", "v1"),
            ObjectVersionRef(HISTORY, 1),
            [make_known("secret/user/1")],
            False,
            id="history",
        ),
        pytest.param(
            make_versions_snapshot("v3", "v2", "v1"),
            ObjectVersionRef(HISTORY, 1),
            [make_known("secret/user/1")],
            True,
            id="newer version",
        ),
        pytest.param(
            VaultSnapshot(
                versions={HISTORY_OF_TWO: ("v2", "v1")}, listed={"secret": {"user": ListedObject(THEN, True)}}
            ),
            ObjectVersionRef(HISTORY_OF_TWO, 1),
            [make_known("secret/user/1", updated="")],
            False,
            id="history of two",
        ),
        pytest.param(
            make_versions_snapshot("v1"),
            ObjectVersionRef(HISTORY, 1),
            [make_known("secret/user/1")],
            True,
            id="fewer versions",
        ),
        pytest.param(
            make_list_snapshot(),
            ObjectVersionRef(HISTORY, 0),
            [make_known("secret/user/0")],
            True,
            id="versions not listed",
        ),
        pytest.param(
            make_list_snapshot(), ObjectVersionRef(VaultObject(name="user", keep=True)), [], False, id="kept object"
        ),
        pytest.param(
            make_list_snapshot(),
            NEWEST,
            [make_known(), make_known(updated="")],
            True,
            id="one of several entries differs",
        ),
    ],
)
def test_key_is_stale_if_its_object_may_have_changed(
    snapshot: VaultSnapshot, wanted: ObjectVersionRef, before: list[ObjectVersion], stale: bool
) -> None:
    assert snapshot.stale_keys({"k": wanted}, before) == ({"k"} if stale else set())


def test_only_changed_keys_are_stale() -> None:
    snapshot = VaultSnapshot(listed={"secret": {"user": ListedObject(THEN, True), "pass": ListedObject(THEN, False)}})
    wanted = {"k": NEWEST, "l": ObjectVersionRef(VaultObject(name="pass"))}
    before = [
        make_known(),
        ObjectVersion(target_key="l", object="secret/pass", version="v1", updated="2030-01-01T12:00:05Z"),
    ]
    assert snapshot.stale_keys(wanted, before) == {"l"}


@pytest.mark.parametrize(
    ("updated", "stale"), [(THEN, frozenset()), (THEN + timedelta(seconds=1), {"k/*"})], ids=["equal", "updated later"]
)
def test_expanded_item_is_stale_if_one_of_its_properties_may_have_changed(
    updated: datetime, stale: frozenset[str]
) -> None:
    before = [
        ObjectVersion(target_key=key, object="secret/user", updated="2030-01-01T12:00:05Z", expanded_from="k/*")
        for key in ("host", "port")
    ]
    assert make_list_snapshot(updated=updated).stale_keys({"k/*": NEWEST}, before) == stale


def make_unusable(version: str = "v1", updated: str = "2030-01-01T12:00:05Z") -> UnusableValue:
    return UnusableValue("the value has no property", version=version, updated=updated)


@pytest.mark.parametrize(
    ("wanted", "key", "error", "before", "stale"),
    [
        pytest.param(USER, "k", make_unusable(), [], False, id="the value did not change"),
        pytest.param(USER, "k", make_unusable(), [make_known(updated="")], False, id="the Secret has an earlier value"),
        pytest.param(
            USER, "k", make_unusable(updated="2030-01-01T12:00:04Z"), [make_known()], True, id="the value changed"
        ),
        pytest.param(PINNED, "k", make_unusable(updated=""), [], False, id="the version is the same"),
        pytest.param(PINNED, "k", make_unusable("v0"), [make_known()], True, id="another version is wanted"),
        pytest.param(USER, "removed", make_unusable(), [make_known()], False, id="another key was unusable"),
    ],
)
def test_unusable_value_is_compared_instead_of_the_value_in_the_secret(
    wanted: VaultObject, key: str, error: UnusableValue, before: list[ObjectVersion], stale: bool
) -> None:
    found = make_list_snapshot().stale_keys({"k": ObjectVersionRef(wanted)}, before, {key: error})
    assert found == ({"k"} if stale else set())


def test_empty_snapshot_has_only_stale_keys_and_counts_no_comparison() -> None:
    empty = VaultSnapshot()
    assert empty.stale_keys({"k": NEWEST}, [make_known()]) == {"k"}
    assert (empty.sightings, empty.compared, empty.since) == ((), 0, math.inf)


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        (timedelta(seconds=-9), False),
        (timedelta(0), False),
        (timedelta(seconds=2) - timedelta(microseconds=1), False),
        (timedelta(seconds=2), True),
        (timedelta(days=900), True),
    ],
)
def test_update_time_is_kept_two_seconds_after_the_update(after: timedelta, kept: bool) -> None:
    assert settled_time(THEN, THEN + after) == (THEN if kept else None)
    assert settled_time(None, THEN) is None
