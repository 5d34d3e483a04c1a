"""Write OCI artifacts as files, in a layout that oras, skopeo, crane and helm read. The bytes are reproducible.

Sources: OCI image specification 1.1 (image-layout.md, manifest.md); the documentation of Helm and Flux for their media
types.
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
"""The contents of files by their paths in a folder."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
_REF_NAME = "org.opencontainers.image.ref.name"


class ArchiveError(Exception):
    """The archives cannot be combined. The message has the cause."""


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
    """An artifact that a registry stores under one tag: the manifest, its config and its only layer."""

    kind: ArtifactKind
    tag: str
    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        """Return the digest of the manifest, which identifies the artifact in a registry."""
        return compute_digest(self.manifest)

    def layout(self) -> Files:
        """Return the files of an OCI image layout."""
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [_blob_descriptor(MANIFEST, self.manifest) | {"annotations": {_REF_NAME: self.tag}}],
        }
        blobs = {_blob_place(compute_digest(blob)): blob for blob in (self.manifest, self.config, self.layer)}
        return {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"}), "index.json": to_json(index), **blobs}


def build_artifact(
    kind: ArtifactKind, tag: str, config: Any, layer: bytes, annotations: Mapping[str, str], *, title: str = ""
) -> OciArtifact:
    """Return an artifact with one layer. `title` is the file name that clients give to the layer."""
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
        _blob_place(compute_digest(index)): index,
        **blobs,
    }
    stream = io.BytesIO()
    _write_tar(stream, files_by_path)
    return stream.getvalue(), compute_digest(index)


def pack_tgz(files: Files, executable: Collection[str] = ()) -> bytes:
    """Return a gzipped tar of the files, sorted by path. It contains no time, owner or umask of this machine."""
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
    """Return the path of a blob in a layout."""
    return f"blobs/{blob_digest.replace(':', '/')}"


def compute_digest(content: bytes) -> str:
    """Return the digest of the content in the form `sha256:…`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def to_json(value: Any) -> bytes:
    """Return compact JSON. The same value results in the same bytes, and so in the same digest."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _blob_descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": compute_digest(content), "size": len(content)}
