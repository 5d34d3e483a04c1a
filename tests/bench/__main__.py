"""`make bench`: measure how much the controller uses of the machine, the API server and the vault.

Each run starts its own control plane and emulator, and the chart's controller with the rights of the chart. The results
are JSON files, and pages in Markdown. The counts do not depend on the machine. The times do, so each table names the
machine.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import growth, latency, scale
from tests.bench.harness import Shape, cluster
from tests.bench.results import ROOT, Machine, Results, format_tables, read_committed, read_results
from tests.bench.targets import IDLE_MEMORY, Target, targets
from tools.local_cluster.programs.versions import DEFAULT_KUBERNETES

COUNTS = (100, 1_000)
GROWTH = (100, 300, 1_000, 3_000, 10_000)
NAME, GROWN = "figures", "growth"
PAGE = ROOT / "docs/figures.md"
PLOT = ROOT / "docs/growth.svg"
HEAD = """\
<!-- Written by `make bench`; do not edit. What was found and done about it: performance.md. -->

# Figures

Vault calls are counted at the vault, API writes in the audit log, CPU and memory in /proc. Each SecretSync has one key,
and each SecretProviderClass 100 objects. A time of the first sync begins with the process, or with the first Secret. A
time of a rotation begins with the poll's first call. The controller reads each object in full once a day: in a target,
the number after the + is the maximum of these reads in one poll. The column "before" has the last commit's figures.
"""


def list_shapes(counts: Sequence[int]) -> list[Shape]:
    """Return each number of SecretSyncs with a fast and a slow vault, and the largest also with versions."""
    plain = [Shape(count, seconds) for count in counts for seconds in (0.0, 0.05)]
    return [*plain, Shape(max(counts), history=2)]


def measure(wanted: Sequence[Shape], runs: int, results: Results) -> None:
    """Measure each shape once in each run, so that other work of the machine affects all shapes alike."""
    for number in range(runs):
        with tempfile.TemporaryDirectory() as folder, cluster(Path(folder)) as installed:
            print(f"run {number + 1} of {runs}: {scale.IDLE}", file=sys.stderr, flush=True)
            results.add(scale.measure_idle(installed))
            for shape in wanted:
                print(f"run {number + 1} of {runs}: {shape}", file=sys.stderr, flush=True)
                results.add(scale.measure_shape(installed, shape))


def write_page() -> None:
    """Write the page with the last results of both measurements, and the plot."""
    limits = {str(shape): targets(shape) for shape in [*list_shapes(COUNTS), *map(Shape, GROWTH)]}
    limits[scale.IDLE] = {scale.MEMORY: Target(IDLE_MEMORY)}
    PAGE.parent.mkdir(exist_ok=True)
    lines = [HEAD]
    if now := read_results(NAME):
        lines += format_tables(now, read_committed(NAME), limits)
    if grown := read_results(GROWN):
        PLOT.write_text(growth.draw_plot(grown))
        lines += ["", "## Growth", "", f"![Time, calls, CPU and memory by number of SecretSyncs]({PLOT.name})", ""]
        lines += format_tables(grown, read_committed(GROWN), limits)
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> int:
    """Measure, and write tests/bench/results/*.json and docs/figures.md; with --growth also write the plot."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--count", type=int, nargs="*", default=[], metavar="N", help="numbers of SecretSyncs")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each measurement (default: 3)")
    parser.add_argument(
        "--growth", action="store_true", help=f"measure {GROWTH} SecretSyncs once each, and draw the plot"
    )
    parser.add_argument(
        "--draw", action="store_true", help="write page and plot from the last results without a measurement"
    )
    options = parser.parse_args()
    results = Results(Machine.this(os.environ.get("KUBERNETES") or DEFAULT_KUBERNETES))
    if options.growth:
        measure([Shape(count) for count in options.count or GROWTH], 1, results)
        if before := read_results(GROWN):
            results.keep(before, [scale.IDLE, *map(str, map(Shape, GROWTH))])
        results.write(GROWN)
    elif not options.draw:
        measure(list_shapes(options.count or COUNTS), options.runs, results)
        with tempfile.TemporaryDirectory() as folder:
            results.add(latency.measure_latency(100, Path(folder)))
        results.write(NAME)
    write_page()
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
