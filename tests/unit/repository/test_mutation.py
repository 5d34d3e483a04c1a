"""Test `make mutate`: its list of mutants, its time limits, its records, and its reports of survivors."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.mutation import coverage_map
from tests.mutation.equivalent import load_equivalent
from tests.mutation.forks import Limit, run_forked
from tests.mutation.mutants import mutants_of, mutate
from tests.mutation.paths import ROOT, module_path
from tests.mutation.pytest_runs import FailFastPlugin, Usage
from tests.support.pids import wait_until_gone

SCHEDULE = "tests/unit/runtime/test_backoff.py"


def list_changes(source: str) -> set[str]:
    return {f"{mutant.before} => {mutant.after}" for mutant in mutants_of("m", source)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return a < b", {"return a <= b", "return None"}),
        ("return a is not b", {"return a is b", "return None"}),
        ("return a in b", {"return a not in b", "return None"}),
        ("return a and b", {"return a or b", "return a", "return b", "return None"}),
        ("return not a", {"return a", "return None"}),
        ("return a + 1", {"return a - 1", "return a + 2", "return a + 0", "return None"}),
        ("return ''", {"return 'XX'", "return None"}),
        ("return f'{a}'", {"return ''", "return None"}),
        ("return None", {"return True"}),
        ("return a if b else c", {"return a", "return c", "return None"}),
        ("return f(a, b, k=c)", {"return f(b, a, k=c)", "return f(a, b)", "return None"}),
        ("return min(a, b)", {"return max(a, b)", "return None"}),
        ("return [a for a in b if c]", {"return [a for a in b if True]", "return None"}),
        ("raise a", {"pass"}),
        ("a += b", {"a -= b", "pass"}),
        ("f(a)", {"pass"}),
        ("log.info('text', a)", {"pass"}),
        ("'a docstring'", set()),
        ("a: Literal['x']", set()),
    ],
)
def test_line_has_its_mutants(line: str, expected: set[str]) -> None:
    assert list_changes(f"def function(a, b, c):\n    {line}\n") == {f"{line} => {new}" for new in expected}


def test_conditions_loops_and_handlers_are_mutated_in_their_own_line() -> None:
    source = (
        "def function(a):\n    while a:\n        try:\n            if a:\n                continue\n"
        "        except (A, B):\n            break\n"
    )
    assert list_changes(source) == {
        "while a: => while False:",
        "if a: => if True:",
        "if a: => if False:",
        "continue => pass",
        "continue => break",
        "except (A, B): => except B:",
        "except (A, B): => except A:",
        "break => pass",
        "break => continue",
    }


def test_equal_lines_of_one_function_are_numbered() -> None:
    found = mutants_of("m", "def function(a):\n    f(a)\n    f(a)\n")
    assert [(mutant.nth, mutant.line) for mutant in found] == [(1, 2), (2, 3)]


@pytest.mark.parametrize("module", ["runtime.backoff", "keyvault.errors"])
def test_every_mutant_differs_from_the_original_program(module: str) -> None:
    source = module_path(module).read_text()
    original = compile(source, "m", "exec")
    for mutant in mutants_of(module, source):
        assert compile(mutate(source, mutant), "m", "exec") != original, mutant


def test_every_equivalent_mutant_in_the_list_exists() -> None:
    listed = load_equivalent()
    modules = {module for module, *_ in listed}
    keys = {mutant.key for module in modules for mutant in mutants_of(module, module_path(module).read_text())}
    assert set(listed) <= keys


def test_equivalent_mutant_without_a_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text('[[equivalent]]\nmodule = "m"\nfunction = "f"\nmutations = ["a => b"]\nreason = ""\n')
    with pytest.raises(ValueError, match="reason"):
        load_equivalent(path)


def test_hanging_child_is_stopped_with_its_children(tmp_path: Path) -> None:
    def hang(_write: object) -> int:
        with subprocess.Popen(["sleep", "600"]) as sleeper:
            (tmp_path / "pid").write_text(str(sleeper.pid))
        return 0

    assert run_forked(hang, Limit(cpu=60, wall=0.5)).code is None
    wait_until_gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("cpu_seconds", "wait_seconds", "killed"),
    [
        pytest.param(0.0, 0.0, False, id="normal"),
        pytest.param(0.0, 0.2, False, id="busy machine"),
        pytest.param(60.0, 0.0, True, id="endless loop"),
        pytest.param(0.0, 60.0, True, id="endless wait"),
    ],
)
def test_cpu_time_stops_a_test_long_before_elapsed_time_does(
    monkeypatch: pytest.MonkeyPatch, cpu_seconds: float, wait_seconds: float, killed: bool
) -> None:
    monkeypatch.setattr("tests.mutation.pytest_runs.MIN_CPU", 0.1)
    monkeypatch.setattr("tests.mutation.pytest_runs.MIN_WALL", 0.4)

    def use_cpu_and_wait(**_: object) -> None:
        ends = time.process_time() + cpu_seconds
        while time.process_time() < ends:
            pass
        time.sleep(wait_seconds)

    def run_test(_write: object) -> int:
        config = SimpleNamespace(hook=SimpleNamespace(pytest_runtest_protocol=use_cpu_and_wait))
        item: Any = SimpleNamespace(nodeid="t", config=config)
        return int(not FailFastPlugin().run([item], {"t": Usage(0.0, 0.0)}))

    assert run_forked(run_test, Limit(cpu=120, wall=600)).code == (None if killed else 0)


@pytest.mark.parametrize("changed", ["tests/test_m.py", "controller/m.py", None])
def test_record_of_a_test_expires_if_it_or_its_modules_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str | None
) -> None:
    monkeypatch.setattr(coverage_map, "ROOT", tmp_path)
    monkeypatch.setattr(coverage_map, "BUILD", tmp_path / "build")
    names = ["tests/test_m.py", "controller/m.py", "controller/other.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("pass")
    test = {"id": "tests/test_m.py::test", "seconds": 0.1, "cpu": 0.1, "functions": ["m:f"]}
    files = {name: coverage_map.digest_file(tmp_path / name) for name in names[:2]}
    kept = coverage_map.record_path(tmp_path / "tests/test_m.py")
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"files": files, "tests": [test]}))
    (tmp_path / (changed or "controller/other.py")).write_text("changed = True")
    assert (coverage_map.read_record(tmp_path / "tests/test_m.py") is None) == (changed is not None)


def run_mutation(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "tests.mutation", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_detected_mutant_is_killed_and_the_work_tree_is_unchanged() -> None:
    path = module_path("runtime.backoff")
    before = path.read_bytes(), path.stat().st_mtime_ns
    done = run_mutation("--module", "runtime.backoff", "--function", "random_offset", "--tests", SCHEDULE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split() == ["runtime.backoff", "3", "3", "0", "0", "0", "100.0"]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_surviving_mutant_is_printed_and_fails_the_run() -> None:
    done = run_mutation(
        "--module", "runtime.backoff", "--function", "random_offset", "--tests", "tests/unit/runtime/test_zeroize.py"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "random_offset\n  - return rng.uniform(0, interval)\n  + return None\n  (no test runs it)\n" in done.stdout


def test_unknown_module_is_refused_with_a_list_of_modules() -> None:
    done = run_mutation("--module", "plam")
    assert (done.returncode, done.stdout) == (2, "")
    assert "controller/ has no module 'plam'; it has: __main__, akvsync.children" in " ".join(done.stderr.split())
