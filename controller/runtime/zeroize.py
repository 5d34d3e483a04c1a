"""Best-effort zeroing of secret bytes.

Python does not overwrite memory that it frees. Memory that is freed while the process works is soon reused; memory that
is freed before the process becomes idle keeps its content for long.
"""


class ZeroizedBytes(bytearray):
    """Bytes that are overwritten when the object is deleted."""

    def __del__(self) -> None:
        zeroize(self)


def zeroize(data: bytearray) -> None:
    """Overwrite the bytes with zeros."""
    data[:] = bytes(len(data))
