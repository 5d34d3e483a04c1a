"""An event loop whose time passes only when everybody waits: an hour takes no time, and nothing depends on luck."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Skip(selectors.SelectSelector):
    """Waits for nothing: the loop's clock jumps ahead instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None and len(self.get_map()) <= 1:
            # The loop's own self-pipe is all there is: nobody will ever wake anybody.
            raise AssertionError("everybody waits for ever")
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 0.0 s."""

    def __init__(self) -> None:
        self._skip = _Skip()
        super().__init__(self._skip)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._skip.now


def run(main: Callable[[Callable[[], float]], Coroutine[Any, Any, T]]) -> T:
    """Runs `main(clock)` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(runner.get_loop().time))
