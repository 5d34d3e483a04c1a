"""`make bench`: what the controller takes of the machine, the API server and the vault, as Markdown and JSON.

Each run has a control plane and an emulator of its own, and the chart's controller under the chart's rights. Counts do
not depend on the machine; times do, so the table says on which one they were taken.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import latency, scale
from tests.bench.scale import Shape

RESULTS = Path("build/bench.json")
Figures = dict[str, float]


def shapes(counts: Sequence[int]) -> list[Shape]:
    """Each number of Secrets with a vault that answers at once, and with one that takes its time."""
    return [Shape(count, seconds) for count in counts for seconds in (0.0, 0.05)]


def runs(number: int, wanted: Sequence[Shape]) -> dict[str, list[Figures]]:
    """Figures of each shape, one item a run; the shapes take turns, so that a slow minute hits all of them."""
    found: dict[str, list[Figures]] = {}
    for each in range(number):
        for shape in wanted:
            print(f"run {each + 1} of {number}: {shape}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                found.setdefault(str(shape), []).append(scale.run(shape, Path(folder)).figures)
    return found


def table(found: Sequence[Figures]) -> list[str]:
    """A row for each figure: the median, the least and the most of the runs."""
    rows = ["| what | median | least | most |", "| --- | --- | --- | --- |"]
    for name in found[0]:
        values = [run[name] for run in found if name in run]
        rows.append(f"| {name} | {statistics.median(values):.4g} | {min(values):.4g} | {max(values):.4g} |")
    return rows


def main() -> int:
    """Prints the tables, and writes build/bench.json."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--count", type=int, nargs="*", default=[100, 1000], metavar="N", help="how many Secrets")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each (default: 3)")
    parser.add_argument("--only", choices=("latency", "scale"), help="only the time of one Secret, or only the rest")
    options = parser.parse_args()
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    found: dict[str, list[Figures]] = {}
    if options.only != "scale":
        with tempfile.TemporaryDirectory() as folder:
            found["one Secret after another"] = [latency.run(100, Path(folder))]
    if options.only != "latency":
        found |= runs(options.runs, shapes(options.count))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "runs": found}, indent=1))
    print(f"{machine}; also in {RESULTS}")
    for title, figures in found.items():
        print("\n".join(["", f"### {title}", "", *table(figures)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
