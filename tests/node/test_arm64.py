"""The controller on the other processor that it is for: emulated, with that one's Debian packages and wheels."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

from tools import debian_base, system_packages

ROOT = Path(__file__).parents[2]
_IMPORT_ALL = """
import importlib, pkgutil, platform, controller
for found in pkgutil.walk_packages(controller.__path__, "controller."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        print(platform.machine(), found.name)
"""


def test_every_module_is_imported(tmp_path: Path) -> None:
    system_packages.require(system_packages.ARM64)
    root, wheels = tmp_path / "root", tmp_path / "wheels"
    wheels.mkdir()
    debian_base.unpacked(root, "arm64")
    pip = debian_base.wheels(wheels, "arm64")
    for wheel in set(wheels.glob("*.whl")) - {pip}:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / "app")
    shutil.copytree(ROOT / "controller", root / "app" / "controller")
    emulator = shutil.which("qemu-aarch64-static")
    assert emulator
    shutil.copy(emulator, root)
    argv = ["chroot", str(root), f"/{Path(emulator).name}", "/usr/bin/python3", "-P", "-c", _IMPORT_ALL]
    done = subprocess.run(argv, env=os.environ | {"PYTHONPATH": "/app"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sources = {path.relative_to(ROOT) for path in (ROOT / "controller").rglob("*.py")}
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in sources}
    expected = {f"aarch64 {name}" for name in modules - {"controller", "controller.__main__"}}
    assert set(done.stdout.splitlines()) == expected
