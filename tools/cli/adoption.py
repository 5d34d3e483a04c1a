"""Decide which restored Secrets get their SecretSync as the owner again. Pure.

A backup of single objects restores a SecretSync with a new UID. Its Secret then has no owner, or one with the old UID,
and the controller does not change it.
Source: Kubernetes documentation, "Garbage Collection"; Velero, "Restore Reference".
"""

from typing import Any

from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync
from controller.domain.decision import SYNC_LABEL, WaitForGarbageCollection, check_ownership
from tools.cli.common.printable import command


def is_labelled(secret: ObjectMeta) -> bool:
    """Return whether the Secret has the label of Secrets that SSE or this controller wrote."""
    return secret.labels.get(SYNC_LABEL[0]) == SYNC_LABEL[1]


def is_orphan(sync: SecretSync, secret: ObjectMeta) -> bool:
    """Return whether the Secret was restored: labelled, with no owner or with an earlier SecretSync of this name."""
    ownerless = not secret.owner_references
    return is_labelled(secret) and (ownerless or isinstance(check_ownership(sync, secret), WaitForGarbageCollection))


def adoption_blocker(sync: SecretSync, secret: ObjectMeta) -> str:
    """Return why the Secret cannot get this SecretSync as its owner; an empty text if it can."""
    if sync.metadata.deletion_timestamp:
        return "the SecretSync is being deleted"
    if secret.deletion_timestamp:
        return "the Secret is being deleted"
    if not is_labelled(secret):
        return f"the Secret lacks the label {SYNC_LABEL[0]}, so neither SSE nor this controller wrote it"
    if not is_orphan(sync, secret):
        owners = ", ".join(f"{owner.kind} {owner.name}" for owner in secret.owner_references)
        return f"the Secret belongs to {owners}"
    return ""


def owner_reference(sync: SecretSync) -> dict[str, Any]:
    """Return the owner reference that the controller writes."""
    return {
        "apiVersion": SecretSync.api_version(),
        "kind": SecretSync.kind,
        "name": sync.metadata.name,
        "uid": sync.metadata.uid,
    }


def adopt_command(namespace: str) -> str:
    """Return the command that adopts the Secrets of a namespace."""
    return command("tools/migrate", "adopt", "--namespace", namespace, "--apply")
