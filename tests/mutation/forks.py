"""Run a function in a child process with a limit. A hanging child is ended with all its processes."""

import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

# Exit code of a child whose function raised: a defect of this driver, not a verdict.
BROKEN = 70


class Ended(NamedTuple):
    """The end of a child: its exit code (None if it reached its limit), and its output."""

    code: int | None
    said: str


class Limit(NamedTuple):
    """The limits of a child. CPU seconds do not depend on the machine. The others are for a child that waits."""

    cpu: float
    wall: float


def run_forked(function: Callable[[Callable[[str], object]], int], limit: Limit) -> Ended:
    """Run a function, which is given a way to say something, in a child; stop it and its children at the limit."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _be_child(function, reading, writing, limit.cpu)
    os.close(writing)
    watched = os.pidfd_open(child)
    try:
        ended = bool(select.select([watched], [], [], limit.wall)[0])
    finally:
        # On Ctrl-C, too: neither the child nor a process that a test started outlives this function.
        _kill_group(child)
        _, status = os.waitpid(child, 0)
        os.close(watched)
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb") as pipe:
        said = (pipe.read() or b"").decode()
    # A child that used up its CPU time hangs as well.
    return Ended(os.waitstatus_to_exitcode(status) if ended and os.WIFEXITED(status) else None, said)


def _be_child(function: Callable[[Callable[[str], object]], int], reading: int, writing: int, cpu: float) -> None:
    code = BROKEN
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(reading)
        most = int(cpu) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        code = function(lambda text: os.write(writing, text.encode()))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _kill_group(leader: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(leader, signal.SIGKILL)
        except ProcessLookupError:
            continue
        except PermissionError:
            continue
