"""Test properties of one value: how often it is read, what is written, and what happens to removed properties."""

import base64
import json
from datetime import UTC, datetime

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.domain.managed_fields import data_fingerprint
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.domain.status import PartiallySynced, Reportable, next_status
from controller.domain.values import VaultValue
from controller.errors import ControllerError, ObjectError, ProviderError, Retry
from controller.secretsync.sync_resolver import ResolvedSync
from controller.secretsync.syncer import LastWrite
from controller.secretsync.tasks import Fetch, join_dependents
from tests.support.builders import make_provider_class, make_secret_meta, make_sync, make_value
from tests.unit.secretsync.syncer.harness import ABSENT, CANARY, SyncerHarness, make_class, metadata_response

EXPANDED = "array: ['objectName: user', '{objectName: pass, objectExpand: true}']"
WANTED = {"user": "user", "all": "pass"}


def make_expanding_sync(status: SecretSyncStatus | None = None) -> SecretSync:
    return make_sync(WANTED, status=status)


def make_status(outcome: Reportable) -> SecretSyncStatus:
    return next_status(make_sync().metadata, SecretSyncStatus(), make_provider_class(), outcome, datetime.now(UTC))


def encode_properties(**properties: object) -> str:
    return json.dumps(properties)


def read_written_data(harness: SyncerHarness) -> dict[str, str | None]:
    data = harness.body()["data"]
    return {key: base64.b64decode(text).decode() if text is not None else None for key, text in data.items()}


async def test_all_properties_of_one_object_take_one_read(harness: SyncerHarness) -> None:
    names = [f"p{number}" for number in range(20)]
    harness.vault.values["pass"] = make_value(encode_properties(**dict.fromkeys(names, CANARY)))
    objects = [f"{{objectName: pass, objectAlias: {name}, objectProperty: {name}}}" for name in names]
    wanted = make_sync([*names, "whole"])
    source = make_class(objects=f"array: {[*objects, '{objectName: pass, objectAlias: whole}']}")
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta()), wanted=wanted, source=source)
    assert harness.vault.read_names == ["pass"]
    assert read_written_data(harness).keys() == {*names, "whole"}
    assert outcome.objects
    assert {item.object for item in outcome.objects} == {"secret/pass"}


async def test_missing_property_keeps_its_last_value_and_the_others_are_written(harness: SyncerHarness) -> None:
    harness.vault.values["pass"] = make_value(encode_properties(b=CANARY))
    source = make_class(objects="array: ['objectName: user', '{objectName: pass, objectProperty: a}']")
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta(["user"])), source=source)
    assert read_written_data(harness) == {"user": "me"}
    assert outcome.reason == Reason.PARTIAL
    assert "no property 'a'; the value has: b" in outcome.message
    assert CANARY not in outcome.message


LACKING = "array: ['objectName: user', '{objectName: pass, objectProperty: a}']"


@pytest.mark.parametrize("before", [["user"], ["user", "pass"]])
async def test_missing_property_is_not_read_again_until_the_value_changed(
    harness: SyncerHarness, before: list[str]
) -> None:
    source, held = make_class(objects=LACKING), make_secret_meta(before)
    harness.vault.values["pass"] = make_value(encode_properties(b=CANARY), version="v2")
    first = await harness.sync(metadata_response(held), metadata_response(held, "43"), source=source)
    for stale in (frozenset[str](), frozenset({"user"})):
        harness.vault.read_names = []
        outcome = await harness.sync(metadata_response(held), source=source, stale=stale)
        assert harness.vault.read_names == sorted(stale)
        # A key with an earlier value in the Secret does not count as synced.
        assert (outcome.reason, outcome.message) == (Reason.PARTIAL, first.message)
    harness.vault.values["pass"] = make_value(encode_properties(a="now"), version="v3")
    outcome = await harness.sync(
        metadata_response(held), metadata_response(held, "44"), source=source, stale=frozenset({"pass"})
    )
    assert (read_written_data(harness), outcome.reason) == ({"pass": "now"}, Reason.WRITTEN)
    assert not harness.written.unusable


async def test_drift_and_the_daily_read_read_a_missing_property(harness: SyncerHarness) -> None:
    source, held = make_class(objects=LACKING), make_secret_meta(["user"])
    harness.vault.values["pass"] = make_value(encode_properties(b=CANARY))
    await harness.sync(metadata_response(held), metadata_response(held, "43"), source=source)
    await harness.sync(metadata_response(held), source=source)
    assert harness.vault.read_names == ["pass", "user"]


