"""A line of progress on stderr for work that takes long."""

import shutil
import sys
import time

SECONDS_BETWEEN_LINES = 20.0  # into a log
SECONDS_BETWEEN_UPDATES = 2.0  # on a terminal, where the line is overwritten


class ProgressLine:
    """Shows the state of a long operation. One that ends before the first `show` prints nothing."""

    def __init__(self, doing: str) -> None:
        """Start the clock. Each line begins with `doing`."""
        self._doing = doing
        self._started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = False

    @property
    def pause(self) -> float:
        """Return the seconds until the next `show`. The first one is early, so that the user knows what takes time."""
        return SECONDS_BETWEEN_LINES if self._shown and not self._terminal else SECONDS_BETWEEN_UPDATES

    def show(self, state: str) -> None:
        """Show the elapsed time and `state`."""
        line = f"{self._doing}: {self._elapsed()} elapsed, {state}"
        if self._terminal:
            line = "\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1]
        print(line, end="" if self._terminal else "\n", file=sys.stderr, flush=True)
        self._shown = True

    def finish(self, ending: str) -> None:
        """Show the last line, if there was a line before."""
        if self._shown:
            start = "\r\x1b[K" if self._terminal else ""
            print(f"{start}{self._doing}: {ending} after {self._elapsed()}", file=sys.stderr, flush=True)

    def _elapsed(self) -> str:
        elapsed = int(time.monotonic() - self._started)
        return f"{elapsed // 60}:{elapsed % 60:02}"
