"""Test the controller on arm64 in an emulator, with the Debian packages and wheels of that architecture."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.certificates import encode_pem_bundle, issue_certificate
from tests.support.cluster.harness import eventually, install_first_release
from tests.support.cluster.namespace import Namespace
from tools.images import debian_base
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.nodes import system_packages

PATIENCE = 120.0
"""Seconds. The emulation is about ten times slower than the machine."""
START_SECONDS = 400.0
"""Seconds. The import of the controller takes 11 s of CPU in the emulation."""
ROOT = Path(__file__).parents[2]
_IMPORT_ALL = """
import importlib, pkgutil, platform, controller
for found in pkgutil.walk_packages(controller.__path__, "controller."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        print(platform.machine(), found.name)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the files of an image for arm64 and the emulator."""
    system_packages.require(system_packages.ARM64)
    folder = tmp_path_factory.mktemp("arm64")
    root, wheels = folder / "root", folder / "wheels"
    wheels.mkdir()
    debian_base.unpack_base(root, "arm64")
    pip = debian_base.download_wheels(wheels, "arm64")
    for wheel in set(wheels.glob("*.whl")) - {pip}:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / "app")
    shutil.copytree(ROOT / "controller", root / "app" / "controller")
    emulator = shutil.which("qemu-aarch64-static")
    assert emulator
    shutil.copy(emulator, root)
    return root


@pytest.fixture
def python(root: Path, tmp_path: Path) -> Path:
    """Provide a program that runs the image's Python. `sys.executable` of this Python is the program."""
    program = tmp_path / "python3"
    emulated = f"{root}/qemu-aarch64-static -0 {program} -L {root} {root}/usr/bin/python{debian_base.PYTHON}"
    program.write_text(f'#!/bin/sh\nPYTHONHOME={root}/usr PYTHONPATH={root}/app exec {emulated} "$@"\n')
    program.chmod(0o755)
    return program


def test_every_module_is_importable_on_arm64(root: Path) -> None:
    argv = ["chroot", str(root), "/qemu-aarch64-static", "/usr/bin/python3", "-P", "-c", _IMPORT_ALL]
    done = subprocess.run(argv, env=os.environ | {"PYTHONPATH": "/app"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sources = {path.relative_to(ROOT) for path in (ROOT / "controller").rglob("*.py")}
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in sources}
    expected = {f"aarch64 {name}" for name in modules - {"controller", "controller.__main__"}}
    assert set(done.stdout.splitlines()) == expected


def test_controller_syncs_and_rotates_on_arm64(python: Path, tmp_path: Path) -> None:
    """Sync a secret and a certificate in PEM. A PFX would exceed its CPU limit in the emulation."""
    for name in ("plane", "emulator"):
        (tmp_path / name).mkdir()
    with ControlPlane(tmp_path / "plane") as plane, Emulator(tmp_path / "emulator") as emulator:
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        installed = install_first_release(plane, emulator, tmp_path)
        workload = installed.workload()
        workload.python = str(python)
        with workload:
            workload.wait_ready(timeout=START_SECONDS)
            space = Namespace(installed)
            space.set_secret("a", "1")
            space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
            space.wait_secret("s", {"k": "1"}, PATIENCE)
            space.set_secret("a", "2")
            space.force_sync("s")
            space.wait_secret("s", {"k": "2"}, PATIENCE)
            leaf = issue_certificate("arm")
            emulator.import_certificate(space.vault, "web", encode_pem_bundle(leaf))
            given = "array:\n  - |\n    objectName: web\n    objectType: secret\n"
            pair = {"tls.crt": "web/tls.crt", "tls.key": "web/tls.key"}
            tls = {"type": "kubernetes.io/tls"}
            space.apply(
                space.provider_class(name="web", objects=given),
                space.sync("web", pair, secretProviderClassName="web", secretObject=tls),
            )
            eventually(lambda: space.secret_values("web"), lambda found: found.get("tls.crt") == leaf.pem, PATIENCE)
            assert workload.stop(60) == 0
