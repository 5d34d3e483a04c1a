"""Supervise servers from a process of their own, so that no server outlives the caller, even if that is killed.

    python supervisor.py PARENT_PID [SCRATCH_FOLDER]

It reads commands from stdin and answers each with one line on stdout. Both are JSON:

    {"start": name, "argv": [...], "log": path}    -> {"pid": 123}
    {"stop": name, "grace": seconds}               -> {"code": 0}    SIGTERM, after `grace` SIGKILL
    {"ask": name}                                  -> {"code": null} running; else its exit code (signal: -9)
    {"cgroups": [path, ...]}                       -> {}             removes these cgroups at the end
    {"end": true}                                  no answer: kills all servers and ends

It also ends when the parent has ended: stdin ends, or this process has another parent. (The end of stdin is not enough,
because a child that the caller forked can still hold the other end.) At its end it kills all servers and removes the
cgroups and the scratch folder. If the supervisor itself is killed, the kernel kills the servers (PR_SET_PDEATHSIG). The
caller cannot use PR_SET_PDEATHSIG instead, because that signal is bound to the *thread* that forked and removes no
folder. This process has only one thread. It imports nothing of this repository, because it is started by its path and
has to stay small.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_PARENT_CHECK_MS = 500
_CGROUP_SECONDS = 10.0


def die_with(parent: int) -> Callable[[], None]:
    """Return a `preexec_fn` by which the kernel kills the new process when the forking thread of `parent` ends."""

    def set_death_signal() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)

    return set_death_signal


class _ProcessSupervisor:
    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._cgroups: list[str] = []

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        if name := command.get("start"):
            return self._start_process(name, command["argv"], command["log"])
        if name := command.get("stop"):
            return self._stop_process(name, command["grace"])
        if "cgroups" in command:
            self._cgroups += command["cgroups"]
            return {}
        return {"code": self._processes[command["ask"]].poll()}

    def kill_all(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in self._processes.values():
            process.wait()
        deadline = time.monotonic() + _CGROUP_SECONDS
        for folder in self._cgroups:
            # The kernel ends the processes of a namespace a moment after its first process.
            while not remove_cgroup(folder) and time.monotonic() < deadline:
                time.sleep(0.02)

    def _start_process(self, name: str, argv: list[str], log: str) -> dict[str, Any]:
        with open(log, "ab") as output:  # noqa: PTH123 - without pathlib, this process starts faster
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - this process has no other thread
            )
        self._processes[name] = process
        return {"pid": process.pid}

    def _stop_process(self, name: str, grace: float) -> dict[str, Any]:
        process = self._processes[name]
        process.terminate()
        try:
            return {"code": process.wait(grace)}
        except subprocess.TimeoutExpired:
            process.kill()
            return {"code": process.wait()}


def remove_cgroup(top: str) -> bool:
    """Remove a cgroup and all cgroups below it. Return False if one of them still has a process."""
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(folder)  # noqa: PTH106 - the kernel removes the files of a cgroup with it
        except FileNotFoundError:
            pass
        except OSError:
            return False
    return True


def _read_commands(parent: int) -> Iterator[bytes]:
    """Yield the lines of stdin until the parent has ended."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    pending = b""
    while os.getppid() == parent:
        if not poll.poll(_PARENT_CHECK_MS):
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from lines


def main() -> None:
    """Serve until the parent has ended, or until SIGTERM."""
    # Ctrl-C reaches all processes of the terminal, but only the parent decides when the servers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    supervisor = _ProcessSupervisor()
    try:
        for line in _read_commands(int(sys.argv[1])):
            command = json.loads(line)
            if "end" in command:
                break
            try:
                answer = supervisor.answer(command)
            except OSError as error:  # the program cannot be started
                answer = {"error": str(error)}
            os.write(1, json.dumps(answer).encode() + b"\n")
    finally:
        supervisor.kill_all()
        for folder in sys.argv[2:]:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
