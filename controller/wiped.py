"""Memory that is left clean, as far as that is ours to do.

Python does not overwrite what it frees. What is freed in the middle of work is soon used for something else; what is
freed while nothing else happens lies there for long.
"""


class Wiped(bytearray):
    """Bytes that are overwritten when nobody has them any more."""

    def __del__(self) -> None:
        wipe(self)


def wipe(data: bytearray) -> None:
    """Overwrites them now."""
    data[:] = bytes(len(data))
