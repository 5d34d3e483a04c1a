"""Selections over long histories of a vault, against a simple model: the real list reader, poller and reconciler."""

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
from controller.domain.vault_objects import Item
from controller.errors import ObjectGone, ProviderError
from controller.keyvault.client import VaultClient
from controller.keyvault.objects import ObjectPage
from controller.keyvault.reader import VaultReader
from controller.runtime.work_queue import Key
from tests.support.akv_syncs import source_paths
from tests.support.builders import make_item
from tests.unit.akvsync.reconciler.stage import Stage, staged

HOUR = 3600
PAGE = 3


class Listed(msgspec.Struct, frozen=True):
    """A list that was read to its end, and the names whose get fails for another reason than that they are gone."""

    items: tuple[Item, ...]
    unclear: frozenset[str]
    is_poll: bool


class Interrupted(msgspec.Struct, frozen=True):
    """A list that failed, or a restart."""


class PagedVault:
    """Stands for `VaultClient` and for the secrets of a vault, and keeps a diary of the lists."""

    vault, url, plural = "shop-vault", "https://shop-vault.vault.azure.net", "secrets"

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.items: tuple[Item, ...] = ()
        self.unclear: frozenset[str] = frozenset()
        # The pages that fail, each once, in this order.
        self.failing: list[int] = []
        self.diary: list[Listed | Interrupted] = []
        self.calls = 0
        self.got: list[str] = []

    def source_of(self, _kind: str) -> "PagedVault":
        return self

    async def make(self, _source: Any, _verb: str, _found: Any, ask: Callable[[], Any], *, first: bool) -> Any:
        self.calls += not first
        return await ask()

    def everything(self) -> str:
        return "/secrets"

    async def page(self, where: str) -> ObjectPage:
        number = int(where.partition("page=")[2] or 0)
        is_last = (number + 1) * PAGE >= len(self.items)
        if self.failing and (self.failing[0] <= number or is_last):
            self.failing.pop(0)
            self.diary.append(Interrupted())
            raise ProviderError("the vault is down")
        if is_last:
            self.diary.append(Listed(self.items, self.unclear, is_poll=bool(self.diary)))
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


class Model:
    """What a user expects of one entry with select: Secrets (or keys of one) by name, each with its object."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.select = entry["select"]
        self.strip = entry.get("stripPrefix", "")
        self.is_one_secret = "kubernetesSecretName" in entry
        self.removes = entry.get("whenGone") == "Remove"
        self.made: dict[str, str] = {}
        self.kept: set[str] = set()
        self._polls_without: dict[str, int] = {}
        self._spelling: dict[str, str] = {}

    def learn(self, event: Listed | Interrupted) -> None:
        """Follow one list of the vault."""
        if isinstance(event, Interrupted):
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

    def _is_selected(self, found: Item) -> bool:
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


def made_by(stage: Stage) -> dict[str, str]:
    """Return the Secrets, or the keys of the Secret `all`, with the object of each in lower case."""
    found = {
        name: msgspec.convert(body, SecretSync) for (kind, name), body in stage.objects.items() if kind == "secretsyncs"
    }
    pairs = {name: source_paths(sync) for name, sync in found.items() if name != "own"}
    if "all" in pairs:
        assert pairs.keys() == {"all"}
        return {key: path.lower() for key, path in pairs["all"].items()}
    return {name: next(iter(paths.values())).partition("/")[0].lower() for name, paths in pairs.items()}


def kept_by(stage: Stage) -> set[str]:
    source = stage.classes.get(Key("team", "shop"))
    return {name for name, found in read_class(cast("Any", source)).objects.items() if found.keep}


@contextlib.contextmanager
def selecting(entry: dict[str, Any], items: tuple[Item, ...]) -> Iterator[tuple[Stage, PagedVault]]:
    """Yield a stage whose AKVSync has listed a paged vault."""
    with pytest.MonkeyPatch.context() as patch, contextlib.contextmanager(staged)(patch) as stage:
        vault = PagedVault(stage.loop.time)
        vault.items = items
        reader = VaultReader(cast("VaultClient", vault))
        patch.setattr(stage, "reader", lambda *_: reader)
        stage.has([entry, {"secretInAKV": "own"}])
        stage.passes(HOUR / 2)
        yield stage, vault


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES, VAULTS, st.lists(STEPS, min_size=2, max_size=6))
def test_history_of_a_vault_matches_the_model(
    entry: dict[str, Any], items: tuple[Item, ...], steps: list[dict[str, Any]]
) -> None:
    model = Model(entry)
    with selecting(entry, items) as (stage, vault):
        learned = 0
        for step in [{"items": None, "unclear": frozenset(), "failing": [], "restart": False}, *steps]:
            if step["items"] is not None:
                vault.items = step["items"]
            vault.unclear, vault.failing = step["unclear"], list(step["failing"])
            before, had, gets = vault.calls, set(model.made.values()), len(vault.got)
            stage.passes(HOUR)
            if step["restart"]:
                stage.next_term()
                stage.passes(1)
                vault.diary.append(Interrupted())
            assert not vault.failing
            news, learned = vault.diary[learned:], len(vault.diary)
            for event in news:
                model.learn(event)
            assert made_by(stage) == model.made
            assert "own" in stage.names()
            assert kept_by(stage) == model.kept - {"own"}  # another entry reads the object of this spelling
            # Polls read the pages of the list, and get only what a selection had and what may be gone.
            lists = sum(1 for event in news if isinstance(event, Listed))
            pages = -(-len(vault.items) // PAGE) or 1
            assert vault.calls - before - (len(vault.got) - gets) <= pages * (lists + len(step["failing"]))
            assert set(vault.got[gets:]) <= (had if model.removes else set())


def test_two_polls_that_miss_an_object_are_not_in_a_row_with_a_failed_one_between() -> None:
    entry = {"select": {}, "whenGone": "Remove"}
    with selecting(entry, (make_item("a"), make_item("b"))) as (stage, vault):
        vault.items = (make_item("a"),)
        stage.passes(HOUR)
        vault.failing = [0]
        stage.passes(HOUR)
        assert stage.names() == ["a", "b", "own"]
        stage.passes(HOUR)
        assert stage.names() == ["a", "own"]
