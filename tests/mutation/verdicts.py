"""Run the tests of each mutant in a child process of its own. No file of the work tree changes.

For a mutant in a function's body, a process collects the tests once. It forks a child for each mutant, and the child
replaces the code of the function and runs the tests until one fails. A mutant elsewhere (a constant, a default, a
field) takes effect when the module is imported. So its child collects the tests itself, with the mutated module.
"""

import gc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutation.coverage_map import Test
from tests.mutation.forks import BROKEN, Limit, WriteOutput, run_forked
from tests.mutation.mutants import Mutant, functions_of, mutate
from tests.mutation.paths import BUILD, CONTROLLER, module_name, module_path
from tests.mutation.pytest_runs import FailFastPlugin, Usage, run_pytest

SURVIVED, KILLED = 0, 1
TIME_LIMIT = "the time limit"
# The exit code of a child that could not replace a function's code, because the mutation changed its closure. Such a
# mutant is tried again with an import.
NEEDS_IMPORT = 71
# For a mutant that needs an import, the first child collects this many files, those with the quickest tests. A second
# child collects the other files if the mutant survives these tests.
FIRST_FILES = 3


class Verdict(NamedTuple):
    """Whether a mutant was killed, and by what: by a test, by its import or by the time limit.

    `tests` is the number of tests that run it.
    """

    mutant: Mutant
    killed: bool
    killer: str
    tests: int


class MutantTester:
    """Find the tests that run a mutant, and run them."""

    def __init__(self, tests: Sequence[Test]) -> None:
        self._by_function: dict[str, list[Test]] = {}
        for test in sorted(tests, key=lambda test: test.seconds):
            for function in test.functions:
                self._by_function.setdefault(function, []).append(test)
        self._mentions: dict[str, set[str]] = {}
        for path in CONTROLLER.rglob("*.py"):
            for function, _, _, names in functions_of(path.read_text()):
                for name in names:
                    self._mentions.setdefault(name, set()).add(f"{module_name(path)}:{function}")

    def tests_of(self, mutant: Mutant) -> list[Test]:
        """Return the tests that can detect the mutant, the quickest first."""
        if mutant.function:
            return self._by_function.get(f"{mutant.module}:{mutant.function}", [])
        functions = set(self._mentions.get(mutant.owner, ()))
        prefix = f"{mutant.module}:{mutant.owner}"
        functions |= {name for name in self._by_function if name == prefix or name.startswith(f"{prefix}.")}
        if not functions:
            functions = {name for name in self._by_function if name.startswith(f"{mutant.module}:")}
        found = {test for function in functions for test in self._by_function.get(function, ())}
        return sorted(found, key=lambda test: test.seconds)

    def try_mutants(self, mutants: Sequence[Mutant]) -> Iterator[Verdict]:
        """Yield the verdict of each mutant of one module."""
        need_import = [mutant for mutant in mutants if not mutant.function]
        in_functions = [mutant for mutant in mutants if mutant.function]
        for mutant, code, killer in self._try_in_one_session(in_functions):
            if code == NEEDS_IMPORT:
                need_import.append(mutant)
            else:
                yield Verdict(mutant, code != SURVIVED, killer, len(self.tests_of(mutant)))
        for mutant in need_import:
            yield self._try_with_import(mutant)

    def _try_in_one_session(self, mutants: Sequence[Mutant]) -> Iterator[tuple[Mutant, int, str]]:
        """Try mutants of functions in one pytest session. Yield each mutant, its exit code and its killer."""
        files = sorted({_file(test) for mutant in mutants for test in self.tests_of(mutant)})
        if not files:
            yield from ((mutant, SURVIVED, "") for mutant in mutants)
            return
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _run_session(files, [(mutant, self.tests_of(mutant)) for mutant in mutants], writing)
        os.close(writing)
        tried = 0
        try:
            with os.fdopen(reading) as lines:
                for line in lines:
                    code, killer = json.loads(line)
                    if code == BROKEN:
                        break
                    yield mutants[tried], code, killer
                    tried += 1
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        if tried < len(mutants):
            raise RuntimeError(f"pytest ended before all mutants were tried: see {BUILD}/pytest.log")

    def _try_with_import(self, mutant: Mutant) -> Verdict:
        """Try a mutant that takes effect when its module is imported."""
        tests = self.tests_of(mutant)
        files: dict[str, float] = {}
        for test in tests:
            files[_file(test)] = files.get(_file(test), 0.0) + test.seconds
        quickest = sorted(files, key=lambda file: files[file])
        for part in (quickest[:FIRST_FILES], quickest[FIRST_FILES:]):
            chosen = [test for test in tests if _file(test) in part]
            if not chosen:
                continue
            result = run_forked(_import_and_test(mutant, part, chosen), _limit_of(chosen))
            if result.code != SURVIVED:
                if result.code == BROKEN:
                    raise RuntimeError(f"{mutant}: see {BUILD}/pytest.log")
                killer = result.output or (TIME_LIMIT if result.code is None else "its import")
                return Verdict(mutant, True, killer, len(tests))
        return Verdict(mutant, False, "", len(tests))


def _file(test: Test) -> str:
    return test.id.partition("::")[0]


