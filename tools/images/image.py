"""Build the images with buildah from the Containerfile into OCI archives: `make image`."""

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
"""The value of --base for the base of Debian's packages. Any other value is the name of an image."""

_DEBIAN_NAME = "localhost/debian-python"
REPOSITORIES = {
    "controller": f"{project.read().registry}/akv-secret-store",
    "test": f"{project.read().registry}/akv-secret-store-test",
}
"""The full names of the chart's default images, by the targets of the Containerfile."""


class ImageError(Exception):
    """The image cannot be built. The message has the cause."""


@dataclass(frozen=True)
class BuiltImage:
    """An image in an OCI archive. Sizes are in bytes: packed in a registry, and unpacked on a node."""

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


def chart_version() -> str:
    """Return the chart's appVersion, which is the tag of its images."""
    return str(yaml.safe_load((ROOT / "chart" / "Chart.yaml").read_text())["appVersion"])


def build_image(archive: Path, *, base: str = "", target: str = "controller") -> BuiltImage:
    """Build an image into `archive`. `base` is DEBIAN, the name of an image, or empty for the Containerfile's base."""
    if os.geteuid() != 0:
        raise ImageError("the build of an image needs root: run the same command with sudo")
    system_packages.require(system_packages.BUILDER)
    name = f"{REPOSITORIES[target]}:{chart_version()}"
    with tempfile.TemporaryDirectory(prefix="akv-image-", ignore_cleanup_errors=True) as scratch:
        buildah = _BuildahStorage(Path(scratch))
        arguments = {"VERSION": chart_version(), "REVISION": git_revision()}
        options = [f"--target={target}"]
        if base == DEBIAN:
            container = buildah.run("from", "scratch")
            buildah.run("add", "--quiet", container, str(debian_base.build_rootfs()), "/")
            buildah.run("commit", "--quiet", "--timestamp=0", "--rm", container, _DEBIAN_NAME)
            wheels = Path(scratch, "wheels")
            wheels.mkdir()
            pip = debian_base.download_wheels(wheels)
            options += ["--pull-never", f"--volume={wheels}:/mnt:ro"]
            arguments |= {"BASE": _DEBIAN_NAME, "PYTHONPATH": f"/mnt/{pip.name}"}
            arguments |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt"}
        elif base:
            arguments["BASE"] = base
        options += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        # The time of every file and of the image is 0, so that the same input results in the same digest.
        try:
            buildah.run("build", "--quiet", "--timestamp=0", *options, f"--tag={name}", str(ROOT))
        except ImageError as error:
            if base == DEBIAN:
                raise
            raise ImageError(f"{error}\nif no registry is reachable, run: make image BASE={DEBIAN}") from error
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.unlink(missing_ok=True)  # buildah would add the image to an existing archive
        buildah.run("push", "--quiet", name, f"oci-archive:{archive}:{name}")
    return _read_image(archive, name)


class _BuildahStorage:
    """buildah with its own storage and without a daemon.

    It uses overlay mounts if the kernel and the disk allow it, and copies otherwise. Its mounts are only in its own
    mount namespace, so that the folder can always be removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, *args: str) -> str:
        """Run buildah and return its output."""
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


def git_revision() -> str:
    """Return the commit, with the suffix -dirty if the checkout has changes."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _to_megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _read_image(path: Path, name: str) -> BuiltImage:
    with tarfile.open(path) as tar:

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file is not None  # noqa: S101 - buildah wrote the archive
            return file.read()

        index = tar.extractfile("index.json")
        assert index is not None  # noqa: S101
        digest = json.load(index)["manifests"][0]["digest"]
        manifest: dict[str, Any] = json.loads(blob(digest))
        packed = [int(layer["size"]) for layer in manifest["layers"]]
        unpacked = [len(gzip.decompress(blob(layer["digest"]))) for layer in manifest["layers"]]
    # buildah combines the steps of a stage into one layer.
    return BuiltImage(path, name, digest, sum(packed), sum(unpacked), packed[-1], unpacked[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. `--help` describes it."""
    parser = command.ToolParser(
        prog="tools/image",
        description="Build the images of the controller and of `helm test` with buildah, without a daemon, into OCI"
        " archives. `skopeo copy`, `docker load` and `ctr images import` can read them. This needs root.",
        epilog="Exit codes: 0 built, 1 failed, 2 wrong usage.",
    )
    parser.add_argument(
        "--base",
        default="",
        metavar="IMAGE",
        help=f"an image with Python 3.11 or newer, or `{DEBIAN}` to build one from Debian's packages if no registry is"
        " reachable (default: the Containerfile's)",
    )
    parser.add_argument(
        "--output",
        type=command.parse_path,
        default=ROOT / "build",
        metavar="DIR",
        help="the folder of the archives (default: build/)",
    )
    parser.add_argument("--target", choices=REPOSITORIES, help="the only image to build (default: both)")
    options = parser.parse_args(argv)
    try:
        for target in [options.target] if options.target else REPOSITORIES:
            archive = options.output.absolute() / f"{REPOSITORIES[target].rpartition('/')[2]}-{chart_version()}.tar"
            print(build_image(archive, base=options.base, target=target), flush=True)
    except (ImageError, DebianBaseError, MissingPackagesError, ClusterError) as error:
        print(printable.block(f"tools/image: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    command.run_and_exit("tools/image", main)
