"""From SSE's controller to this one and back, in place: no Secret is deleted, none is rewritten that is equal. Pure.

Both write the same Secrets: of the SecretSync's name, owned by it, with the same label. SSE writes by server-side apply
without force, so its next changed value conflicts with whatever another manager owns: going back means that our entry
in managedFields becomes SSE's own. managedFields hold names and times, never values.
Source: Kubernetes documentation, "Server-Side Apply", "Transferring ownership".
"""

from collections.abc import Iterable, Mapping
from typing import Any

from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync
from controller.plan import OUR_LABEL, Refuse, Wait, ownership
from controller.settings import FIELD_MANAGER

SSE_MANAGER = "secrets-store-sync-controller"
Entry = dict[str, Any]


def handed_back(entries: Iterable[Entry]) -> list[Entry] | None:
    """The managedFields with which SSE may write, None where nothing of ours is in its way.

    Entries of one manager and operation are one: where SSE's is still there, ours is joined to it.
    """
    entries = list(entries)
    ours = [entry for entry in entries if entry.get("manager") == FIELD_MANAGER and not entry.get("subresource")]
    if not ours:
        return None
    theirs = [entry for entry in entries if _is_sses(entry)]
    rest = [entry for entry in entries if entry not in ours and entry not in theirs]
    fields: dict[str, Any] = {}
    for entry in (*theirs, *ours):
        fields = _union(fields, entry.get("fieldsV1", {}))
    times = [entry["time"] for entry in (*theirs, *ours) if "time" in entry]
    joined = {"manager": SSE_MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1"}
    return [*rest, joined | ({"time": max(times)} if times else {}) | {"fieldsV1": fields}]


def _is_sses(entry: Mapping[str, Any]) -> bool:
    return (entry.get("manager"), entry.get("operation"), entry.get("subresource", "")) == (SSE_MANAGER, "Apply", "")


def _union(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(one)
    for key, below in other.items():
        joined[key] = _union(joined.get(key, {}), below) if isinstance(below, dict) else below
    return joined


def obstacle(sync: SecretSync, secret: ObjectMeta | None) -> str:
    """Why this controller would not just go on with what SSE left; empty where it would, or may begin anew."""
    if sync.spec.secret_sync_controller_name:
        return f"it names controller {sync.spec.secret_sync_controller_name}: set the chart's controllerName to that"
    if secret is None:
        return ""
    match ownership(sync, secret):
        case Refuse(error):
            return error.message
        case Wait():
            return "its Secret belongs to an earlier SecretSync of this name and is about to be collected"
    if secret.labels.get(OUR_LABEL[0]) != OUR_LABEL[1]:
        return f"its Secret lacks the label {OUR_LABEL[0]}: it is added at the first look"
    return ""


def is_owned(sync: SecretSync, secret: ObjectMeta) -> bool:
    """Return whether the Secret of the SecretSync's name is the SecretSync's own."""
    return not isinstance(ownership(sync, secret), Refuse | Wait)


def others(entries: Iterable[Entry]) -> list[str]:
    """Managers besides the two controllers that own a part of the data; each would make SSE's writing conflict."""
    return sorted(
        {
            str(entry.get("manager"))
            for entry in entries
            if "f:data" in entry.get("fieldsV1", {}) and entry.get("manager") not in (FIELD_MANAGER, SSE_MANAGER)
        }
    )
