"""Draw the steps of a soak and their times from a seed, so that the same seed repeats a finding."""

import random
from collections.abc import Iterator
from typing import NamedTuple

# How often each deed comes; the names are those of `Soak`'s methods.
WEIGHTS = {
    "rotate": 10,
    "break_vault": 4,
    "break_entra": 1,
    "roll_key": 1,
    "scribble": 2,
    "delete_secret": 2,
    "replace": 2,
    "edit_class": 1,
    "restart": 2,
    "kill": 2,
    "restart_apiserver": 1,
}
# These end a process, and what it holds cannot be followed any longer: they come in the first half.
ENDS = ("restart", "kill")
BETWEEN = (0.5, 5.0)


class Step(NamedTuple):
    """An action, its time in seconds after the beginning, and the seed of its choices."""

    at: float
    deed: str
    seed: int


def steps(seed: int, seconds: float) -> Iterator[Step]:
    """All of a soak that long."""
    rng = random.Random(seed)
    at = 0.0
    while (at := at + rng.uniform(*BETWEEN)) < seconds:
        possible = [deed for deed in WEIGHTS if at < seconds / 2 or deed not in ENDS]
        (deed,) = rng.choices(possible, [WEIGHTS[name] for name in possible])
        yield Step(at, deed, rng.getrandbits(32))
