"""Describe the artifacts of a release folder, for the programs that publish and verify it."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from tools.cli.common import command

FILE = "artifacts.json"
# Texts that become arguments of cosign and lines of a report: no option, no path to the parent, no control character.
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9\[][A-Za-z0-9._:/\[\]-]{0,254}\Z")]
_Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
_File = Annotated[str, Meta(pattern=r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,254}\Z")]


class ManifestError(Exception):
    """The folder is not a release. The message says why."""


class ReleasedArtifact(msgspec.Struct, frozen=True):
    """An artifact that goes to the registry. `bills` has the bills of materials by the digests that they describe."""

    name: str
    repository: _Name
    tag: str
    digest: _Digest
    source: str
    """Where skopeo finds it in the folder."""
    bills: dict[_Digest, _File] = {}


class ReleaseManifest(msgspec.Struct, frozen=True):
    """A release: its version, its commit, its registry and the artifacts in the registry."""

    version: str
    revision: str
    registry: _Name
    artifacts: Annotated[tuple[ReleasedArtifact, ...], Meta(min_length=1)]

    def reference(self, artifact: ReleasedArtifact) -> str:
        """Return the name by which a registry has exactly this artifact."""
        return f"{self.registry}/{artifact.repository}@{artifact.digest}"


def read(folder: Path) -> ReleaseManifest:
    """Read the manifest of a release folder. Raise `ManifestError`."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=ReleaseManifest)
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{folder} is not a folder of tools/package: {command.describe_error(error)}") from error
