"""Test that a contributor's first command works without PYTHONPATH and from any folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Tests that start programs of the repository with the environment of the test run.
STARTERS = [
    "tests/unit/cli/common/test_command.py::test_tool_ends_with_an_exit_code_and_at_most_one_line",
    "tests/unit/secretsync/test_pkcs12_sandbox.py::test_sandbox_has_the_same_result_as_a_conversion_in_process",
]


def test_child_processes_find_the_repository_without_pythonpath(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, *(str(ROOT / name) for name in STARTERS)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
