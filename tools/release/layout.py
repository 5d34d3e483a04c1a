"""Build the files of a release. Pure: it reads no clock, no disk and no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import yaml

from tools.cli.common import helm
from tools.codegen import values
from tools.release import manifest as release_manifest
from tools.release import oci, sbom, signing
from tools.release.azure import extension, flux, identities
from tools.release.image_contents import ImageInventory
from tools.release.manifest import ReleasedArtifact, ReleaseManifest

NAME = "akv-secret-store"
TEST_NAME = f"{NAME}-test"
CHART = f"charts/{NAME}"
"""The chart's repository in a registry. `helm push` appends the chart's name to the given path."""
MANIFESTS = f"flux/{NAME}"
ARTIFACT_HUB_TAG = "artifacthub.io"
"""The tag in the chart's repository under which Artifact Hub expects artifacthub-repo.yml."""
_TITLES = {"chart": "chart", "flux": "manifests for Flux", "artifacthub": "metadata for Artifact Hub"}


@dataclass(frozen=True)
class ReleasedImage:
    """An image of a release: one archive for all its architectures, and an inventory for each of them."""

    name: str
    digest: str
    archive: bytes
    inventories: tuple[ImageInventory, ...]

    def bills(self) -> dict[str, str]:
        """Return the paths of the image's bills of materials in the release folder, by the digests of the images."""
        stem = "image" if self.name == NAME else "test-image"
        several = len(self.inventories) > 1
        return {
            one.digest: f"sbom/{stem}-{one.architecture}.cdx.json" if several else f"sbom/{stem}.cdx.json"
            for one in self.inventories
        }


@dataclass(frozen=True)
class ReleaseSource:
    """The input of a release."""

    version: str
    revision: str
    chart: oci.Files
    """The files of the chart, generated with `values`."""
    values: values.ChartValues
    pinned: tuple[sbom.PinnedRequirement, ...]
    licenses: Mapping[str, str]
    changes: str = ""
    """The version's entries in CHANGELOG.md, as Markdown."""
    images: tuple[ReleasedImage, ...] = ()
    artifact_hub: bytes = b""
    """artifacthub-repo.yml."""
    tools: oci.Files = field(default_factory=dict)
    """The tools as one file each, and the files that they created."""
    signed: bool = False
    """Whether SHA256SUMS gets a signature, which covers all files that it lists."""

    @property
    def registry(self) -> str:
        """Return the registry, with a path, to which the release publishes."""
        return self.values.image.registry

    @property
    def references(self) -> list[str]:
        """Return the images that the chart uses. The controller's image is the first one."""
        images = [self.values.image]
        if self.values.test.enabled:
            images.append(self.values.test.image)
        return [msgspec.structs.replace(image, registry=self.registry).reference(self.version) for image in images]


def chart_values(registry: str, images: Sequence[ReleasedImage]) -> values.ChartValues:
    """Return the chart's values in a release: its images from that registry, by their digests."""
    digests = {image.name: image.digest for image in images}
    # `helm test` has its own image: a release that carries only the controller's cannot run it.
    test = values.HelmTest(
        enabled=not images or TEST_NAME in digests,
        image=values.TestImage(digest=digests.get(TEST_NAME, "")),
    )
    return values.ChartValues(image=values.ImageReference(registry=registry, digest=digests.get(NAME, "")), test=test)


