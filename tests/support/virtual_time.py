"""An event loop whose clock jumps ahead when all tasks wait: an hour takes no time, and runs are deterministic."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _VirtualSelector(selectors.SelectSelector):
    """A selector that never waits. It advances the loop's clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # The first file is the self-pipe with which other threads wake a sleeping loop. This loop never sleeps.
        has_files = len(self.get_map()) > 1
        if timeout is None and not has_files:
            raise AssertionError("all tasks wait, and no event can wake them")
        self.now += timeout or 0.0
        return super().select(0) if has_files else []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock begins at 0.0 s."""

    def __init__(self) -> None:
        self._skip = _VirtualSelector()
        super().__init__(self._skip)

    def time(self) -> float:
        """Return the seconds since the loop was created."""
        return self._skip.now


def run_virtual(main: Callable[[Callable[[], float]], Coroutine[Any, Any, T]]) -> T:
    """Run `main(clock)` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(runner.get_loop().time))
