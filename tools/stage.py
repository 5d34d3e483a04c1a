"""What a narrated demonstration is made of: steps, commands shown and run for real, and checks behind every claim."""

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

from tools import printable

_POLL_SECONDS = 0.2
_PROGRESS_SECONDS = 2.0


class StageError(Exception):
    """A claim of the demonstration did not hold, or a command failed."""


@dataclass
class Stage:
    """Prints to stdout. `env` and `folder` are those of the commands; `times` gets (step, seconds)."""

    env: dict[str, str]
    folder: Path
    times: list[tuple[str, float]] = field(default_factory=list)
    _started: float = 0.0

    def step(self, title: str) -> None:
        """End the step before, if any, and begin one."""
        self.end_step()
        self.times.append((title, 0.0))
        self._started = time.monotonic()
        _print(f"\n{_bold(f'=== {len(self.times)}. {title}')}")

    def end_step(self) -> None:
        """Note how long the step took."""
        if self.times and not self.times[-1][1]:
            self.times[-1] = (self.times[-1][0], time.monotonic() - self._started)

    def say(self, text: str) -> None:
        """One line for the reader, wrapped by hand."""
        _print(text)

    def run(self, command: str, *, expect: int | None = 0) -> str:
        """Show a shell command, run it, show what it prints; its stdout. `expect` is its exit code, None: any."""
        _print(_bold(f"$ {command}"))
        done = self._shell(command)
        if printed := (done.stdout + done.stderr).rstrip("\n"):
            _print(printable.block(printed))
        if expect is not None and done.returncode != expect:
            raise StageError(f"expected exit code {expect} of the command above, but it ended with {done.returncode}")
        return done.stdout

    def export(self, name: str, value: str) -> None:
        """Show and set a variable of the commands that follow."""
        _print(_bold(f'$ export {name}="{value}"'))
        self.env[name] = value

    def ask(self, command: str) -> str:
        """The stdout of a command that is not shown; empty where it fails."""
        done = self._shell(command)
        return done.stdout if done.returncode == 0 else ""

    def expect(self, what: str, found: object, wanted: object) -> None:
        """`StageError` unless the two are equal."""
        if found != wanted:
            raise StageError(f"expected {what} to be {wanted!r}, found {found!r}")

    def wait(self, what: str, look: Callable[[], object], wanted: object, timeout: float) -> float:
        """Look until it finds what is wanted; the seconds that took. `StageError` says what was found last."""
        started = time.monotonic()
        told = started
        _print(f"(waiting for {what}", end="")
        while (found := look()) != wanted:
            now = time.monotonic()
            if now - started > timeout:
                _print(")")
                raise StageError(f"expected {what} within {timeout:g} s: {wanted!r}, found {found!r}")
            if now - told > _PROGRESS_SECONDS:
                told = now
                _print(" .", end="")
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - started
        _print(f": {seconds:.1f} s)")
        return seconds

    def object(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """An object of the API server; empty where there is none or nobody answers."""
        found = self.ask(f"kubectl get {kind} {name} --namespace {namespace} --output json")
        answer: dict[str, Any] = json.loads(found) if found else {}
        return answer

    def secret(self, name: str, namespace: str) -> dict[str, str]:
        """The values of a Secret; empty where there is none."""
        data = self.object("secret", name, namespace).get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def ready(self, name: str, namespace: str) -> tuple[str, str]:
        """Status and reason of a SecretSync's condition Ready."""
        conditions = self.object("secretsync", name, namespace).get("status", {}).get("conditions", [])
        found = [(each["status"], each["reason"]) for each in conditions if each["type"] == "Ready"]
        return found[0] if found else ("", "")

    def report(self) -> None:
        """The time of every step, and their sum."""
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
    """Print at once. When nobody reads any more, the first call raises, and what follows can tidy up in peace."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