def build_files(source: ReleaseSource) -> oci.Files:
    """Return the files of the release folder."""
    archive = oci.pack_tgz({f"{NAME}/{path}": content for path, content in source.chart.items()})
    about = yaml.safe_load(source.chart["Chart.yaml"])
    notes = {
        "org.opencontainers.image.title": NAME,
        "org.opencontainers.image.version": source.version,
        "org.opencontainers.image.revision": source.revision,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    chart = oci.build_artifact(
        oci.CHART,
        source.version,
        about,
        archive,
        {**notes, "org.opencontainers.image.description": about["description"]},
    )
    made: dict[str, bytes] = {
        _chart_archive(source): archive,
        **_put_below("oci/chart", chart.layout()),
        "images.txt": "".join(f"{reference}\n" for reference in source.references).encode(),
        "sbom/chart.cdx.json": _pretty_json(
            sbom.chart_bill(NAME, source.version, source.chart, archive, source.references[0])
        ),
        "azure/extension.json": extension.extension_template(source.values).encode(),
        "azure/identity.json": identities.identity_template().encode(),
        **_image_files(source),
        **source.tools,
    }
    artifacts = [
        ReleasedArtifact(
            "image" if image.name == NAME else "image of helm test",
            image.name,
            source.version,
            image.digest,
            f"oci-archive:{_archive_name(image.name, source.version)}",
            image.bills(),
        )
        for image in source.images
    ]
    layouts = {"chart": (chart, CHART, {chart.digest: "sbom/chart.cdx.json"})}
    manifests = flux.flux_manifests(source.registry, CHART, source.version)
    layouts["flux"] = oci.build_artifact(oci.FLUX, source.version, {}, oci.pack_tgz(manifests), notes), MANIFESTS, {}
    hub = oci.build_artifact(
        oci.ARTIFACT_HUB, ARTIFACT_HUB_TAG, {}, source.artifact_hub, notes, title="artifacthub-repo.yml"
    )
    layouts["artifacthub"] = hub, CHART, {}
    for folder, (artifact, repository, bills) in layouts.items():
        made |= _put_below(f"oci/{folder}", artifact.layout())
        at = f"oci:oci/{folder}:{artifact.tag}"
        artifacts.append(ReleasedArtifact(_TITLES[folder], repository, artifact.tag, artifact.digest, at, bills))
    made |= _put_below("flux", manifests)
    made["azure/flux.json"] = flux.flux_template(source.values, source.registry, MANIFESTS, source.version).encode()
    manifest = ReleaseManifest(source.version, source.revision, source.registry, tuple(artifacts))
    made[release_manifest.FILE] = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    made["relocate.sh"] = _relocation_script(source, manifest).encode()
    made["azure/README.md"] = _azure_readme(source).encode()
    made["RELEASE.md"] = _release_notes(source, manifest).encode()
    made["SHA256SUMS"] = "".join(
        f"{oci.compute_digest(content).removeprefix('sha256:')}  {path}\n" for path, content in sorted(made.items())
    ).encode()
    return made


def _image_files(source: ReleaseSource) -> dict[str, bytes]:
    """Return the archives of the images, and a bill of materials for each architecture."""
    if not source.images:
        bill = sbom.image_bill(NAME, source.version, source.pinned, source.licenses, None)
        return {"sbom/image.cdx.json": _pretty_json(bill)}
    made = {}
    for image in source.images:
        made[_archive_name(image.name, source.version)] = image.archive
        for inventory, path in zip(image.inventories, image.bills().values(), strict=True):
            made[path] = _pretty_json(
                sbom.image_bill(image.name, source.version, source.pinned, source.licenses, inventory)
            )
    return made


def _relocation_script(source: ReleaseSource, manifest: ReleaseManifest) -> str:
    copies = [
        f'skopeo copy --all --preserve-digests "$@" {one.source} docker://{manifest.registry}/{one.repository}:{one.tag}'
        for one in manifest.artifacts
    ]
    missing = (
        "" if source.images else f"# This release does not contain the image: copy it to {source.references[0]}.\n"
    )
    return f"""\
#!/bin/sh
# Copies this release to {source.registry}, from where its chart pulls it. It uses no other registry. skopeo gets the
# arguments of this script, such as --dest-creds USER:PASSWORD or --dest-tls-verify=false.
set -eu
cd "$(dirname "$0")"
sha256sum --check --quiet SHA256SUMS
{missing}{chr(10).join(copies)}
"""


def _azure_readme(source: ReleaseSource) -> str:
    pages = [identities.identity_section(), extension.extension_section(source.version)]
    pages.append(flux.flux_section(source.registry, MANIFESTS, source.version))
    return "\n".join(["# For Azure\n", *pages])


def _release_notes(source: ReleaseSource, manifest: ReleaseManifest) -> str:
    into = f"--namespace {helm.RELEASE} --create-namespace"
    chart = f"oci://{source.registry}/{CHART} --version {source.version}"
    installs = [
        f"helm install {helm.RELEASE} {_chart_archive(source)} {into}",
        f"helm install {helm.RELEASE} {chart} {into}",
    ]
    signature = (
        f"\nThis command verifies the signature of"
        f" SHA256SUMS:\n\n```console\n{signing.verification_command('SHA256SUMS')}\n```\n"
        if source.signed
        else ""
    )
    lines = [f"| {one.name} | `{manifest.reference(one)}` |" for one in manifest.artifacts]
    return f"""\
# {NAME} {source.version}

This release was made from {source.revision}. `sha256sum --check SHA256SUMS` checks every file of this folder.
{signature}
| artifact | reference |
| --- | --- |
{chr(10).join(lines)}

The chart runs the image `{source.references[0]}`. `./relocate.sh` copies all artifacts to {source.registry}.
It needs skopeo, and reaches only that registry.

## Install

```console
{chr(10).join(installs)}
```

`azure/README.md` describes the installation through Azure: the identities that read the vault, the extension of an
Arc-enabled cluster, and Flux. `sbom/` has the bills of materials of the image and the chart.

## Changes

{source.changes or "None that users notice."}
"""


def _chart_archive(source: ReleaseSource) -> str:
    return f"{NAME}-{source.version}.tgz"


def _archive_name(image: str, version: str) -> str:
    return f"images/{image}-{version}.tar"


def _put_below(folder: str, content: oci.Files) -> dict[str, bytes]:
    return {f"{folder}/{path}": item for path, item in content.items()}


def _pretty_json(bill: sbom.Json) -> bytes:
    return (json.dumps(bill, indent=2, ensure_ascii=False) + "\n").encode()
