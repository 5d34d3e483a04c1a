"""The measured objects: N SecretSyncs and their vault, in a namespace of a cluster with the chart."""

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
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import PodProcess

ROOT = Path(__file__).parents[2]
# Objects of one SecretProviderClass. Users keep it short, because `objects` is one text.
CLASS_SIZE = 100
AT_ONCE = 16
# For two versions within one second, only a get shows which is newer. Users do not create versions so fast.
SECOND = 1.0
# A value that is fetched sooner after its change is fetched again at the next poll (controller/domain/snapshot.py).
SETTLED = 2.0
# A drift interval so long that none of 10,000 drift checks falls into the measured time.
NEVER = 100_000_000
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
        """Return the seconds between polls, long enough for the work between two polls on a slow machine."""
        return 8 + self.count // (100 if self.count <= 1_000 else 60)

    def __str__(self) -> str:
        history = f", history {self.history}" if self.history > 1 else ""
        return f"{self.count:,} SecretSyncs, vault at {self.latency * 1000:.0f} ms{history}"

    def names(self) -> list[str]:
        """Return the names of the SecretSyncs, which are also those of their vault objects."""
        return [f"s{number:05}" for number in range(self.count)]


@contextmanager
def cluster(folder: Path, *, with_sqlite: bool = False, **values: Any) -> Iterator[InstalledRelease]:
    """Provide a cluster with the chart and an emulator, without a running controller."""
    with (
        ControlPlane(folder / "plane", with_sqlite=with_sqlite, crds=chart_crds()) as plane,
        Emulator(folder / "emulator") as emulator,
    ):
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        yield install_first_release(plane, emulator, folder, **values)


def image_workload(installed: InstalledRelease, **settings: str) -> PodProcess:
    """Return the Deployment as a process with the packages of the image, not started yet."""
    workload = installed.workload(**settings)
    workload.python = str(image_python(installed.folder / "python"))
    workload.env["PYTHONWARNINGS"] = "ignore"  # one is about the missing packages
    return workload


@functools.cache
def image_python(folder: Path) -> Path:
    """Return a Python with the packages of this environment, but without those that the image lacks."""
    [removed] = re.findall(r"^ && rm -rf (.+) \\$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python3.*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in removed.split():
            (packages / path.name).symlink_to(path)
    return folder / "bin/python"


class BenchHarness:
    """A namespace with SecretSyncs, and a controller that watches only this namespace and is not started yet.

    So several shapes can be measured in one cluster without influence on each other.
    """

    def __init__(self, installed: InstalledRelease, shape: Shape) -> None:
        self.shape = shape
        self.space = Namespace(installed)
        for number in range(shape.history):
            time.sleep(SECOND if number else 0)
            for name in shape.names():
                self.space.set_secret(name, "first")
        changed = time.monotonic()
        asyncio.run(create_objects(installed.plane.kubeconfig, self.space.name, list(self._objects(self.space))))
        time.sleep(max(0.0, changed + SETTLED - time.monotonic()))
        installed.emulator.delay(shape.latency)
        self.workload = image_workload(
            installed,
            ROTATION_POLL_INTERVAL=str(shape.interval),
            DRIFT_INTERVAL=str(NEVER),
            WATCH_NAMESPACES=self.space.name,
        )
        self.meter = Meter(installed, self.space, self.workload)

    def copy(self) -> Namespace:
        """Return another namespace with the same objects, which no controller watches."""
        space = Namespace(self.space.installed)
        plane = self.space.installed.plane
        asyncio.run(create_objects(plane.kubeconfig, space.name, list(self._objects(space))))
        return space

    def _objects(self, space: Namespace) -> Iterator[Mapping[str, Any]]:
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
    """Create objects as cluster-admin. kubectl would take a second for 50."""
    paths = {handle.resource.kind: handle.url_path(namespace) for handle in HANDLES}
    slots = asyncio.Semaphore(AT_ONCE)
    async with (
        KubeClient(await config.find_config({"KUBECONFIG": str(kubeconfig)})) as kube,
        asyncio.TaskGroup() as tasks,
    ):

        async def create(item: Mapping[str, Any]) -> None:
            async with slots:
                await kube.call("POST", paths[item["kind"]], body=item)

        for item in objects:
            tasks.create_task(create(item))
