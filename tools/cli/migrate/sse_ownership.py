"""Decide how Secrets change in place between SSE's controller and this one. Pure.

Both controllers write the same Secrets: with the SecretSync's name, its owner reference and the same label. Therefore
no Secret is deleted, and an equal Secret is not rewritten. SSE uses server-side apply without force. Its next changed
value conflicts with fields that another manager owns, so on the way back this controller's entry in managedFields
becomes an entry of SSE. managedFields contain names and times, never values.
Source: Kubernetes documentation, "Server-Side Apply", "Transferring ownership".
"""

from collections.abc import Iterable, Mapping
from typing import Any

from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync
from controller.config.settings import FIELD_MANAGER
from controller.domain.decision import SYNC_LABEL, RejectWrite, WaitForGarbageCollection, check_ownership
from controller.domain.managed_fields import SSE_MANAGER

Entry = dict[str, Any]


def hand_back_fields(entries: Iterable[Entry]) -> list[Entry] | None:
    """Return the managedFields with which SSE can write, or None if this controller has no entry.

    There is one entry for each manager and operation. If SSE still has one, this controller's fields are merged into
    it.
    """
    entries = list(entries)
    ours = [entry for entry in entries if entry.get("manager") == FIELD_MANAGER and not entry.get("subresource")]
    if not ours:
        return None
    theirs = [entry for entry in entries if _is_sses(entry)]
    rest = [entry for entry in entries if entry not in ours and entry not in theirs]
    fields: dict[str, Any] = {}
    for entry in (*theirs, *ours):
        fields = _merge_fields(fields, entry.get("fieldsV1", {}))
    times = [entry["time"] for entry in (*theirs, *ours) if "time" in entry]
    joined = {"manager": SSE_MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1"}
    return [*rest, joined | ({"time": max(times)} if times else {}) | {"fieldsV1": fields}]


def _is_sses(entry: Mapping[str, Any]) -> bool:
    return (entry.get("manager"), entry.get("operation"), entry.get("subresource", "")) == (SSE_MANAGER, "Apply", "")


def _merge_fields(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(one)
    for key, below in other.items():
        joined[key] = _merge_fields(joined.get(key, {}), below) if isinstance(below, dict) else below
    return joined


def takeover_blocker(sync: SecretSync, secret: ObjectMeta | None) -> str:
    """Return why this controller cannot take over the Secret of SSE unchanged; an empty text if it can.

    A SecretSync without a Secret has no blocker: the controller creates the Secret.
    """
    if sync.spec.secret_sync_controller_name:
        return f"it names controller {sync.spec.secret_sync_controller_name}: set the chart's controllerName to that"
    if secret is None:
        return ""
    match check_ownership(sync, secret):
        case RejectWrite(error):
            return error.message
        case WaitForGarbageCollection():
            return "its Secret belongs to an earlier SecretSync of this name and is about to be deleted"
    if secret.labels.get(SYNC_LABEL[0]) != SYNC_LABEL[1]:
        return f"its Secret lacks the label {SYNC_LABEL[0]}: the first drift check adds it"
    return ""


def is_owned(sync: SecretSync, secret: ObjectMeta) -> bool:
    """Return whether the Secret with the SecretSync's name belongs to the SecretSync."""
    return not isinstance(check_ownership(sync, secret), RejectWrite | WaitForGarbageCollection)


def other_managers(entries: Iterable[Entry]) -> list[str]:
    """Return the other managers that own a part of the data. SSE's next write conflicts with each of them."""
    return sorted(
        {
            str(entry.get("manager"))
            for entry in entries
            if "f:data" in entry.get("fieldsV1", {}) and entry.get("manager") not in (FIELD_MANAGER, SSE_MANAGER)
        }
    )
