"""A random source that always returns the same value."""

import random


class FixedRandom(random.Random):
    """With the share 0.0, `uniform` returns the start of a range, with 1.0 its end. Tests may change `share`."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def random(self) -> float:
        """Return the share; `uniform` and the other methods use it."""
        return self.share
