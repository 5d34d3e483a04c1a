"""`make mutate`: change the controller's code in one place at a time, and see whether a unit test notices.

A change that no test notices is a survivor: a test is missing, or the code is not needed, or the change is equivalent
(then it is listed, with the reason, in tests/mutation/equivalent.toml). Nothing is changed in the work tree.

Without options, all mutants of all modules that make decisions are tried, some 6,000, which takes hours on one core.
A sample of 100 of one module, tried with the tests of that module alone (--tests), takes about a minute. Which tests
run which functions is recorded first, where it is not known yet or not true any more. Do not edit the work tree
meanwhile.

Exit codes: 0, all is well; 1, fewer of the non-equivalent mutants were killed than --least, or an entry of the list of
equivalent mutants does not apply any more; 2, wrong options.
"""

import argparse
import random
import sys
import time
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from tests.mutation.coverage_map import load_tests, test_files
from tests.mutation.equivalent import Key, load_equivalent
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.paths import CONTROLLER, ROOT, module_name, module_path
from tests.mutation.pytest_runs import load_libraries
from tests.mutation.verdicts import HANGS, Fate, Judge
from tools.cli.common.command import run_and_exit

# The modules that make decisions.
MODULES = [
    "akvsync.children",
    "akvsync.expand",
    "akvsync.status",
    "crd_upgrade.merge",
    "domain.certificates",
    "domain.decision",
    "domain.decode_values",
    "domain.provider_class",
    "domain.secret_limits",
    "domain.snapshot",
    "domain.status",
    "domain.vault_objects",
    "keyvault.client",
    "keyvault.credentials",
    "keyvault.errors",
    "keyvault.verdict",
    "kube.informer",
    "kube.leader_election",
    "runtime.backoff",
    "runtime.circuit_breaker",
    "runtime.fair_share",
    "runtime.json_decoding",
    "runtime.parsing",
    "runtime.rate_limiter",
    "runtime.work_queue",
    "secretsync.class_reader",
    "secretsync.sync_schedule",
    "secretsync.poller",
    "secretsync.reconciler",
    "secretsync.work_state",
]


class Row(NamedTuple):
    """The figures of one module. `hanging` are those of the killed that were stopped for their time."""

    module: str
    mutants: int
    killed: int
    hanging: int
    equivalent: int
    survived: int

    @property
    def percent(self) -> float:
        """Return how many of the non-equivalent mutants were killed."""
        tried = self.killed + self.survived
        return 100 * self.killed / tried if tried else 100.0


