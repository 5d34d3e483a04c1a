"""Keep log lines until they are sent. When the limit is reached, the oldest lines are dropped."""

import logging
from collections import deque
from collections.abc import Callable

from controller.observability.otlp import wire
from controller.observability.otlp.wire import LogLine

# About seven thousand lines, much more than a controller logs in a day without errors.
MAX_BYTES = 4 * 2**20
# The size of one request. A collector accepts 20 MiB by default.
BATCH_BYTES = 256 * 2**10
# The memory of a line besides its text.
_EACH = 240
# Lines about the shipping itself go only to stdout: shipping them would fail and cause more lines.
OWN = "controller.observability.otlp"


class LogBacklog(logging.Handler):
    """A handler of the logging module that never blocks. `dropped` is called for each line that is dropped."""

    def __init__(self, dropped: Callable[[], None], max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._dropped = dropped
        self.max_bytes = max_bytes
        self._lines: deque[LogLine] = deque()
        self._size = 0
        self.addFilter(lambda record: not record.name.startswith(OWN))

    def __len__(self) -> int:
        return len(self._lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Add the line. Drop the oldest lines if there is no room."""
        try:
            line = wire.to_line(record)
        except Exception:  # as in every handler, a line that cannot be written raises no error
            self.handleError(record)
            return
        self._lines.append(line)
        self._size += _line_size(line)
        while self._size > self.max_bytes:
            self._size -= _line_size(self._lines.popleft())
            self._dropped()

    def take_lines(self) -> list[LogLine]:
        """Return the oldest lines, as many as fit into one request, or none."""
        taken: list[LogLine] = []
        left = BATCH_BYTES
        self.acquire()  # another thread can log at the same time
        try:
            while self._lines and (not taken or left >= _line_size(self._lines[0])):
                line = self._lines.popleft()
                self._size -= _line_size(line)
                left -= _line_size(line)
                taken.append(line)
        finally:
            self.release()
        return taken


def _line_size(line: LogLine) -> int:
    return len(line.record) + _EACH
