"""Run pytest in this process, without output, with the same order each time, and without files in the work tree."""

import os
import signal
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings

from tests.mutation.paths import BUILD, ROOT

# A test hangs if it uses more CPU seconds than MIN_CPU plus CPU_FACTOR times its CPU seconds on unchanged code. A test
# that waits hangs if it takes more seconds than MIN_WALL plus WALL_FACTOR times its seconds on unchanged code.
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
    "--tb=native",  # pytest then parses no source for a traceback, which takes time and can itself fail for a mutant
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
    "--hypothesis-profile=mutation",
    f"--rootdir={ROOT}",
]


def run_pytest(words: list[str], plugin: object) -> int:
    """Run pytest with this plugin, and return its exit code. Only call this in a child process.

    The output of the process goes to build/mutation/pytest.log from now on.
    """
    # Hypothesis uses the same examples for each mutant. It does not search for a smaller failing example, because one
    # failing example kills the mutant.
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
    """The seconds and CPU seconds of a test on unchanged code."""

    seconds: float
    cpu: float


class FailFastPlugin:
    """A pytest plugin that runs chosen tests until one fails."""

    def __init__(self) -> None:
        self.failed_test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the first test that fails."""
        if report.failed:
            self.failed_test = self.failed_test or report.nodeid

    def run(self, items: Iterable[pytest.Item], usages: Mapping[str, Usage]) -> bool:
        """Run the tests, and return whether all passed. If a test hangs, a signal of a timer ends the process.

        `usages` has the usage of each test on unchanged code.
        """
        chosen = list(items)
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        for place, item in enumerate(chosen):
            following = chosen[place + 1] if place + 1 < len(chosen) else None
            usage = usages[item.nodeid]
            signal.setitimer(signal.ITIMER_PROF, MIN_CPU + CPU_FACTOR * usage.cpu)
            signal.setitimer(signal.ITIMER_REAL, MIN_WALL + WALL_FACTOR * usage.seconds)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed_test:
                return False
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        return True


def load_libraries() -> None:
    """Import the libraries that take long to import, so that no child process has to import them."""
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
