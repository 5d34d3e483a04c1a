"""Test the imports of the controller's start and their memory. The test prints the table.

One process imports the packages in this order, so the share of a package has nothing that an earlier package loaded.
Python runs as in the image. The image lacks charset_normalizer (3 MiB), which `azure.identity.aio` loads here.
"""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.pods.pod_process import IMAGE_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[3]
# The most MiB that each import may take. The measured values were lower by a fifth or by one MiB; their sum was 58 MiB.
MEMORY = {
    "asyncio": 11.0,
    "ssl": 2.5,
    "msgspec": 2.5,
    "aiohttp": 14.0,
    "aiohttp.web_server": 1.5,
    "prometheus_client": 1.5,
    "yaml": 1.5,
    "cryptography.x509": 11.0,
    "azure.core.pipeline.transport": 2.5,
    "azure.keyvault.secrets.aio": 2.5,
    "azure.identity.aio": 9.5,
    "controller.__main__": 1.5,
    "controller.app": 4.0,
}
MAX_TOTAL = 62.0
# Distributions that may be loaded at start.
LOADED = {
    "aiohappyeyeballs",
    "aiohttp",
    "aiosignal",
    "attrs",
    "azure-core",
    "certifi",
    "cffi",
    "charset-normalizer",
    "cryptography",
    "frozenlist",
    "idna",
    "isodate",
    "msal",
    "msgspec",
    "multidict",
    "prometheus-client",
    "propcache",
    "pyyaml",
    "requests",
    "typing-extensions",
    "urllib3",
    "yarl",
}
# Modules that few installations need. Each is imported where it is used first.
ON_DEMAND = (
    "aiohttp.web_app",
    "aiohttp.web_urldispatcher",
    "controller.crd_upgrade",
    "azure.keyvault.certificates",
    "azure.keyvault.keys",
    "controller.observability.otlp.shipper",
    "multiprocessing",
    "sqlite3",
    "unittest",
)
PROGRAM = """
import importlib, json, os, sys
page = os.sysconf("SC_PAGE_SIZE")
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * page / 2**20
bare, before = set(sys.modules), resident()
costs = {"bare": before}
for name in sys.argv[1:]:
    importlib.import_module(name)
    costs[name] = resident() - before
    before = resident()
print(json.dumps([costs, before, sorted(set(sys.modules) - bare)]))
"""


@pytest.fixture(scope="module")
def started() -> tuple[dict[str, float], float, list[str]]:
    words = [sys.executable, "-P", "-c", PROGRAM, *MEMORY]
    env = IMAGE_ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    for _ in range(2):  # the first run may compile modules, which takes memory
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    costs, resident, modules = json.loads(done.stdout)
    return costs, resident, modules


def test_each_import_takes_no_more_memory_than_its_row_says(
    started: tuple[dict[str, float], float, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    costs, resident, _ = started
    with capsys.disabled():
        rows = [f"| {name} | {cost:.1f} | {MEMORY.get(name, '')} |" for name, cost in costs.items()]
        table = [
            "",
            "| import | MiB | at most |",
            "| --- | --- | --- |",
            *rows,
            f"| all | {resident:.1f} | {MAX_TOTAL} |",
            "",
        ]
        sys.stdout.write("\n".join(table))
    assert {name: cost for name, cost in costs.items() if cost > MEMORY.get(name, MAX_TOTAL)} == {}
    assert resident <= MAX_TOTAL


def test_no_other_distribution_is_loaded_at_start(started: tuple[dict[str, float], float, list[str]]) -> None:
    distributions = importlib.metadata.packages_distributions()
    found = {
        distribution.lower().replace("_", "-")
        for module in started[2]
        if not module.startswith("azure") and (module.partition(".")[0] not in sys.stdlib_module_names)
        for distribution in distributions.get(module.partition(".")[0], ())
    }
    azure = {".".join(module.split(".")[:2]) for module in started[2] if module.startswith("azure.")}
    assert azure == {"azure.core", "azure.identity", "azure.keyvault"}
    assert found | {"azure-core"} == LOADED


def test_modules_for_few_installations_are_not_loaded_at_start(
    started: tuple[dict[str, float], float, list[str]],
) -> None:
    assert [name for name in started[2] if name.startswith(ON_DEMAND)] == []
