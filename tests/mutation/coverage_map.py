"""Record with coverage.py which unit tests run which functions of `controller/`. Keep the result in build/mutation."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest

from tests.mutation.forks import BROKEN, Limit, run_forked
from tests.mutation.mutants import functions_of
from tests.mutation.paths import BUILD, CONTROLLER, ROOT, module_name, module_path
from tests.mutation.pytest_runs import run_pytest

# The number of test files in one process. An interrupted run loses the records of at most this many files.
CHUNK_FILES = 12
RECORDING_LIMIT = Limit(cpu=1800, wall=7200)


class Test(NamedTuple):
    """A test that passes on unchanged code, and the functions (`module:function`) that it runs."""

    id: str
    seconds: float
    cpu: float
    functions: frozenset[str]


def list_test_files(paths: Iterable[Path]) -> list[Path]:
    """Return the test modules in these files and folders."""
    found: set[Path] = set()
    for path in paths:
        found.update(path.rglob("test_*.py") if path.is_dir() else [path])
    return sorted(found)


def load_tests(files: list[Path], report: Callable[[str], object], fresh: bool) -> list[Test]:
    """Return the tests of these files from the records. Run the tests of a file first if it has no valid record."""
    missing = [file for file in files if fresh or read_record(file) is None]
    for start in range(0, len(missing), CHUNK_FILES):
        chunk = missing[start : start + CHUNK_FILES]
        report(f"recording which functions each test runs: {start + len(chunk)} of {len(missing)} files\n")
        ended = run_forked(lambda _, files=chunk: _record(files), RECORDING_LIMIT)  # type: ignore[misc]
        if ended.code != 0:
            raise RuntimeError(f"the unit tests could not be recorded: see {BUILD}/pytest.log")
    return [test for file in files for test in read_record(file) or []]


def record_path(file: Path) -> Path:
    """Return the path of the record of a test file."""
    return BUILD / "tests" / f"{hashlib.sha256(str(file.relative_to(ROOT)).encode()).hexdigest()[:16]}.json"


def digest_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_record(file: Path) -> list[Test] | None:
    """Return the recorded tests of a test file, or None if there is no valid record."""
    try:
        record = json.loads(record_path(file).read_text())
        digests = record["files"]
    except (OSError, ValueError, KeyError):
        return None
    # If the test file or one of the modules that it ran has changed, its tests may run other functions now.
    if any(not Path(ROOT, name).exists() or digest_file(ROOT / name) != digest for name, digest in digests.items()):
        return None
    return [Test(test["id"], test["seconds"], test["cpu"], frozenset(test["functions"])) for test in record["tests"]]


def _record(files: list[Path]) -> int:
    """Run the tests of these files, and write a record for each file. Return the exit code of the child process."""
    recorder = _Recorder()
    code = run_pytest([str(file) for file in files], recorder)
    if code not in (0, 1, 5):
        return BROKEN
    functions = recorder.functions_by_test()
    for file in files:
        name = str(file.relative_to(ROOT))
        tests = [
            {
                "id": test,
                "seconds": round(seconds, 4),
                "cpu": round(recorder.cpu[test], 4),
                "functions": sorted(functions.get(test, ())),
            }
            for test, seconds in recorder.seconds.items()
            if test.partition("::")[0] == name and test not in recorder.failed
        ]
        target = record_path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        used = {
            function.partition(":")[0]
            for test, run in functions.items()
            if test.partition("::")[0] == name
            for function in run
        }
        digests = {str(path.relative_to(ROOT)): digest_file(path) for path in (file, *map(module_path, used))}
        target.write_text(json.dumps({"files": digests, "tests": tests}))
    return 0


class _Recorder:
    """A pytest plugin: measures each test's lines, its seconds and its CPU seconds."""

    def __init__(self) -> None:
        self._coverage = coverage.Coverage(data_file=None, config_file=False, source=[str(CONTROLLER)])
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        self._coverage.start()
        try:
            return (yield)
        finally:
            self._coverage.stop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        before = time.process_time()
        try:
            return (yield)
        finally:
            self.cpu[item.nodeid] = time.process_time() - before

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def functions_by_test(self) -> dict[str, set[str]]:
        """Return the functions that each test ran."""
        found: dict[str, set[str]] = {}
        data = self._coverage.get_data()
        for measured in data.measured_files():
            path = Path(measured)
            lines = data.contexts_by_lineno(measured)
            for name, first, last, _ in functions_of(path.read_text()):
                for line in range(first, last + 1):
                    for test in lines.get(line, ()):
                        found.setdefault(test, set()).add(f"{module_name(path)}:{name}")
        return found
