"""For all tests: what hypothesis draws may take its time, since a busy machine is not a bug."""

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--granted-equals-used",
        action="store_true",
        help="at the end, require that the chosen tests of tests/cluster used every right that the chart grants"
        " (default: only where all of them ran)",
    )