async def test_absent_secret_without_a_usable_value_is_not_drift(harness: SyncerHarness) -> None:
    source, wanted = make_class(objects=LACKING), make_sync(["pass"])
    harness.vault.values["pass"] = make_value(encode_properties(b=CANARY), version="v2")
    for stale in (None, frozenset[str]()):
        harness.vault.read_names = []
        harness.server.add_responses(ABSENT, ABSENT)
        resolved = await harness.resolver.resolve_sync(wanted, source)
        assert isinstance(resolved, ResolvedSync)
        with pytest.raises(ObjectError, match="no property") as caught:
            await harness.syncer.sync(wanted, resolved, harness.written, Fetch(0.0, stale))
        assert caught.value.retry is Retry.ON_NEW_VALUE
        assert CANARY not in repr(harness.written)
        assert await harness.syncer.is_unchanged(wanted, harness.written)
        assert harness.vault.read_names == (["pass"] if stale is None else [])


@pytest.mark.parametrize(
    ("broken", "left"),
    [
        (CANARY, ["user", "host"]),
        (json.dumps({"host": "db", "a b": CANARY}), ["user", "host"]),
        (json.dumps({"user": CANARY}), ["user"]),
    ],
)
async def test_unusable_part_of_an_expanded_object_is_not_read_again(
    harness: SyncerHarness, broken: str, left: list[str]
) -> None:
    source, held = make_class(objects=EXPANDED), make_secret_meta(["user", "host"])
    harness.vault.values["pass"] = make_value(encode_properties(host="db"))
    status = make_status(
        await harness.sync(ABSENT, metadata_response(held), wanted=make_expanding_sync(), source=source)
    )
    harness.vault.values |= {"user": make_value("new"), "pass": make_value(broken, version="v2")}
    after = make_secret_meta(left)
    second = await harness.sync(
        metadata_response(held), metadata_response(after, "43"), wanted=make_expanding_sync(status), source=source
    )
    status = make_status(second)
    harness.vault.read_names = []
    third = await harness.sync(
        metadata_response(after), wanted=make_expanding_sync(status), source=source, stale=frozenset()
    )
    assert harness.vault.read_names == []
    assert (third.reason, third.message, third.objects) == (Reason.PARTIAL, second.message, second.objects)


async def test_each_property_of_an_expanded_object_is_written_and_reported(harness: SyncerHarness) -> None:
    harness.vault.values["pass"] = make_value(encode_properties(host="db", port=5432))
    outcome = await harness.sync(
        ABSENT, metadata_response(make_secret_meta()), wanted=make_expanding_sync(), source=make_class(objects=EXPANDED)
    )
    assert read_written_data(harness) == {"user": "me", "host": "db", "port": "5432"}
    assert (outcome.reason, outcome.message) == (Reason.WRITTEN, "2 keys written from Key Vault shop-vault")
    assert outcome.objects
    assert [(item.target_key, item.object, item.expanded_from) for item in outcome.objects] == [
        ("user", "secret/user", ""),
        ("host", "secret/pass", "all/*"),
        ("port", "secret/pass", "all/*"),
    ]


async def test_new_property_is_added_and_removed_one_is_deleted(harness: SyncerHarness) -> None:
    source = make_class(objects=EXPANDED)
    harness.vault.values["pass"] = make_value(encode_properties(host="db", port=1))
    before = make_secret_meta(["user", "host", "port"])
    await harness.sync(ABSENT, metadata_response(before), wanted=make_expanding_sync(), source=source)
    harness.vault.values["pass"] = make_value(encode_properties(host="db", tls=True), version="v2")
    outcome = await harness.sync(
        metadata_response(before), metadata_response(before, "43"), wanted=make_expanding_sync(), source=source
    )
    assert read_written_data(harness) == {"tls": "true", "port": None}
    assert [item.target_key for item in outcome.objects or []] == ["user", "host", "tls"]


async def test_properties_stay_when_the_value_becomes_unreadable(harness: SyncerHarness) -> None:
    source = make_class(objects=EXPANDED)
    harness.vault.values["pass"] = make_value(encode_properties(host="db", port=1))
    before = make_secret_meta(["user", "host", "port"])
    status = make_status(
        await harness.sync(ABSENT, metadata_response(before), wanted=make_expanding_sync(), source=source)
    )
    disabled: list[VaultValue | ControllerError] = [ObjectError("secret pass is disabled")]
    for number, broken in enumerate([make_value(CANARY), make_value("{}"), *disabled]):
        harness.vault.values |= {"user": make_value(f"new {number}"), "pass": broken}
        outcome = await harness.sync(
            metadata_response(before),
            metadata_response(before, "43"),
            wanted=make_expanding_sync(status),
            source=source,
        )
        assert read_written_data(harness).keys() == {"user"}
        assert outcome.reason == Reason.PARTIAL
        assert isinstance(outcome, PartiallySynced)
        assert outcome.failed.keys() == {"all/*"}
        assert CANARY not in outcome.message
        assert [item.target_key for item in outcome.objects or []] == ["user", "host", "port"]


