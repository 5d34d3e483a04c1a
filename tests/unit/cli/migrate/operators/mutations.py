"""Manifests with one value replaced by another: every place of a document, and values that do not belong there."""

import copy
from typing import Any

from hypothesis import strategies as st

from tests.support.hostile_texts import HOSTILE

# What a mutation puts in the place of a value.
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE | st.binary(max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(found for key, inner in items for found in places(inner, (*at, key)))] if at else [
        found for key, inner in items for found in places(inner, (key,))
    ]  # fmt: skip


def mutated(documents: list[dict[str, Any]], where: tuple[Any, ...], value: Any) -> list[dict[str, Any]]:
    whole = copy.deepcopy(documents)
    node: Any = whole
    for step in where[:-1]:
        node = node[step]
    node[where[-1]] = value
    return whole
