"""Test the Secrets of selected objects: names, limits, collisions, and long histories of a vault."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.akvsync.expand import GeneratedObjects, expand_akvsync
from controller.akvsync.explicit_secrets import explicit_names
from controller.akvsync.selected_secrets import selected_before
from controller.api.akvsync import MAX_GENERATED, MAX_PARTS, AKVSync
from controller.api.meta import MAX_SPEC
from controller.api.secretsync import SecretSync
from controller.domain.generated import class_items
from controller.domain.provider_class import read_class
from controller.domain.selection import Query, SelectionCollector, choose_objects
from controller.domain.vault_objects import MAX_ITEMS, ListItem
from controller.errors import InputError
from tests.support.akv_syncs import akv_sync, source_paths, type_and_keys
from tests.support.builders import make_item

SHOP = {"select": {"namePrefix": "shop-"}, "stripPrefix": "shop-"}


PROPERTY_OF_A = source_paths(
    expand_akvsync(
        akv_sync("[{kubernetesSecretName: m, mapping: [{dataKey: k, secretInAKV: a, property: p, version: 1}]}]")
    ).syncs["m"]
)["k"]


def expand_selection(
    akv: AKVSync, vault: list[ListItem], before: GeneratedObjects | None = None, removed: frozenset[str] = frozenset()
) -> GeneratedObjects:
    """Return the objects that an AKVSync generates after a list of the vault. `before` are its existing objects."""
    entries = [entry for entry in akv.spec.objects if entry.select]
    owned = list(before.syncs.values()) if before else []
    had = selected_before(entries, owned, explicit_names(akv))
    query = Query(tuple(entry.select for entry in entries if entry.select), frozenset().union(*had))
    collector = SelectionCollector(query)
    for each in vault:
        collector.add(each)
    return expand_akvsync(akv, choose_objects(entries, collector.to_sighting(), had, removed))


def make_vault(*names: str) -> list[ListItem]:
    return [make_item(name) for name in names]


def list_reasons(generated: GeneratedObjects) -> dict[str, str]:
    return {each.name: each.message for each in generated.skipped}


@pytest.mark.parametrize(
    ("objects", "vault", "expected"),
    [
        ([{"select": {"namePrefix": "shop-"}}], ["shop-a", "Shop-B", "c"],
         {"shop-a": ("Opaque", {"v0": "shop-a"}), "shop-b": ("Opaque", {"v0": "Shop-B"})}),
        ([SHOP], ["shop-a", "Shop-B"], {"a": ("Opaque", {"v0": "shop-a"}), "b": ("Opaque", {"v0": "Shop-B"})}),
        ([SHOP | {"kubernetesSecretName": "all"}], ["shop-b", "shop-A"],
         {"all": ("Opaque", {"A": "shop-A", "b": "shop-b"})}),
        ([SHOP | {"kubernetesSecretType": "kubernetes.io/tls"}], ["shop-web"],
         {"web": ("kubernetes.io/tls", {"tls.crt": "shop-web/tls.crt", "tls.key": "shop-web/tls.key"})}),
        ([SHOP | {"kubernetesSecretType": "kubernetes.io/ssh-auth"}], ["shop-k"],
         {"k": ("kubernetes.io/ssh-auth", {"ssh-privatekey": "shop-k"})}),
        pytest.param([{"secretInAKV": "shop-a", "versionHistory": 2}, {"select": {}}], ["shop-a", "b"],
                     {"shop-a": ("Opaque", {"v0": "shop-a/0", "v1": "shop-a/1"}), "b": ("Opaque", {"v0": "b"})},
                     id="explicit entry and selection of one object"),
        pytest.param([{"select": {"namePrefix": "a"}}, {"select": {"namePattern": "*b"}}], ["ab", "b"],
                     {"ab": ("Opaque", {"v0": "ab"}), "b": ("Opaque", {"v0": "b"})},
                     id="two entries select one object"),
        pytest.param([SHOP], [], {}, id="nothing matches"),
        pytest.param([{"kubernetesSecretName": "m", "mapping": [
            {"dataKey": "k", "secretInAKV": "a", "property": "p", "version": 1}]}, {"select": {}}], ["a"],
            {"m": ("Opaque", {"k": PROPERTY_OF_A}), "a": ("Opaque", {"v0": "a/0"})},
            id="property of an older version from another entry"),
    ],
)  # fmt: skip
def test_matches_generate_the_expected_secrets(
    objects: list[dict[str, Any]], vault: list[str], expected: dict[str, Any]
) -> None:
    generated = expand_selection(akv_sync(objects), make_vault(*vault))
    assert {name: type_and_keys(sync) for name, sync in generated.syncs.items()} == expected
    assert not generated.skipped
    assert (generated.source is None) == (not expected)
    if generated.source:
        served = read_class(generated.source).objects
        assert {
            path.split("/")[0] for sync in generated.syncs.values() for path in source_paths(sync).values()
        } == served.keys()


@pytest.mark.parametrize(
    ("objects", "vault", "made", "skipped"),
    [
        ([SHOP | {"select": {}}], make_vault("shop-a", "a"), {"a"},
         {"shop-a": "another object has the Secret a already"}),
        ([SHOP | {"select": {}, "kubernetesSecretName": "m"}], make_vault("shop-a", "a", "A-b"), {"m"},
         {"shop-a": "another object has the key a already"}),
        ([{"secretInAKV": "x", "kubernetesSecretName": "a"}, {"select": {}}], make_vault("a", "b"), {"a", "b"},
         {"a": "another object has the Secret a already"}),
        ([SHOP], make_vault("shop-", "shop-a"), {"a"}, {"shop-": "nothing remains of its name"}),
        ([SHOP], make_vault("shop--x", "shop-a"), {"a"}, {"shop--x": "-x is not a valid name in Kubernetes"}),
        ([{"select": {}}], make_vault("a-", "-b", "c"), {"c"},
         {"a-": "a- is not a valid name", "-b": "begins with -"}),
        ([SHOP | {"kubernetesSecretType": "kubernetes.io/ssh-auth"}],
         [make_item("shop-a"), make_item("shop-c", managed=True)], {"a"},
         {"shop-c": "a certificate becomes a Secret of type"}),
    ],
)  # fmt: skip
def test_object_that_can_have_no_secret_affects_no_other(
    objects: list[dict[str, Any]], vault: list[ListItem], made: set[str], skipped: dict[str, str]
) -> None:
    generated = expand_selection(akv_sync(objects), vault)
    assert generated.syncs.keys() == made
    found = list_reasons(generated)
    assert found.keys() == skipped.keys()
    assert all(text in found[name] for name, text in skipped.items())


def test_secrets_above_the_limit_are_skipped_newest_first_and_named() -> None:
    akv = akv_sync([{"secretInAKV": "own"}, {"select": {"namePrefix": "s"}}])
    before = expand_selection(akv, make_vault("s900"))
    generated = expand_selection(akv, make_vault(*(f"s{number:03}" for number in range(255)), "s900"), before)
    assert len(generated.syncs) == MAX_PARTS
    assert {"own", "s900"} <= generated.syncs.keys()
    assert list_reasons(generated).keys() == {"s254"}
    # A result that would remove an existing Secret changes nothing.
    more = akv_sync([{"secretInAKV": "own"}, {"secretInAKV": "other"}, {"select": {"namePrefix": "s"}}])
    with pytest.raises(InputError, match="at most 256 Secrets"):
        expand_selection(more, make_vault(*(f"s{number:03}" for number in range(255)), "s900"), generated)


def test_bytes_of_selected_objects_are_bounded() -> None:
    note = {"note": "x" * (MAX_GENERATED // 16)}
    generated = expand_selection(
        akv_sync([{"select": {}, "annotations": note}]), make_vault(*(f"s{n}" for n in range(40)))
    )
    assert 10 < len(generated.syncs) < 16
    assert sum(len(msgspec.json.encode(sync.spec)) for sync in generated.syncs.values()) <= MAX_GENERATED
    assert all("too large together" in message for message in list_reasons(generated).values())


def test_object_no_longer_selected_is_kept_and_not_read() -> None:
    akv = akv_sync([SHOP, SHOP | {"kubernetesSecretName": "all"}])
    first = expand_selection(akv, make_vault("shop-a", "shop-b"))
    second = expand_selection(akv, make_vault("shop-b"), first)
    assert {name: type_and_keys(sync) for name, sync in second.syncs.items()} == {
        name: type_and_keys(sync) for name, sync in first.syncs.items()
    }
    assert second.kept == {"a": ("shop-a",), "all": ("shop-a",)}
    assert second.source
    assert {name: found.keep for name, found in read_class(second.source).objects.items()} == {
        "shop-a": True,
        "shop-b": False,
    }
    third = expand_selection(akv, make_vault("shop-b"), second, frozenset({"shop-a"}))
    assert third.kept == second.kept  # whenGone is Keep
    removing = akv_sync([SHOP | {"whenGone": "Remove"}, SHOP | {"kubernetesSecretName": "all"}])
    assert expand_selection(removing, make_vault("shop-b"), second, frozenset({"shop-a"})).syncs.keys() == {"b", "all"}


def test_edit_of_name_conditions_prunes_objects_that_no_longer_match() -> None:
    first = expand_selection(akv_sync([{"select": {}}]), make_vault("shop-a", "web"))
    narrowed = expand_selection(akv_sync([{"select": {"namePrefix": "shop-"}}]), make_vault("shop-a", "web"), first)
    assert narrowed.syncs.keys() == {"shop-a"}
    by_tag = expand_selection(akv_sync([{"select": {"tags": {"app": "shop"}}}]), make_vault("shop-a", "web"), first)
    assert by_tag.kept.keys() == {"shop-a", "web"}


@pytest.mark.parametrize("objects", [[SHOP], [SHOP, {"secretInAKV": "shop-b"}], [SHOP | {"kubernetesSecretName": "m"}]])
def test_before_the_first_list_all_objects_are_kept(objects: list[dict[str, Any]]) -> None:
    akv = akv_sync(objects)
    made = expand_selection(akv, make_vault("shop-b", "shop-C", "shop-a"))
    made = expand_selection(akv, make_vault("shop-b", "shop-C"), made)
    assert made.kept
    waiting = expand_akvsync(akv, None, made.syncs.values(), made.source)
    assert (waiting.source, waiting.kept) == (made.source, made.kept)
    assert waiting.retained | waiting.syncs.keys() == made.syncs.keys()


def test_before_the_first_list_entries_without_select_are_expanded() -> None:
    akv = akv_sync([{"secretInAKV": "shop-a", "versionHistory": 3}, SHOP | {"kubernetesSecretName": "all"}])
    before = expand_selection(akv_sync([SHOP | {"kubernetesSecretName": "all"}]), make_vault("shop-a", "shop-b"))
    explicit = expand_akvsync(akv_sync([{"secretInAKV": "shop-a", "versionHistory": 3}])).syncs
    waiting = expand_akvsync(akv, None, [*before.syncs.values(), *explicit.values()], before.source)
    assert waiting.selects
    assert waiting.syncs.keys() == explicit.keys() | {"all"}
    assert waiting.syncs["shop-a"] == explicit["shop-a"]
    assert source_paths(waiting.syncs["all"]) == {"a": "shop-a/0", "b": "shop-b"}
    assert (waiting.retained, waiting.kept) == (frozenset(), {})
    assert waiting.source
    assert {name: item.history for name, item in read_class(waiting.source).objects.items()} == {
        "shop-a": 3,
        "shop-b": 1,
    }


@pytest.mark.parametrize("select", [SHOP, SHOP | {"kubernetesSecretType": "kubernetes.io/tls"}])
@pytest.mark.parametrize(("earlier", "later"), [(1, 3), (1, 2), (3, 1), (3, 2), (1, 1)])
def test_before_the_first_list_secrets_follow_an_edited_history(
    select: dict[str, Any], earlier: int, later: int
) -> None:
    akvs = [akv_sync([select, {"secretInAKV": "shop-a", "versionHistory": history}]) for history in (earlier, later)]
    vault = make_vault("shop-a", "shop-b")
    before = expand_selection(akvs[0], vault)
    waiting = expand_akvsync(akvs[1], None, before.syncs.values(), before.source)
    listed = expand_selection(akvs[1], vault, before)
    assert before.syncs | waiting.syncs == listed.syncs
    assert waiting.retained == listed.syncs.keys() - waiting.syncs.keys()
    assert waiting.source == listed.source


def test_before_the_first_list_properties_of_a_selected_object_are_read() -> None:
    before = expand_selection(akv_sync([SHOP]), make_vault("shop-a"))
    mapping = {"kubernetesSecretName": "m", "mapping": [{"dataKey": "k", "secretInAKV": "shop-a", "property": "x"}]}
    waiting = expand_akvsync(akv_sync([SHOP, mapping]), None, before.syncs.values(), before.source)
    assert waiting.syncs.keys() == {"m"}
    assert waiting.retained == {"a"}
    assert waiting.source
    assert [item.property_path for item in read_class(waiting.source).all_objects] == ["x", ""]


def test_before_the_first_list_no_key_gets_another_version() -> None:
    """The Secret of an entry that was taken out remains until the list."""
    before = expand_selection(akv_sync([SHOP, {"secretInAKV": "x", "versionHistory": 3}]), make_vault("shop-a"))
    edited: list[dict[str, Any]] = [SHOP, {"secretInAKV": "x", "versionHistory": 2, "kubernetesSecretName": "renamed"}]
    waiting = expand_akvsync(akv_sync(edited), None, before.syncs.values(), before.source)
    assert waiting.syncs.keys() == {"renamed"}
    assert waiting.retained == {"a", "x"}


def test_item_that_the_existing_class_lacks_is_read() -> None:
    akv = akv_sync([SHOP])
    before = expand_selection(akv, make_vault("shop-a", "shop-b"))
    waiting = expand_akvsync(akv, owned=before.syncs.values())
    assert waiting.source == before.source
    assert waiting.kept == {}


def test_object_that_another_entry_names_is_not_kept() -> None:
    select = {"select": {"namePrefix": "shop-"}}
    before = expand_selection(akv_sync([select | {"kubernetesSecretName": "all"}]), make_vault("shop-a", "shop-b"))
    akv = akv_sync([select | {"kubernetesSecretName": "all"}, {"secretInAKV": "shop-a", "kubernetesSecretName": "own"}])
    generated = expand_selection(akv, [], before)
    assert generated.kept == {"all": ("shop-b",)}
    assert generated.selects
    assert generated.source
    assert {name: item.keep for name, item in read_class(generated.source).objects.items()} == {
        "shop-a": False,
        "shop-b": True,
    }


def test_selected_objects_above_the_limit_of_the_class_are_skipped() -> None:
    """Otherwise the class would not be read any more, and all Secrets of the AKVSync would stop following the vault."""
    mapping = [{"dataKey": f"k{number}", "secretInAKV": f"s{number}"} for number in range(MAX_ITEMS - 3)]
    akv = akv_sync([{"kubernetesSecretName": "own", "mapping": mapping}, SHOP | {"kubernetesSecretName": "all"}])
    before = expand_selection(akv, make_vault("shop-a"))
    generated = expand_selection(akv, make_vault("shop-a", "shop-b", "shop-c", "shop-d", "shop-e"), before)
    assert generated.source
    assert len(class_items(generated.source)) == MAX_ITEMS
    assert read_class(generated.source).vault
    assert list(source_paths(generated.syncs["all"])) == ["a", "b", "c"]
    limit = f"an AKVSync reads at most {MAX_ITEMS} objects or properties of the vault: split it"
    assert list_reasons(generated) == {"shop-d": limit, "shop-e": limit}


def test_selected_object_that_another_entry_names_is_one_item_of_the_class() -> None:
    names = [f"s{number}" for number in range(MAX_ITEMS - 2)]
    mapping = [{"dataKey": name, "secretInAKV": name} for name in (*names, "shop-a", "shop-b")]
    akv = akv_sync([{"kubernetesSecretName": "own", "mapping": mapping}, SHOP | {"kubernetesSecretName": "all"}])
    generated = expand_selection(akv, make_vault("shop-a", "shop-b", "shop-c"))
    assert generated.source
    assert len(class_items(generated.source)) == MAX_ITEMS
    assert list(source_paths(generated.syncs["all"])) == ["a", "b"]
    assert list(list_reasons(generated)) == ["shop-c"]


def test_selected_objects_that_would_make_the_class_too_large_are_skipped() -> None:
    """Otherwise the AKVSync would be refused as a whole, and no other object would get a Secret."""
    names = [f"s{number}-{'x' * 100}" for number in range(850)]
    mapping = [{"dataKey": f"k{number}", "secretInAKV": name} for number, name in enumerate(names)]
    akv = akv_sync([{"kubernetesSecretName": "own", "mapping": mapping}, SHOP | {"kubernetesSecretName": "all"}])
    before = expand_selection(akv, make_vault("shop-a"))
    new = [f"shop-{letter * 100}" for letter in "bcde"]
    generated = expand_selection(akv, make_vault("shop-a", *new), before)
    assert generated.source
    assert len(msgspec.json.encode(generated.source.spec)) <= MAX_SPEC
    assert "a" in source_paths(generated.syncs["all"])
    assert set(list_reasons(generated).values()) == {
        "the SecretProviderClass of this AKVSync would be too large: split the AKVSync"
    }


def test_bytes_of_explicit_entries_reduce_the_limit_of_selected_objects() -> None:
    own = {"secretInAKV": "own", "annotations": {"note": "x" * (MAX_GENERATED - 10_000)}}
    generated = expand_selection(akv_sync([own, SHOP]), make_vault(*(f"shop-{number}" for number in range(20))))
    assert 1 < len(generated.syncs) < 20
    assert sum(len(msgspec.json.encode(sync.spec)) for sync in generated.syncs.values()) <= MAX_GENERATED


def test_selected_object_whose_property_is_named_has_the_same_history() -> None:
    mapping = {"dataKey": "k", "secretInAKV": "b", "property": "p", "version": 1}
    akv = akv_sync([{"kubernetesSecretName": "m", "mapping": [mapping]}, {"select": {}}])
    source = expand_selection(akv, make_vault("a", "b")).source
    assert source
    found = read_class(source).objects
    assert (found["a"].history, found["b"].history) == (1, 2)


def test_two_entries_that_make_the_same_secret_are_refused() -> None:
    for other in ({"select": {}, "kubernetesSecretName": "all"}, {"secretInAKV": "all"}):
        with pytest.raises(InputError, match="both make a Secret all: give one another kubernetesSecretName"):
            expand_akvsync(akv_sync([other, SHOP | {"kubernetesSecretName": "all"}]), [(), ()])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"select": {}, "secretInAKV": "a"}, "write exactly one of"),
        ({"select": {}, "versionHistory": 2}, "versionHistory does not go with select"),
        ({"select": {}, "kubernetesSecretType": "kubernetes.io/basic-auth"}, "is not a type that select can make"),
        ({"select": {}, "kubernetesSecretType": "x"}, "is not a type that select can make"),
        ({"select": {"namePrefix": "a"}, "kubernetesSecretName": "n", "kubernetesSecretType": "kubernetes.io/tls"},
         "the select of a: with kubernetesSecretName it makes a Secret of type Opaque"),
    ],
)  # fmt: skip
def test_entry_that_only_an_older_crd_accepted_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        expand_akvsync(akv_sync([entry]), [()])
    assert message in refused.value.message


# Histories of a vault: objects appear, disappear, and change tags, spelling and kind. The AKVSync does not change.
NAMES = st.sampled_from(["shop-a", "Shop-A", "shop-A", "a", "A", "shop-", "shop--a", "-a", "b", "shop-b", "c-"])
VAULTS = st.lists(
    st.dictionaries(
        NAMES.map(str.lower),
        st.tuples(st.booleans(), st.booleans(), st.sampled_from([{}, {"app": "shop"}, {"app": "x"}]), st.booleans()),
        max_size=8,
    ),
    min_size=1,
    max_size=6,
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"select": st.sampled_from([{}, {"namePrefix": "shop-"}, {"tags": {"app": "shop"}}, {"types": ["secret"]}])},
        optional={
            "stripPrefix": st.just("shop-"),
            "kubernetesSecretName": st.sampled_from(["all", "a"]),
            "whenGone": st.sampled_from(["Keep", "Remove"]),
        },
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda entry: entry.get("kubernetesSecretName", str(entry)),
)


@settings(max_examples=60, deadline=None)
@given(ENTRIES, VAULTS)
def test_no_history_of_a_vault_loses_an_object(entries: list[dict[str, Any]], vaults: list[dict[str, Any]]) -> None:
    akv = akv_sync([*entries, {"secretInAKV": "x", "kubernetesSecretName": "own"}])
    before: GeneratedObjects | None = None
    for vault in vaults:
        items = [
            make_item(name.upper() if upper else name, enabled=enabled, managed=managed, tags=tags)
            for name, (enabled, managed, tags, upper) in vault.items()
        ]
        made = expand_selection(akv, items, before)
        assert "own" in made.syncs
        assert made.source
        served = {name.lower() for name in read_class(made.source).objects}
        for sync in made.syncs.values():
            assert {path.split("/")[0].lower() for path in source_paths(sync).values()} <= served
            assert len(source_paths(sync)) == len(sync.spec.secret_object.data)
        if before:
            # No Secret and no key is removed, and each key keeps its object.
            for name, sync in before.syncs.items():
                assert source_paths(sync).items() <= source_paths(made.syncs[name]).items()
        # The same list again changes nothing. A restart changes nothing.
        again = expand_selection(akv, items, made)
        assert (again.source, again.syncs) == (made.source, made.syncs)
        restarted = expand_akvsync(akv, None, made.syncs.values(), made.source)
        assert restarted.source == made.source
        assert restarted.retained | restarted.syncs.keys() == made.syncs.keys()
        # Each match has a Secret or the reason for its absence.
        reported = {each.name.lower() for each in made.skipped}
        for entry in entries:
            select = akv_sync([entry]).spec.objects[0].select
            assert select
            matches = SelectionCollector(Query((select,)))
            for each in items:
                matches.add(each)
            (found,) = matches.to_sighting().matches
            assert {match.name.lower() for match in found} <= served | reported
        before = made


def test_items_of_a_generated_class_are_read_back() -> None:
    generated = expand_selection(akv_sync([{"secretInAKV": "d", "versionHistory": 3}, SHOP]), make_vault("shop-a"))
    assert generated.source
    items = class_items(generated.source)
    assert list(items) == ["d", "shop-a"]
    assert not items["d"].is_kept


def test_changed_spelling_in_the_vault_changes_nothing() -> None:
    akv = akv_sync([SHOP])
    first = expand_selection(akv, make_vault("shop-a"))
    second = expand_selection(akv, make_vault("SHOP-A"), first)
    assert second == first
    assert isinstance(second.syncs["a"], SecretSync)
