"""Writes a release folder: chart, OCI artifacts, templates for Azure, bills of materials, checksums, notes. Offline."""

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tools import command, generate, helm, image, inventory, oci, release, sbom, signing
from tools.local_cluster import ClusterError

ROOT = Path(__file__).resolve().parent.parent
_REGISTRY = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")


class PackageError(Exception):
    """No release can be made; the message says why."""


def source(registry: str, archive: Path | None, *, changed: bool = False, signed: bool = False) -> release.Source:
    """Reads what a release is made from. `changed`: also from a checkout with changes that no commit has."""
    if registry and not _REGISTRY.fullmatch(registry):
        raise PackageError(f"--registry {registry}: a registry is HOST[:PORT][/PATH] in lower case, without https://")
    revision = image.revision()
    if not changed and (revision == "unknown" or revision.endswith("-dirty")):
        raise PackageError(
            f"this checkout is not one commit ({revision}), so that nobody could make the same release again:"
            " commit, or say --changed"
        )
    found = inventory.read(archive) if archive else None
    chart = release.chart_values(registry, found)
    pinned = tuple(sbom.requirements((ROOT / "requirements" / "controller.txt").read_text()))
    return release.Source(
        version=image.version(),
        revision=revision,
        chart=_chart(dict(generate.files(chart))),
        values=chart,
        pinned=pinned,
        licenses={one.name: _license(one.name) for one in pinned},
        changes=_changes(),
        image=found,
        archive=archive.read_bytes() if archive else b"",
        signed=signed,
    )


def write(files: oci.Files, folder: Path, key: Path | None) -> None:
    """The folder appears whole or not at all. A `key` signs its checksums."""
    if folder.exists():
        raise PackageError(f"--output {folder}: is there already; remove it, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".release-") as scratch:
        fresh = Path(scratch, folder.name)
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if name.endswith(".sh"):
                path.chmod(0o755)
        if key:
            signing.sign(fresh / "SHA256SUMS", key)
        shutil.move(fresh, folder)


def _chart(generated: dict[str, str]) -> oci.Files:
    """The chart's folder, and over it what is generated with the release's own values."""
    here = {name: (helm.CHART / name).read_bytes() for name in _git("-C", "chart", "ls-files").splitlines()}
    return here | {
        name.removeprefix("chart/"): content.encode()
        for name, content in generated.items()
        if name.startswith("chart/")
    }


def _license(name: str) -> str:
    """As this environment has it: its packages are those of the image."""
    return inventory.python_package(metadata.distribution(name).read_text("METADATA") or "").license


def _changes() -> tuple[str, ...]:
    last = _git("describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^")
    return tuple(_git("log", "--no-merges", "--format=%s", f"{last}..HEAD").splitlines()) if last else ()


def _git(*args: str) -> str:
    """What git says; empty where it has nothing to say, such as no tag."""
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False).stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="tools/package",
        description="Write a release folder, offline: the chart as archive and as OCI artifact, ARM templates and"
        " command lines for Azure, bills of materials, checksums and notes. The same commit makes the same bytes.",
        epilog="Exit codes: 0 written; 1 it cannot be made, and nothing was written; 2 wrong usage.",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the folder; must not be there yet (default: build/release-VERSION)"
    )
    parser.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="the image's OCI archive (`make image`): the chart then names its digest",
    )
    parser.add_argument(
        "--registry",
        default="",
        metavar="HOST[/PATH]",
        help="where image, chart and manifests will lie, such as an air-gapped site's registry; adds relocate.sh and"
        " what Flux needs",
    )
    parser.add_argument("--changed", action="store_true", help="also from a checkout with changes that no commit has")
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="sign SHA256SUMS with this key of cosign's (`cosign generate-key-pair`), whose password is in"
        " COSIGN_PASSWORD; cosign is built on first use, which takes minutes",
    )
    options = parser.parse_args(argv)
    folder = (options.output or ROOT / "build" / f"release-{image.version()}").absolute()
    try:
        made = source(options.registry, options.image, changed=options.changed, signed=options.sign is not None)
        write(release.files(made), folder, options.sign)
    except (
        PackageError,
        inventory.InventoryError,
        sbom.DisagreeError,
        signing.SigningError,
        ClusterError,
    ) as error:
        command.complain("tools/package", error)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    command.end("tools/package", main)
