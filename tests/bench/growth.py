"""Draw how time, calls, CPU and memory grow with the number of SecretSyncs, as SVG with labels.

All axes except the axis of memory are logarithmic. A line that is parallel to the dashed one shows proportional growth.
"""

import math
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from tests.bench.results import Results

TEMPLATE = Path(__file__).with_name("growth.svg.jinja")
WIDTH, HEIGHT = 340.0, 220.0
MARGIN, GAP = 60.0, 60.0
# For each panel: the title, the figure of each line by the line's name, and whether the vertical axis is logarithmic.
PANELS = (
    ("Time of the first sync, s", {"from the first Secret": "first sync: all Secrets there, s from the first"}, True),
    (
        "Calls to the vault",
        {"first sync": "first sync: vault calls", "a poll without change": "quiet poll: vault calls"},
        True,
    ),
    (
        "CPU of the controller, s",
        {"first sync": "first sync: CPU, s", "a poll without change": "quiet poll: CPU, s"},
        True,
    ),
    (
        "Resident memory, MiB",
        {"before a poll": "memory: before a poll, MiB", "after a restart": "memory: after a restart, MiB"},
        False,
    ),
)


class Tick(NamedTuple):
    """A line of the grid, and the label at its end."""

    at: float
    label: str


class Point(NamedTuple):
    """The position and the label of a figure."""

    x: float
    y: float
    label: str


class Line(NamedTuple):
    """One line of a panel. `even` has the ends of the dashed line, which shows proportional growth."""

    number: int
    name: str
    points: list[Point]
    even: tuple[float, float, float, float] | None


class Panel(NamedTuple):
    """One panel of the plot."""

    title: str
    left: float
    top: float
    width: float
    height: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]


class Scale:
    """Convert values to positions on an axis."""

    def __init__(self, least: float, most: float, length: float, *, logarithmic: bool) -> None:
        self._of = math.log10 if logarithmic else float
        self._least, self._range, self._length = self._of(least), self._of(most) - self._of(least), length

    def __call__(self, value: float) -> float:
        """Return the distance of a value from the start of the axis."""
        return round((self._of(value) - self._least) / self._range * self._length, 1)


def draw_plot(results: Results) -> str:
    """Return the plot as SVG."""
    counts = {title: int(found[1].replace(",", "")) for title in results.figures if (found := _COUNT.match(title))}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    panels = list(_build_panels(results, counts))
    height = 2 * (MARGIN + HEIGHT) + GAP
    text = environment.from_string(TEMPLATE.read_text()).render(
        panels=panels, width=2 * (MARGIN + WIDTH) + GAP, height=height
    )
    return text + "\n"


_COUNT = re.compile(r"([\d,]+) SecretSyncs")


def _build_panels(results: Results, counts: dict[str, int]) -> Iterator[Panel]:
    across = Scale(min(counts.values()), max(counts.values()), WIDTH, logarithmic=True)
    for number, (title, names, logarithmic) in enumerate(PANELS):
        found = {
            line: [
                (count, statistics.median(values))
                for at, count in sorted(counts.items(), key=lambda item: item[1])
                if (values := results.figures[at].get(name))
            ]
            for line, name in names.items()
        }
        values = [value for points in found.values() for _, value in points]
        if logarithmic:
            (first, _), (last, value) = (points := next(iter(found.values())))[0], points[-1]
            values.append(value * first / last)  # the start of the dashed line
        ticks = _ticks(values, logarithmic=logarithmic)
        up = Scale(ticks[0], ticks[-1], HEIGHT, logarithmic=logarithmic)
        yield Panel(
            title,
            left=MARGIN + (number % 2) * (WIDTH + GAP),
            top=MARGIN / 2 + (number // 2) * (HEIGHT + MARGIN + 10),
            width=WIDTH,
            height=HEIGHT,
            x_ticks=[Tick(across(count), f"{count:,}") for count in sorted(counts.values())],
            y_ticks=[Tick(HEIGHT - up(value), f"{value:,g}") for value in ticks],
            lines=[
                Line(
                    index,
                    name,
                    [Point(across(count), round(HEIGHT - up(value), 1), _label(value)) for count, value in points],
                    _even(points, across, up) if logarithmic and not index else None,
                )
                for index, (name, points) in enumerate(found.items())
            ],
        )


def _even(points: Sequence[tuple[int, float]], across: Scale, up: Scale) -> tuple[float, float, float, float]:
    """Return the ends of the dashed line, which ends at the last figure."""
    (first, _), (last, value) = points[0], points[-1]
    return across(first), round(HEIGHT - up(value * first / last), 1), across(last), round(HEIGHT - up(value), 1)


def _ticks(values: Sequence[float], *, logarithmic: bool) -> list[float]:
    if logarithmic:
        ends = math.floor(math.log10(min(max(value, 0.01) for value in values))), math.ceil(math.log10(max(values)))
        return [10.0**power for power in range(ends[0], ends[1] + 1)]
    step = 25
    return [float(value) for value in range(0, (int(max(values)) // step + 2) * step, step)]


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
