"""Test selections over long histories of a vault. The list reader, the poller and the reconciler must match a model."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.api.meta import is_object_name
from controller.api.secretsync import SecretSync
from controller.domain.provider_class import VaultObject, read_class
from controller.domain.values import VaultValue
from controller.domain.vault_objects import ListItem
from controller.errors import ObjectGone, ProviderError
from controller.keyvault import listing
from controller.keyvault.client import VaultClient
from controller.keyvault.objects import ObjectPage
from controller.keyvault.reader import VaultReader
from controller.runtime.work_queue import Key
from tests.support.akv_syncs import source_paths
from tests.support.builders import make_item
from tests.unit.akvsync.reconciler.harness import AKVSyncHarness, make_harness

HOUR = 3600
PAGE = 3


class CompleteList(msgspec.Struct, frozen=True):
    """A complete list, and the names whose get fails although the objects may exist."""

    items: tuple[ListItem, ...]
    unclear: frozenset[str]
    is_poll: bool


class Interruption(msgspec.Struct, frozen=True):
    """A failed list or a restart."""


class PagedVault:
    """Act as `VaultClient` for the secrets of a vault, and record the lists."""

    vault, url, plural = "shop-vault", "https://shop-vault.vault.azure.net", "secrets"

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.items: tuple[ListItem, ...] = ()
        self.unclear: frozenset[str] = frozenset()
        # Each of these pages fails once, in this order.
        self.failing: list[int] = []
        self.history: list[CompleteList | Interruption] = []
        self.calls = 0
        self.got: list[str] = []

    def source_of(self, _kind: str) -> "PagedVault":
        return self

    async def request(self, _source: Any, _verb: str, _found: Any, ask: Callable[[], Any], *, first: bool) -> Any:
        self.calls += not first
        return await ask()

    def everything(self) -> str:
        return "/secrets"

    async def page(self, where: str) -> ObjectPage:
        number = int(where.partition("page=")[2] or 0)
        is_last = (number + 1) * PAGE >= len(self.items)
        if self.failing and (self.failing[0] <= number or is_last):
            self.failing.pop(0)
            self.history.append(Interruption())
            raise ProviderError("the vault is down")
        if is_last:
            self.history.append(CompleteList(self.items, self.unclear, is_poll=bool(self.history)))
        return ObjectPage(
            list(self.items[number * PAGE : (number + 1) * PAGE]),
            "" if is_last else f"{self.url}/secrets?page={number + 1}",
        )

    async def get(self, found: VaultObject, _version: str) -> VaultValue:
        self.got.append(found.name)
        if found.name in self.unclear:
            raise ProviderError("the vault is busy")
        if any(each.enabled for each in self.items if each.name.lower() == found.name):
            return cast("VaultValue", None)
        raise ObjectGone("it is gone")


class SelectionModel:
    """The expected result of one entry. `made` maps each Secret, or each key of its Secret, to its object."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.select = entry["select"]
        self.strip = entry.get("stripPrefix", "")
        self.is_one_secret = "kubernetesSecretName" in entry
        self.removes = entry.get("whenGone") == "Remove"
        self.made: dict[str, str] = {}
        self.kept: set[str] = set()
        self._polls_without: dict[str, int] = {}
        self._spelling: dict[str, str] = {}

    def learn(self, event: CompleteList | Interruption) -> None:
        """Update the expected Secrets after one list of the vault."""
        if isinstance(event, Interruption):
            self._polls_without = {}
            return
        enabled = {each.name.lower(): each for each in event.items if each.enabled}
        matches = {name: each for name, each in enabled.items() if self._is_selected(each)}
        had = set(self.made.values())
        gone = had - enabled.keys() - event.unclear if self.removes and event.is_poll else set()
        self._polls_without = {name: self._polls_without.get(name, 0) + 1 for name in gone}
        self.made = {key: name for key, name in self.made.items() if self._polls_without.get(name, 0) < 2}
        for name in sorted(matches.keys() - set(self.made.values())):
            spelling = self._spelling[name] if name in had else matches[name].name
            short = spelling[len(self.strip) :] if name.startswith(self.strip) else spelling
            key = short if self.is_one_secret else short.lower()
            is_valid = bool(key) and not name.startswith("-") and (self.is_one_secret or is_object_name(key))
            if is_valid and key not in self.made and (self.is_one_secret or key != "own"):
                self.made[key] = name
                self._spelling[name] = spelling
        self.kept = {self._spelling[name] for name in set(self.made.values()) - matches.keys()}

    def _is_selected(self, found: ListItem) -> bool:
        kind = "cert" if found.managed else "secret"
        return (
            kind in self.select.get("types", [kind])
            and self.select.get("tags", {}).items() <= found.tags.items()
            and found.name.lower().startswith(self.select.get("namePrefix", ""))
        )


