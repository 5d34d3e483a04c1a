"""Test that `.ci/run` runs every suite, fails if one of them fails, and leaves no process behind."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster.harness import TIMEOUT, eventually
from tests.support.pids import wait_until_gone

SCRIPT = Path(__file__).parents[3] / ".ci" / "run"
TARGETS = ["setup", "assets-all", "check", "test-cluster", "test-node", "test-hostile", "test-logs", "fuzz"]
# It records its targets in the file `calls`, blocks in BLOCKING, and fails in FAILING.
FAKE_MAKE = """\
#!/bin/sh
for target in "$@"; do case "$target" in -* | *=*) continue ;; esac
  echo "$target" >> calls
  echo "output of $target"
  [ "$target" != "$BLOCKING" ] || { echo $$ > blocking; exec sleep 300; }
  [ "$target" != "$FAILING" ] || exit 2
done
"""


def start_ci(folder: Path, *, failing: str = "", blocking: str = "") -> "subprocess.Popen[str]":
    (folder / ".ci").mkdir()
    shutil.copy(SCRIPT, folder / ".ci" / "run")
    make = folder / "bin" / "make"
    make.parent.mkdir()
    make.write_text(FAKE_MAKE)
    make.chmod(0o755)
    env = {"PATH": f"{make.parent}:{os.environ['PATH']}", "FAILING": failing, "BLOCKING": blocking}
    # A shell starts background jobs with SIGINT ignored, and the tests can be such a job.
    command = ["env", "--default-signal=INT", str(folder / ".ci" / "run")]
    return subprocess.Popen(command, cwd="/", env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)


def read_calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def test_every_suite_runs_once_and_its_output_is_printed(tmp_path: Path) -> None:
    process = start_ci(tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert sorted(read_calls(tmp_path)) == sorted(TARGETS)
    for target in TARGETS:
        assert f"output of {target}\n" in output or target == "assets-all"
    assert output.splitlines()[-1].startswith("== .ci/run: ")


@pytest.mark.parametrize("target", TARGETS)
def test_failed_target_fails_the_run_and_its_output_is_printed(tmp_path: Path, target: str) -> None:
    process = start_ci(tmp_path, failing=target)
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert f"output of {target}\n" in output


def test_failed_cluster_tests_hide_no_result_of_the_suites_beside_them(tmp_path: Path) -> None:
    process = start_ci(tmp_path, failing="test-cluster")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "output of fuzz\n" in output


@pytest.mark.parametrize(("blocking", "foreground"), [("assets-all", "check"), ("test-node", "test-cluster")])
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_ends_its_background_processes(
    tmp_path: Path, blocking: str, foreground: str, interrupt: signal.Signals
) -> None:
    with start_ci(tmp_path, blocking=blocking) as process:
        eventually(lambda: (tmp_path / "blocking").exists() and foreground in read_calls(tmp_path), bool)
        pid = int(eventually((tmp_path / "blocking").read_text, bool))
        # A terminal sends SIGINT to the whole process group. A supervisor sends SIGTERM to the process.
        (os.killpg if interrupt is signal.SIGINT else os.kill)(process.pid, interrupt)
        process.wait(30)
    wait_until_gone(pid, patience=TIMEOUT)
