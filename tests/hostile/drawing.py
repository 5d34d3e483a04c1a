"""Attacks that are drawn: from a seed, for a bounded time, in batches that hypothesis repeats exactly.

HOSTILE_SEED chooses another seed (`random`: any; it is printed), HOSTILE_SECONDS how long each generator draws. To
repeat a failure, use the seed that it names, and as many seconds.
"""

import itertools
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def _chosen_seed() -> int:
    text = os.environ.get("HOSTILE_SEED", "20261128")
    return random.SystemRandom().getrandbits(32) if text == "random" else int(text)


SEED = _chosen_seed()
SECONDS = float(os.environ.get("HOSTILE_SECONDS", "5"))
BATCH = 25


def draw_attacks(name: str, attacks: SearchStrategy[T], attack: Callable[[T], Any]) -> int:
    """Draw attacks and carry them out until the time is over; return how many there were.

    A failure is not made smaller: the cluster that it happened in has changed.
    """
    until = time.monotonic() + SECONDS
    count = 0

    for batch in itertools.count():
        if time.monotonic() >= until:
            return count

        @seed(f"{SEED} {name} {batch}")
        @settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(attacks)
        def run(drawn: T) -> None:
            nonlocal count
            if time.monotonic() < until:
                count += 1
                attack(drawn)

        try:
            run()
        except BaseException as error:
            error.add_note(f"drawn by {name}, batch {batch}: repeat it with HOSTILE_SEED={SEED}")
            raise
    raise AssertionError("the batches never end")
