"""Provide a cluster with the chart, and N SecretSyncs with their vault in one of its namespaces."""

import asyncio
import functools
import re
import sysconfig
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube import config
from controller.kube.client import KubeClient
from controller.kube.resources import ResourceClient
from tests.bench.meter import Meter
from tests.support.cluster.harness import InstalledRelease, chart_crds, install_first_release
from tests.support.cluster.namespace import Namespace
from tests.support.process_stats import written_bytes
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import PodProcess

ROOT = Path(__file__).parents[2]
# The number of objects in one SecretProviderClass. Users keep a class short, because its field `objects` is one text.
CLASS_SIZE = 100
PARALLEL_REQUESTS = 16
# The time between two versions of an object. If both were created in the same second, the controller would need an
# additional call to find the newer one. Users do not create versions so fast.
VERSION_INTERVAL_SECONDS = 1.0
# The controller fetches a value again at the next poll if it was younger than this (controller/domain/snapshot.py).
SETTLED_SECONDS = 2.0
# A drift interval of about three years: during a measurement, the controller makes none of 10,000 drift checks.
NEVER = 100_000_000
DATABASES = ("etcd", "sqlite")
# The chart's value `leaderElection` with its defaults: 0 means the default. The tests' releases renew more often.
CHART_ELECTION = {"leaseDurationInSeconds": 0, "renewIntervalInSeconds": 0}
HANDLES: Sequence[ResourceClient[Any]] = (
    ResourceClient(SecretProviderClass, "bench"),
    ResourceClient(SecretSync, "bench"),
)


class Shape(msgspec.Struct, frozen=True):
    """The number of SecretSyncs with one key each, the seconds of each vault call, and the versions of each object."""

    count: int
    latency: float = 0.0
    history: int = 1

    @property
    def interval(self) -> int:
        """Return the seconds between polls. A slow machine finishes the work of a poll in this time."""
        return 8 + self.count // (100 if self.count <= 1_000 else 60)

    def __str__(self) -> str:
        history = f", history {self.history}" if self.history > 1 else ""
        return f"{self.count:,} SecretSyncs, vault at {self.latency * 1000:.0f} ms{history}"

    def names(self) -> list[str]:
        """Return the names of the SecretSyncs. Their vault objects have the same names."""
        return [f"s{number:05}" for number in range(self.count)]


@contextmanager
def cluster(
    folder: Path, *, database: str = "etcd", durable: bool = False, **values: Any
) -> Iterator[InstalledRelease]:
    """Provide a cluster with the chart and an emulator, without a running controller.

    To measure the bytes that etcd writes, it must be `durable`. Otherwise it writes a page once for many changes.
    """
    with (
        ControlPlane(folder / "plane", with_sqlite=database == "sqlite", durable=durable, crds=chart_crds()) as plane,
        Emulator(folder / "emulator") as emulator,
    ):
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        yield install_first_release(plane, emulator, folder, **values)


def database_kibibytes(installed: InstalledRelease) -> float:
    """Return how many KiB the cluster's database has written to disk: `write_bytes` in /proc/PID/io."""
    return written_bytes(installed.plane.database_pid) / 1024


def image_workload(installed: InstalledRelease, **settings: str) -> PodProcess:
    """Return the Deployment as a process that has the packages of the image. The caller starts it."""
    workload = installed.workload(**settings)
    workload.python = str(image_python(installed.folder / "python"))
    workload.env["PYTHONWARNINGS"] = "ignore"  # a warning would be about the missing packages
    return workload


@functools.cache
def image_python(folder: Path) -> Path:
    """Create an environment with the packages of the image, from the packages of this one. Return its Python."""
    [removed] = re.findall(r"^ && rm -rf (.+) \\$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python3.*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in removed.split():
            (packages / path.name).symlink_to(path)
    return folder / "bin/python"


class BenchHarness:
    """A namespace with SecretSyncs, and a controller that watches only this namespace. The caller starts it.

    So several shapes can be measured in one cluster, and none affects another.
    """

    def __init__(self, installed: InstalledRelease, shape: Shape) -> None:
        self.shape = shape
        self.space = Namespace(installed)
        for number in range(shape.history):
            time.sleep(VERSION_INTERVAL_SECONDS if number else 0)
            for name in shape.names():
                self.space.set_secret(name, "first")
        changed = time.monotonic()
        asyncio.run(create_objects(installed.plane.kubeconfig, self.space.name, list(self._build_objects(self.space))))
        time.sleep(max(0.0, changed + SETTLED_SECONDS - time.monotonic()))
        installed.emulator.delay(shape.latency)
        self.workload = image_workload(
            installed,
            ROTATION_POLL_INTERVAL=str(shape.interval),
            DRIFT_INTERVAL=str(NEVER),
            WATCH_NAMESPACES=self.space.name,
        )
        self.meter = Meter(installed, self.space, self.workload)

    def create_copy(self) -> Namespace:
        """Create another namespace with the same objects. No controller watches it."""
        space = Namespace(self.space.installed)
        plane = self.space.installed.plane
        asyncio.run(create_objects(plane.kubeconfig, space.name, list(self._build_objects(space))))
        return space

    def _build_objects(self, space: Namespace) -> Iterator[Mapping[str, Any]]:
        shape, names = self.shape, self.shape.names()
        path = "{}/0" if shape.history > 1 else "{}"
        for start in range(0, shape.count, CLASS_SIZE):
            part = names[start : start + CLASS_SIZE]
            items = "".join(
                f"  - |\n    objectName: {name}\n    objectType: secret\n    objectVersionHistory: {shape.history}\n"
                for name in part
            )
            yield space.provider_class(name=f"class-{start}", objects=f"array:\n{items}")
            for name in part:
                yield space.sync(name, {"key": path.format(name)}, secretProviderClassName=f"class-{start}")


async def create_objects(kubeconfig: Path, namespace: str, objects: Sequence[Mapping[str, Any]]) -> None:
    """Create objects as cluster-admin, in parallel. kubectl would need a second for 50 objects."""
    paths = {handle.resource.kind: handle.url_path(namespace) for handle in HANDLES}
    slots = asyncio.Semaphore(PARALLEL_REQUESTS)
    async with (
        KubeClient(await config.find_config({"KUBECONFIG": str(kubeconfig)})) as kube,
        asyncio.TaskGroup() as tasks,
    ):

        async def create(item: Mapping[str, Any]) -> None:
            async with slots:
                await kube.call("POST", paths[item["kind"]], body=item)

        for item in objects:
            tasks.create_task(create(item))
