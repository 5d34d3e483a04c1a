"""Test tools/migrate adopt: which Secrets may get an owner, and that an owner's name cannot move the cursor."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.meta import ObjectMeta, OwnerReference
from controller.api.secretsync import SecretSync
from controller.domain.decision import is_owned_by
from tests.support.hostile_texts import HOSTILE
from tools.cli import adoption
from tools.cli.common import printable
from tools.cli.migrate import adopt

LABEL = {"secrets-store.sync.x-k8s.io": ""}
SYNC_API = "secret-sync.x-k8s.io/v1alpha1"


def make_sync(**metadata: Any) -> SecretSync:
    spec = {"secretProviderClassName": "c", "serviceAccountName": "a",
            "secretObject": {"data": [{"sourcePath": "a", "targetKey": "k"}]}}  # fmt: skip
    meta = {"name": "s", "namespace": "n", "uid": "new", **metadata}
    return msgspec.convert({"metadata": meta, "spec": spec}, SecretSync)


def make_owner(kind: str = "SecretSync", name: str = "s", uid: str = "old", api: str = SYNC_API) -> OwnerReference:
    return OwnerReference(api_version=api, kind=kind, name=name, uid=uid)


def make_secret(*owners: OwnerReference, labels: dict[str, str] | None = None, **fields: Any) -> ObjectMeta:
    given = LABEL if labels is None else labels
    return ObjectMeta(name="s", namespace="n", labels=given, owner_references=list(owners), **fields)


@pytest.mark.parametrize(
    ("found", "adopted"),
    [
        (make_secret(), True),
        (make_secret(make_owner()), True),
        (make_secret(make_owner(api="secret-sync.x-k8s.io/v1beta1")), True),
        (make_secret(labels={}), False),
        (make_secret(labels={"secrets-store.sync.x-k8s.io": "x"}), False),
        (make_secret(make_owner(), labels={}), False),
        (make_secret(make_owner(name="other")), False),
        (make_secret(make_owner(kind="ConfigMap", api="v1")), False),
        (make_secret(make_owner(api="example.com/v1")), False),
        (make_secret(make_owner(), make_owner(kind="ConfigMap", api="v1")), False),
        (make_secret(make_owner(), make_owner(uid="older")), False),
        (make_secret(deletion_timestamp="2030-01-01T00:00:00Z"), False),
    ],
)
def test_labelled_secret_without_another_owner_is_adopted(found: ObjectMeta, adopted: bool) -> None:
    assert (adoption.adoption_blocker(make_sync(), found) == "") is adopted
    # tools/doctor names the command for the same Secrets, and for one that is being deleted.
    assert adoption.is_orphan(make_sync(), found) is (adopted or bool(found.deletion_timestamp))


def test_secretsync_that_is_being_deleted_adopts_nothing() -> None:
    assert "being deleted" in adoption.adoption_blocker(
        make_sync(deletionTimestamp="2030-01-01T00:00:00Z"), make_secret()
    )


def test_adopted_secret_belongs_to_the_secretsync() -> None:
    given = msgspec.convert(adoption.owner_reference(make_sync()), OwnerReference)
    assert is_owned_by(make_sync(), make_secret(given))


class NoCallClient:
    """A client that supports no call, so a request for a Secret that is not adopted fails the test."""


@settings(deadline=None)
@given(kind=HOSTILE, name=HOSTILE)
async def test_owner_with_a_hostile_name_is_printed_in_one_line(kind: str, name: str) -> None:
    secret_object = msgspec.to_builtins(make_secret(make_owner(kind=kind, name=name, api="example.com/v1")))
    text, needs_person = await adopt.adopt_secret(NoCallClient(), make_sync(), secret_object, apply=True)  # type: ignore[arg-type]
    assert needs_person
    assert printable.line(text).isprintable()


@settings(deadline=None)
@given(
    owners=st.lists(st.builds(make_owner, kind=st.sampled_from(["SecretSync", "X"]), name=st.sampled_from(["s", "t"]),
                              uid=st.sampled_from(["new", "old"]), api=st.sampled_from([SYNC_API, "v1"])), max_size=3),
    labels=st.sampled_from([{}, LABEL, {"other": ""}, {**LABEL, "other": ""}]),
)  # fmt: skip
def test_secret_of_another_owner_is_not_adopted(owners: list[OwnerReference], labels: dict[str, str]) -> None:
    if adoption.adoption_blocker(make_sync(), make_secret(*owners, labels=labels)) == "":
        assert labels.get("secrets-store.sync.x-k8s.io") == ""
        assert all((each.kind, each.name, each.api_version) == ("SecretSync", "s", SYNC_API) for each in owners)
        assert len(owners) <= 1