async def test_property_that_becomes_unusable_keeps_its_last_value(harness: SyncerHarness) -> None:
    source, before = make_class(objects=EXPANDED), make_secret_meta(["user", "host", "port", "old"])
    harness.vault.values["pass"] = make_value(encode_properties(host="db", port=1, old=1))
    status = make_status(
        await harness.sync(ABSENT, metadata_response(before), wanted=make_expanding_sync(), source=source)
    )
    harness.vault.values["pass"] = make_value('{"host": "\\ud800", "port": 2, "new": "\\ud800"}', version="v2")
    after = make_secret_meta(["user", "host", "port"])
    outcome = await harness.sync(
        metadata_response(before), metadata_response(after, "43"), wanted=make_expanding_sync(status), source=source
    )
    assert read_written_data(harness) == {"port": "2", "old": None}
    assert "has properties that are not valid Unicode text; correct them: host, new" in outcome.message
    assert [(item.target_key, item.version) for item in outcome.objects or []] == [
        ("user", "v1"),
        ("port", "v2"),
        ("host", "v1"),
    ]
    again = await harness.sync(
        metadata_response(after, "43"),
        wanted=make_expanding_sync(make_status(outcome)),
        source=source,
        stale=frozenset(),
    )
    assert (again.reason, again.message, again.objects) == (Reason.PARTIAL, outcome.message, outcome.objects)
    harness.vault.values["pass"] = make_value(encode_properties(host="new", port=2), version="v3")
    await harness.sync(
        metadata_response(after, "43"),
        metadata_response(after, "44"),
        wanted=make_expanding_sync(make_status(again)),
        source=source,
        stale=frozenset({"all/*"}),
    )
    assert read_written_data(harness) == {"host": "new"}


async def test_deleted_secret_gets_all_properties_of_a_partly_unusable_object(harness: SyncerHarness) -> None:
    source, before = make_class(objects=EXPANDED), make_secret_meta(["user", "host"])
    harness.vault.values["pass"] = make_value(json.dumps({"host": "db", "a b": CANARY}))
    outcome = await harness.sync(ABSENT, metadata_response(before), wanted=make_expanding_sync(), source=source)
    harness.vault.values["user"] = make_value("new", version="v2")
    await harness.sync(
        ABSENT,
        metadata_response(before),
        wanted=make_expanding_sync(make_status(outcome)),
        source=source,
        stale=frozenset({"user"}),
    )
    assert read_written_data(harness) == {"user": "new", "host": "db"}


TWO_EXPANDED = "array: ['{objectName: user, objectExpand: true}', '{objectName: pass, objectExpand: true}']"


async def sync_shared_property(harness: SyncerHarness) -> tuple[SecretSync, SecretProviderClass]:
    """Sync two expanded objects with a property of the same name. Return the SecretSync with its status."""
    source, keys = make_class(objects=TWO_EXPANDED), {"x": "user", "y": "pass"}
    harness.vault.values = {
        "user": make_value(encode_properties(host="first")),
        "pass": make_value(encode_properties(host="second", port=1)),
    }
    held = make_secret_meta(["host", "port"])
    outcome = await harness.sync(ABSENT, metadata_response(held), wanted=make_sync(keys), source=source)
    assert read_written_data(harness) == {"host": "first", "port": "1"}
    assert "mapped twice; rename or unmap them: host" in outcome.message
    return make_sync(keys, status=make_status(outcome)), source


@pytest.mark.parametrize(
    "failure",
    [
        ObjectError("secret user is disabled"),
        make_value("{", "v2"),
        make_value('{"host": "\\ud800"}', "v2"),
        ProviderError("unreachable"),
    ],
)
async def test_other_object_does_not_replace_a_property_of_a_failed_one(
    harness: SyncerHarness, failure: VaultValue | ControllerError
) -> None:
    wanted, source = await sync_shared_property(harness)
    held = make_secret_meta(["host", "port"])
    harness.vault.values |= {"user": failure, "pass": make_value(encode_properties(host="other", port=2), "v2")}
    outcome = await harness.sync(metadata_response(held), metadata_response(held, "43"), wanted=wanted, source=source)
    assert read_written_data(harness) == {"port": "2"}
    assert {item.target_key: item.version for item in outcome.objects or []} == {"host": "v1", "port": "v2"}


