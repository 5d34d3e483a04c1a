"""Select objects of a vault by the `select` entries of an AKVSync, and decide which objects it keeps. Pure.

A list of the vault's secrets has all necessary fields: name, tags, whether an object is enabled, and whether it belongs
to a certificate (Azure Key Vault REST API reference, "Get Secrets": `managed`).
"""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from controller.api.akvsync import MAX_PARTS, AKVObject
from controller.api.select import Select
from controller.domain.vault_objects import ListItem

# The kind of objects that are compared: the secret of a certificate has the certificate's name and tags.
SELECTED_KIND = "secret"


class GlobPattern:
    """A pattern with * and ?. Every comparison takes time proportional to the name's length.

    Bit i of a state means: the first i characters of the pattern, without *, match the text read so far.
    """

    def __init__(self, pattern: str) -> None:
        tokens = pattern.replace("*", "")
        self.prefix = pattern.partition("*")[0].partition("?")[0]
        self._end = 1 << len(tokens)
        # Bit i: a * allows any text before character i of the pattern.
        self._stars = 0
        at = 0
        for character in pattern:
            if character == "*":
                self._stars |= 1 << at
            else:
                at += 1
        self._anything = sum(1 << at for at, character in enumerate(tokens) if character == "?")
        self._places = dict.fromkeys(tokens, self._anything)
        for at, character in enumerate(tokens):
            self._places[character] |= 1 << at

    def matches(self, name: str) -> bool:
        """Return whether the whole name matches."""
        if not name.startswith(self.prefix):
            return False
        state = 1
        for character in name:
            state = (state & self._places.get(character, self._anything)) << 1 | state & self._stars
            if not state:
                return False
        return bool(state & self._end)


class ObjectSelector:
    """The conditions of one `select`, prepared for comparison with many objects."""

    def __init__(self, select: Select) -> None:
        self._prefix = select.name_prefix.lower()
        self._glob = GlobPattern(select.name_pattern.lower()) if select.name_pattern else None
        self._tags = tuple(select.tags.items())
        self._types = frozenset(select.types)

    def matches_name(self, name: str) -> bool:
        """Return whether an object of that name (in lower case) can match."""
        return name.startswith(self._prefix) and (self._glob is None or self._glob.matches(name))

    def matches(self, item: ListItem) -> bool:
        """Return whether an object of a list is selected."""
        if not item.enabled or (self._types and ("cert" if item.managed else "secret") not in self._types):
            return False
        if any(item.tags.get(key) != value for key, value in self._tags):
            return False
        return self.matches_name(item.name.lower())


class SelectedObject(msgspec.Struct, frozen=True):
    """An object of a list that an entry selects."""

    name: str
    is_certificate: bool = False


class Query(msgspec.Struct, frozen=True):
    """An AKVSync's query for a list: its entries with select, and names of objects in lower case.

    `known` are the objects that already have a Secret. `syncs` are the names of these Secrets' SecretSyncs. `confirm`
    are the objects whose Secret is removed when the vault no longer has them.
    """

    entries: tuple[Select, ...]
    known: frozenset[str] = frozenset()
    confirm: frozenset[str] = frozenset()
    syncs: frozenset[str] = frozenset()


class SelectionSighting(msgspec.Struct, frozen=True):
    """The result of a list for each entry, with at most as many new matches as an AKVSync can have.

    `totals` counts all matches. `gone` are the names of `Query.confirm` that are missing or disabled in the list, and
    that a get confirmed.
    """

    matches: tuple[tuple[SelectedObject, ...], ...]
    totals: tuple[int, ...]
    gone: frozenset[str] = frozenset()

    def left_names(self, query: Query) -> frozenset[str]:
        """Return the names that the query knows and no entry selects any more."""
        return query.known - {match.name.lower() for matches in self.matches for match in matches}


class SelectionCollector:
    """Collect the objects of a list that a query selects. `compared` counts the comparisons."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._selectors = tuple(map(ObjectSelector, query.entries))
        self._matches: list[dict[str, SelectedObject]] = [{} for _ in query.entries]
        self._enabled: set[str] = set()
        self.compared = 0

    def add(self, item: ListItem) -> None:
        """Add one object."""
        name = item.name.lower()
        self.compared += len(self._selectors)
        if item.enabled and name in self._query.confirm:
            self._enabled.add(name)
        for selector, matches in zip(self._selectors, self._matches, strict=True):
            if selector.matches(item):
                matches[name] = SelectedObject(item.name, item.managed)

    @property
    def missing_names(self) -> frozenset[str]:
        """Return the names of `Query.confirm` that are missing or disabled in the list."""
        return self._query.confirm - self._enabled

    def to_sighting(self, gone: Collection[str] = ()) -> SelectionSighting:
        """Return the result for the whole list."""
        known = self._query.known
        kept = (
            {name: matches[name] for name in matches if name in known}
            | {name: matches[name] for name in heapq.nsmallest(MAX_PARTS + 1, matches.keys() - known)}
            for matches in self._matches
        )
        return SelectionSighting(
            matches=tuple(tuple(found.values()) for found in kept),
            totals=tuple(map(len, self._matches)),
            gone=frozenset(gone),
        )


class ObjectChoice(msgspec.Struct, frozen=True):
    """An object that an entry makes a Secret of. A `kept` one is no longer selected; its Secret keeps its last value.

    `is_new` means that it has no Secret yet.
    """

    name: str
    is_certificate: bool = False
    kept: bool = False
    is_new: bool = False


def choose_objects(
    entries: Sequence[AKVObject],
    sighting: SelectionSighting,
    before: Sequence[Mapping[str, str]],
    removed: Collection[str],
) -> tuple[tuple[ObjectChoice, ...], ...]:
    """Return the objects of each entry: the selected ones, and those of `before` that it keeps.

    `before` has names in lower case. `removed` are names that two consecutive polls found missing. The entry's earlier
    objects come first, then the others by name.
    """
    # One spelling of each name in all entries, because the vault can return another one at any time.
    spelling: dict[str, str] = {}
    for had in before:
        spelling |= had
    for matches in sighting.matches:
        for match in matches:
            spelling.setdefault(match.name.lower(), match.name)
    return tuple(
        _choose_names(matches, had.keys(), removed if entry.when_gone == "Remove" else (), spelling)
        for entry, matches, had in zip(entries, sighting.matches, before, strict=True)
    )


def _choose_names(
    matches: Iterable[SelectedObject],
    had: Collection[str],
    removed: Collection[str],
    spelling: Mapping[str, str],
) -> tuple[ObjectChoice, ...]:
    choices = {
        (name := match.name.lower()): ObjectChoice(spelling[name], match.is_certificate, is_new=name not in had)
        for match in matches
    }
    for name in had:
        if name not in choices and name not in removed:
            choices[name] = ObjectChoice(spelling[name], kept=True)
    return tuple(choices[name] for name in sorted(choices, key=lambda name: (choices[name].is_new, name)))
