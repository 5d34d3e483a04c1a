"""Verify the signatures, provenance and bills of materials of a release folder in the registry."""

import base64
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tools.cli.common import command, project
from tools.local_cluster.programs import assets
from tools.release import manifest as release_manifest
from tools.release.manifest import ReleaseManifest
from tools.release.registry_command import RegistryCommand, RegistryError, run_program

ISSUER = "https://token.actions.githubusercontent.com"
"""The issuer of the identities of GitHub's workflows."""
SIGNATURE = "https://sigstore.dev/cosign/sign/v1"


class _Critical(msgspec.Struct):
    type: str


class _Signature(msgspec.Struct):
    critical: _Critical


class _Source(msgspec.Struct):
    digest: dict[str, str] = {}


class _BuildDefinition(msgspec.Struct, rename="camel"):
    resolved_dependencies: list[_Source] = []


class _Provenance(msgspec.Struct, rename="camel"):
    """The fields of a provenance that are used (SLSA 1.0, buildDefinition)."""

    build_definition: _BuildDefinition


class _Envelope(msgspec.Struct):
    payload: str


class _Statement(msgspec.Struct):
    """The content of an attestation (in-toto Statement 1.0)."""

    predicate: Any


def trust_flags(key: Path | None, *, plain_http: bool) -> list[str]:
    """Return cosign's flags for the trusted signer: a public key, or the project's release workflow."""
    if key:
        flags = [f"--key={key}", "--insecure-ignore-tlog"]
    else:
        workflow = f"{project.read().repository}/.github/workflows/release.yml@refs/tags/v{project.read().version}"
        flags = [f"--certificate-identity={workflow}", f"--certificate-oidc-issuer={ISSUER}"]
    return [*flags, "--allow-http-registry"] if plain_http else flags


def verify(folder: Path, key: Path | None, plain_http: bool) -> ReleaseManifest:
    """Verify each artifact in the registry. Raise `RegistryError` for the first that fails."""
    manifest = release_manifest.read(folder)
    flags = trust_flags(key, plain_http=plain_http)
    for artifact in manifest.artifacts:
        reference = manifest.reference(artifact)
        # cosign also accepts an attestation as a signature; only this type says that the artifact itself was signed.
        try:
            signed = msgspec.json.decode(run_cosign("verify", *flags, reference), type=list[_Signature])
            sources = [
                msgspec.convert(predicate, _Provenance).build_definition.resolved_dependencies
                for predicate in _valid_predicates("slsaprovenance1", flags, reference)
            ]
        except (ValueError, RecursionError) as error:
            raise RegistryError(
                f"{reference}: its signature or provenance has another form: {command.describe_error(error)}"
            ) from error
        if not any(one.critical.type == SIGNATURE for one in signed):
            raise RegistryError(f"{reference}: it has attestations but no signature")
        commits = [source.digest.get("gitCommit", "") for found in sources for source in found]
        # The revision of a checkout with changes ends with "-dirty".
        if manifest.revision.removesuffix("-dirty") not in [commit.removesuffix("-dirty") for commit in commits]:
            raise RegistryError(f"{reference}: its provenance names the commits {commits}, not {manifest.revision}")
        for digest, path in artifact.bills.items():
            described = f"{manifest.registry}/{artifact.repository}@{digest}"
            if _read_bill(folder / path) not in _valid_predicates("cyclonedx", flags, described):
                raise RegistryError(f"{described}: its bill of materials is not {path}")
    return manifest


def _read_bill(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{path}: it is not a bill of materials: {command.describe_error(error)}") from error


def _valid_predicates(kind: str, flags: list[str], reference: str) -> Iterator[Any]:
    """Yield the predicates of an artifact's valid attestations of that kind."""
    for line in run_cosign("verify-attestation", f"--type={kind}", *flags, reference).splitlines():
        try:
            payload = base64.b64decode(msgspec.json.decode(line, type=_Envelope).payload)
            yield msgspec.json.decode(payload, type=_Statement).predicate
        except (ValueError, RecursionError) as error:
            problem = command.describe_error(error)
            raise RegistryError(f"{reference}: an attestation of type {kind} has another form: {problem}") from error


def run_cosign(*arguments: str) -> str:
    """Run cosign and return its output. Raise `RegistryError` with its reason if it fails."""
    with tempfile.TemporaryDirectory(prefix="akv-verify-") as scratch:
        alone = {"TUF_ROOT": scratch} if any(flag.startswith("--key=") for flag in arguments) else {}
        return run_program(f"{arguments[-1]}: cosign {arguments[0]}", [assets.tool("cosign"), *arguments], alone)


COMMAND = RegistryCommand(
    name="tools/verify-release",
    description="Verify the artifacts of a release folder in their registry: each has a valid signature, a"
    " provenance that names the release's commit, and the folder's bills of materials.",
    exit_codes="Exit codes: 0 all are valid; 1 one is not; 2 wrong usage.",
    key_help="cosign's public key (default: what the release workflow of this repository signed at this version's tag)",
    handle=verify,
    printed="valid: ",
)
main = COMMAND.run

if __name__ == "__main__":
    command.run_and_exit(COMMAND.name, main)
