"""Download the programs of a suite from the official releases into the cache, check them, and run each once."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.local_cluster.errors import DownloadError
from tools.local_cluster.programs import cache, probe, releases, unpack
from tools.local_cluster.programs.releases import ReleaseFile

silent: set[str] = set()
"""Addresses of sources that timed out in this process. The next suite does not wait for them again."""


@dataclass(frozen=True)
class OfficialRelease:
    """The `programs` of Kubernetes `version`. If one is etcd, it has the version `etcd`. `about` names the programs."""

    about: str
    programs: Sequence[str]
    version: str
    etcd: str

    def populate(self, name: str) -> Path:
        """Return the folder `name` of the cache. Download it if it is missing. Raise DownloadError."""
        artifacts = releases.artifacts(self.programs, self.version, self.etcd, cache.machine_architecture())
        pins = releases.pinned_checksums()
        # The source is not part of the recipe, because a mirror has the same files.
        recipe = "".join(f"{artifact.path} {pins.get(artifact.path, '')}\n" for artifact in artifacts)
        stamp = hashlib.sha256(recipe.encode()).hexdigest()
        return cache.populate(name, stamp, lambda folder: self._download_artifacts(artifacts, pins, folder))

    def _download_artifacts(self, artifacts: Sequence[ReleaseFile], pins: Mapping[str, str], folder: Path) -> None:
        # aiohttp takes 0.3 s to import, and nearly every caller finds its programs in the cache.
        from tools.local_cluster.programs import download

        addresses = {artifact: artifact.source.address() for artifact in artifacts}
        sources = list(dict.fromkeys(addresses.values()))
        for source in sources:
            if source in silent:
                raise DownloadError(f"{source}: it timed out before")
        try:
            checksums = download.fetch(
                addresses, pins, folder, f"downloading {self.about} of Kubernetes {self.version}"
            )
        except DownloadError as error:
            silent.update(error.timed_out)
            raise
        for artifact, source in addresses.items():
            try:
                self._install_artifact(artifact, folder)
            except DownloadError as error:
                raise DownloadError(f"{source}/{artifact.path}: {error}") from error
        (folder / releases.PINS.name).write_text("".join(f"{checksums[path]}  {path}\n" for path in checksums))
        count = sum(artifact.path in pins for artifact in artifacts)
        print(
            f"{self.about} of Kubernetes {self.version}: downloaded from {' and '.join(sources)}; SHA-256 checksums are"
            f" right ({count} pinned in this repository, {len(artifacts) - count} published by the server)",
            file=sys.stderr,
        )

    def _install_artifact(self, artifact: ReleaseFile, folder: Path) -> None:
        program = folder / artifact.program
        if artifact.member:
            unpack.extract(folder / artifact.name, artifact.member, program)
            (folder / artifact.name).unlink()
        program.chmod(0o755)
        probe.require_version(program, self.etcd if artifact.program == "etcd" else self.version)
