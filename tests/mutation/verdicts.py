"""Run each mutant against its tests, in its own child process. The work tree never changes.

A mutant of a function's body replaces the code of the function in a fork of a process that has collected the tests: it
takes as long as the tests until the first that fails. A mutant of anything else (a constant, a default, a field) takes
effect when the module is imported, so its fork collects the tests with the mutated module.
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
from tests.mutation.forks import BROKEN, Limit, run_forked
from tests.mutation.mutants import Mutant, functions_of, mutate
from tests.mutation.paths import BUILD, CONTROLLER, module_name, module_path
from tests.mutation.pytest_runs import Usage, Verdict, run_pytest

SURVIVED, KILLED = 0, 1
HANGS = "the limit of its time"
# Exit code of a fork that could not exchange a function's code: its closure changed.
NOT_HERE = 71
# Of the tests that run a mutant, the quickest files are tried first where each must be imported.
FIRST_FILES = 3


class Fate(NamedTuple):
    """The fate of a mutant: killed by a test, by its import or by its time limit, or not killed.

    `tests` is how many tests run it.
    """

    mutant: Mutant
    killed: bool
    by: str
    tests: int


class Judge:
    """The tests, and which of them concern a mutant."""

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
        """Return the tests that may notice the mutant, the quickest first."""
        if mutant.function:
            return self._by_function.get(f"{mutant.module}:{mutant.function}", [])
        functions = set(self._mentions.get(mutant.owner, ()))
        prefix = f"{mutant.module}:{mutant.owner}"
        functions |= {name for name in self._by_function if name == prefix or name.startswith(f"{prefix}.")}
        if not functions:
            functions = {name for name in self._by_function if name.startswith(f"{mutant.module}:")}
        found = {test for function in functions for test in self._by_function.get(function, ())}
        return sorted(found, key=lambda test: test.seconds)

    def fates(self, mutants: Sequence[Mutant]) -> Iterator[Fate]:
        """Yield what becomes of each mutant of one module."""
        left = [mutant for mutant in mutants if not mutant.function]
        inside = [mutant for mutant in mutants if mutant.function]
        for mutant, code, by in self._in_one_session(inside):
            if code == NOT_HERE:
                left.append(mutant)
            else:
                yield Fate(mutant, code != SURVIVED, by, len(self.tests_of(mutant)))
        for mutant in left:
            yield self._with_import(mutant)

    def _in_one_session(self, mutants: Sequence[Mutant]) -> Iterator[tuple[Mutant, int, str]]:
        files = sorted({_file(test) for mutant in mutants for test in self.tests_of(mutant)})
        if not files:
            yield from ((mutant, SURVIVED, "") for mutant in mutants)
            return
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _be_session(files, [(mutant, self.tests_of(mutant)) for mutant in mutants], writing)
        os.close(writing)
        tried = 0
        try:
            with os.fdopen(reading) as lines:
                for line in lines:
                    code, by = json.loads(line)
                    if code == BROKEN:
                        break
                    yield mutants[tried], code, by
                    tried += 1
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        if tried < len(mutants):
            raise RuntimeError(f"pytest ended before all mutants were tried: see {BUILD}/pytest.log")

    def _with_import(self, mutant: Mutant) -> Fate:
        tests = self.tests_of(mutant)
        files: dict[str, float] = {}
        for test in tests:
            files[_file(test)] = files.get(_file(test), 0.0) + test.seconds
        quickest = sorted(files, key=lambda file: files[file])
        for part in (quickest[:FIRST_FILES], quickest[FIRST_FILES:]):
            chosen = [test for test in tests if _file(test) in part]
            if not chosen:
                continue
            ended = run_forked(_imported(mutant, part, chosen), _limit(chosen))
            if ended.code != SURVIVED:
                if ended.code == BROKEN:
                    raise RuntimeError(f"{mutant}: see {BUILD}/pytest.log")
                return Fate(mutant, True, ended.said or (HANGS if ended.code is None else "its import"), len(tests))
        return Fate(mutant, False, "", len(tests))


def _file(test: Test) -> str:
    return test.id.partition("::")[0]


def _usual(tests: Sequence[Test]) -> dict[str, Usage]:
    return {test.id: Usage(test.seconds, test.cpu) for test in tests}


def _limit(tests: Sequence[Test]) -> Limit:
    """Return when a mutant hangs: after far more than its tests take without it."""
    return Limit(cpu=10.0 + 5 * sum(test.cpu for test in tests), wall=120.0 + 20 * sum(test.seconds for test in tests))


def _be_session(files: list[str], jobs: list[tuple[Mutant, list[Test]]], writing: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver gets it, and stops this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = BROKEN
    try:
        session = _Session(jobs, lambda line: os.write(writing, f"{line}\n".encode()))
        code = run_pytest(files, session)
        code = 0 if session.done else code or BROKEN
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


class _Session(Verdict):
    """A pytest plugin: instead of the tests' run, one fork for each mutant."""

    def __init__(self, jobs: list[tuple[Mutant, list[Test]]], tell: Callable[[str], object]) -> None:
        super().__init__()
        self._jobs = jobs
        self._tell = tell
        self.done = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try all mutants."""
        items = {item.nodeid: item for item in session.items}
        gc.unfreeze()  # what the collection of the tests loaded
        functions = [
            found
            for found in gc.get_objects()
            if type(found) is types.FunctionType and found.__code__.co_filename.startswith(f"{CONTROLLER}{os.sep}")
        ]
        gc.freeze()
        killers: dict[str, list[str]] = {}
        for mutant, tests in self._jobs:
            # What killed a neighbour is likely to kill this one.
            known = killers.setdefault(mutant.function, [])
            ids = [test.id for test in tests]
            names = [*(name for name in known if name in ids), *(name for name in ids if name not in known)]
            chosen = [items[name] for name in names if name in items]
            usual = _usual(tests)
            ended = run_forked(
                lambda say, m=mutant, c=chosen, u=usual: self._try(m, functions, c, u, say),  # type: ignore[misc]
                _limit(tests),
            )
            by = ended.said or (HANGS if ended.code is None else "")
            if ended.code == KILLED and by not in known:
                known.insert(0, by)
            self._tell(json.dumps([KILLED if ended.code is None else ended.code, by]))
        self.done = True
        return True

    def _try(
        self,
        mutant: Mutant,
        functions: list[types.FunctionType],
        items: list[pytest.Item],
        usual: Mapping[str, Usage],
        say: Callable[[str], object],
    ) -> int:
        path = module_path(mutant.module)
        codes = _codes(compile(mutate(path.read_text(), mutant), str(path), "exec"))
        for function in functions:
            code = function.__code__
            if code.co_filename == str(path) and (new := codes.get((code.co_qualname, code.co_firstlineno))):
                if new.co_freevars != code.co_freevars:
                    return NOT_HERE
                function.__code__ = new
        if self.run(items, usual):
            return SURVIVED
        say(self.failed)
        return KILLED


def _codes(code: types.CodeType) -> dict[tuple[str, int], types.CodeType]:
    found = {}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found[constant.co_qualname, constant.co_firstlineno] = constant
            found |= _codes(constant)
    return found


def _imported(mutant: Mutant, files: list[str], tests: list[Test]) -> Callable[[Callable[[str], object]], int]:
    def judge(say: Callable[[str], object]) -> int:
        sys.meta_path.insert(0, _MutantFinder(mutant))
        plugin = _Selected(_usual(tests))
        code = run_pytest(files, plugin)
        if code == 0 and not plugin.failed:
            return SURVIVED
        say(plugin.failed)
        return KILLED

    return judge


class _Selected(Verdict):
    """A pytest plugin: the tests of that order alone, until one fails."""

    def __init__(self, usual: Mapping[str, Usage]) -> None:
        super().__init__()
        self._usual = usual

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run them; a module that could not be imported has failed already."""
        items = {item.nodeid: item for item in session.items}
        if not session.testsfailed:
            self.run((items[name] for name in self._usual if name in items), self._usual)
        return True


class _MutantFinder(MetaPathFinder):
    """Finds the mutated module instead of the one in the work tree."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the mutated module, None for all others."""
        if name != f"controller.{self._mutant.module}":
            return None
        file = module_path(self._mutant.module)
        return importlib.util.spec_from_file_location(name, file, loader=_MutantLoader(name, file, self._mutant))


class _MutantLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: Path, mutant: Mutant) -> None:
        super().__init__(name, str(path))
        self._mutant = mutant

    def get_code(self, fullname: str) -> types.CodeType:
        """Compile the mutated tree; no cached bytecode is read or written."""
        source = Path(self.path).read_text()
        return compile(mutate(source, self._mutant), self.path, "exec")
