"""Run the emulator in a separate process."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.keyvault_emulator.client import ControlClient
from tools.keyvault_emulator.errors import EmulatorError
from tools.keyvault_emulator.listener import reserve, url_of

ROOT = Path(__file__).resolve().parents[2]

START_SECONDS = 30.0
"""A start takes less than 1.5 s on an idle machine. After this time, it has failed."""


class Emulator(ControlClient):
    """A running emulator. Its objects survive `restart`, and its addresses never change.

    `directory` gets its CA, its log and its keys. The emulator ends with this process. Every method
    raises EmulatorError if the emulator refuses the call, and blocks for one local HTTPS call.
    """

    def __init__(self, directory: Path, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self._address = address
        self._reserved = [reserve(address, port), reserve(address, 0)]
        self._port, control_port = (each.getsockname()[1] for each in self._reserved)
        super().__init__(address, control_port, directory)
        self.url = url_of(address, self._port)
        self.authority = self.url
        self.vault_pattern = f"{self.url}/{{vault}}"
        self._snapshot: str | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def cloud(self) -> dict[str, str]:
        """Return this emulator as an entry of the chart's value `clouds`."""
        return {"authority": self.authority, "vaultUrl": self.vault_pattern, "ca": self.ca_file.read_text()}

    # Start and stop

    def close(self) -> None:
        """End the process, and release its ports."""
        self._end()
        for sock in self._reserved:
            sock.close()

    def start(self) -> None:
        """Start the process with the objects of the last `stop`, and wait until it answers. Raise `EmulatorError`."""
        if self._process is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "emulator.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "tools.keyvault_emulator",
                    f"--directory={self.directory}",
                    f"--address={self._address}",
                    f"--port={self._port}",
                    f"--control-port={self._control_port}",
                    "--until-stdin-closes",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        ready = _first_line(self._process, START_SECONDS)
        if not ready:
            self.kill()
            tail = (self.directory / "emulator.log").read_text(errors="replace")[-2000:]
            raise EmulatorError(f"the emulator did not start; the end of its log in {self.directory}:\n{tail}")
        if self._snapshot is not None:
            self.call("load", text=self._snapshot)

    def stop(self) -> None:
        """Stop the process, and keep its objects for the next start."""
        if self._process is None:
            return
        with contextlib.suppress(OSError, http.client.HTTPException):  # it may have ended already
            self._snapshot = self.call("dump")
        self._end()

    def kill(self) -> None:
        """Kill the process. The next start has the objects of the last `stop`."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start the emulator: same addresses, same CA, same objects, no faults."""
        self.stop()
        self.start()

    def _end(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        self.disconnect()
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _first_line(process: subprocess.Popen[str], seconds: float) -> str:
    """Return the first line of the process; an empty text if it ends, or prints nothing for `seconds`."""
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()
