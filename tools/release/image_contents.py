"""Read the packages that are installed in an image from its OCI archive, without running a container."""

import email
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from tools.cli.common import command

_WANTED = re.compile(r"(.*\.dist-info/METADATA|var/lib/dpkg/status|etc/os-release)$")
_OPAQUE_WHITEOUT = ".wh..wh..opq"
_WHITEOUT = ".wh."


class InventoryError(Exception):
    """The file is not the archive of an image."""


@dataclass(frozen=True, order=True)
class InstalledPackage:
    """A package of Python or of the system that is installed."""

    name: str
    version: str
    license: str = ""
    architecture: str = ""
    source: str = ""
    """The source package of a system package, with its version in parentheses if it differs."""


@dataclass(frozen=True)
class ImageInventory:
    """An image with its digest and its packages."""

    name: str
    digest: str
    python: tuple[InstalledPackage, ...]
    system: tuple[InstalledPackage, ...]
    distribution: str
    """The distribution in the form of purls, such as `debian-12`."""
    architecture: str = ""
    """The architecture in the form of OCI, such as `amd64`."""


def read_inventory(archive: Path) -> ImageInventory:
    """Return the inventory of the image in an OCI archive."""
    try:
        with tarfile.open(archive) as tar:
            [described] = _read_json(tar, "index.json")["manifests"]
            manifest = _read_json(tar, _blob_path(described["digest"]))
            config = _read_json(tar, _blob_path(manifest["config"]["digest"]))
            files = _last_of_each(tar, [layer["digest"] for layer in manifest["layers"]])
    except (tarfile.TarError, KeyError, ValueError, OSError) as error:
        raise InventoryError(
            f"{archive} is not an OCI archive of one image ({_explain_error(error)}): create one with `make image`"
        ) from error
    return ImageInventory(
        described.get("annotations", {}).get("org.opencontainers.image.ref.name", ""),
        described["digest"],
        tuple(sorted(python_package(text) for path, text in files.items() if path.endswith("/METADATA"))),
        tuple(sorted(system_packages(files.get("var/lib/dpkg/status", "")))),
        _distribution_name(files.get("etc/os-release", "")),
        str(config["architecture"]),
    )


def _explain_error(error: Exception) -> str:
    # The message of tarfile has a line for each compression that it tried.
    return "it is not a tar file" if isinstance(error, tarfile.ReadError) else command.describe_error(error)


def python_package(metadata: str) -> InstalledPackage:
    """Return the package that a distribution's METADATA describes."""
    said = email.message_from_string(metadata)
    return InstalledPackage(_normalize_name(str(said["Name"])), str(said["Version"]), _license_of(said))


def _license_of(said: Message) -> str:
    """Return the license in a distribution's metadata: an SPDX expression, a name, or the classifiers."""
    if expression := said["License-Expression"]:
        return str(expression)
    classifiers = [
        text.rpartition(" :: ")[2] for text in said.get_all("Classifier", []) if text.startswith("License ::")
    ]
    # Some distributions have the complete text of the license in this field.
    name = str(said["License"] or "").strip()
    return name if name and "\n" not in name else " OR ".join(classifiers)


def system_packages(status: str) -> Iterator[InstalledPackage]:
    """Yield the installed packages of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        said = email.message_from_string(paragraph.strip())
        if said["Status"] == "install ok installed":
            yield InstalledPackage(
                said["Package"],
                said["Version"],
                architecture=said["Architecture"],
                source=said["Source"] or "",
            )


def _normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution_name(release: str) -> str:
    said = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    return "-".join(said[key].strip('"') for key in ("ID", "VERSION_ID") if key in said)


def _last_of_each(tar: tarfile.TarFile, layers: list[str]) -> dict[str, str]:
    """Return the relevant files after all layers were applied."""
    found: dict[str, str] = {}
    for layer in layers:
        with tarfile.open(fileobj=tar.extractfile(_blob_path(layer))) as files:
            for entry in files:
                path = entry.name.removeprefix("./").removeprefix("/")
                folder, _, name = path.rpartition("/")
                if name.startswith(_WHITEOUT):
                    hidden = (
                        folder if name == _OPAQUE_WHITEOUT else f"{folder}/{name.removeprefix(_WHITEOUT)}".lstrip("/")
                    )
                    found = {at: text for at, text in found.items() if at != hidden and not at.startswith(f"{hidden}/")}
                elif entry.isfile() and _WANTED.match(path) and (content := files.extractfile(entry)):
                    found[path] = content.read().decode(errors="replace")
    return found


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _read_json(tar: tarfile.TarFile, path: str) -> dict[str, Any]:
    content = tar.extractfile(path)
    if content is None:
        raise KeyError(path)
    found: dict[str, Any] = json.load(content)
    return found
