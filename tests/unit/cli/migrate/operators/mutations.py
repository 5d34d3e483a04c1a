"""Replace one value of a manifest: list the places of its values, and put any other value there."""

import copy
from typing import Any

from hypothesis import strategies as st

from tests.support.hostile_texts import HOSTILE

# The values that a mutation can put into a place.
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE | st.binary(max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def list_places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(found for key, inner in items for found in list_places(inner, (*at, key)))] if at else [
        found for key, inner in items for found in list_places(inner, (key,))
    ]  # fmt: skip


def mutate_documents(documents: list[dict[str, Any]], where: tuple[Any, ...], value: Any) -> list[dict[str, Any]]:
    whole = copy.deepcopy(documents)
    node: Any = whole
    for step in where[:-1]:
        node = node[step]
    node[where[-1]] = value
    return whole
