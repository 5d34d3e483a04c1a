"""`tools/migrate adopt`: make SecretSyncs the owners of their restored Secrets again, without reading a value.

It needs only the API server: no vault, no Entra and no controller. Of Secrets it reads only the metadata.
"""

import argparse

import msgspec

from controller import errors
from controller.api.meta import ObjectMeta, Secret
from controller.api.secretsync import SecretSync
from controller.domain.decision import SYNC_LABEL
from controller.kube.resources import ResourceClient
from tools.cli import adoption
from tools.cli.common.kube_client import Object, OperatorKubeClient, connect
from tools.cli.migrate import sse_ownership
from tools.cli.migrate.common import list_syncs, name_of, parse_syncs, print_line, secret_path

_LABEL = "=".join(SYNC_LABEL)
_DONE = {True: "adopted", False: "would be adopted (--apply)"}


async def adopt_secrets(args: argparse.Namespace) -> int:
    """Run the subcommand. Return its exit code."""
    code = 0
    async with connect(args.kubeconfig) as caller:
        syncs = {name_of(sync): sync for sync in parse_syncs(await list_syncs(caller, args.namespace))}
        for held in await caller.list_metadata(ResourceClient(Secret, "").url_path(args.namespace), _LABEL):
            name = f"{held.get('namespace')}/{held.get('name')}"
            try:
                text, needs_person = await adopt_secret(caller, syncs.get(name), held, apply=args.apply)
            except errors.KubeError as error:
                text, needs_person = f"left as it is: {error}", True
            if text:
                print_line(f"{name}: {text}")
            code = max(code, int(needs_person))
    return code


async def adopt_secret(
    caller: OperatorKubeClient, sync: SecretSync | None, held: Object, *, apply: bool
) -> tuple[str, bool]:
    """Adopt one Secret. Return the text to print, and whether a person must act. Raise `errors.KubeError`."""
    secret = msgspec.convert(held, ObjectMeta)
    if sync is None:
        if secret.owner_references:
            return "", False  # another object owns it, or the garbage collector deletes it after its SecretSync
        return "no SecretSync of its name exists; restore it, and run this again", True
    if sse_ownership.is_owned(sync, secret):
        return "belongs to its SecretSync already", False
    if why := adoption.adoption_blocker(sync, secret):
        return f"left as it is: {why}", True
    if not await _has_type(caller, sync):
        wanted = sync.spec.secret_object.type
        return f"left as it is: its type is not {wanted}, the type in the SecretSync; correct the SecretSync", True
    if apply:
        await caller.set_owner(secret_path(sync), held, adoption.owner_reference(sync))
    return _DONE[apply], False


async def _has_type(caller: OperatorKubeClient, sync: SecretSync) -> bool:
    """Return whether the Secret has the SecretSync's type. Use a field selector, so that no value is sent."""
    fields = f"metadata.name={sync.metadata.name},type={sync.spec.secret_object.type}"
    return bool(await caller.list_metadata(ResourceClient(Secret, "").url_path(sync.metadata.namespace), fields=fields))
