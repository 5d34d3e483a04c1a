"""Best-effort zeroing of secret bytes.

Python does not overwrite memory that it frees. Freed memory keeps its content until it is reused, which can take long
in an idle process.
"""


class ZeroizedBytes(bytearray):
    """Bytes that are overwritten when the object is deleted."""

    def __del__(self) -> None:
        zeroize(self)


def zeroize(data: bytearray) -> None:
    """Overwrite the bytes with zeros."""
    data[:] = bytes(len(data))
