"""The official releases of Kubernetes and etcd: the addresses of their files, and the checksums of these.

SHA256SUMS, beside this module, pins checksums: lines of `sha256sum`, whose names are paths of artifacts. A file that
is not pinned must have the checksum that its own source publishes beside it.
"""

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from tools.local_cluster.errors import BadInput, ClusterError

PINS = Path(__file__).with_name("SHA256SUMS")


@dataclass(frozen=True)
class ReleaseServer:
    """A server with releases. A mirror has the same paths below its own address."""

    official: str
    variable: str
    """The environment variable that holds the address of a mirror."""

    def address(self) -> str:
        """Return the address to use, without a slash at its end. Raise BadInput for one that must not be used."""
        configured = os.environ.get(self.variable, "").strip()
        if not configured:
            return self.official
        try:
            parts = urlsplit(configured)
            valid = bool(parts.hostname) and (parts.port or 0) >= 0 and configured.isprintable()
        except ValueError:
            valid = False
        if not valid or not is_safe(configured):
            raise BadInput(
                f"{self.variable} is not the address of a mirror: give https://HOST/PATH, or http:// with a loopback"
                " address"
            )
        if parts.username is not None or parts.query or parts.fragment:
            # Messages name addresses, so these must hold no password and no signature.
            raise BadInput(
                f"{self.variable} must hold no user name, password, query or fragment: put a password into ~/.netrc"
            )
        return configured.rstrip("/")


KUBERNETES = ReleaseServer("https://dl.k8s.io", "AKV_ASSETS_KUBERNETES_MIRROR")
ETCD = ReleaseServer("https://github.com/etcd-io/etcd/releases/download", "AKV_ASSETS_ETCD_MIRROR")


def is_safe(url: str) -> bool:
    """Return whether a download may use `url`: https, or http within this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release. Its `path` and that of its published `checksums` are below the source's address."""

    program: str
    source: ReleaseServer
    path: str
    checksums: str
    member: str | None = None
    """The program's name inside the file, which is a tar archive then; None if the file is the program."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name


def artifacts(programs: Iterable[str], version: str, etcd: str, architecture: str) -> list[ReleaseFile]:
    """Return the files that hold `programs` of Kubernetes `version`, and of `etcd`, its version of etcd."""
    found = []
    for program in programs:
        if program == "etcd":
            folder = f"etcd-v{etcd}-linux-{architecture}"
            found.append(
                ReleaseFile(program, ETCD, f"v{etcd}/{folder}.tar.gz", f"v{etcd}/SHA256SUMS", f"{folder}/etcd")
            )
        else:
            path = f"v{version}/bin/linux/{architecture}/{program}"
            found.append(ReleaseFile(program, KUBERNETES, path, f"{path}.sha256"))
    return found


def pinned_checksums(pins: Path | None = None) -> dict[str, str]:
    """Return the pinned checksums by the paths of artifacts. Raise ClusterError for a line that cannot be read."""
    pins = pins or PINS
    found = {}
    for number, line in enumerate(pins.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line.rstrip())
        if not match or match[2] in found:
            raise ClusterError(
                f"{pins}, line {number}: not a checksum of one more file: 64 lower-case hexadecimal digits, two spaces,"
                " the path, as in the SHA256SUMS beside downloaded programs"
            )
        found[match[2]] = match[1]
    return found


def published_checksum(text: str, name: str) -> str | None:
    """Return the checksum of the file `name`, or None if the text has none or several.

    The text is only a checksum, or the output of `sha256sum`.
    """
    if re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        return text.strip().lower()
    lines = (re.fullmatch(r"([0-9a-fA-F]{64})\s+\*?(\S+)", line.strip()) for line in text.splitlines())
    sums = {line[1].lower() for line in lines if line and PurePosixPath(line[2]).name == name}
    return sums.pop() if len(sums) == 1 else None
