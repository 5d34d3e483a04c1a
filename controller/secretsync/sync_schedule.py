"""Schedule drift checks of Secrets, spread evenly over the interval.

Checks run in small groups, because each wake-up of the process costs CPU. The API server receives at most ten checks a
second, independent of the number of SecretSyncs.
"""

import math
import random
from collections import Counter
from collections.abc import Callable

from controller.runtime import backoff

# Checks run together at the ticks of a clock, in seconds, with a maximum per tick.
TICK = 2.0
MAX_PER_TICK = 20


def first_delay(interval: float, is_new: bool, rng: random.Random) -> float:
    """Return the seconds until the first check of a Secret in this process, at random so that checks are spread.

    `is_new` means that the SecretSync was never synced. Its Secret is about to be written, so a check in the first half
    of the interval would only repeat the result of the write.
    """
    return interval / 2 + backoff.random_offset(interval / 2, rng) if is_new else backoff.random_offset(interval, rng)


class DriftScheduler:
    """Reserve ticks for drift checks. Times are in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.reserved: Counter[int] = Counter()
        self._pruned = 0

    def reserve(self, delay: float) -> float:
        """Reserve a place at the first tick with room after `delay` seconds. Return its time."""
        now = self._clock()
        self._prune(math.floor(now / TICK))
        tick = math.ceil((now + delay) / TICK)
        while self.reserved[tick] >= MAX_PER_TICK:
            tick += 1
        self.reserved[tick] += 1
        return tick * TICK

    def _prune(self, now: int) -> None:
        if now > self._pruned:
            self._pruned = now
            for tick in [tick for tick in self.reserved if tick < now]:
                del self.reserved[tick]
