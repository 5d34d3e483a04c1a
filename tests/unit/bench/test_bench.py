"""Test the page of `make bench`: the table with targets and earlier figures, and the plot."""

import random
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.bench import growth
from tests.bench.harness import Shape, image_python
from tests.bench.results import Figures, Machine, Results, format_tables
from tests.bench.targets import ROTATION, daily, targets

HERE = Machine(cores=2, cpu="Some CPU", kernel="Linux 6", python="3.11.7", kubernetes="1.37.2", load=0.1)
TITLE = str(Shape(1000))
SYNC = "first sync: all Secrets there, s from the first"


def make_results(*runs: dict[str, float], title: str = TITLE) -> Results:
    results = Results(HERE)
    for run in runs:
        found = Figures(title)
        found.figures = run
        results.add(found)
    return results


def format_rows(now: Results, before: Results | None) -> list[str]:
    return [
        line
        for line in format_tables(now, before, {TITLE: targets(Shape(1000))})
        if line.startswith(("| first", "| q"))
    ]


def test_row_has_target_median_minimum_maximum_and_previous_value() -> None:
    now = make_results({SYNC: 5.0}, {SYNC: 4.0}, {SYNC: 7.5})
    assert format_rows(now, make_results({SYNC: 4.0})) == [f"| {SYNC} | ≤ 6 | 5 | 4 | 7.5 | 4 (+25 %) |"]
    assert format_rows(now, None) == [f"| {SYNC} | ≤ 6 | 5 | 4 | 7.5 |  |"]


def test_missed_target_is_marked() -> None:
    assert format_rows(make_results({"first sync: secrets.get": 1001}), None) == [
        "| first sync: secrets.get | ≤ 1,000 **missed** | 1,001 | 1,001 | 1,001 |  |"
    ]


def test_daily_read_does_not_miss_the_target() -> None:
    name = "quiet poll: vault calls"
    assert format_rows(make_results({name: 42}), None) == [f"| {name} | ≤ 40 + 2 | 42 | 42 | 42 |  |"]
    assert format_rows(make_results({name: 43}), None) == [f"| {name} | ≤ 40 + 2 **missed** | 43 | 43 | 43 |  |"]


@pytest.mark.parametrize("count", [100, 1000, 10_000])
def test_daily_reads_in_a_poll_rarely_exceed_the_allowance(count: int) -> None:
    shape = Shape(count)
    rng = random.Random(7)
    # Each object is read at a random time of the day.
    polls = [sum(rng.random() * 86_400 < shape.interval for _ in range(count)) for _ in range(200_000 // count)]
    assert sum(number > daily(shape) for number in polls) <= len(polls) / 100


def test_figures_without_a_new_measurement_keep_their_order() -> None:
    small, large = str(Shape(100)), str(Shape(1000))
    now = make_results({SYNC: 1.0}, title=large)
    now.keep(make_results({SYNC: 2.0}, title=small), [small, large])
    assert now.figures == {small: {SYNC: [2.0]}, large: {SYNC: [1.0]}}
    assert list(now.figures) == [small, large]


@pytest.mark.parametrize(
    ("shape", "name", "most"),
    [
        (Shape(1000, history=2), "quiet poll: vault calls", 1000),
        (Shape(1000, history=2), "first sync: vault calls", 2000),
        (Shape(100), "quiet poll: vault calls", 4),
        (Shape(1000), ROTATION, 2),
        (Shape(1000, 0.05), ROTATION, 4),
        (Shape(1000, 0.05), SYNC, 6),
        (Shape(1000, 0.05), "quiet poll: CPU, s", 0.5),
        (Shape(1000), "memory: before a poll, MiB", 70),
        (Shape(10_000), "memory: before a poll, MiB", 115),
        (Shape(10_000), "restart: vault calls", 0),
    ],
)
def test_targets_are_those_of_the_shape(shape: Shape, name: str, most: float) -> None:
    assert targets(shape)[name].most == most


@pytest.mark.parametrize("shape", [Shape(100), Shape(3000), Shape(10_000), Shape(1000, history=2)])
@pytest.mark.parametrize("name", [ROTATION, SYNC, "quiet poll: CPU, s", "restart: ready, s"])
def test_only_a_thousand_secrets_have_targets_for_times(shape: Shape, name: str) -> None:
    assert name not in targets(shape)


def test_every_figure_is_within_its_panel_of_the_plot() -> None:
    grown = Results(HERE)
    for count in (100, 1000, 10_000):
        found = Figures(str(Shape(count)))
        for _, lines, _ in growth.PANELS:
            found.figures |= dict.fromkeys(lines.values(), count / 50)
        grown.add(found)
    tree = ElementTree.fromstring(growth.draw_plot(grown))  # noqa: S314 -- the plot of this program
    space = "{http://www.w3.org/2000/svg}"
    panels = tree.findall(f"{space}g")
    assert len(panels) == len(growth.PANELS)
    circles = tree.findall(f".//{space}circle")
    assert len(circles) == 3 * sum(len(lines) for _, lines, _ in growth.PANELS)
    assert all(0 <= float(circle.attrib["cx"]) <= growth.WIDTH for circle in circles)
    assert all(0 <= float(circle.attrib["cy"]) <= growth.HEIGHT for circle in circles)
    # A figure with proportional growth is on the dashed line.
    assert re.findall(r"([\d.]+),([\d.]+)", panels[0].find(f"{space}polyline").attrib["points"])[0] == (  # type: ignore[union-attr]
        panels[0].findall(f"{space}line[@class='even']")[0].attrib["x1"],
        panels[0].findall(f"{space}line[@class='even']")[0].attrib["y1"],
    )
    labels = {text.text for text in tree.iter(f"{space}text")}
    assert {"100", "1,000", "10,000", "first sync", "a poll without change"} <= labels


def test_measured_python_has_the_packages_of_the_image(tmp_path: Path) -> None:
    program = "from importlib.util import find_spec as f; print(bool(f('aiohttp')), bool(f('charset_normalizer')))"
    command = [str(image_python(tmp_path / "python")), "-P", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True False\n"
