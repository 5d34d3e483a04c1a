"""Bills of materials of the image and of the chart, as CycloneDX 1.6.

The pinned requirements list the packages that the image installs, with their hashes. If the image is given, its
metadata lists all its packages, including those of the base. Both lists must agree.
"""

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tools.release import oci
from tools.release.image_contents import ImageInventory, InstalledPackage

Json = dict[str, Any]

_NAMES = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/akv-secret-store")


class DisagreeError(Exception):
    """The image does not have the packages of the requirements."""


@dataclass(frozen=True)
class PinnedRequirement:
    """A requirement of requirements/controller.txt. pip accepts only files with one of the hashes."""

    name: str
    version: str
    hashes: tuple[str, ...]


def parse_requirements(text: str) -> list[PinnedRequirement]:
    """Parse a file of pinned requirements with hashes."""
    found = []
    for block in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip()):
        name, _, version = block.split(maxsplit=1)[0].partition("==")
        found.append(
            PinnedRequirement(name.partition("[")[0], version, tuple(re.findall(r"--hash=sha256:(\w+)", block)))
        )
    return found


def image_bill(
    name: str,
    version: str,
    pinned: Iterable[PinnedRequirement],
    licenses: Mapping[str, str],
    found: ImageInventory | None,
) -> Json:
    """Return the bill of materials of an image.

    `licenses` has the license of each requirement by name. `found` is the inventory of the image, if it is given.
    """
    pinned = list(pinned)
    if found:
        _compare_contents(pinned, found)
        licenses = {**licenses, **{package.name: package.license for package in found.python}}
    components = [_application_component(name, version)]
    components += [_library_component(one, licenses.get(one.name, "")) for one in pinned]
    if found:
        components += [_system_component(one, found.distribution) for one in found.system]
    about: Json = {"type": "container", "bom-ref": f"image:{name}@{version}", "name": name, "version": version}
    if found:
        about["hashes"] = [_hash_entry(found.digest.removeprefix("sha256:"))]
        about["purl"] = f"pkg:oci/{name}@{quote(found.digest)}"
    return _build_bill(about, components)


def chart_bill(name: str, version: str, files: oci.Files, archive: bytes, image_reference: str) -> Json:
    """Return the bill of materials of the chart: its files, and the image that it uses."""
    about = {
        "type": "application",
        "bom-ref": f"chart:{name}@{version}",
        "name": name,
        "version": version,
        "hashes": [_hash_entry(oci.compute_digest(archive).removeprefix("sha256:"))],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    components: list[Json] = [{"type": "container", "bom-ref": f"image:{image_reference}", "name": image_reference}]
    components += [
        {
            "type": "file",
            "bom-ref": f"file:{path}",
            "name": path,
            "hashes": [_hash_entry(oci.compute_digest(content).removeprefix("sha256:"))],
        }
        for path, content in sorted(files.items())
    ]
    return _build_bill(about, components)


def _compare_contents(pinned: Iterable[PinnedRequirement], found: ImageInventory) -> None:
    wanted = {one.name: one.version for one in pinned}
    there = {one.name: one.version for one in found.python}
    differing = [
        f"{name} (pinned: {wanted.get(name, 'not at all')}; in the image: {there.get(name, 'not at all')})"
        for name in sorted(wanted.keys() | there.keys())
        if wanted.get(name) != there.get(name)
    ]
    if differing:
        raise DisagreeError(
            f"the image was not built from requirements/controller.txt: {', '.join(differing)}; build it again"
        )


def _application_component(name: str, version: str) -> Json:
    return {
        "type": "application",
        "bom-ref": f"application:{name}@{version}",
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }


def _library_component(one: PinnedRequirement, license_name: str) -> Json:
    purl = f"pkg:pypi/{one.name}@{one.version}"
    described: Json = {"type": "library", "bom-ref": purl, "name": one.name, "version": one.version, "purl": purl}
    if license_name:
        described["licenses"] = [{"license": {"name": license_name}}]
    described["externalReferences"] = [
        {
            "type": "distribution",
            "url": f"https://pypi.org/project/{one.name}/{one.version}/",
            "comment": "One of these files is installed, depending on the platform.",
            "hashes": [_hash_entry(value) for value in one.hashes],
        }
    ]
    return described


def _system_component(one: InstalledPackage, distribution: str) -> Json:
    kind = distribution.partition("-")[0] or "debian"
    purl = f"pkg:deb/{kind}/{quote(one.name)}@{quote(one.version)}?arch={one.architecture}&distro={distribution}"
    return {"type": "library", "bom-ref": purl, "name": one.name, "version": one.version, "purl": purl}


def _build_bill(about: Json, components: list[Json]) -> Json:
    content: Json = {
        "metadata": {"component": about},
        "components": components,
        "dependencies": [{"ref": about["bom-ref"], "dependsOn": [one["bom-ref"] for one in components]}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same content results in the same serial number.
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMES, oci.to_json(content).decode())}",
        "version": 1,
        **content,
    }


def _hash_entry(value: str) -> Json:
    return {"alg": "SHA-256", "content": value}
