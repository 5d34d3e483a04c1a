"""List every value by its dotted path, in the order of values.yaml."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from tools.codegen.values.base import ValuesGroup
from tools.codegen.values.chart import ChartValues


class LeafValue(msgspec.Struct, frozen=True):
    """One value: its dotted path, its type, its default as JSON, and its description."""

    path: str
    type: inspect.Type
    default: Any
    description: str
    examples: tuple[Any, ...] = ()


class GroupNode(msgspec.Struct, frozen=True):
    """A group of values, such as `image`."""

    path: str
    description: str


def walk(values: msgspec.Struct | None = None, prefix: str = "") -> Iterator[LeafValue | GroupNode]:
    """Yield every value in its order, each group before its contents."""
    values = values or ChartValues()
    for field in msgspec.inspect.type_info(type(values)).fields:  # type: ignore[attr-defined]  # a StructType
        path = f"{prefix}{field.encode_name}"
        default = getattr(values, field.name)
        if isinstance(default, ValuesGroup):
            yield GroupNode(path, " ".join((type(default).__doc__ or "").split()))
            yield from walk(default, f"{path}.")
            continue
        said = field.type.extra_json_schema or {}
        yield LeafValue(
            path, field.type.type, msgspec.to_builtins(default), said["description"], tuple(said.get("examples", ()))
        )
