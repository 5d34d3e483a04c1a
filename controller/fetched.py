"""Values read from a vault, in a type that shows them to nobody."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from controller.errors import ControllerError
from controller.objects import VersionOf
from controller.wiped import Wiped


class Hidden:
    """A secret value. It shows itself to nobody: not in a message, a log line or a debugger's listing."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = Wiped(value)

    def reveal(self) -> bytes:
        """A copy of the value, for the one place that writes it; to be used and dropped at once."""
        return bytes(self._value)

    def __repr__(self) -> str:
        return "<hidden>"


class Fetched(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One version of one object, read from the vault, or the part of it that a key takes.

    Times are UTC, absent where the vault tells none. Outside `not_before` and `expires` it is served all the same.
    `of_certificate` says that a secret belongs to a certificate. `warnings` say what is odd about the content itself.
    """

    value: Hidden
    version: str
    updated: datetime | None = None
    not_before: datetime | None = None
    expires: datetime | None = None
    content_type: str = ""
    of_certificate: bool = False
    warnings: tuple[str, ...] = ()


class Same(msgspec.Struct, frozen=True):
    """A key whose value in the Secret is the vault's, as a list has shown: it was not fetched."""


Results = Mapping[VersionOf, Fetched | ControllerError]
