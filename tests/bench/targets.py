"""What each figure may be at the most: the promises of the README, for the shapes that they name."""

import math
from collections.abc import Mapping

from tests.bench.stage import Shape

PAGE = 25
IDLE_MEMORY = 75
# By number of SecretSyncs, in MiB.
MEMORY = {1_000: 87, 10_000: 150}
# In seconds; the vault's own limit of 4,000 calls in 10 s would allow 2.5.
FIRST_SYNC = {1_000: 6}


def targets(shape: Shape) -> Mapping[str, float]:
    """By the figure's name."""
    count, pages = shape.count, math.ceil(shape.count / PAGE)
    versions = count if shape.history > 1 else 0
    lists = versions or pages
    found: dict[str, float] = {
        "first sync: secrets.get": count,
        "first sync: token": 1,
        "first sync: challenge": 0,
        "first sync: vault calls": count + versions + pages,
        "first sync: API writes but events": 2 * count + 1,  # a Secret and its status each, and one TokenRequest
        "quiet poll: vault calls": lists,
        "quiet poll: Secrets written": 0,
        "quiet poll: statuses written": 0,
        "rotation: vault calls": pages + 100,
        "rotation: all there, s from the poll's start": 4 if shape.latency else 2,
        "restart: vault calls": 0,
        "restart: API writes": 0,
        "restart: ready, s": 3,
        "restart: CPU in 5 s after import, s": 1,
        "drift: vault calls": 0,
        "drift: CPU of 1,000 looks, s": 1,
    }
    if not versions:
        found["quiet poll: CPU, s"] = 0.5
    if count in FIRST_SYNC:
        found["first sync: all Secrets there, s from the first"] = FIRST_SYNC[count]
    if count in MEMORY:
        found["memory: before a poll, MiB"] = MEMORY[count]
    return found
