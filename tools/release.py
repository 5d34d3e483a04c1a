"""A release as files, from what was read before: nothing here reads a clock, a disk or the network."""

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from tools import arc, federation, flux, helm, oci, sbom, signing, values
from tools.inventory import Inventory

NAME = "akv-secret-store"
CHART = f"charts/{NAME}"
"""The chart's place in a registry; `helm push` adds the chart's name to what it is given."""
MANIFESTS = f"flux/{NAME}"


@dataclass(frozen=True)
class Source:
    """What a release is made from."""

    version: str
    revision: str
    chart: oci.Files
    """The chart's folder as it is packed: generated with `values`."""
    values: values.ChartValues
    pinned: tuple[sbom.Requirement, ...]
    licenses: Mapping[str, str]
    changes: tuple[str, ...] = ()
    """Subjects of the commits since the last release; none: it is the first."""
    image: Inventory | None = None
    archive: bytes = b""
    """The image's, where there is one."""
    signed: bool = False
    """Whether SHA256SUMS gets a signature, and with it all that it lists."""

    @property
    def registry(self) -> str:
        """Where everything is to lie; empty: nobody has said."""
        return self.values.image.registry

    @property
    def reference(self) -> str:
        """The image that the chart asks for."""
        return self.values.image.reference(self.version)


def chart_values(registry: str, image: Inventory | None) -> values.ChartValues:
    """The chart's values in a release: its image from that registry, by its digest."""
    # helm test has an image of its own, which a release does not carry.
    test = values.Test(enabled=image is None)
    return values.ChartValues(image=values.Image(registry=registry, digest=image.digest if image else ""), test=test)


def files(source: Source) -> oci.Files:
    """The release folder."""
    archive = oci.tgz({f"{NAME}/{path}": content for path, content in source.chart.items()})
    about = yaml.safe_load(source.chart["Chart.yaml"])
    notes = {
        "org.opencontainers.image.title": NAME,
        "org.opencontainers.image.version": source.version,
        "org.opencontainers.image.revision": source.revision,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    chart = oci.artifact(
        oci.CHART,
        source.version,
        about,
        archive,
        {**notes, "org.opencontainers.image.description": about["description"]},
    )
    made: dict[str, bytes] = {
        _tgz(source): archive,
        **_below("oci/chart", chart.layout()),
        "images.txt": f"{source.reference}\n".encode(),
        "sbom/chart.cdx.json": _pretty(sbom.chart(NAME, source.version, source.chart, archive, source.reference)),
        "sbom/image.cdx.json": _pretty(sbom.image(NAME, source.version, source.pinned, source.licenses, source.image)),
        "azure/extension.json": arc.extension(source.values).encode(),
        "azure/identity.json": federation.template().encode(),
    }
    digests = {"chart": chart.digest}
    if source.archive:
        made[_archive(source)] = source.archive
    if source.image:
        digests["image"] = source.image.digest
    if source.registry:
        manifests = flux.manifests(source.registry, CHART, source.version)
        artifact = oci.artifact(oci.FLUX, source.version, {}, oci.tgz(manifests), notes)
        digests["manifests for Flux"] = artifact.digest
        made |= _below("flux", manifests) | _below("oci/flux", artifact.layout())
        made["azure/flux.json"] = flux.configuration(source.values, source.registry, MANIFESTS, source.version).encode()
        made["relocate.sh"] = _relocation(source).encode()
    made["azure/README.md"] = _azure(source).encode()
    made["RELEASE.md"] = _notes(source, digests).encode()
    made["SHA256SUMS"] = "".join(
        f"{oci.digest(content).removeprefix('sha256:')}  {path}\n" for path, content in sorted(made.items())
    ).encode()
    return made


def _relocation(source: Source) -> str:
    places = {
        f"oci-archive:{_archive(source)}": NAME,
        f"oci:oci/chart:{source.version}": CHART,
        f"oci:oci/flux:{source.version}": MANIFESTS,
    }
    if not source.archive:
        places.pop(f"oci-archive:{_archive(source)}")
    copies = [
        f'skopeo copy --preserve-digests "$@" {here} docker://{source.registry}/{there}:{source.version}'
        for here, there in places.items()
    ]
    missing = "" if source.archive else f"# The image is not in this release: bring it to {source.reference}.\n"
    return f"""\
#!/bin/sh
# Brings this release into {source.registry}, where its chart looks for it, and asks no other registry. What is given
# here goes to skopeo, such as --dest-creds USER:PASSWORD or --dest-tls-verify=false.
set -eu
cd "$(dirname "$0")"
sha256sum --check --quiet SHA256SUMS
{missing}{chr(10).join(copies)}
"""


def _azure(source: Source) -> str:
    pages = [federation.commands(), arc.commands(source.version)]
    if source.registry:
        pages.append(flux.commands(source.registry, MANIFESTS, source.version))
    return "\n".join(["# For Azure\n", *pages])


def _notes(source: Source, digests: Mapping[str, str]) -> str:
    into = f"--namespace {helm.RELEASE} --create-namespace"
    installs = [f"helm install {helm.RELEASE} {_tgz(source)} {into}"]
    relocation = ""
    if source.registry:
        place = posixpath.dirname(CHART)
        installs.append(
            f"helm install {helm.RELEASE} oci://{source.registry}/{place}/{NAME} --version {source.version} {into}"
        )
        relocation = (
            f"\n`./relocate.sh` brings all of it into {source.registry}; it needs skopeo, and no other network.\n"
        )
    signature = f"\nIt is signed:\n\n```console\n{signing.verification('SHA256SUMS')}\n```\n" if source.signed else ""
    changes = [f"- {subject}" for subject in source.changes] or ["The first release."]
    lines = [f"| {name} | `{digest}` |" for name, digest in digests.items()]
    return f"""\
# {NAME} {source.version}

Made from {source.revision}. `sha256sum --check SHA256SUMS` checks every file here.
{signature}
| what | digest |
| --- | --- |
{chr(10).join(lines)}

The chart runs the image `{source.reference}`.
{relocation}
## Install

```console
{chr(10).join(installs)}
```

`azure/README.md` has the ways through Azure: the identities that read the vault, the extension of an Arc-enabled
cluster, Flux. `sbom/` says what is in the image and in the chart.

## Changes

{chr(10).join(changes)}
"""


def _tgz(source: Source) -> str:
    return f"{NAME}-{source.version}.tgz"


def _archive(source: Source) -> str:
    return f"images/{NAME}-{source.version}.tar"


def _below(folder: str, content: oci.Files) -> dict[str, bytes]:
    return {f"{folder}/{path}": item for path, item in content.items()}


def _pretty(bill: sbom.Json) -> bytes:
    return (json.dumps(bill, indent=2, ensure_ascii=False) + "\n").encode()
