"""Log lines that wait to be shipped: as many as fit, and the oldest give way."""

import logging
from collections import deque
from collections.abc import Callable

from controller.otlp import wire
from controller.otlp.wire import Line

# Some seven thousand lines, and much more than a controller logs in a day when nothing is wrong.
MOST_BYTES = 4 * 2**20
# What one request carries; a collector takes 20 MiB unless it is told otherwise.
BATCH_BYTES = 256 * 2**10
# What a line takes in memory besides its text.
_EACH = 240
# Lines about shipping would be shipped, fail, and make more of them: stdout alone has those.
OWN = "controller.otlp"


class Backlog(logging.Handler):
    """A handler of the logging module: it never waits, whatever becomes of the lines."""

    def __init__(self, dropped: Callable[[], None], most: int = MOST_BYTES) -> None:
        super().__init__()
        self._dropped = dropped
        self._most = most
        self._lines: deque[Line] = deque()
        self._size = 0
        self.addFilter(lambda record: not record.name.startswith(OWN))

    def __len__(self) -> int:
        return len(self._lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Adds the line, at the cost of the oldest."""
        try:
            line = wire.line(record)
        except Exception:  # as every handler has it: a line that cannot be written stops nobody
            self.handleError(record)
            return
        self._lines.append(line)
        self._size += _size(line)
        while self._size > self._most:
            self._size -= _size(self._lines.popleft())
            self._dropped()

    def take(self) -> list[Line]:
        """The oldest lines, as many as fit into one request; none where nothing waits."""
        taken: list[Line] = []
        room = BATCH_BYTES
        self.acquire()  # another thread may log
        try:
            while self._lines and (not taken or room >= _size(self._lines[0])):
                line = self._lines.popleft()
                self._size -= _size(line)
                room -= _size(line)
                taken.append(line)
        finally:
            self.release()
        return taken


def _size(line: Line) -> int:
    return len(line.record) + _EACH
