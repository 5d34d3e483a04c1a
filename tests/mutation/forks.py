"""Run a function in a child process with time limits. At a limit, kill the child and all processes that it started."""

import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

# The exit code of a child whose function raised an error. The error is a defect of these programs, not a failed test.
BROKEN = 70


class ChildResult(NamedTuple):
    """The exit code of a child (None if it reached a limit), and the text that its function wrote."""

    code: int | None
    output: str


WriteOutput = Callable[[str], object]
"""A function that a child calls to write its output."""


class Limit(NamedTuple):
    """The limits of a child in seconds: of CPU time, which other work of the machine does not change, and of time.

    The second limit ends a child that waits without using the CPU.
    """

    cpu: float
    wall: float


def run_forked(function: Callable[[WriteOutput], int], limit: Limit) -> ChildResult:
    """Run a function in a child process, and return its result as the exit code of the child."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _run_child(function, reading, writing, limit.cpu)
    os.close(writing)
    watched = os.pidfd_open(child)
    try:
        ended = bool(select.select([watched], [], [], limit.wall)[0])
    finally:
        # Also on Ctrl-C: neither the child nor a process that a test started outlives this function.
        _kill_group(child)
        _, status = os.waitpid(child, 0)
        os.close(watched)
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb") as pipe:
        output = (pipe.read() or b"").decode()
    # The kernel ends a child at the limit of its CPU time with a signal.
    return ChildResult(os.waitstatus_to_exitcode(status) if ended and os.WIFEXITED(status) else None, output)


def _run_child(function: Callable[[WriteOutput], int], reading: int, writing: int, cpu: float) -> None:
    """Run the function, and end this process."""
    code = BROKEN
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(reading)
        seconds = int(cpu) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
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