def _usages(tests: Sequence[Test]) -> dict[str, Usage]:
    return {test.id: Usage(test.seconds, test.cpu) for test in tests}


def _limit_of(tests: Sequence[Test]) -> Limit:
    """Return the time limits of a mutant, far above the time of its tests on unchanged code."""
    return Limit(cpu=10.0 + 5 * sum(test.cpu for test in tests), wall=120.0 + 20 * sum(test.seconds for test in tests))


def _run_session(files: list[str], jobs: list[tuple[Mutant, list[Test]]], writing: int) -> None:
    """Collect the tests of these files, try all mutants, and end this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and stops this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = BROKEN
    try:
        session = _SessionPlugin(jobs, lambda line: os.write(writing, f"{line}\n".encode()))
        code = run_pytest(files, session)
        code = 0 if session.done else code or BROKEN
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


class _SessionPlugin(FailFastPlugin):
    """A pytest plugin that replaces the run of the collected tests by a child process for each mutant."""

    def __init__(self, jobs: list[tuple[Mutant, list[Test]]], report: Callable[[str], object]) -> None:
        super().__init__()
        self._jobs = jobs
        self._report = report
        self.done = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try all mutants, and report the exit code and the killer of each as a line of JSON."""
        items = {item.nodeid: item for item in session.items}
        # `get_objects` does not return frozen objects, and tests/conftest.py freezes them after the collection.
        gc.unfreeze()
        functions = [
            found
            for found in gc.get_objects()
            if type(found) is types.FunctionType and found.__code__.co_filename.startswith(f"{CONTROLLER}{os.sep}")
        ]
        gc.freeze()
        killers: dict[str, list[str]] = {}
        for mutant, tests in self._jobs:
            # The tests that killed other mutants of the same function are likely to kill this one, so they run first.
            known = killers.setdefault(mutant.function, [])
            ids = [test.id for test in tests]
            names = [*(name for name in known if name in ids), *(name for name in ids if name not in known)]
            chosen = [items[name] for name in names if name in items]
            usages = _usages(tests)
            result = run_forked(
                lambda write, m=mutant, c=chosen, u=usages: self._try_mutant(m, functions, c, u, write),  # type: ignore[misc]
                _limit_of(tests),
            )
            killer = result.output or (TIME_LIMIT if result.code is None else "")
            if result.code == KILLED and killer not in known:
                known.insert(0, killer)
            self._report(json.dumps([KILLED if result.code is None else result.code, killer]))
        self.done = True
        return True

    def _try_mutant(
        self,
        mutant: Mutant,
        functions: list[types.FunctionType],
        items: list[pytest.Item],
        usages: Mapping[str, Usage],
        write_output: WriteOutput,
    ) -> int:
        """Replace the code of the mutant's function in this process, and run the tests. Return the exit code."""
        path = module_path(mutant.module)
        codes = _codes(compile(mutate(path.read_text(), mutant), str(path), "exec"))
        for function in functions:
            code = function.__code__
            if code.co_filename == str(path) and (new := codes.get((code.co_qualname, code.co_firstlineno))):
                if new.co_freevars != code.co_freevars:
                    return NEEDS_IMPORT
                function.__code__ = new
        if self.run(items, usages):
            return SURVIVED
        write_output(self.failed_test)
        return KILLED


def _codes(code: types.CodeType) -> dict[tuple[str, int], types.CodeType]:
    """Return the code of all functions in a compiled module, by qualified name and first line."""
    found = {}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found[constant.co_qualname, constant.co_firstlineno] = constant
            found |= _codes(constant)
    return found


def _import_and_test(mutant: Mutant, files: list[str], tests: list[Test]) -> Callable[[WriteOutput], int]:
    """Return a function for a child process, which collects the files with the mutated module and runs the tests."""

    def run_tests(write_output: WriteOutput) -> int:
        sys.meta_path.insert(0, _MutantFinder(mutant))
        plugin = _SelectionPlugin(_usages(tests))
        code = run_pytest(files, plugin)
        if code == 0 and not plugin.failed_test:
            return SURVIVED
        write_output(plugin.failed_test)
        return KILLED

    return run_tests


class _SelectionPlugin(FailFastPlugin):
    """A pytest plugin that runs only the tests of `usages`, in their order, until one fails."""

    def __init__(self, usages: Mapping[str, Usage]) -> None:
        super().__init__()
        self._usages = usages

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests, unless the import of a test module has failed already."""
        items = {item.nodeid: item for item in session.items}
        if not session.testsfailed:
            self.run((items[name] for name in self._usages if name in items), self._usages)
        return True


class _MutantFinder(MetaPathFinder):
    """A finder of the mutated module, which replaces the module of the work tree."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the mutated module, or None for any other module."""
        if name != f"controller.{self._mutant.module}":
            return None
        file = module_path(self._mutant.module)
        return importlib.util.spec_from_file_location(name, file, loader=_MutantLoader(name, file, self._mutant))


class _MutantLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: Path, mutant: Mutant) -> None:
        super().__init__(name, str(path))
        self._mutant = mutant

    def get_code(self, fullname: str) -> types.CodeType:
        """Compile the mutated tree, without reading or writing bytecode files."""
        source = Path(self.path).read_text()
        return compile(mutate(source, self._mutant), self.path, "exec")
