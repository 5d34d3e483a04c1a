"""What managedFields tell of other hands, during the life of a process and after a restart."""

import pytest

from controller.api.meta import ManagedFieldsEntry
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.plan import OUR_LABEL, data_keys, drifted, mark, metadata_patch
from tests.unit.objects_of import hand, secret, sync


def last_synced(time: str | None, *keys: str) -> SecretSync:
    objects = [ObjectVersion(target_key=key, object=f"secret/{key}") for key in keys]
    return sync(keys, status=SecretSyncStatus(last_successful_sync_time=time, objects=objects))


def test_a_mark_tells_who_set_which_keys_when_and_no_more() -> None:
    found = secret(
        hands=[hand(["pass", "user"], time="T1"), hand(["x"], manager="kubectl", time="T2"), hand([], time="T3")]
    )
    assert mark(found) == "akv-secret-store Update T1 pass,user; kubectl Update T2 x"
    assert data_keys(found) == {"pass", "user", "x"}


def test_the_order_of_managed_fields_does_not_matter_and_subresources_do_not_count() -> None:
    hands = [hand(["a"]), hand(["b"], manager="kubectl")]
    assert mark(secret(hands=hands)) == mark(secret(hands=hands[::-1]))
    assert mark(secret(hands=[hand(["a"], subresource="status")])) == ""


@pytest.mark.parametrize(
    "fields", [{}, {"f:data": None}, {"f:data": []}, {"f:data": "x"}, {"f:data": {".": {}, "k:{}": {}}}]
)
def test_managed_fields_of_any_shape_are_survived(fields: dict[str, object]) -> None:
    found = secret(hands=[ManagedFieldsEntry(manager="m", fields_v1=fields)])
    assert (data_keys(found), mark(found)) == (set(), "")


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        pytest.param([hand(["user"], labels=[OUR_LABEL[0]])], False, id="as remembered"),
        pytest.param([hand(["user"], labels=[OUR_LABEL[0]], time="2030-01-01T00:00:01Z")], True, id="a newer time"),
        pytest.param([hand(["user", "x"], labels=[OUR_LABEL[0]])], True, id="another key"),
        pytest.param([hand([], labels=[OUR_LABEL[0]])], True, id="our key is gone"),
        pytest.param(
            [hand(["user"], labels=[OUR_LABEL[0]]), hand(["user"], manager="kubectl")], True, id="another hand"
        ),
        pytest.param(
            [hand(["user"], labels=[OUR_LABEL[0]]), hand(labels=["x"], manager="velero")], False, id="not the data"
        ),
        pytest.param([], True, id="managedFields were stripped"),
    ],
)
def test_drift_against_what_is_remembered(later: list[ManagedFieldsEntry], expected: bool) -> None:
    remembered = mark(secret(["user"]))
    assert drifted(last_synced("2030-01-01T00:00:00Z", "user"), secret(["user"], hands=later), remembered) is expected


@pytest.mark.parametrize(
    ("last", "hands", "expected"),
    [
        pytest.param("2030-01-01T00:00:00Z", [hand(["user"])], False, id="untouched since the last sync"),
        pytest.param("2029-12-31T23:59:59Z", [hand(["user"])], False, id="within the grain of a second"),
        pytest.param("2029-12-31T23:59:58Z", [hand(["user"])], True, id="set after the last sync"),
        pytest.param("2030-01-01T00:00:00Z", [hand(["user", "x"])], True, id="a key that the status does not know"),
        pytest.param("2030-01-01T00:00:00Z", [], True, id="managedFields were stripped"),
        pytest.param("2030-01-01T00:00:00Z", [hand(["user"], time=None)], True, id="a hand without a time"),
        pytest.param(None, [hand(["user"])], True, id="never synced"),
        pytest.param("yesterday", [hand(["user"])], True, id="a time that cannot be read"),
        pytest.param(
            "2030-01-01T00:00:00Z",
            [hand(["user"]), hand(["user"], manager="kubectl", time="2030-01-01T00:05:00Z")],
            True,
            id="another hand since",
        ),
    ],
)
def test_drift_after_a_restart_goes_by_the_status(
    last: str | None, hands: list[ManagedFieldsEntry], expected: bool
) -> None:
    assert drifted(last_synced(last, "user"), secret(["user"], hands=hands), remembered="") is expected


def test_edited_label_is_repaired_without_values() -> None:
    found = secret(["user"], labels={"tier": "edited"})
    wanted = sync(["user"], labels={"tier": "data"})
    assert not drifted(wanted, found, mark(found))
    assert metadata_patch(wanted, found) == {"labels": {"tier": "data"}}
