"""OCI artifacts as files: a layout on disk that oras, skopeo, crane and helm understand, the same bytes each time.

Sources: OCI image specification 1.1 (image-layout.md, manifest.md); Helm's and Flux's media types as their registries'
pages name them.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Files = Mapping[str, bytes]
"""Contents by path, as in a folder."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Kind:
    """The media types of one kind of artifact."""

    config: str
    layer: str


CHART = Kind("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
FLUX = Kind("application/vnd.cncf.flux.config.v1+json", "application/vnd.cncf.flux.content.v1.tar+gzip")


@dataclass(frozen=True)
class Artifact:
    """What a registry holds under one tag: the manifest, its config and its one layer."""

    kind: Kind
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
            "manifests": [
                _descriptor(MANIFEST, self.manifest) | {"annotations": {"org.opencontainers.image.ref.name": self.tag}}
            ],
        }
        blobs = {f"blobs/{digest(blob).replace(':', '/')}": blob for blob in (self.manifest, self.config, self.layer)}
        return {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"}), "index.json": to_json(index), **blobs}


def artifact(kind: Kind, tag: str, config: Any, layer: bytes, annotations: Mapping[str, str]) -> Artifact:
    """The artifact of one layer."""
    packed = to_json(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(kind.config, packed),
        "layers": [_descriptor(kind.layer, layer)],
        "annotations": dict(annotations),
    }
    return Artifact(kind, tag, to_json(manifest), packed, layer)


def tgz(files: Files) -> bytes:
    """A gzipped tar of the files in the order of their paths. No time, owner or umask of this machine is in it."""
    stream = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def digest(content: bytes) -> str:
    """`sha256:…`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def to_json(value: Any) -> bytes:
    """Compact, as the things are whose digest counts."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}
