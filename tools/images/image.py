"""The images, built by buildah from the Containerfile into OCI archives: `make image`."""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.cli.common import command, printable, project
from tools.images import debian_base
from tools.images.debian_base import DebianBaseError
from tools.local_cluster import ClusterError
from tools.local_cluster.nodes import system_packages
from tools.local_cluster.nodes.system_packages import MissingPackagesError

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = "debian"
"""The base that is made here; any other is an image's name."""

_DEBIAN_NAME = "localhost/debian-python"
REPOSITORIES = {
    "controller": f"{project.read().registry}/akv-secret-store",
    "test": f"{project.read().registry}/akv-secret-store-test",
}
"""What the chart's default images are called, in full, by the Containerfile's targets."""


class ImageError(Exception):
    """It cannot be built; the message says why."""


@dataclass(frozen=True)
class BuiltImage:
    """An image in an OCI archive. Sizes are bytes: packed as a registry has them, unpacked as a node does."""

    archive: Path
    name: str
    digest: str
    packed: int
    unpacked: int
    own_packed: int
    own_unpacked: int

    def __str__(self) -> str:
        return (
            f"{self.archive}\n  {self.name}\n  {self.digest}\n"
            f"  on top of the base: {_to_megabytes(self.own_packed)} packed,"
            f" {_to_megabytes(self.own_unpacked)} unpacked\n"
            f"  with the base: {_to_megabytes(self.packed)} packed, {_to_megabytes(self.unpacked)} unpacked"
        )


def version() -> str:
    """The chart's appVersion, which is the tag that it asks for."""
    return str(yaml.safe_load((ROOT / "chart" / "Chart.yaml").read_text())["appVersion"])


def build(archive: Path, *, base: str = "", target: str = "controller") -> BuiltImage:
    """Build an image into `archive`. `base`: DEBIAN, or an image's name; empty: the Containerfile's own."""
    if os.geteuid() != 0:
        raise ImageError("building an image here needs root: run the same command with sudo")
    system_packages.require(system_packages.BUILDER)
    name = f"{REPOSITORIES[target]}:{version()}"
    with tempfile.TemporaryDirectory(prefix="akv-image-", ignore_cleanup_errors=True) as scratch:
        buildah = _BuildahStorage(Path(scratch))
        arguments = {"VERSION": version(), "REVISION": revision()}
        options = [f"--target={target}"]
        if base == DEBIAN:
            container = buildah.run("from", "scratch")
            buildah.run("add", "--quiet", container, str(debian_base.rootfs()), "/")
            buildah.run("commit", "--quiet", "--timestamp=0", "--rm", container, _DEBIAN_NAME)
            wheels = Path(scratch, "wheels")
            wheels.mkdir()
            pip = debian_base.wheels(wheels)
            options += ["--pull-never", f"--volume={wheels}:/mnt:ro"]
            arguments |= {"BASE": _DEBIAN_NAME, "PYTHONPATH": f"/mnt/{pip.name}"}
            arguments |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt"}
        elif base:
            arguments["BASE"] = base
        options += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        # The time of every file and of the image is 0, so that the same input makes the same digest.
        try:
            buildah.run("build", "--quiet", "--timestamp=0", *options, f"--tag={name}", str(ROOT))
        except ImageError as error:
            if base == DEBIAN:
                raise
            raise ImageError(f"{error}\nwhere no registry is reachable: make image BASE={DEBIAN}") from error
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.unlink(missing_ok=True)  # buildah would add to it
        buildah.run("push", "--quiet", name, f"oci-archive:{archive}:{name}")
    return _read_image(archive, name)


class _BuildahStorage:
    """buildah with a storage of its own, without a daemon.

    It takes overlay mounts where the kernel and the disk allow it, else plain copies. What it mounts is seen in its own
    mount namespace alone, so that the folder can be removed whatever happens.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, *args: str) -> str:
        """What it prints."""
        storage = [f"--root={self._folder}/storage", f"--runroot={self._folder}/run"]
        done = subprocess.run(
            ["unshare", "--mount", "buildah", *storage, *args],
            env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if "level=warning" not in line]
            last = "\n".join(lines[-12:])
            raise ImageError(f"buildah {args[0]} failed:\n{last}")
        return done.stdout.strip()


def revision() -> str:
    """The commit, and whether something was changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _to_megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _read_image(path: Path, name: str) -> BuiltImage:
    with tarfile.open(path) as tar:

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file is not None  # noqa: S101 - the archive is buildah's
            return file.read()

        index = tar.extractfile("index.json")
        assert index is not None  # noqa: S101
        digest = json.load(index)["manifests"][0]["digest"]
        manifest: dict[str, Any] = json.loads(blob(digest))
        packed = [int(layer["size"]) for layer in manifest["layers"]]
        unpacked = [len(gzip.decompress(blob(layer["digest"]))) for layer in manifest["layers"]]
    # buildah makes one layer of a stage's steps.
    return BuiltImage(path, name, digest, sum(packed), sum(unpacked), packed[-1], unpacked[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="tools/image",
        description="Builds the controller's image and that of `helm test` with buildah, without a daemon, into OCI"
        " archives, which `skopeo copy`, `docker load` and `ctr images import` take. Needs root.",
        epilog="Exit codes: 0 built; 1 it failed; 2 wrong usage.",
    )
    parser.add_argument(
        "--base",
        default="",
        metavar="IMAGE",
        help=f"an image with Python 3.11 or newer; `{DEBIAN}`: one made here from Debian's packages, where no registry"
        " is reachable (default: the Containerfile's)",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build", metavar="DIR", help="the archives' folder (default: build/)"
    )
    parser.add_argument("--target", choices=REPOSITORIES, help="only this one (default: both)")
    options = parser.parse_args(argv)
    try:
        for target in [options.target] if options.target else REPOSITORIES:
            archive = options.output.absolute() / f"{REPOSITORIES[target].rpartition('/')[2]}-{version()}.tar"
            print(build(archive, base=options.base, target=target), flush=True)
    except (ImageError, DebianBaseError, MissingPackagesError, ClusterError) as error:
        print(printable.block(f"tools/image: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    command.run_and_exit("tools/image", main)
