"""Write the OCI archive of a small image, as buildah does: two layers with the files that an SBOM needs."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.release import oci, sbom

ROOT = Path(__file__).parents[2]
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
BASE = {
    "etc/os-release": b'ID=debian\nVERSION_ID="12"\n',
    "var/lib/dpkg/status": b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n"
    b"Source: glibc\n\n"
    b"Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n",
    "usr/lib/python3/site-packages/pip-24.0.dist-info/METADATA": b"Name: pip\nVersion: 24.0\n",
}


def list_installed_files() -> dict[str, bytes]:
    """Return the files that the Containerfile's second stage adds: the requirements, and the removal of pip."""
    pinned = sbom.parse_requirements((ROOT / "requirements" / "controller.txt").read_text())
    files = {
        f"app/{one.name}-{one.version}.dist-info/METADATA": (
            f"Name: {one.name}\nVersion: {one.version}\nLicense-Expression: MIT\n\nIts description.\n".encode()
        )
        for one in pinned
    }
    return {"usr/lib/python3/site-packages/.wh.pip-24.0.dist-info": b"", **files}


def write_archive(path: Path, *layers: Mapping[str, bytes], architecture: str = "amd64", name: str = "") -> Path:
    """Write the archive to `path`. `name` is the image's name with its tag."""
    packed = [oci.pack_tgz(files) for files in layers or (BASE, list_installed_files())]
    unpacked = [oci.compute_digest(gzip.decompress(layer)) for layer in packed]
    config = oci.to_json(
        {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": unpacked}, "config": {}}
    )
    described = [
        {"mediaType": kind, "digest": oci.compute_digest(content), "size": len(content)}
        for kind, content in ((CONFIG, config), *((LAYER, layer) for layer in packed))
    ]
    manifest = oci.to_json(
        {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": described[0], "layers": described[1:]}
    )
    descriptor: dict[str, Any] = {
        "mediaType": oci.MANIFEST,
        "digest": oci.compute_digest(manifest),
        "size": len(manifest),
    }
    if name:
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "manifests": [descriptor]}
    blobs = {f"blobs/{oci.compute_digest(blob).replace(':', '/')}": blob for blob in (manifest, config, *packed)}
    version = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    path.write_bytes(oci.pack_tgz({"index.json": json.dumps(index).encode(), **version, **blobs}))
    return path
