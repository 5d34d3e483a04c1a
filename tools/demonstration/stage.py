"""The console of a demonstration: it prints steps, runs shell commands and checks every claim."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.cli.common import printable

_POLL_SECONDS = 0.2
_PROGRESS_SECONDS = 2.0


class StageError(Exception):
    """A claim of the demonstration is false, or a command failed."""


@dataclass
class Console:
    """Prints to stdout. `env` and `folder` are those of the commands. `times` has the name and seconds of each step."""

    env: dict[str, str]
    folder: Path
    times: list[tuple[str, float]] = field(default_factory=list)
    _started: float = 0.0

    def step(self, title: str) -> None:
        """End the current step, if any, and begin another."""
        self.end_step()
        self.times.append((title, 0.0))
        self._started = time.monotonic()
        _print(f"\n{_bold(f'=== {len(self.times)}. {title}')}")

    def end_step(self) -> None:
        """Record the duration of the current step."""
        if self.times and not self.times[-1][1]:
            self.times[-1] = (self.times[-1][0], time.monotonic() - self._started)

    def say(self, text: str) -> None:
        """Print one line of explanation."""
        _print(text)

    def run(self, command: str, *, expect: int | None = 0) -> str:
        """Print and run a shell command, and return its stdout. `expect` is its exit code, or None for any."""
        _print(_bold(f"$ {command}"))
        done = self._shell(command)
        if printed := (done.stdout + done.stderr).rstrip("\n"):
            _print(printable.block(printed))
        if expect is not None and done.returncode != expect:
            raise StageError(f"expected exit code {expect} of the command above, but it ended with {done.returncode}")
        return done.stdout

    def export(self, name: str, value: str) -> None:
        """Print and set an environment variable for later commands."""
        _print(_bold(f'$ export {name}="{value}"'))
        self.env[name] = value

    def ask(self, command: str) -> str:
        """Run a command without printing it, and return its stdout; an empty text if it fails."""
        done = self._shell(command)
        return done.stdout if done.returncode == 0 else ""

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Raise `StageError` if the two values differ."""
        if found != wanted:
            raise StageError(f"expected {what} to be {wanted!r}, found {found!r}")

    def wait(self, what: str, probe: Callable[[], object], wanted: object, timeout: float) -> float:
        """Call `probe` until it returns `wanted`, and return the seconds. Raise `StageError` after `timeout` s."""
        started = time.monotonic()
        printed = started
        _print(f"(waiting for {what}", end="")
        while (found := probe()) != wanted:
            now = time.monotonic()
            if now - started > timeout:
                _print(")")
                raise StageError(f"expected {what} within {timeout:g} s: {wanted!r}, found {found!r}")
            if now - printed > _PROGRESS_SECONDS:
                printed = now
                _print(" .", end="")
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - started
        _print(f": {seconds:.1f} s)")
        return seconds

    def object(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """Return an object of the API server. It is empty if there is none or no answer."""
        found = self.ask(f"kubectl get {kind} {name} --namespace {namespace} --output json")
        answer: dict[str, Any] = json.loads(found) if found else {}
        return answer

    def secret(self, name: str, namespace: str) -> dict[str, str]:
        """Return the values of a Secret. They are empty if the Secret does not exist."""
        data = self.object("secret", name, namespace).get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def ready(self, name: str, namespace: str) -> tuple[str, str]:
        """Return the status and reason of a SecretSync's condition Ready; two empty texts if it has none."""
        conditions = self.object("secretsync", name, namespace).get("status", {}).get("conditions", [])
        found = [(each["status"], each["reason"]) for each in conditions if each["type"] == "Ready"]
        return found[0] if found else ("", "")

    def report(self) -> None:
        """Print the duration of every step, and their sum."""
        self.end_step()
        _print(f"\n{_bold('Times')}")
        for title, seconds in self.times:
            _print(f"{seconds:6.1f} s  {title}")
        _print(f"{sum(seconds for _, seconds in self.times):6.1f} s  in all")

    def _shell(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-e", "-c", command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def _print(text: str, end: str = "\n") -> None:
    """Print at once. After the output is closed, only the first call raises, so that the clean-up can print."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
