"""The parts that several subcommands of tools/migrate share: reading SecretSyncs and the metadata of their Secrets."""

import sys

import msgspec

from controller import errors
from controller.api.meta import Secret
from controller.api.secretsync import SecretSync
from controller.kube.resources import ResourceClient
from tools.cli.common import printable
from tools.cli.common.command import BadInput
from tools.cli.common.kube_client import Object, OperatorKubeClient


async def list_syncs(caller: OperatorKubeClient, namespace: str) -> list[Object]:
    """Return the SecretSyncs of one namespace or of all, not yet checked. Raise `BadInput` without their CRD."""
    try:
        found = await caller.list_objects(ResourceClient(SecretSync, "").url_path(namespace))
    except errors.NotFound as error:
        raise BadInput("the cluster does not serve SecretSync: neither SSE nor this controller is installed") from error
    if not found:
        place = f"namespace {namespace}" if namespace else "the cluster"
        print(f"there is no SecretSync in {place}", file=sys.stderr)
    return found


def parse_syncs(objects: list[Object]) -> list[SecretSync]:
    """Return the SecretSyncs that have the form of their kind."""
    found = []
    for each in objects:
        try:
            found.append(msgspec.convert(each, SecretSync))
        except msgspec.ValidationError:
            continue  # the controller reports it
    return found


async def secret_metadata(caller: OperatorKubeClient, sync: SecretSync) -> Object | None:
    """Return the metadata of the SecretSync's Secret, or None if there is none. Raise `errors.Refused`."""
    try:
        return await caller.get_metadata(secret_path(sync))
    except errors.NotFound:
        return None


def secret_path(sync: SecretSync) -> str:
    """Return the path of the Secret of a SecretSync."""
    return ResourceClient(Secret, "").url_path(sync.metadata.namespace, sync.metadata.name)


def name_of(sync: SecretSync) -> str:
    """Return `namespace/name`."""
    return f"{sync.metadata.namespace}/{sync.metadata.name}"


def print_line(text: str) -> None:
    """Print one printable line."""
    print(printable.line(text))
