"""Read from a Secret's managedFields which keys it has, and whether another client has changed it. Pure.

Each entry of managedFields names a client, the time of its last write, and the fields that it set, but no value
(Kubernetes documentation, "Server-Side Apply"). Names below `fieldsV1` begin with `f:`. The controller may not read
Secrets, so these entries are all that it knows about the data.
"""

import hashlib
from datetime import datetime
from typing import Any

import msgspec

from controller.api.meta import ManagedFieldsEntry, ObjectMeta
from controller.api.secretsync import SecretSync
from controller.config.settings import FIELD_MANAGER
from controller.runtime.clock import parse_time

# The field manager of SSE, which set the fields of the Secrets that this controller continues with.
SSE_MANAGER = "secrets-store-sync-controller"
# Seconds by which an entry of managedFields can be later than the sync before it. Both times are rounded to seconds.
ROUNDING = 1.0
# Seconds by which the clocks of the API server and of the controller may differ.
CLOCK_SKEW = 300.0


def data_keys(secret: ObjectMeta) -> set[str]:
    """Return the keys of the Secret's data that managedFields lists, for all managers."""
    return {key for entry in _main_entries(secret) for key in _field_names(entry, "data")}


def names_set_by_controller(secret: ObjectMeta, *path: str) -> set[str]:
    """Return the names below this path, such as `metadata`, `labels`, that this controller or SSE set."""
    entries = (entry for entry in _main_entries(secret) if entry.manager in (FIELD_MANAGER, SSE_MANAGER))
    return {name for entry in entries for name in _field_names(entry, *path)}


def data_fingerprint(secret: ObjectMeta) -> str:
    """Return a digest of the last writers of the data, their keys and the times, from managedFields.

    Two equal digests mean that no client wrote the data in between. The digest covers names and times, never values. It
    is empty if managedFields lists no data. Editors of the namespace control the size of managedFields.
    """
    writers = ((entry, sorted(_field_names(entry, "data"))) for entry in _main_entries(secret))
    found = sorted((e.manager, e.operation, e.time or "", keys) for e, keys in writers if keys)
    return hashlib.sha256(msgspec.json.encode(found)).hexdigest() if found else ""


def has_drifted(sync: SecretSync, secret: ObjectMeta, last_fingerprint: str) -> bool:
    """Return whether the Secret's metadata shows that another client may have changed the data.

    `last_fingerprint` is of the last check. A process that has just started has none. Then the Secret counts as changed
    if its data was set after the last sync, or if its keys differ from those in the status.
    """
    if last_fingerprint:
        return data_fingerprint(secret) != last_fingerprint
    last = parse_time(sync.status.last_successful_sync_time)
    entries = [entry for entry in _main_entries(secret) if _field_names(entry, "data")]
    late = any(not last or _is_written_after(entry, last) for entry in entries)
    return not entries or late or data_keys(secret) != {item.target_key for item in sync.status.objects}


def _is_written_after(entry: ManagedFieldsEntry, last_sync: datetime) -> bool:
    """Return whether a manager wrote after the last sync, or at an unknown time.

    The API server's clock sets the time of an entry, and the controller's clock the time of the sync. The controller
    writes a Secret just before it reports the sync, so its own entry can only be later if the clocks differ.
    """
    time = parse_time(entry.time)
    return time is None or (time - last_sync).total_seconds() > (CLOCK_SKEW if _is_own_entry(entry) else ROUNDING)


def _main_entries(secret: ObjectMeta) -> list[ManagedFieldsEntry]:
    """Return the entries of the object itself, without those of its subresources."""
    return [entry for entry in secret.managed_fields if not entry.subresource]


def _is_own_entry(entry: ManagedFieldsEntry) -> bool:
    return entry.manager == FIELD_MANAGER


def _field_names(entry: ManagedFieldsEntry, *path: str) -> set[str]:
    node: Any = entry.fields_v1
    for part in path:
        node = node.get(f"f:{part}") if isinstance(node, dict) else None
    return {key[2:] for key in node if key.startswith("f:")} if isinstance(node, dict) else set()
