"""Draw random attacks from a seed for a limited time, in batches that hypothesis can repeat exactly.

HOSTILE_SEED sets another seed. The value `random` chooses one, and the tests print it. HOSTILE_SECONDS sets the time of
each generator. To repeat a failure, set the seed that its message names and the same time.
"""

import itertools
import math
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def _read_seed() -> int:
    text = os.environ.get("HOSTILE_SEED", "20261128")
    return random.SystemRandom().getrandbits(32) if text == "random" else int(text)


SEED = _read_seed()
SECONDS = float(os.environ.get("HOSTILE_SECONDS", "5"))
BATCH = 25
# A busy machine runs this number of attacks in any case, so that no test passes without an attack.
AT_LEAST = 11


def draw_attacks(name: str, attacks: SearchStrategy[T], attack: Callable[[T], Any]) -> int:
    """Draw and run attacks until the time is over, and at least `AT_LEAST`. Return their number.

    The time begins with the first attack, because a busy machine can need the whole time for its draw.
    Do not shrink a failing attack, because the attacks before it have changed the cluster.
    """
    until = math.inf
    count = 0

    for batch in itertools.count():
        if time.monotonic() >= until and count >= AT_LEAST:
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
            nonlocal count, until
            until = min(until, time.monotonic() + SECONDS)
            if time.monotonic() < until or count < AT_LEAST:
                count += 1
                attack(drawn)

        try:
            run()
        except BaseException as error:
            error.add_note(f"drawn by {name}, batch {batch}: repeat it with HOSTILE_SEED={SEED}")
            raise
    raise AssertionError("the batches never end")
