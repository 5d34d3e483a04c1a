"""When Secrets are looked at for drift: spread evenly, and a few at a time, since a process that wakes pays for it.

However many SecretSyncs there are, the API server sees no more than ten looks a second.
"""

import math
from collections import Counter
from collections.abc import Callable

# Looks happen together at the beats of a clock, in seconds, and so many of them at the most.
BEAT = 2.0
AT_ONCE = 20


class Looks:
    """The beats to come, and how many looks each has. Times are in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._booked: Counter[int] = Counter()
        self._pruned = 0

    def book(self, delay: float) -> float:
        """The moment of the first beat that has room after so long."""
        now = self._clock()
        self._prune(math.floor(now / BEAT))
        beat = math.ceil((now + delay) / BEAT)
        while self._booked[beat] >= AT_ONCE:
            beat += 1
        self._booked[beat] += 1
        return beat * BEAT

    def _prune(self, now: int) -> None:
        if now > self._pruned:
            self._pruned = now
            for beat in [beat for beat in self._booked if beat < now]:
                del self._booked[beat]
