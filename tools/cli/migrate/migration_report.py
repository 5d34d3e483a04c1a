"""Write the report of a migration: notes for a person, and the six stages with their commands. Pure."""

import hashlib
from collections.abc import Iterator

from controller.api.secretsync import SecretSync
from tools.cli.capacity.fleet import CREDENTIALS_PER_IDENTITY
from tools.cli.common import helm
from tools.cli.common.printable import command, markdown
from tools.cli.doctor.checks import federated_credential, role
from tools.cli.migrate.migration import Migration
from tools.cli.migrate.objects import Manifest, namespace_of, qualified_name
from tools.cli.migrate.workloads import can_be_patched

MANIFESTS = "manifests.yaml"
MAX_FILE_NAME = 200
"""Characters of a patch's file name, without the hash and suffix. File systems accept 255."""


def patch_file(patch: Manifest) -> str:
    """Return the path of a workload's patch, below the output folder."""
    name = f"{patch['kind'].lower()}-{namespace_of(patch)}-{patch['metadata']['name']}"
    if len(name) > MAX_FILE_NAME:
        name = f"{name[:MAX_FILE_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return f"patches/{name}.yaml"


def format_report(found: Migration, issuer: str) -> str:
    """Return the report in Markdown. Without an issuer, its commands use the shell variable ISSUER."""
    return "\n".join(_report_lines(found, issuer)) + "\n"


def _report_lines(found: Migration, issuer: str) -> Iterator[str]:
    yield "# From the CSI driver to synced Secrets"
    yield from ("", "## Notes that need your attention", "")
    yield from ([f"- {markdown(note)}" for note in sorted(found.notes)] or ["None."])
    yield from ("", "## 1. Inventory", "")
    yield from [f"- {markdown(qualified_name(each))}" for each in (*found.manifests, *found.patches)]
    yield from ("", "## 2. Identity and federation", "")
    yield f"An identity can have {CREDENTIALS_PER_IDENTITY} federated credentials, of all clusters together."
    yield from _command_block(
        [
            *sorted({federated_credential(reader.identity, issuer) for reader in found.readers}),
            *sorted({role(reader.identity, reader.vault, name) for reader in found.readers for name in reader.roles}),
        ]
    )
    yield from ("", "## 3. Install", "", "The controller can run beside the CSI driver. It needs Linux nodes.")
    yield from _command_block([f"helm install {helm.RELEASE} ./chart --namespace {helm.RELEASE} --create-namespace"])
    yield from ("", "## 4. Classes and SecretSyncs", "", "Running pods do not change.")
    yield from _command_block([f"kubectl apply --filename {MANIFESTS}"])
    yield from ("", "## 5. Workloads", "", "Each patch replaces the volume, keeps its paths and restarts the pods.")
    yield from _command_block([_patch_command(each) for each in found.patches if can_be_patched(each)])
    if fixed := [each for each in found.patches if not can_be_patched(each)]:
        yield from ("", "These cannot be patched. Delete each, and create it again with the volumes of its file:", "")
        yield from [f"- {markdown(qualified_name(each))}: {markdown(patch_file(each))}" for each in fixed]
    if found.replaced:
        yield from (
            "",
            "When no pod mounts a class any more, delete these Secrets of the CSI driver, for which SecretSyncs wait.",
            "The controller creates each within half a minute.",
            "Pods that use these Secrets as environment variables need no patch.",
        )
        yield from _command_block([_delete_command(each) for each in sorted(found.replaced)])
    yield from ("", "## 6. Verify, then revoke", "")
    yield "Then delete the classes that only the CSI driver used, and the credentials of the old service principal."
    syncs = [each for each in found.manifests if each["kind"] != "SecretProviderClass"]
    yield from _command_block(
        [
            command(
                *("kubectl", "wait", f"{each['kind'].lower()}/{each['metadata']['name']}"),
                *("--namespace", namespace_of(each), "--for=condition=Ready"),
            )
            for each in syncs
        ]
        + ["tools/doctor --quiet"]
    )


def _command_block(lines: list[str]) -> Iterator[str]:
    yield from ("", "```console", *(lines or ["# nothing to do"]), "```")


def _delete_command(secret: str) -> str:
    at, _, name = secret.partition("/")
    return command("kubectl", "delete", "secret", name, "--namespace", at)


def _patch_command(patch: Manifest) -> str:
    kind, name = patch["kind"].lower(), patch["metadata"]["name"]
    return command(
        "kubectl", "patch", kind, name, "--namespace", namespace_of(patch), "--patch-file", patch_file(patch)
    )


def syncs_of(found: Migration, source: Manifest) -> list[Manifest]:
    """Return the SecretSyncs of the migration that name that class."""
    return [
        each
        for each in found.manifests
        if each["kind"] == SecretSync.kind
        and namespace_of(each) == namespace_of(source)
        and each["spec"]["secretProviderClassName"] == source["metadata"]["name"]
    ]
