"""Test which keys an edit of generated objects affects. The controller fetches only these keys again."""

import msgspec
import pytest

from controller.akvsync.expand import expand_akvsync
from controller.api.meta import ObjectMeta
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import ObjectVersion, SecretSync
from controller.domain.generated import changed_items, changed_keys, keys_from_items
from controller.domain.status import generation_hash, sync_hash
from tests.support.akv_syncs import akv_sync

TWO_OBJECTS = "[{secretInAKV: a}, {secretInAKV: b}]"


def make_source(objects: str, generation: int = 1) -> SecretProviderClass:
    source = expand_akvsync(akv_sync(objects)).source
    assert source
    metadata = msgspec.structs.replace(source.metadata, uid="class", generation=generation)
    return msgspec.structs.replace(source, metadata=metadata)


def make_bundle(*names: str, **spec: str) -> SecretSync:
    mapping = ", ".join(f"{{dataKey: {name}, secretInAKV: {name}}}" for name in names)
    made = expand_akvsync(akv_sync(f"[{{kubernetesSecretName: m, mapping: [{mapping}]}}]")).syncs["m"]
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, **spec))


@pytest.mark.parametrize(
    ("after", "changed"),
    [
        (TWO_OBJECTS, set()),
        ("[{secretInAKV: a}, {secretInAKV: b}, {secretInAKV: c}]", {"c"}),
        ("[{secretInAKV: a}]", {"b"}),
        ("[{secretInAKV: a}, {secretInAKV: b, versionHistory: 2}]", {"b"}),
    ],
)
def test_edit_of_a_generated_class_affects_the_changed_items(after: str, changed: set[str]) -> None:
    assert changed_items(make_source(TWO_OBJECTS), make_source(after, 2)) == frozenset(changed)


@pytest.mark.parametrize("field", ["vault", "owner", "text"])
def test_other_edit_of_a_class_affects_all_items(field: str) -> None:
    before, after = make_source(TWO_OBJECTS), make_source(TWO_OBJECTS, 2)
    if field == "owner":
        after = msgspec.structs.replace(after, metadata=ObjectMeta(name="shop", uid="class"))
    else:
        parameters = dict(after.spec.parameters)
        parameters["keyvaultName" if field == "vault" else "objects"] += " # edited"
        after = msgspec.structs.replace(after, spec=msgspec.structs.replace(after.spec, parameters=parameters))
    assert changed_items(before, after) is None


def test_keys_of_items_include_expanded_ones() -> None:
    assert keys_from_items(make_bundle("a", "b"), frozenset({"b", "x"})) == frozenset({"b", "b/*"})
    assert keys_from_items(make_bundle("a", "b"), frozenset()) == frozenset()


def test_edit_of_a_generated_secretsync_affects_the_changed_keys() -> None:
    assert changed_keys(make_bundle("a"), make_bundle("a", "b")) == frozenset({"b", "b/*"})
    assert changed_keys(make_bundle("a", "b"), make_bundle("a")) == frozenset()
    assert changed_keys(make_bundle("a"), make_bundle("a", force_synchronization="now")) is None
    assert changed_keys(None, make_bundle("a")) is None
    own = msgspec.structs.replace(make_bundle("a"), metadata=ObjectMeta(name="m"))
    assert changed_keys(own, own) is None


def test_hash_of_a_generated_class_covers_the_used_items() -> None:
    objects = [ObjectVersion(target_key="a", object="secret/a", version="1")]
    meta = ObjectMeta(name="m", uid="sync", generation=1)
    before = sync_hash(meta, make_source(TWO_OBJECTS), objects)
    assert before == sync_hash(meta, make_source("[{secretInAKV: a}, {secretInAKV: c}]", 2), objects)
    assert before != sync_hash(meta, make_source("[{secretInAKV: a, versionHistory: 2}, {secretInAKV: b}]", 2), objects)
    # A class that a user wrote counts as a whole.
    own = msgspec.structs.replace(make_source(TWO_OBJECTS), metadata=ObjectMeta(name="shop", uid="class", generation=3))
    assert sync_hash(meta, own, objects) == generation_hash(meta, own, objects)
