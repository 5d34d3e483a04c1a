"""Set up all suites: the environment of child processes, hypothesis without a deadline, and the garbage collector."""

import gc
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
# Child processes of tests import the repository's packages, whatever the current folder is.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
# The servers, kubectl and helm collect garbage less often. This takes a fifth less CPU time for a run of kubectl, and
# about 150 MiB more memory for an API server.
os.environ.setdefault("GOGC", "400")
# A slow example on a busy machine is not a fault, so no example has a deadline.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--granted-equals-used",
        action="store_true",
        help="at the end, require that the chosen tests of tests/cluster used every right that the chart grants"
        " (default: only where all of them ran)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from what the collection of tests makes, since all of it lives to the end.

    To go through it takes a third of the time of the collection, and part of the time of each test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
