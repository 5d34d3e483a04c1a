"""Test that managedFields reveal drift, within one process and after a restart."""

import pytest

from controller.api.meta import ManagedFieldsEntry, ObjectMeta
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.domain.decision import SYNC_LABEL, metadata_patch
from controller.domain.managed_fields import data_fingerprint, data_keys, has_drifted
from tests.support.builders import make_managed_fields, make_secret_meta, make_sync


def make_synced(time: str | None, *keys: str) -> SecretSync:
    objects = [ObjectVersion(target_key=key, object=f"secret/{key}") for key in keys]
    return make_sync(keys, status=SecretSyncStatus(last_successful_sync_time=time, objects=objects))


def make_writers(keys: list[str], manager: str = "kubectl", time: str = "T2") -> ObjectMeta:
    """Return a Secret that the controller, another manager of the data, and a manager of other fields wrote."""
    return make_secret_meta(
        managed_fields=[
            make_managed_fields(["pass", "user"], time="T1"),
            make_managed_fields(keys, manager=manager, time=time),
            make_managed_fields([], time="T3"),
        ]
    )


def test_data_keys_are_those_of_all_managers() -> None:
    assert data_keys(make_writers(["x"])) == {"pass", "user", "x"}


@pytest.mark.parametrize(
    "other", [make_writers(["x"], time="T9"), make_writers(["x"], manager="helm"), make_writers(["y"])]
)
def test_fingerprint_changes_with_manager_time_and_data_keys(other: ObjectMeta) -> None:
    assert data_fingerprint(make_writers(["x"])) == data_fingerprint(make_writers(["x"]))
    assert data_fingerprint(other) != data_fingerprint(make_writers(["x"]))


def test_fingerprint_has_the_same_size_for_any_number_of_managers() -> None:
    many = [make_managed_fields([f"k{key:0199}" for key in range(500)], manager=f"m{number}") for number in range(20)]
    assert len(data_fingerprint(make_secret_meta(managed_fields=many))) == len(data_fingerprint(make_writers(["x"])))


def test_manager_named_like_two_has_another_fingerprint() -> None:
    one = make_secret_meta(managed_fields=[make_managed_fields(["b"], manager="a Update T1 a; c", time="T2")])
    two = [make_managed_fields(["a"], manager="a", time="T1"), make_managed_fields(["b"], manager="c", time="T2")]
    assert data_fingerprint(one) != data_fingerprint(make_secret_meta(managed_fields=two))


def test_fingerprint_ignores_order_and_subresources() -> None:
    # The time of an entry is optional.
    managed_fields = [
        make_managed_fields(["a"]),
        make_managed_fields(["b"], manager="kubectl"),
        make_managed_fields(["c"], manager="kubectl", time=None),
    ]
    assert data_fingerprint(make_secret_meta(managed_fields=managed_fields)) == data_fingerprint(
        make_secret_meta(managed_fields=managed_fields[::-1])
    )
    assert data_fingerprint(make_secret_meta(managed_fields=[make_managed_fields(["a"], subresource="status")])) == ""


