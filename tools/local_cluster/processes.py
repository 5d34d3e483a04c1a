"""Run servers that end with the caller. This is the caller's side of supervisor.py."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.local_cluster.errors import ClusterError

_SUPERVISOR = Path(__file__).with_name("supervisor.py")


class ServerProcesses:
    """Named server processes. They end with `close()`, and also when this process ends for any reason."""

    def __init__(self, *, scratch: Path | None = None, keep_open: Sequence[int] = ()) -> None:
        """Start the supervisor.

        It removes the folder `scratch` at the end, and holds the descriptors `keep_open`, such as locks, until then.
        """
        command = [
            sys.executable,
            "-I",
            str(_SUPERVISOR),
            str(os.getpid()),
            *([str(scratch)] if scratch else []),
        ]
        # The supervisor has its own session, because Ctrl-C in a terminal must not stop the servers before the caller.
        self.supervisor = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, pass_fds=keep_open
        )
        assert self.supervisor.stdin is not None  # noqa: S101 - PIPE creates both streams
        assert self.supervisor.stdout is not None  # noqa: S101
        self._stdin, self._stdout = self.supervisor.stdin, self.supervisor.stdout
        self._lock = threading.Lock()
        self._logs: dict[str, Path] = {}

    def start(self, name: str, argv: Sequence[str], log: Path) -> int:
        """Start a server. Append its output to `log`. Return its process id."""
        self._logs[name] = log
        return int(self._ask_supervisor(start=name, argv=list(argv), log=str(log))["pid"])

    def stop(self, name: str, grace: float) -> None:
        """Send SIGTERM to a server, and SIGKILL if it still runs after `grace` seconds."""
        self._ask_supervisor(stop=name, grace=grace)

    def remove_cgroups(self, folders: Iterable[Path]) -> None:
        """Let the supervisor remove these cgroups, and all cgroups below them, after their processes ended."""
        self._ask_supervisor(cgroups=[str(folder) for folder in folders])

    def is_running(self, name: str) -> bool:
        """Return whether the server has not ended."""
        return self._ask_supervisor(ask=name)["code"] is None

    def require(self, name: str) -> None:
        """Raise ClusterError with the end of the server's log if it is not running."""
        code = self._ask_supervisor(ask=name)["code"]
        if code is not None:
            how = f"was terminated by signal {-code}" if code < 0 else f"ended with code {code}"
            raise ClusterError(f"{name} {how}:\n{tail(self._logs[name])}")

    def close(self) -> None:
        """Kill the servers and wait until they have ended."""
        with self._lock:
            with contextlib.suppress(OSError):  # the supervisor was killed, and the kernel killed its servers
                self._stdin.write(b'{"end": true}\n')
                self._stdin.flush()
            for stream in (self._stdin, self._stdout):
                with contextlib.suppress(OSError):
                    stream.close()
            self.supervisor.wait()

    def _ask_supervisor(self, **command: Any) -> dict[str, Any]:
        with self._lock:
            try:
                self._stdin.write(json.dumps(command).encode() + b"\n")
                self._stdin.flush()
                line = self._stdout.readline()
            except (OSError, ValueError) as error:
                raise ClusterError(f"the control plane is not running any more: {error}") from error
        if not line:
            raise ClusterError("the control plane is not running any more: its supervisor was terminated")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClusterError(f"cannot start {command.get('start')}: {answer['error']}")
        return answer


def tail(log: Path, lines: int = 8) -> str:
    """Return the end of a log, without the usage text that Kubernetes' programs print after an error."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.split("\nUsage:")[0].strip().splitlines()[-lines:])