NAMES = ("s-a", "a", "s-b", "b", "own", "s-own", "s-", "-a", "s--x", "c-")
OBJECTS = st.builds(
    lambda name, upper, enabled, managed, tags: make_item(
        name.upper() if upper else name, enabled=enabled, managed=managed, tags=tags
    ),
    st.sampled_from(NAMES),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
    st.booleans(),
    st.sampled_from([{}, {"app": "x"}, {"app": "y"}]),
)
VAULTS = st.lists(OBJECTS, max_size=8, unique_by=lambda each: each.name.lower()).map(tuple)
STEPS = st.fixed_dictionaries(
    {
        "items": st.none() | VAULTS,  # None: the vault stays as it is
        "unclear": st.frozensets(st.sampled_from(NAMES), max_size=2),
        "failing": st.lists(st.integers(0, 3), max_size=2),
        "restart": st.sampled_from([False, False, False, True]),
    }
)
ENTRIES = st.fixed_dictionaries(
    {
        "select": st.sampled_from(
            [{}, {"namePrefix": "s-"}, {"tags": {"app": "x"}}, {"types": ["secret"]}, {"types": ["cert"]}]
        ),
        "whenGone": st.sampled_from(["Keep", "Remove", "Remove"]),
    },
    optional={"stripPrefix": st.just("s-"), "kubernetesSecretName": st.just("all")},
)


def read_secrets(harness: AKVSyncHarness) -> dict[str, str]:
    """Return the Secrets, or the keys of the Secret `all`, with the object of each in lower case."""
    found = {
        name: msgspec.convert(body, SecretSync)
        for (kind, name), body in harness.objects.items()
        if kind == "secretsyncs"
    }
    pairs = {name: source_paths(sync) for name, sync in found.items() if name != "own"}
    if "all" in pairs:
        assert pairs.keys() == {"all"}
        return {key: path.lower() for key, path in pairs["all"].items()}
    return {name: next(iter(paths.values())).partition("/")[0].lower() for name, paths in pairs.items()}


def read_kept_objects(harness: AKVSyncHarness) -> set[str]:
    source = harness.classes.get(Key("team", "shop"))
    return {name for name, found in read_class(cast("Any", source)).objects.items() if found.keep}


@contextlib.contextmanager
def run_selection(entry: dict[str, Any], items: tuple[ListItem, ...]) -> Iterator[tuple[AKVSyncHarness, PagedVault]]:
    """Yield a harness whose AKVSync has listed a paged vault."""
    with pytest.MonkeyPatch.context() as patch, contextlib.contextmanager(make_harness)(patch) as harness:
        vault = PagedVault(harness.loop.time)
        vault.items = items
        reader = VaultReader(cast("VaultClient", vault))
        patch.setattr(harness, "reader", lambda *_: reader)
        harness.apply([entry, {"secretInAKV": "own"}])
        harness.advance(HOUR / 2)
        yield harness, vault


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES, VAULTS, st.lists(STEPS, min_size=2, max_size=6))
def test_history_of_a_vault_matches_the_model(
    entry: dict[str, Any], items: tuple[ListItem, ...], steps: list[dict[str, Any]]
) -> None:
    model = SelectionModel(entry)
    with run_selection(entry, items) as (harness, vault):
        learned = 0
        for step in [{"items": None, "unclear": frozenset(), "failing": [], "restart": False}, *steps]:
            if step["items"] is not None:
                vault.items = step["items"]
            vault.unclear, vault.failing = step["unclear"], list(step["failing"])
            before, had, gets = vault.calls, set(model.made.values()), len(vault.got)
            harness.advance(HOUR)
            if step["restart"]:
                harness.regain_leadership()
                harness.advance(1)
                vault.history.append(Interruption())
            assert not vault.failing
            new_events, learned = vault.history[learned:], len(vault.history)
            for event in new_events:
                model.learn(event)
            assert read_secrets(harness) == model.made
            assert "own" in harness.list_names()
            assert read_kept_objects(harness) == model.kept - {"own"}  # another entry reads the object `own`
            # Polls read the pages of the list. They get only selected objects that may be deleted.
            lists = sum(1 for event in new_events if isinstance(event, CompleteList))
            pages = -(-len(vault.items) // PAGE) or 1
            assert vault.calls - before - (len(vault.got) - gets) <= pages * (lists + len(step["failing"]))
            assert set(vault.got[gets:]) <= (had if model.removes else set())


def test_failed_poll_restarts_the_count_of_polls_that_miss_an_object() -> None:
    entry = {"select": {}, "whenGone": "Remove"}
    with run_selection(entry, (make_item("a"), make_item("b"))) as (harness, vault):
        vault.items = (make_item("a"),)
        harness.advance(HOUR)
        vault.failing = [0]
        harness.advance(HOUR)
        assert harness.list_names() == ["a", "b", "own"]
        harness.advance(HOUR)
        assert harness.list_names() == ["a", "own"]


def test_vault_too_large_for_select_is_listed_once_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "MAX_SELECTED_PAGES", 4)
    items = tuple(make_item(f"s{number}") for number in range(5 * PAGE))
    with run_selection({"select": {}}, items) as (harness, vault):
        harness.advance(12 * HOUR)
        assert vault.calls == 1
        assert "which is too many for select" in harness.get_ready()[2]
        harness.apply([{"select": {"namePrefix": "s"}}])
        harness.advance(HOUR)
        assert vault.calls == 2
        vault.items = (make_item("s1"),)
        harness.advance(25 * HOUR)
        assert harness.list_names() == ["s1"]
