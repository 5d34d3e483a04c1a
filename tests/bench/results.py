"""Store the figures of several runs as JSON, and show them in Markdown with their targets and earlier figures."""

import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tests.bench.targets import Target

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "results"
# The operations of Entra, which are no calls to a vault.
ENTRA_OPERATIONS = ("token", "discovery", "instance")
RunValues = dict[str, dict[str, list[float]]]
"""The values of all runs, by title and name."""


class Figures:
    """The figures of one run by name, in the order of their measurement. `title` says what was measured."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figures: dict[str, float] = {}

    def note(self, name: str, value: float) -> None:
        """Record a figure, and print it."""
        self.figures[name] = round(value, 3)
        print(f"  {name}: {value:.4g}", file=sys.stderr, flush=True)

    def note_calls(self, name: str, calls: Mapping[str, int]) -> None:
        """Record the number of calls of each operation, and of all calls to the vault."""
        for operation, count in sorted(calls.items()):
            self.note(f"{name}: {operation}", count)
        self.note(f"{name}: vault calls", sum(n for what, n in calls.items() if what not in ENTRA_OPERATIONS))


class Machine(msgspec.Struct):
    """The machine of a measurement. `load` is its load before the measurement."""

    cores: int
    cpu: str
    kernel: str
    python: str
    kubernetes: str
    load: float

    @classmethod
    def this(cls, kubernetes: str) -> "Machine":
        """Return the machine on which this program runs."""
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return cls(
            cores=len(os.sched_getaffinity(0)),
            cpu=found[1] if found else platform.machine(),
            kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
            python=platform.python_version(),
            kubernetes=kubernetes,
            load=round(os.getloadavg()[0], 1),
        )

    def __str__(self) -> str:
        return (
            f"{self.cores} cores ({self.cpu}), {self.kernel}, Python {self.python}, Kubernetes {self.kubernetes};"
            f" load average {self.load:g} before"
        )


class Results(msgspec.Struct):
    """The figures of one measurement, and its machine."""

    machine: Machine
    figures: RunValues = {}

    def add(self, run: Figures) -> None:
        """Add the figures of another run."""
        of = self.figures.setdefault(run.title, {})
        for name, value in run.figures.items():
            of.setdefault(name, []).append(value)

    def keep(self, before: "Results", titles: Sequence[str]) -> None:
        """Add earlier figures of titles that were not measured now. Sort all by the given titles."""
        both = before.figures | self.figures
        self.figures = {title: both[title] for title in titles if title in both}

    def write(self, name: str) -> None:
        """Write the results to the folder that git tracks."""
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def read_results(name: str) -> Results | None:
    """Return the results in the work tree, or None if there are none."""
    path = FOLDER / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.is_file() else None


def read_committed(name: str) -> Results | None:
    """Return the results in the last commit, or None if there are none."""
    path = (FOLDER / f"{name}.json").relative_to(ROOT)
    found = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, check=False)
    return msgspec.json.decode(found.stdout, type=Results) if found.returncode == 0 else None


def format_tables(now: Results, before: Results | None, targets: Mapping[str, Mapping[str, Target]]) -> Iterator[str]:
    """Yield the lines of a Markdown table for each title."""
    yield f"Measured on {now.machine}."
    if before:
        yield f"Before: {before.machine}."
    for title, figures in now.figures.items():
        runs = max(map(len, figures.values()))
        yield from ("", f"### {title}", "", f"{runs} run{'s' if runs > 1 else ''}.", "")
        yield from ("| what | target | median | least | most | before |", "| --- | --- | --- | --- | --- | --- |")
        old = before.figures.get(title, {}) if before else {}
        limits = targets.get(title, {})
        for name, values in figures.items():
            median = statistics.median(values)
            spread = (_format_value(figure) for figure in (median, min(values), max(values)))
            cells = [_format_target(median, limits.get(name)), *spread, _format_change(median, old.get(name))]
            yield f"| {name} | {' | '.join(cells)} |"


def _format_value(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


def _format_target(median: float, target: Target | None) -> str:
    if target is None:
        return ""
    daily = f" + {target.daily}" if target.daily else ""
    return f"≤ {_format_value(target.most)}{daily}{'' if target.met(median) else ' **missed**'}"


def _format_change(median: float, old: list[float] | None) -> str:
    if not old:
        return ""
    was = statistics.median(old)
    change = f" ({(median / was - 1) * 100:+.0f} %)" if was and median != was else ""
    return _format_value(was) + change
