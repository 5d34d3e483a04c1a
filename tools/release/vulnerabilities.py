"""Search the database of osv.dev for known vulnerabilities of the packages in the image and the lock files.

A vulnerability counts if a fixed version exists: an update then removes it. The others are listed.
"""

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cli.common import command, project
from tools.release import image_contents, sbom

SERVICE = "https://api.osv.dev"
_BATCH = 500
_MAX_ANSWER = 64 * 2**20
_TIMEOUT = 60.0
_MODULE = re.compile(r"^\s*(?:require\s+)?(\S+\.\S+/\S+|\S+\.\S+) v(\S+)", re.MULTILINE)


class ScanError(Exception):
    """The scan is not possible. The message says why."""


@dataclass(frozen=True, order=True)
class PackageVersion:
    """A package at one version, as osv.dev names it."""

    ecosystem: str
    name: str
    version: str


@dataclass(frozen=True, order=True)
class KnownVulnerability:
    """A known vulnerability of a package. `fixed` are the versions without it."""

    pin: PackageVersion
    identifier: str
    summary: str
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        fix = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no fixed version"
        return f"{self.pin.name} {self.pin.version}: {self.identifier}, {fix}: {self.summary}"


def locked(root: Path) -> Iterator[PackageVersion]:
    """Yield the packages of the lock files: Python requirements, and the Go modules of the test programs."""
    for path in sorted((root / "requirements").glob("*.txt")):
        yield from (PackageVersion("PyPI", one.name, one.version) for one in sbom.parse_requirements(path.read_text()))
    for path in sorted((root / "tools" / "local_cluster" / "programs" / "go").glob("*/go.mod")):
        yield from (PackageVersion("Go", name, version) for name, version in _MODULE.findall(path.read_text()))


def in_image(found: image_contents.ImageInventory) -> Iterator[PackageVersion]:
    """Yield the packages of an image: Python distributions, and system packages by their source."""
    yield from (PackageVersion("PyPI", one.name, one.version) for one in found.python)
    kind, _, version = found.distribution.partition("-")
    ecosystem = f"{kind.capitalize()}:{version}"
    for one in found.system:
        name, _, source_version = (one.source or one.name).partition(" (")
        yield PackageVersion(ecosystem, name, source_version.removesuffix(")") or one.version)


def scan(pins: Iterable[PackageVersion], service: str) -> list[KnownVulnerability]:
    """Ask the database about each pin."""
    wanted = sorted(set(pins))
    known: dict[str, Mapping[str, Any]] = {}
    found = []
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        queries = [{"package": {"name": pin.name, "ecosystem": pin.ecosystem}, "version": pin.version} for pin in batch]
        results = _send_request(f"{service}/v1/querybatch", {"queries": queries})["results"]
        if len(results) != len(batch):
            raise ScanError(f"{service} answered {len(results)} of {len(batch)} queries")
        for pin, result in zip(batch, results, strict=True):
            for one in result.get("vulns", []):
                if one["id"] not in known:
                    known[one["id"]] = _send_request(f"{service}/v1/vulns/{one['id']}")
                found.append(_build_finding(pin, known[one["id"]]))
    return sorted(found)


def _build_finding(pin: PackageVersion, said: Mapping[str, Any]) -> KnownVulnerability:
    fixed = {
        event["fixed"]
        for affected in said.get("affected", [])
        if affected.get("package", {}).get("name") == pin.name
        and affected.get("package", {}).get("ecosystem") == pin.ecosystem
        for versions in affected.get("ranges", [])
        if versions.get("type") != "GIT"
        for event in versions.get("events", [])
        if "fixed" in event
    }
    return KnownVulnerability(pin, said["id"], said.get("summary") or "", tuple(sorted(fixed)))


def _send_request(url: str, body: Mapping[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 -- the caller's URL
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            return json.loads(answer.read(_MAX_ANSWER))
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        raise ScanError(f"{url}: {command.describe_error(error)}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    parser = command.ToolParser(
        prog="make scan",
        description="Look for known vulnerabilities of what the lock files pin and of what is in an image, in the"
        " database of osv.dev.",
        epilog="Exit codes: 0 no vulnerability has a fixed version; 1 one has, or the database does not answer; 2 wrong"
        " usage.",
    )
    parser.add_argument(
        "--image", type=command.parse_path, metavar="FILE", action="append", default=[], help="an OCI archive"
    )
    parser.add_argument("--service", default=SERVICE, metavar="URL", help="the database (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        pins = set(locked(project.ROOT))
        for archive in options.image:
            pins.update(in_image(image_contents.read_inventory(archive)))
        found = scan(pins, options.service.rstrip("/"))
    except (ScanError, image_contents.InventoryError) as error:
        command.print_problem("make scan", error)
        return 1
    for finding in found:
        print(finding)
    fixable = [finding for finding in found if finding.fixed]
    print(f"{len(pins)} packages: {len(found)} known vulnerabilities, {len(fixable)} of them fixed in a newer version")
    return 1 if fixable else 0


if __name__ == "__main__":
    command.run_and_exit("make scan", main)
