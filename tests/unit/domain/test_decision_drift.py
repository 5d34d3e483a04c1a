"""What managedFields tell of other hands, during the life of a process and after a restart."""

import pytest

from controller.api.meta import ManagedFieldsEntry
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.domain.decision import OUR_LABEL, data_fingerprint, data_keys, has_drifted, metadata_patch
from tests.support.builders import make_managed_fields, make_secret_meta, make_sync


def last_synced(time: str | None, *keys: str) -> SecretSync:
    objects = [ObjectVersion(target_key=key, object=f"secret/{key}") for key in keys]
    return make_sync(keys, status=SecretSyncStatus(last_successful_sync_time=time, objects=objects))


def test_a_mark_tells_who_set_which_keys_when_and_no_more() -> None:
    found = make_secret_meta(
        hands=[
            make_managed_fields(["pass", "user"], time="T1"),
            make_managed_fields(["x"], manager="kubectl", time="T2"),
            make_managed_fields([], time="T3"),
        ]
    )
    assert data_fingerprint(found) == "akv-secret-store Update T1 pass,user; kubectl Update T2 x"
    assert data_keys(found) == {"pass", "user", "x"}


def test_the_order_of_managed_fields_does_not_matter_and_subresources_do_not_count() -> None:
    hands = [make_managed_fields(["a"]), make_managed_fields(["b"], manager="kubectl")]
    assert data_fingerprint(make_secret_meta(hands=hands)) == data_fingerprint(make_secret_meta(hands=hands[::-1]))
    assert data_fingerprint(make_secret_meta(hands=[make_managed_fields(["a"], subresource="status")])) == ""


@pytest.mark.parametrize(
    "fields", [{}, {"f:data": None}, {"f:data": []}, {"f:data": "x"}, {"f:data": {".": {}, "k:{}": {}}}]
)
def test_managed_fields_of_any_shape_are_survived(fields: dict[str, object]) -> None:
    found = make_secret_meta(hands=[ManagedFieldsEntry(manager="m", fields_v1=fields)])
    assert (data_keys(found), data_fingerprint(found)) == (set(), "")


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        pytest.param([make_managed_fields(["user"], labels=[OUR_LABEL[0]])], False, id="as remembered"),
        pytest.param(
            [make_managed_fields(["user"], labels=[OUR_LABEL[0]], time="2030-01-01T00:00:01Z")], True, id="a newer time"
        ),
        pytest.param([make_managed_fields(["user", "x"], labels=[OUR_LABEL[0]])], True, id="another key"),
        pytest.param([make_managed_fields([], labels=[OUR_LABEL[0]])], True, id="our key is gone"),
        pytest.param(
            [make_managed_fields(["user"], labels=[OUR_LABEL[0]]), make_managed_fields(["user"], manager="kubectl")],
            True,
            id="another hand",
        ),
        pytest.param(
            [make_managed_fields(["user"], labels=[OUR_LABEL[0]]), make_managed_fields(labels=["x"], manager="velero")],
            False,
            id="not the data",
        ),
        pytest.param([], True, id="managedFields were stripped"),
    ],
)
def test_drift_against_what_is_remembered(later: list[ManagedFieldsEntry], expected: bool) -> None:
    remembered = data_fingerprint(make_secret_meta(["user"]))
    assert (
        has_drifted(last_synced("2030-01-01T00:00:00Z", "user"), make_secret_meta(["user"], hands=later), remembered)
        is expected
    )


@pytest.mark.parametrize(
    ("last", "hands", "expected"),
    [
        pytest.param(
            "2030-01-01T00:00:00Z", [make_managed_fields(["user"])], False, id="untouched since the last sync"
        ),
        pytest.param("2029-12-31T23:59:59Z", [make_managed_fields(["user"])], False, id="within the grain of a second"),
        pytest.param("2029-12-31T23:59:58Z", [make_managed_fields(["user"])], True, id="set after the last sync"),
        pytest.param(
            "2030-01-01T00:00:00Z", [make_managed_fields(["user", "x"])], True, id="a key that the status does not know"
        ),
        pytest.param("2030-01-01T00:00:00Z", [], True, id="managedFields were stripped"),
        pytest.param(
            "2030-01-01T00:00:00Z", [make_managed_fields(["user"], time=None)], True, id="a hand without a time"
        ),
        pytest.param(None, [make_managed_fields(["user"])], True, id="never synced"),
        pytest.param("yesterday", [make_managed_fields(["user"])], True, id="a time that cannot be read"),
        pytest.param(
            "2030-01-01T00:00:00Z",
            [
                make_managed_fields(["user"]),
                make_managed_fields(["user"], manager="kubectl", time="2030-01-01T00:05:00Z"),
            ],
            True,
            id="another hand since",
        ),
    ],
)
def test_drift_after_a_restart_goes_by_the_status(
    last: str | None, hands: list[ManagedFieldsEntry], expected: bool
) -> None:
    assert has_drifted(last_synced(last, "user"), make_secret_meta(["user"], hands=hands), remembered="") is expected


def test_edited_label_is_repaired_without_values() -> None:
    found = make_secret_meta(["user"], labels={"tier": "edited"})
    wanted = make_sync(["user"], labels={"tier": "data"})
    assert not has_drifted(wanted, found, data_fingerprint(found))
    assert metadata_patch(wanted, found) == {"labels": {"tier": "data"}}