async def test_property_that_one_of_two_objects_lost_comes_from_the_other(harness: SyncerHarness) -> None:
    wanted, source = await sync_shared_property(harness)
    held = make_secret_meta(["host", "port"])
    harness.vault.values["user"] = make_value(encode_properties(name="n"), version="v2")
    outcome = await harness.sync(
        metadata_response(held),
        metadata_response(held, "43"),
        wanted=wanted,
        source=source,
        stale=join_dependents(frozenset({"x/*"}), harness.written.unusable),
    )
    assert read_written_data(harness) == {"name": "n", "host": "second"}
    assert outcome.reason == Reason.WRITTEN


async def test_property_is_removed_though_another_object_has_the_only_other_one(harness: SyncerHarness) -> None:
    wanted, source = await sync_shared_property(harness)
    held = make_secret_meta(["host", "port"])
    harness.vault.values["pass"] = make_value(encode_properties(host="second"), version="v2")
    outcome = await harness.sync(metadata_response(held), metadata_response(held, "43"), wanted=wanted, source=source)
    assert read_written_data(harness) == {"port": None}
    assert outcome.reason == Reason.PARTIAL
    assert [item.target_key for item in outcome.objects or []] == ["host"]


async def test_bad_name_is_reported_with_its_source_path(harness: SyncerHarness) -> None:
    harness.vault.values["pass"] = make_value(json.dumps({"a b": CANARY, "ok": 1}))
    outcome = await harness.sync(
        ABSENT, metadata_response(make_secret_meta()), wanted=make_expanding_sync(), source=make_class(objects=EXPANDED)
    )
    assert read_written_data(harness) == {"user": "me", "ok": "1"}
    failed = json.loads(outcome.message)[0]
    assert (failed["targetKey"], failed["sourcePath"], failed["status"]) == ("all/*", "pass", "failed")
    assert "a b" in failed["message"]
    assert CANARY not in outcome.message


async def test_only_stale_keys_are_read(harness: SyncerHarness) -> None:
    source = make_class(objects=EXPANDED)
    harness.vault.values["pass"] = make_value(encode_properties(host="db", port=1))
    before = make_secret_meta(["user", "host", "port"])
    status = make_status(
        await harness.sync(ABSENT, metadata_response(before), wanted=make_expanding_sync(), source=source)
    )
    outcome = await harness.sync(
        metadata_response(before), wanted=make_expanding_sync(status), source=source, stale=frozenset({"user"})
    )
    assert harness.vault.read_names == ["user"]
    assert outcome.reason == Reason.UP_TO_DATE
    assert [item.target_key for item in outcome.objects or []] == ["user", "host", "port"]
    await harness.sync(
        metadata_response(before), wanted=make_expanding_sync(status), source=source, stale=frozenset({"all/*"})
    )
    assert harness.vault.read_names == ["pass"]
    assert harness.vault.first_flags[-1] is False  # all properties have a value already


async def test_key_that_another_client_removed_is_read_again(harness: SyncerHarness) -> None:
    source = make_class(objects=EXPANDED)
    harness.vault.values["pass"] = make_value(encode_properties(host="db", port=1))
    before = make_secret_meta(["user", "host", "port"])
    status = make_status(
        await harness.sync(ABSENT, metadata_response(before), wanted=make_expanding_sync(), source=source)
    )
    remaining = make_secret_meta(["user", "host"])
    harness.written = LastWrite(untried=False, fingerprint=data_fingerprint(remaining))
    await harness.sync(
        metadata_response(remaining),
        metadata_response(before, "43"),
        wanted=make_expanding_sync(status),
        source=source,
        stale=frozenset(),
    )
    assert harness.vault.read_names == ["pass"]
    assert "port" in read_written_data(harness)


async def test_list_alone_shows_that_an_expanded_object_is_unchanged(harness: SyncerHarness) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    source = make_class(objects=EXPANDED)
    harness.vault.values["pass"] = msgspec.structs.replace(
        make_value(encode_properties(host="db", port=1)), updated=moment
    )
    harness.vault.values["user"] = msgspec.structs.replace(make_value("me"), updated=moment)
    status = make_status(
        await harness.sync(ABSENT, metadata_response(make_secret_meta()), wanted=make_expanding_sync(), source=source)
    )
    resolved = await harness.resolver.resolve_sync(make_expanding_sync(), source)
    assert isinstance(resolved, ResolvedSync)
    wanted = resolved.wanted
    same = {name: ListedObject(moment, enabled=True) for name in ("user", "pass")}
    assert VaultSnapshot(listed={"secret": same}).stale_keys(wanted, status.objects) == frozenset()
    newer = same | {"pass": ListedObject(moment.replace(year=2031), enabled=True)}
    assert VaultSnapshot(listed={"secret": newer}).stale_keys(wanted, status.objects) == {"all/*"}
    assert VaultSnapshot(listed={"secret": same}).stale_keys(wanted, []) == {"user", "all/*"}
