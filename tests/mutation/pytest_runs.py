"""pytest inside this process, quiet, the same every time, and without a trace in the work tree."""

import os
import signal
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings

from tests.mutation.paths import BUILD, ROOT

# A test hangs that uses this many CPU seconds and this many times what it uses on unchanged code; or, where it waits,
# this many seconds and this many times what it takes.
MIN_CPU, CPU_FACTOR = 2.0, 5
MIN_WALL, WALL_FACTOR = 10.0, 20
_OPTIONS = [
    "-q",
    "-s",
    "--no-header",
    "--no-summary",
    *(word for name in ("cacheprovider", "randomly", "xdist", "pytest_cov") for word in ("-p", f"no:{name}")),
    "-o",
    "addopts=--strict-markers --import-mode=importlib",
    "--timeout=0",
    "--tb=native",  # no source is parsed for a failure: quicker, and it cannot fail itself
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
    "--hypothesis-profile=mutation",
    f"--rootdir={ROOT}",
]


def run_pytest(words: list[str], plugin: object) -> int:
    """Run pytest with this plugin in a child process. Its output goes to build/mutation/pytest.log."""
    # One failing example is a verdict: no search for a smaller one, and the same examples for each mutant.
    settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
    )
    BUILD.mkdir(parents=True, exist_ok=True)
    log = os.open(BUILD / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(ROOT)
    return int(pytest.main([*_OPTIONS, "-c", str(ROOT / "pyproject.toml"), *words], plugins=[plugin]))


class Usage(NamedTuple):
    """The time of a test on unchanged code."""

    seconds: float
    cpu: float


class Verdict:
    """A pytest plugin: runs chosen tests until one fails."""

    def __init__(self) -> None:
        self.failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the first test that failed."""
        if report.failed:
            self.failed = self.failed or report.nodeid

    def run(self, items: Iterable[pytest.Item], usual: Mapping[str, Usage]) -> bool:
        """Return whether every test passed. A test that hangs, going by what is usual, ends the process."""
        chosen = list(items)
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        for place, item in enumerate(chosen):
            following = chosen[place + 1] if place + 1 < len(chosen) else None
            usage = usual[item.nodeid]
            signal.setitimer(signal.ITIMER_PROF, MIN_CPU + CPU_FACTOR * usage.cpu)
            signal.setitimer(signal.ITIMER_REAL, MIN_WALL + WALL_FACTOR * usage.seconds)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return False
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        return True


def load_libraries() -> None:
    """Import what takes long to import, once for all children."""
    for name in (
        "aiohttp.web",
        "azure.identity.aio",
        "azure.keyvault.secrets.aio",
        "cryptography.x509",
        "cryptography.hazmat.primitives.serialization.pkcs12",
        "hypothesis.strategies",
        "msgspec",
        "prometheus_client",
        "pytest_asyncio",
        "yaml",
    ):
        __import__(name)