def main() -> int:
    """Return the exit code."""
    options = _options()
    equivalent = load_equivalent()
    mutants = {module: mutants_of(module, module_path(module).read_text()) for module in options.module}
    if options.list:
        for mutant in (mutant for found in mutants.values() for mutant in found):
            print(_shown(mutant))
        return 0
    load_libraries()
    wrong = _stale(equivalent, mutants)
    judge = Judge(load_tests(test_files(options.tests), _progress, options.fresh))
    rows = []
    for module, found in mutants.items():
        started = time.monotonic()
        # What is drawn of a module does not depend on the other modules of the run.
        rng = random.Random(f"{options.seed} {module}")
        chosen = _drawn([item for item in found if options.function in ("", item.function)], options.sample, rng)
        fates = _run(judge, module, [item for item in chosen if options.all or item.key not in equivalent], equivalent)
        wrong += [
            f"not equivalent, since {fate.by} kills it: {fate.mutant.key}"
            for fate in fates
            if fate.killed and fate.mutant.key in equivalent
        ]
        counted = [fate for fate in fates if fate.mutant.key not in equivalent]
        survivors = [fate for fate in counted if not fate.killed]
        hanging = sum(fate.by == HANGS for fate in counted)
        rows.append(
            Row(module, len(chosen), len(counted) - len(survivors), hanging, len(chosen) - len(counted), len(survivors))
        )
        _progress(f"{module}: {time.monotonic() - started:.0f} s\n")
    _print_table(rows)
    for line in wrong:
        print(f"tests/mutation/equivalent.toml: {line}")
    return int(bool(wrong) or any(row.percent < options.least for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--module",
        action="append",
        metavar="NAME",
        help=f"a module of controller/, as often as wanted; `all` for every one (default: {', '.join(MODULES)})",
    )
    parser.add_argument("--function", default="", metavar="NAME", help="only this function, e.g. LeaderElector.run")
    parser.add_argument("--sample", type=_positive, metavar="N", help="so many of each module, drawn (default: all)")
    parser.add_argument("--seed", type=int, default=8, metavar="N", help="what is drawn (default: 8)")
    parser.add_argument("--least", type=float, default=95.0, metavar="PERCENT", help="of each module (default: 95)")
    parser.add_argument("--tests", type=Path, nargs="+", default=[ROOT / "tests" / "unit"], metavar="PATH",
                        help="the tests that count (default: tests/unit)")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="try the mutants listed as equivalent, too")
    parser.add_argument("--fresh", action="store_true", help="record again which functions each test runs")
    parser.add_argument("--list", action="store_true", help="print the mutants and try none")
    options = parser.parse_args()
    every = sorted(module_name(path) for path in CONTROLLER.rglob("*.py") if path.name != "__init__.py")
    options.module = options.module or MODULES
    if options.module == ["all"]:
        options.module = every
    for name in options.module:
        if name not in every:
            parser.error(f"controller/ has no module {name!r}; it has: {', '.join(every)}")
    options.tests = [path.resolve() for path in options.tests]
    for path in options.tests:
        if not path.exists():
            parser.error(f"{path} does not exist")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _drawn(mutants: list[Mutant], sample: int | None, rng: random.Random) -> list[Mutant]:
    """Return this many random mutants, or all, in the order of their lines."""
    if sample is None or sample >= len(mutants):
        return mutants
    return [mutants[place] for place in sorted(rng.sample(range(len(mutants)), sample))]


def _run(judge: Judge, module: str, mutants: list[Mutant], equivalent: Container[Key]) -> list[Fate]:
    """Try the mutants, and print each survivor at once."""
    fates: list[Fate] = []
    for fate in judge.fates(mutants):
        fates.append(fate)
        if not fate.killed and fate.mutant.key not in equivalent:
            print(_shown(fate.mutant) + ("" if fate.tests else "  (no test runs it)\n"), flush=True)
        killed = sum(item.killed for item in fates)
        # A line for each twentieth where there is no terminal, so that a log shows that it goes on.
        end = "\n" if not sys.stderr.isatty() and len(fates) % 20 == 0 else ""
        _progress(f"{module}: {len(fates)} of {len(mutants)} tried, {killed} killed{end}")
    return fates


def _stale(equivalent: dict[tuple[str, str, str, int], str], mutants: dict[str, list[Mutant]]) -> list[str]:
    keys = {mutant.key for found in mutants.values() for mutant in found}
    return [
        f"no such mutant any more: {module}, {function or 'outside functions'}: {mutation}"
        for module, function, mutation, nth in equivalent
        if module in mutants and (module, function, mutation, nth) not in keys
    ]


def _shown(mutant: Mutant) -> str:
    place = f"controller/{mutant.module.replace('.', '/')}.py:{mutant.line} {mutant.function}"
    nth = f" ({mutant.nth})" if mutant.nth > 1 else ""
    return f"{place.strip()}{nth}\n  - {mutant.before}\n  + {mutant.after}\n"


def _print_table(rows: list[Row]) -> None:
    print(f"{'module':14}{'mutants':>8}{'killed':>8}{'(hanging)':>10}{'equivalent':>12}{'survived':>10}{'percent':>9}")
    if len(rows) > 1:
        rows = [*rows, Row("together", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))]
    for row in rows:
        name, mutants, killed, hanging, same, survived = row
        print(f"{name:14}{mutants:8}{killed:8}{hanging:10}{same:12}{survived:10}{row.percent:9.1f}")


def _progress(text: str) -> None:
    """Show one line that changes on a terminal, and only the lines that stay elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text.endswith("\n"):
        print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_and_exit("mutate", main)
