"""Dice without chance."""

import random


class Dice(random.Random):
    """They always fall the same way: 0.0 gives the least of a range, 1.0 the most."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def random(self) -> float:
        """What `uniform` and all others draw from."""
        return self.share
