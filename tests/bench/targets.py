"""Define the highest promised value of each figure for a shape."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from controller.polling.poller import FULL_READ
from tests.bench.harness import Shape

PAGE = 25
ROTATED = 100
# In MiB: of a controller without SecretSyncs, and by the number of SecretSyncs.
IDLE_MEMORY = 60
MEMORY = {1_000: 70, 10_000: 115}
# The README promises times for this number of SecretSyncs with one version of each object.
TIMED_COUNT = 1_000
RATIO = "first sync: all written from the start, times the bound"
CPU = "first sync: CPU of 1,000, s"
# In seconds. Except for rotations, the targets are the same for a fast and a slow vault. The vault's own limit of 4,000
# calls in 10 s would allow a first sync in 2.5 s.
TIMES = {
    "first sync: all Secrets there, s from the first": 6,
    "quiet poll: CPU, s": 0.5,
    RATIO: 1.35,
    CPU: 2.6,
    "restart: ready, s": 3,
    "restart: CPU in 5 s after import, s": 1,
}
ROTATION = "rotation: all there, s from the poll's start"
ROTATION_SECONDS, ROTATION_SECONDS_SLOW_VAULT = 2, 4


class Target(NamedTuple):
    """The highest promised value, and how much the daily full reads of objects can add to it."""

    most: float
    daily: int = 0

    def met(self, value: float) -> bool:
        """Return whether the figure is within the target."""
        return value <= self.most + self.daily


def daily(shape: Shape) -> int:
    """Return the maximum number of objects whose daily full read is within one interval.

    The controller draws the time of each read at random. So the number of reads in a poll has a Poisson distribution.
    The result is its mean and three standard deviations, which one poll in a thousand exceeds.
    """
    mean = shape.count * shape.interval / FULL_READ
    return math.ceil(mean + 3 * math.sqrt(mean))


def targets(shape: Shape) -> Mapping[str, Target]:
    """Return the targets by the figure's name."""
    count, pages, reads = shape.count, math.ceil(shape.count / PAGE), daily(shape)
    versions = count if shape.history > 1 else 0
    lists = versions or pages
    found = {
        "first sync: secrets.get": Target(count),
        "first sync: token": Target(1),
        "first sync: challenge": Target(0),
        "first sync: vault calls": Target(count + lists),
        # One write of each Secret, one of each status, and one TokenRequest.
        "first sync: API writes except events": Target(2 * count + 1),
        "first sync: creates": Target(count),
        "first sync: status patches": Target(count),
        "first sync: empty patches": Target(0),
        "first sync: repeated status patches": Target(0),
        # A daily read is one get. With a history, the controller lists the versions before it.
        "quiet poll: vault calls": Target(lists, 2 * reads if versions else reads),
        "quiet poll: Secrets written": Target(0, reads),
        # One status records the poll for all SecretSyncs of its group.
        "quiet poll: statuses written": Target(1, reads),
        "rotation: vault calls": Target(pages + ROTATED, reads),
        "restart: vault calls": Target(0),
        "restart: API writes except checks": Target(0),
        "drift: vault calls": Target(0),
        "drift: CPU of 1,000 checks, s": Target(1),
    }
    if count == TIMED_COUNT and not versions:
        found |= {name: Target(most) for name, most in TIMES.items()}
        found[ROTATION] = Target(ROTATION_SECONDS_SLOW_VAULT if shape.latency else ROTATION_SECONDS)
    if count in MEMORY:
        found["memory: before a poll, MiB"] = Target(MEMORY[count])
    return found
