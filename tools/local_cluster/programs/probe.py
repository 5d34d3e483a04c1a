"""Check that a downloaded program runs on this machine and has the expected version."""

import errno
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

from tools.local_cluster.errors import DownloadError

SECONDS = 20.0
_ARGUMENTS = {"kubectl": ("version", "--client", "--output=json")}
_OUTPUT_BYTES = 64 * 1024


def require_version(program: Path, version: str) -> None:
    """Run `program` for its version. Raise DownloadError if it does not run or has another version than `version`."""
    with tempfile.TemporaryFile() as output:
        try:
            code = _run_command([str(program), *_ARGUMENTS.get(program.name, ("--version",))], output.fileno())
        except OSError as error:
            hint = "; is it for another processor?" if error.errno == errno.ENOEXEC else ""
            raise DownloadError(f"{program.name} does not run on this machine: {error.strerror}{hint}") from error
        output.seek(0)
        answer = output.read(_OUTPUT_BYTES).decode(errors="replace")
    said = " ".join("".join(letter if letter.isprintable() else " " for letter in answer).split())[:200]
    if code is None:
        raise DownloadError(f"{program.name} does not run on this machine: no version within {SECONDS:g} s")
    if code:
        raise DownloadError(f"{program.name} does not run on this machine: exit code {code}: {said or 'no output'}")
    if not re.search(rf"(?<![\w.]){'v?' + re.escape(version)}(?![\w.+-])", answer):
        raise DownloadError(f"{program.name} is not of version {version}: it says {said or 'nothing'}")


def _run_command(command: list[str], output: int) -> int | None:
    """Return the exit code, or None if the time was over."""
    # A session of its own, so that children of the program end with it.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    ) as process:
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
