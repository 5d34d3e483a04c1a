"""What a person does with a migration: the six stages, each with its commands, and what to know. Pure."""

import hashlib
from collections.abc import Iterator

from controller.api.secretsync import SecretSync
from tools import helm
from tools.checks import federated_credential, role
from tools.fleet import CREDENTIALS_PER_IDENTITY
from tools.migration import Manifest, Migration, namespace, place
from tools.printable import command, markdown

MANIFESTS = "manifests.yaml"
MAX_FILE_NAME = 200
"""Characters of a patch's file name, without what makes it unique. File systems take 255."""


def patch_file(patch: Manifest) -> str:
    """Where a workload's patch is kept, below the folder."""
    name = f"{patch['kind'].lower()}-{namespace(patch)}-{patch['metadata']['name']}"
    if len(name) > MAX_FILE_NAME:
        name = f"{name[:MAX_FILE_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return f"patches/{name}.yaml"


def report(found: Migration, issuer: str) -> str:
    """Return the report, Markdown. Without an issuer its commands name the variable ISSUER."""
    return "\n".join(_lines(found, issuer)) + "\n"


def _lines(found: Migration, issuer: str) -> Iterator[str]:
    yield "# From the CSI driver to Secrets that stay"
    yield from ("", "## What needs a person", "")
    yield from ([f"- {markdown(note)}" for note in sorted(found.notes)] or ["Nothing."])
    yield from ("", "## 1. Inventory", "")
    yield from [f"- {markdown(place(each))}" for each in (*found.manifests, *found.patches)]
    yield from ("", "## 2. Identity and federation", "")
    yield f"An identity takes {CREDENTIALS_PER_IDENTITY} federated credentials, of all clusters."
    yield from _commands(
        [
            *sorted({federated_credential(identity, issuer) for identity, _ in found.readers}),
            *sorted({role(identity, vault) for identity, vault in found.readers}),
        ]
    )
    yield from ("", "## 3. Install", "", "It runs beside the CSI driver; Linux nodes only.")
    yield from _commands([f"helm install {helm.RELEASE} ./chart --namespace {helm.RELEASE} --create-namespace"])
    yield from ("", "## 4. Classes and SecretSyncs", "", "Running pods are not touched.")
    yield from _commands([f"kubectl apply --filename {MANIFESTS}"])
    yield from ("", "## 5. Workloads", "", "Each patch replaces the volume and keeps its paths; it rolls the pods.")
    yield from _commands([_patch(each) for each in found.patches])
    if found.replaced:
        yield from (
            "",
            "Then, once no pod mounts a class: these Secrets are still the CSI driver's, and their SecretSyncs wait.",
            "Deleted, each is there anew within half a minute. Who reads them as environment variables needs no patch.",
        )
        yield from _commands([_delete(each) for each in sorted(found.replaced)])
    yield from ("", "## 6. Verify, then revoke", "")
    yield "Then delete the classes that the CSI driver alone used, and the old service principal's credentials."
    syncs = [each for each in found.manifests if each["kind"] != "SecretProviderClass"]
    yield from _commands(
        [
            command(
                *("kubectl", "wait", f"{each['kind'].lower()}/{each['metadata']['name']}"),
                *("--namespace", namespace(each), "--for=condition=Ready"),
            )
            for each in syncs
        ]
        + ["tools/doctor --quiet"]
    )


def _commands(lines: list[str]) -> Iterator[str]:
    yield from ("", "```console", *(lines or ["# nothing to do"]), "```")


def _delete(secret: str) -> str:
    at, _, name = secret.partition("/")
    return command("kubectl", "delete", "secret", name, "--namespace", at)


def _patch(patch: Manifest) -> str:
    kind, name = patch["kind"].lower(), patch["metadata"]["name"]
    return command("kubectl", "patch", kind, name, "--namespace", namespace(patch), "--patch-file", patch_file(patch))


def syncs_of(found: Migration, source: Manifest) -> list[Manifest]:
    """The SecretSyncs that name that class."""
    return [
        each
        for each in found.manifests
        if each["kind"] == SecretSync.kind
        and namespace(each) == namespace(source)
        and each["spec"]["secretProviderClassName"] == source["metadata"]["name"]
    ]
