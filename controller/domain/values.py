"""Define a type for values from a vault that never displays them."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from controller.domain.provider_class import ObjectVersionRef
from controller.errors import ControllerError, UnusableValue
from controller.runtime.zeroize import ZeroizedBytes


class SecretBytes:
    """A secret value. It never appears in a message or a log line, because its repr is constant."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = ZeroizedBytes(value)

    def reveal(self) -> bytes:
        """Return a copy of the value for the code that writes it. The caller drops it at once."""
        return bytes(self._value)

    def __repr__(self) -> str:
        return "<hidden>"


class VaultValue(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One version of one object from the vault, or a part of it for a key.

    Times are UTC, and None if the vault has none. The value is served even outside `not_before` and `expires`.
    `of_certificate` means that a secret belongs to a certificate. `warnings` describe problems of the content.
    `expanded_from` is the key of an expanded item, if this value is one of its properties.
    """

    value: SecretBytes
    version: str
    updated: datetime | None = None
    not_before: datetime | None = None
    expires: datetime | None = None
    content_type: str = ""
    of_certificate: bool = False
    warnings: tuple[str, ...] = ()
    expanded_from: str = ""


class Unchanged(msgspec.Struct, frozen=True):
    """A key whose value in the Secret is not written.

    It equals the vault's, according to a list, and was not fetched. Or it is a property that has become unusable.
    """


class ExpandedValues(msgspec.Struct, frozen=True, eq=False):
    """The properties of one value that become keys, by name, and the reason why others do not.

    `unusable` are the names of properties that can be keys, but have no usable text.
    """

    properties: Mapping[str, VaultValue | Unchanged]
    error: UnusableValue | None = None
    unusable: frozenset[str] = frozenset()


def items_with_known_keys(fetched: Mapping[str, VaultValue | Unchanged | ControllerError]) -> set[str]:
    """Return the expanded items whose values were read, so that all keys that they make are in `fetched`."""
    return {
        item.expanded_from if isinstance(item, VaultValue) else key
        for key, item in fetched.items()
        if isinstance(item, VaultValue) or (isinstance(item, UnusableValue) and item.has_no_key)
    }


Results = Mapping[ObjectVersionRef, VaultValue | ControllerError]
"""The value of each requested version, or the error that prevented it."""
