"""Test that equal parts of objects are stored once."""

import gc

import msgspec
import pytest

from controller.api.secretsync import SecretSync
from controller.runtime import sharing
from controller.runtime.sharing import share_parts

TEMPLATE = {
    "metadata": {"namespace": "shop", "name": "", "uid": "", "generation": 1},
    "spec": {
        "secretProviderClassName": "the-class",
        "serviceAccountName": "robot",
        "secretObject": {"type": "Opaque", "data": [{"sourcePath": "db", "targetKey": "password"}]},
    },
    "status": {
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Written",
                "message": "1 key written from Key Vault shop",
                "lastTransitionTime": "2030-01-31T00:00:00Z",
            }
        ],
    },
}


def decode_sync(name: str) -> SecretSync:
    text = msgspec.json.encode(TEMPLATE | {"metadata": {"namespace": "shop", "name": name, "uid": f"uid-{name}"}})
    return msgspec.json.decode(text, type=SecretSync)


def test_shared_object_is_equal_to_the_original() -> None:
    assert share_parts(decode_sync("a")) == decode_sync("a")


def test_texts_and_empty_containers_of_two_objects_are_the_same() -> None:
    one, two = share_parts(decode_sync("a")), share_parts(decode_sync("b"))
    for field in ("type", "reason", "message", "last_transition_time"):
        assert getattr(one.status.conditions[0], field) is getattr(two.status.conditions[0], field)
    assert one.metadata.namespace is two.metadata.namespace
    assert one.metadata.labels is two.metadata.labels
    assert one.metadata.owner_references is two.metadata.owner_references
    assert one.spec.secret_object.data[0].target_key is two.spec.secret_object.data[0].target_key


def test_long_texts_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MAX_LENGTH", 10)
    assert share_parts("0123456789"[:10]) is share_parts("".join(list("0123456789")))
    assert share_parts("0123456789a"[:11]) is not share_parts("".join(list("0123456789a")))


def test_number_of_remembered_texts_is_bounded() -> None:
    for number in range(3 * sharing.MAX_TEXTS):
        share_parts(f"text {number}")
    assert sharing.remembered_text.cache_info().currsize == sharing.MAX_TEXTS


def test_garbage_collector_does_not_see_decoded_objects() -> None:
    found = share_parts(decode_sync("a"))
    assert not any(gc.is_tracked(part) for part in (found, found.metadata, found.spec, found.status))
