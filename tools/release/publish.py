"""Publish a release folder: push its artifacts to their registry, sign them there, attest provenance and contents.

`relocate.sh` pushes, cosign signs. Without a key, cosign signs with the identity of the workflow that runs it.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.cli.common import command, project
from tools.local_cluster.programs import assets
from tools.release import manifest as release_manifest
from tools.release import provenance, signing
from tools.release.manifest import ReleasedArtifact, ReleaseManifest
from tools.release.registry_command import RegistryCommand, run_program


def cosign_commands(artifact: ReleasedArtifact, registry: str, predicate: Path, folder: Path) -> Iterator[list[str]]:
    """Yield the arguments of cosign that sign an artifact and attest its provenance and its bills of materials."""
    repository = f"{registry}/{artifact.repository}"
    yield ["sign", f"{repository}@{artifact.digest}"]
    yield ["attest", "--type=slsaprovenance1", f"--predicate={predicate}", f"{repository}@{artifact.digest}"]
    for digest, bill in artifact.bills.items():
        yield ["attest", "--type=cyclonedx", f"--predicate={folder / bill}", f"{repository}@{digest}"]


def publish(
    folder: Path, key: Path | None, plain_http: bool, environment: Mapping[str, str] = os.environ
) -> ReleaseManifest:
    """Push, sign and attest every artifact of a release folder. Return its manifest."""
    manifest = release_manifest.read(folder)
    # skopeo checks the sums first; a second run pushes the same digests.
    push = [str((folder / "relocate.sh").absolute()), *(["--dest-tls-verify=false"] if plain_http else [])]
    run_program("relocate.sh failed", push, {})
    with tempfile.TemporaryDirectory(prefix="akv-publish-") as scratch:
        predicate = Path(scratch, "provenance.json")
        predicate.write_text(json.dumps(provenance.predicate(project.read(), manifest.revision, environment)))
        flags = ["--yes", *signing.key_flags(key, Path(scratch)), *(["--allow-http-registry"] if plain_http else [])]
        for artifact in manifest.artifacts:
            for verb, *arguments in cosign_commands(artifact, manifest.registry, predicate, folder):
                argv: list[str | Path] = [assets.tool("cosign"), verb, *flags, *arguments]
                run_program("cosign failed", argv, signing.signing_environment(key, Path(scratch)))
    return manifest


COMMAND = RegistryCommand(
    name="tools/publish",
    description="Push the artifacts of a release folder (tools/package) to the registry that it was made for, sign"
    " them there with cosign, and attest their provenance (SLSA) and contents (CycloneDX). skopeo and cosign take"
    " the registry's credentials from the file that REGISTRY_AUTH_FILE names (`skopeo login`).",
    exit_codes="Exit codes: 0 published; 1 something failed, and the same command can be run again; 2 wrong usage.",
    key_help="sign with this key of cosign's, whose password is in COSIGN_PASSWORD (default: with the identity of the"
    " workflow that runs this, which Sigstore's public services certify)",
    handle=publish,
)
main = COMMAND.run

if __name__ == "__main__":
    command.run_and_exit(COMMAND.name, main)
