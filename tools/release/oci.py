"""OCI artifacts as files: a layout on disk that oras, skopeo, crane and helm understand, the same bytes each time.

Sources: OCI image specification 1.1 (image-layout.md, manifest.md); Helm's and Flux's media types as their registries'
pages name them.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Files = Mapping[str, bytes]
"""Contents by path, as in a folder."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
_REF_NAME = "org.opencontainers.image.ref.name"


class ArchiveError(Exception):
    """Archives cannot be combined; the message says why."""


@dataclass(frozen=True)
class ArtifactKind:
    """The media types of one kind of artifact."""

    config: str
    layer: str


ARTIFACT_HUB = ArtifactKind(
    "application/vnd.cncf.artifacthub.config.v1+yaml",
    "application/vnd.cncf.artifacthub.repository-metadata.layer.v1.yaml",
)
CHART = ArtifactKind("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
FLUX = ArtifactKind("application/vnd.cncf.flux.config.v1+json", "application/vnd.cncf.flux.content.v1.tar+gzip")


@dataclass(frozen=True)
class OciArtifact:
    """What a registry holds under one tag: the manifest, its config and its one layer."""

    kind: ArtifactKind
    tag: str
    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        """The manifest's, by which a registry knows the artifact."""
        return digest(self.manifest)

    def layout(self) -> Files:
        """The files of an OCI image layout."""
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [_blob_descriptor(MANIFEST, self.manifest) | {"annotations": {_REF_NAME: self.tag}}],
        }
        blobs = {_blob_place(digest(blob)): blob for blob in (self.manifest, self.config, self.layer)}
        return {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"}), "index.json": to_json(index), **blobs}


def artifact(
    kind: ArtifactKind, tag: str, config: Any, layer: bytes, annotations: Mapping[str, str], *, title: str = ""
) -> OciArtifact:
    """The artifact of one layer, which is a file called `title` for those who unpack it."""
    packed = to_json(config)
    described = _blob_descriptor(kind.layer, layer)
    if title:
        described["annotations"] = {"org.opencontainers.image.title": title}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob_descriptor(kind.config, packed),
        "layers": [described],
        "annotations": dict(annotations),
    }
    return OciArtifact(kind, tag, to_json(manifest), packed, layer)


def combine(archives: Sequence[Path], name: str) -> tuple[bytes, str]:
    """Return an OCI archive of one image for several platforms, and its digest, from an archive for each platform."""
    blobs: dict[str, bytes] = {}
    described: dict[str, dict[str, Any]] = {}
    for path in archives:
        with tarfile.open(path) as archive:
            files = {member.name.removeprefix("./"): archive.extractfile(member) for member in archive}
            content = {name: file.read() for name, file in files.items() if file}
        [descriptor] = json.loads(content["index.json"])["manifests"]
        manifest = json.loads(content[_blob_place(descriptor["digest"])])
        config = json.loads(content[_blob_place(manifest["config"]["digest"])])
        platform = {"architecture": config["architecture"], "os": config["os"]}
        if platform["architecture"] in described:
            raise ArchiveError(f"{path}: there is already an image of {name} for {platform['architecture']}")
        described[platform["architecture"]] = {key: descriptor[key] for key in ("mediaType", "digest", "size")} | {
            "platform": platform
        }
        blobs |= {place: blob for place, blob in content.items() if place.startswith("blobs/")}
    index = to_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(described.values())})
    outer = {"schemaVersion": 2, "manifests": [_blob_descriptor(INDEX, index) | {"annotations": {_REF_NAME: name}}]}
    files_by_path = {
        "oci-layout": to_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": to_json(outer),
        _blob_place(digest(index)): index,
        **blobs,
    }
    stream = io.BytesIO()
    _write_tar(stream, files_by_path)
    return stream.getvalue(), digest(index)


def tgz(files: Files, executable: Collection[str] = ()) -> bytes:
    """A gzipped tar of the files in the order of their paths. No time, owner or umask of this machine is in it."""
    stream = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
        _write_tar(packed, files, executable)
    return stream.getvalue()


def _write_tar(stream: IO[bytes] | gzip.GzipFile, files: Files, executable: Collection[str] = ()) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o755 if path in executable else 0o644
            tar.addfile(entry, io.BytesIO(content))


def _blob_place(blob_digest: str) -> str:
    """Return where a layout has a blob."""
    return f"blobs/{blob_digest.replace(':', '/')}"


def digest(content: bytes) -> str:
    """`sha256:…`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def to_json(value: Any) -> bytes:
    """Compact, as the things are whose digest counts."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _blob_descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}
