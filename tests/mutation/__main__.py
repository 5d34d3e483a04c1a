"""`make mutate`: change the controller's code in one place at a time, and check that a unit test fails.

A mutant is the code with one change. A failing test kills it; otherwise it survives. A mutant survives if a test is
missing, if the code is not needed, or if the change is equivalent: it has no effect that a caller can observe.
tests/mutation/equivalent.toml lists the equivalent mutants with the reasons. The run changes no file of the work tree.

Without options, the run tries all mutants of all modules that make decisions, about 6,000. This takes hours on one
core. A sample of 100 mutants of one module takes about a minute with the tests of that module alone (--tests). The run
first records which functions each test runs. It keeps the record of a test until the test or one of these modules
changes. Do not edit the work tree during a run.

Exit codes: 0, success; 1, fewer of the non-equivalent mutants were killed than --least, or an entry of the list of
equivalent mutants does not apply any more; 2, wrong options.
"""

import argparse
import random
import sys
import time
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from tests.mutation.coverage_map import list_test_files, load_tests
from tests.mutation.equivalent import Key, load_equivalent
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.paths import CONTROLLER, ROOT, module_name, module_path
from tests.mutation.pytest_runs import load_libraries
from tests.mutation.verdicts import TIME_LIMIT, MutantTester, Verdict
from tools.cli.common.command import run_and_exit

# The modules that make decisions.
MODULES = [
    "akvsync.children",
    "akvsync.expand",
    "akvsync.explicit_secrets",
    "akvsync.generated_objects",
    "akvsync.status",
    "crd_upgrade.merge",
    "domain.certificates",
    "domain.decision",
    "domain.decode_values",
    "domain.managed_fields",
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
    "kube.overlap",
    "runtime.backoff",
    "runtime.circuit_breaker",
    "runtime.clock",
    "runtime.fair_share",
    "runtime.json_decoding",
    "runtime.threads.parsing",
    "runtime.rate_limiter",
    "runtime.work_queue",
    "polling.poller",
    "secretsync.attempts",
    "secretsync.class_reader",
    "secretsync.sync_schedule",
    "secretsync.reconciler",
    "secretsync.tasks",
    "secretsync.work_state",
]


class Row(NamedTuple):
    """The figures of one module. `hanging` counts the killed mutants that were stopped at their time limit."""

    module: str
    mutants: int
    killed: int
    hanging: int
    equivalent: int
    survived: int

    @property
    def percent(self) -> float:
        """Return the percentage of the non-equivalent mutants that were killed."""
        tried = self.killed + self.survived
        return 100 * self.killed / tried if tried else 100.0


def main() -> int:
    """Return the exit code."""
    options = _parse_options()
    equivalent = load_equivalent()
    mutants = {module: mutants_of(module, module_path(module).read_text()) for module in options.module}
    if options.list:
        for mutant in (mutant for found in mutants.values() for mutant in found):
            print(_format_mutant(mutant))
        return 0
    load_libraries()
    wrong = _list_stale_entries(equivalent, mutants)
    tester = MutantTester(load_tests(list_test_files(options.tests), _report_progress, options.fresh))
    rows = []
    for module, found in mutants.items():
        started = time.monotonic()
        # With a random source for each module, its sample does not depend on the other modules of the run.
        rng = random.Random(f"{options.seed} {module}")
        chosen = _draw_sample([item for item in found if options.function in ("", item.function)], options.sample, rng)
        tried = [item for item in chosen if options.all or item.key not in equivalent]
        verdicts = _try_mutants(tester, module, tried, equivalent)
        wrong += [
            f"not equivalent, because {verdict.killer} kills it: {verdict.mutant.key}"
            for verdict in verdicts
            if verdict.killed and verdict.mutant.key in equivalent
        ]
        counted = [verdict for verdict in verdicts if verdict.mutant.key not in equivalent]
        survivors = [verdict for verdict in counted if not verdict.killed]
        hanging = sum(verdict.killer == TIME_LIMIT for verdict in counted)
        rows.append(
            Row(module, len(chosen), len(counted) - len(survivors), hanging, len(chosen) - len(counted), len(survivors))
        )
        _report_progress(f"{module}: {time.monotonic() - started:.0f} s\n")
    _print_table(rows)
    for line in wrong:
        print(f"tests/mutation/equivalent.toml: {line}")
    return int(bool(wrong) or any(row.percent < options.least for row in rows))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--module",
        action="append",
        metavar="NAME",
        help=f"a module of controller/; can be repeated; `all` for all modules (default: {', '.join(MODULES)})",
    )
    parser.add_argument("--function", default="", metavar="NAME", help="only this function, e.g. LeaderElector.run")
    parser.add_argument(
        "--sample", type=_positive, metavar="N", help="number of random mutants of each module (default: all)"
    )
    parser.add_argument("--seed", type=int, default=8, metavar="N", help="seed of the samples (default: 8)")
    parser.add_argument(
        "--least",
        type=float,
        default=95.0,
        metavar="PERCENT",
        help="minimum of killed mutants in each module (default: 95)",
    )
    parser.add_argument("--tests", type=Path, nargs="+", default=[ROOT / "tests" / "unit"], metavar="PATH",
                        help="the tests to run (default: tests/unit)")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="also try the mutants that are listed as equivalent")
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


def _draw_sample(mutants: list[Mutant], sample: int | None, rng: random.Random) -> list[Mutant]:
    """Return this many random mutants, or all, in the order of their lines."""
    if sample is None or sample >= len(mutants):
        return mutants
    return [mutants[place] for place in sorted(rng.sample(range(len(mutants)), sample))]


def _try_mutants(tester: MutantTester, module: str, mutants: list[Mutant], equivalent: Container[Key]) -> list[Verdict]:
    """Try the mutants, and print each survivor at once."""
    verdicts: list[Verdict] = []
    for verdict in tester.try_mutants(mutants):
        verdicts.append(verdict)
        if not verdict.killed and verdict.mutant.key not in equivalent:
            print(_format_mutant(verdict.mutant) + ("" if verdict.tests else "  (no test runs it)\n"), flush=True)
        killed = sum(item.killed for item in verdicts)
        # Without a terminal, a line for every 20 mutants shows in a log that the run makes progress.
        end = "\n" if not sys.stderr.isatty() and len(verdicts) % 20 == 0 else ""
        _report_progress(f"{module}: {len(verdicts)} of {len(mutants)} tried, {killed} killed{end}")
    return verdicts


def _list_stale_entries(
    equivalent: dict[tuple[str, str, str, int], str], mutants: dict[str, list[Mutant]]
) -> list[str]:
    keys = {mutant.key for found in mutants.values() for mutant in found}
    return [
        f"this mutant does not exist any more: {module}, {function or 'outside functions'}: {mutation}"
        for module, function, mutation, nth in equivalent
        if module in mutants and (module, function, mutation, nth) not in keys
    ]


def _format_mutant(mutant: Mutant) -> str:
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


def _report_progress(text: str) -> None:
    """Print to stderr. On a terminal, replace the last line. Elsewhere, print only complete lines."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text.endswith("\n"):
        print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_and_exit("mutate", main)