@pytest.mark.parametrize(
    "fields", [{}, {"f:data": None}, {"f:data": []}, {"f:data": "x"}, {"f:data": {".": {}, "k:{}": {}}}]
)
def test_managed_fields_of_unknown_shape_have_no_data_keys(fields: dict[str, object]) -> None:
    found = make_secret_meta(managed_fields=[ManagedFieldsEntry(manager="m", fields_v1=fields)])
    assert (data_keys(found), data_fingerprint(found)) == (set(), "")


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        pytest.param([make_managed_fields(["user"], labels=[SYNC_LABEL[0]])], False, id="unchanged"),
        pytest.param(
            [make_managed_fields(["user"], labels=[SYNC_LABEL[0]], time="2030-01-01T00:00:01Z")], True, id="newer time"
        ),
        pytest.param([make_managed_fields(["user", "x"], labels=[SYNC_LABEL[0]])], True, id="another key"),
        pytest.param([make_managed_fields([], labels=[SYNC_LABEL[0]])], True, id="key removed"),
        pytest.param(
            [make_managed_fields(["user"], labels=[SYNC_LABEL[0]]), make_managed_fields(["user"], manager="kubectl")],
            True,
            id="another client",
        ),
        pytest.param(
            [
                make_managed_fields(["user"], labels=[SYNC_LABEL[0]]),
                make_managed_fields(labels=["x"], manager="velero"),
            ],
            False,
            id="label of another client",
        ),
        pytest.param([], True, id="managedFields were stripped"),
    ],
)
def test_drift_is_found_against_the_remembered_fingerprint(later: list[ManagedFieldsEntry], expected: bool) -> None:
    remembered = data_fingerprint(make_secret_meta(["user"]))
    assert (
        has_drifted(
            make_synced("2030-01-01T00:00:00Z", "user"), make_secret_meta(["user"], managed_fields=later), remembered
        )
        is expected
    )


@pytest.mark.parametrize(
    ("last", "managed_fields", "expected"),
    [
        pytest.param(
            "2030-01-01T00:00:00Z", [make_managed_fields(["user"])], False, id="not changed since the last sync"
        ),
        pytest.param(
            "2029-12-31T23:59:59Z", [make_managed_fields(["user"])], False, id="one second after the last sync"
        ),
        pytest.param(
            "2029-12-31T23:55:00Z", [make_managed_fields(["user"])], False, id="clocks that differ by five minutes"
        ),
        pytest.param(
            "2029-12-31T23:54:59Z", [make_managed_fields(["user"])], True, id="later than the clocks can differ"
        ),
        pytest.param(
            "2029-12-31T23:59:58Z",
            [make_managed_fields(["user"], manager="kubectl")],
            True,
            id="another client two seconds after the last sync",
        ),
        pytest.param(
            "2029-12-31T23:59:59Z",
            [make_managed_fields(["user"], manager="kubectl")],
            False,
            id="another client within the second",
        ),
        pytest.param(
            "2030-01-01T00:00:00Z", [make_managed_fields(["user", "x"])], True, id="key unknown to the status"
        ),
        pytest.param("2030-01-01T00:00:00Z", [], True, id="managedFields were stripped"),
        pytest.param(
            "2030-01-01T00:00:00Z", [make_managed_fields(["user"], time=None)], True, id="entry without a time"
        ),
        pytest.param(None, [make_managed_fields(["user"])], True, id="never synced"),
        pytest.param("yesterday", [make_managed_fields(["user"])], True, id="unreadable time"),
        pytest.param(
            "2030-01-01T00:00:00Z",
            [
                make_managed_fields(["user"]),
                make_managed_fields(["user"], manager="kubectl", time="2030-01-01T00:05:00Z"),
            ],
            True,
            id="another client since the last sync",
        ),
        pytest.param(
            "2030-01-01T00:00:00Z",
            [make_managed_fields(["user"]), make_managed_fields(labels=["x"], time="2030-01-01T00:05:00Z")],
            False,
            id="label since the last sync",
        ),
    ],
)
def test_drift_after_a_restart_is_found_against_the_status(
    last: str | None, managed_fields: list[ManagedFieldsEntry], expected: bool
) -> None:
    assert (
        has_drifted(
            make_synced(last, "user"), make_secret_meta(["user"], managed_fields=managed_fields), last_fingerprint=""
        )
        is expected
    )


def test_secret_whose_managed_fields_were_stripped_has_drifted_even_without_keys() -> None:
    assert has_drifted(make_synced("2030-01-01T00:00:00Z"), make_secret_meta(managed_fields=[]), last_fingerprint="")


def test_edited_label_is_repaired_without_values() -> None:
    found = make_secret_meta(["user"], labels={"tier": "edited"})
    wanted = make_sync(["user"], labels={"tier": "data"})
    assert not has_drifted(wanted, found, data_fingerprint(found))
    assert metadata_patch(wanted, found) == {"labels": {"tier": "data"}}
