"""A random source that always returns the same value."""

import random


class FixedRandom(random.Random):
    """0.0 gives the least of a range, 1.0 the most. `share` may be changed."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def random(self) -> float:
        """Return the share; `uniform` and the other methods use it."""
        return self.share
