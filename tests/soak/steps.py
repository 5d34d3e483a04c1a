"""Draw the steps of a soak run from a seed. A run with the same seed repeats the same steps at the same times."""

import random
from collections.abc import Iterator
from typing import NamedTuple

# How often each action is drawn, in proportion to the others. The names are those of the methods of `SoakActions`.
# A seed draws the same actions only while their order and weights stay the same.
ACTION_WEIGHTS = {
    "rotate_objects": 10,
    "break_vault": 4,
    "break_entra": 1,
    "replace_signing_key": 1,
    "overwrite_secret": 2,
    "delete_secret": 2,
    "replace_secretsync": 2,
    "edit_class": 1,
    "restart_controller": 2,
    "kill_controller": 2,
    "restart_apiserver": 1,
}
# These actions end the controller process. They are drawn in the first half only, so that the last process runs for the
# whole second half, and its growth can be measured.
PROCESS_ENDING_ACTIONS = ("restart_controller", "kill_controller")
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 5.0


class Step(NamedTuple):
    """An action, the seconds from the start of the run to the action, and the seed of the action's own choices."""

    at: float
    action: str
    seed: int


def draw_steps(seed: int, seconds: float) -> Iterator[Step]:
    """Yield the steps of a run of this length."""
    rng = random.Random(seed)
    at = 0.0
    while (at := at + rng.uniform(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS)) < seconds:
        in_first_half = at < seconds / 2
        possible = [action for action in ACTION_WEIGHTS if in_first_half or action not in PROCESS_ENDING_ACTIONS]
        (action,) = rng.choices(possible, [ACTION_WEIGHTS[name] for name in possible])
        yield Step(at, action, rng.getrandbits(32))
