"""Values read from a vault, in a type that shows them to nobody."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from controller.errors import ControllerError
from controller.objects import VersionOf


class Hidden:
    """A secret value. It shows itself to nobody: not in a message, a log line or a debugger's listing."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The value, for the one place that writes it."""
        return self._value

    def __repr__(self) -> str:
        return "<hidden>"


class Fetched(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One version of one object, read from the vault. Times are UTC, absent where the vault tells none."""

    value: Hidden
    version: str
    updated: datetime | None = None
    expires: datetime | None = None


Results = Mapping[VersionOf, Fetched | ControllerError]
