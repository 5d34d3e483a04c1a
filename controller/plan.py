"""What to do about one SecretSync, decided from what was observed. Pure: no clock, no network, no chance.

The chain of questions is the order of the functions: whose Secret is it, what did the vault give, is that a Secret
that Kubernetes can take, what differs. First answer wins.
"""

import base64
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from controller import secret_limits
from controller.api.meta import ManagedFieldsEntry, ObjectMeta, OwnerReference
from controller.api.secretsync import RESERVED_PREFIX, TLS_TYPE, SecretSync
from controller.errors import ControllerError, InputError, OwnershipError, ProviderError, Retry
from controller.fetched import Fetched, Same
from controller.schedule import FIRST_RETRY, parse_time
from controller.settings import FIELD_MANAGER

# What SSE puts on its Secrets, so that a cluster can change between it and us without a Secret being rewritten.
OUR_LABEL = (RESERVED_PREFIX, "")
# A Secret's data may have 1 MiB (Kubernetes documentation, "Secrets").
MOST_BYTES = 1024 * 1024
MOST_MESSAGE = 32_000
# Labels and annotations that a message names.
MOST_CONTESTED = 5
# Keys that Kubernetes asks of each type (Kubernetes documentation, "Types of Secret").
REQUIRED_KEYS: Mapping[str, tuple[str, ...]] = {
    TLS_TYPE: ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}
# … and those of which one is enough.
EITHER_KEY: Mapping[str, tuple[str, ...]] = {"kubernetes.io/basic-auth": ("username", "password")}
# Types whose one key must hold a JSON object. The API server's own refusal would quote a character of the value.
JSON_TYPES = ("kubernetes.io/dockercfg", "kubernetes.io/dockerconfigjson")


class Wait(msgspec.Struct, frozen=True):
    """The Secret of an earlier SecretSync of this name is about to be collected: look again soon."""


class Refuse(msgspec.Struct, frozen=True):
    """Nothing can be written; the status says why."""

    error: ControllerError


class Keep(msgspec.Struct, frozen=True):
    """The Secret needs no write. `failed` are the keys that keep their last good value."""

    failed: Mapping[str, ControllerError] = {}


class Write(msgspec.Struct, frozen=True):
    """Create the Secret, or merge `body` into it. `body` carries values: it is written and forgotten."""

    create: bool
    body: dict[str, Any]
    failed: Mapping[str, ControllerError] = {}

    def __repr__(self) -> str:
        return f"Write(create={self.create})"


Decision = Wait | Refuse | Keep | Write


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision rests on.

    `secret` is the metadata of the Secret of that name, None where there is none. `fetched` and `digests` go by target
    key. `known` are the digests of what we wrote last: empty where this process has not written yet, or where the
    Secret's metadata shows somebody else's hand.
    """

    sync: SecretSync
    secret: ObjectMeta | None
    fetched: Mapping[str, Fetched | Same | ControllerError]
    digests: Mapping[str, bytes]
    known: Mapping[str, bytes]
    partial: bool


def plan(seen: Observed) -> Decision:
    """What to do: the first of the questions that has an answer."""
    return ownership(seen.sync, seen.secret) or _nothing_fetched(seen) or _impossible(seen) or _difference(seen)


def ownership(sync: SecretSync, secret: ObjectMeta | None) -> Wait | Refuse | None:
    """Whether the Secret of that name may be written; asked before any value is fetched."""
    if secret is None or is_ours(sync, secret):
        return None
    owners = secret.owner_references
    if len(owners) == 1 and _is_sync(owners[0]) and owners[0].name == sync.metadata.name:
        return Wait()
    return Refuse(foreign(sync))


def is_ours(sync: SecretSync, secret: ObjectMeta) -> bool:
    """Ours is what this very SecretSync owns, by UID, alone."""
    owners = secret.owner_references
    return len(owners) == 1 and _is_sync(owners[0]) and owners[0].uid == sync.metadata.uid


def foreign(sync: SecretSync) -> OwnershipError:
    """The error for somebody else's Secret."""
    return OwnershipError(
        f"a Secret {sync.metadata.name} exists that does not belong to this SecretSync, so it was not touched; rename"
        " the SecretSync, or move that Secret away and the sync follows by itself"
    )


def _is_sync(owner: OwnerReference) -> bool:
    return owner.kind == SecretSync.kind and owner.api_version.partition("/")[0] == SecretSync.group


def _nothing_fetched(seen: Observed) -> Refuse | None:
    failed = failures(seen.fetched)
    if not failed or (seen.partial and len(failed) < len(seen.fetched)):
        return None
    first = next(iter(failed.values()))
    message = first.message
    if any(error.message != message for error in failed.values()):
        paths = {item.target_key: item.source_path for item in seen.sync.spec.secret_object.data}
        message = partial_message(failed, {key: paths[key] for key in failed})
    if len(failed) == len(seen.fetched) and (wait := turn(failed)):
        return Refuse(ProviderError(message, retry_after=wait, retry=Retry.TURN))
    asked = [error.retry_after for error in failed.values() if error.retry_after]
    return Refuse(
        type(first)(message, retry_after=max(asked, default=None)) if isinstance(first, ProviderError) else first
    )


def turn(failed: Mapping[Any, ControllerError]) -> float | None:
    """Seconds until the first of what a busy vault has put off has its turn there; None where it has put off none."""
    waits = (error.retry_after or FIRST_RETRY for error in failed.values() if error.retry is Retry.TURN)
    return min(waits, default=None)


def mistake(sync: SecretSync) -> InputError | None:
    """What is wrong with the SecretSync whatever the vault says; asked before the vault is."""
    wanted = sync.spec.secret_object
    targets = [item.target_key for item in wanted.data]
    for key, times in Counter(targets).items():
        if found := secret_limits.key_violation(key):
            return InputError(found)
        if times > 1:
            return InputError(f"targetKey {key} is mapped {times} times: give each key one sourcePath")
    for key in REQUIRED_KEYS.get(wanted.type, ()):
        if key not in targets:
            return InputError(f"type {wanted.type} needs the key {key}: map it in secretObject.data")
    if (either := EITHER_KEY.get(wanted.type)) and not set(either) & set(targets):
        return InputError(
            f"type {wanted.type} needs the key {' or '.join(either)}, or both: map one in secretObject.data"
        )
    found = secret_limits.violation(wanted.labels, wanted.annotations)
    return InputError(found) if found else None


def _impossible(seen: Observed) -> Refuse | None:
    """What Kubernetes would not take."""
    wanted = seen.sync.spec.secret_object.type
    for key in REQUIRED_KEYS.get(wanted, ()):
        item = seen.fetched[key]
        if isinstance(item, ControllerError):
            if seen.secret is None:
                return Refuse(item)
        elif wanted in JSON_TYPES and isinstance(item, Fetched) and not _is_json_object(item):
            return Refuse(
                InputError(
                    f"the value for {key} is no JSON object, which type {wanted} needs: put into the vault what"
                    " `kubectl create secret docker-registry` makes"
                )
            )
    either = [seen.fetched[key] for key in EITHER_KEY.get(wanted, ()) if key in seen.fetched]
    if seen.secret is None and either and all(isinstance(item, ControllerError) for item in either):
        return Refuse(next(item for item in either if isinstance(item, ControllerError)))
    sizes = {key: len(item.value.reveal()) for key, item in seen.fetched.items() if isinstance(item, Fetched)}
    if sum(sizes.values()) > MOST_BYTES:
        largest = max(sizes, key=lambda key: sizes[key])
        return Refuse(
            InputError(
                f"the values have {sum(sizes.values())} bytes and a Secret holds at most {MOST_BYTES};"
                f" split the SecretSync (the largest key is {largest} with {sizes[largest]} bytes)"
            )
        )
    return None


def _is_json_object(item: Fetched) -> bool:
    try:
        return isinstance(msgspec.json.decode(item.value.reveal()), dict)
    except msgspec.DecodeError:
        return False


def _difference(seen: Observed) -> Keep | Write:
    wanted = seen.sync.spec.secret_object
    failed = failures(seen.fetched)
    values = {key: item for key, item in seen.fetched.items() if isinstance(item, Fetched)}
    if seen.secret is None:
        return Write(create=True, body=_new_secret(seen.sync, values), failed=failed)
    present = data_keys(seen.secret)
    changed = {
        key: item for key, item in values.items() if key not in present or seen.known.get(key) != seen.digests[key]
    }
    leftover = present - {item.target_key for item in wanted.data}
    metadata = metadata_patch(seen.sync, seen.secret)
    if not (changed or leftover or metadata):
        return Keep(failed=failed)
    data = {key: _encode(item) for key, item in changed.items()} | dict.fromkeys(sorted(leftover))
    return Write(create=False, body={"type": wanted.type, "data": data, "metadata": metadata}, failed=failed)


def _new_secret(sync: SecretSync, values: Mapping[str, Fetched]) -> dict[str, Any]:
    wanted = sync.spec.secret_object
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": sync.metadata.name,
            "namespace": sync.metadata.namespace,
            "labels": {**wanted.labels, OUR_LABEL[0]: OUR_LABEL[1]},
            "annotations": wanted.annotations,
            "ownerReferences": [
                {
                    "apiVersion": SecretSync.api_version(),
                    "kind": SecretSync.kind,
                    "name": sync.metadata.name,
                    "uid": sync.metadata.uid,
                }
            ],
        },
        "type": wanted.type,
        "data": {key: _encode(item) for key, item in values.items()},
    }


def _encode(item: Fetched) -> str:
    return base64.b64encode(item.value.reveal()).decode()


def metadata_patch(sync: SecretSync, secret: ObjectMeta) -> dict[str, dict[str, str | None]]:
    """Return the labels and annotations to set, or to remove (None); empty where all are as they should be."""
    wanted = sync.spec.secret_object
    patch: dict[str, dict[str, str | None]] = {}
    for field, target, current in (
        ("labels", {**wanted.labels, OUR_LABEL[0]: OUR_LABEL[1]}, secret.labels),
        ("annotations", dict(wanted.annotations), secret.annotations),
    ):
        differs: dict[str, str | None] = {key: value for key, value in target.items() if current.get(key) != value}
        # Only what we set ourselves is taken away: labels of others (backup tools, say) are theirs.
        gone = {key for entry in _entries(secret) if _is_us(entry) for key in _names(entry, "metadata", field)}
        differs |= {key: None for key in sorted(gone & set(current)) if key not in target}
        if differs:
            patch[field] = differs
    return patch


def contested(sync: SecretSync, secret: ObjectMeta) -> str:
    """Return what another component changed in the answer to our write; empty where the write stayed as it was sent."""
    changed = [f"{field[:-1]} {key}" for field, keys in metadata_patch(sync, secret).items() for key in sorted(keys)]
    if not changed:
        return ""
    more = f" and {len(changed) - MOST_CONTESTED} more" if len(changed) > MOST_CONTESTED else ""
    return (
        f"another component, such as an admission webhook, changes {', '.join(changed[:MOST_CONTESTED])}{more} of the"
        " Secret after each write: exempt this Secret from it, or set in secretObject what it sets"
    )


def failures(fetched: Mapping[str, Fetched | Same | ControllerError]) -> dict[str, ControllerError]:
    """The keys that could not be fetched."""
    return {key: item for key, item in fetched.items() if isinstance(item, ControllerError)}


def data_keys(secret: ObjectMeta) -> set[str]:
    """The keys in the Secret's data, whoever set them, as far as managedFields tells."""
    return {key for entry in _entries(secret) for key in _names(entry, "data")}


def mark(secret: ObjectMeta) -> str:
    """Who last set which keys of the data, and when, as managedFields tells: equal marks mean that nobody has since.

    It holds names and times, never values. Empty where managedFields tells nothing.
    """
    writers = ((entry, sorted(_names(entry, "data"))) for entry in _entries(secret))
    return "; ".join(sorted(f"{e.manager} {e.operation} {e.time} {','.join(keys)}" for e, keys in writers if keys))


def drifted(sync: SecretSync, secret: ObjectMeta, remembered: str) -> bool:
    """Return whether somebody else may have changed the Secret's data, by what its metadata shows.

    `remembered` is the mark of our last look. A process that has just started has none, and then holds against the
    Secret what was set after the last sync, or is not what the status tells.
    """
    if remembered:
        return mark(secret) != remembered
    last = parse_time(sync.status.last_successful_sync_time)
    times = [parse_time(entry.time) for entry in _entries(secret) if _names(entry, "data")]
    # Both times have a grain of one second.
    late = any(not time or not last or (time - last).total_seconds() > 1 for time in times)
    return not times or late or data_keys(secret) != {item.target_key for item in sync.status.objects}


def _entries(secret: ObjectMeta) -> list[ManagedFieldsEntry]:
    return [entry for entry in secret.managed_fields if not entry.subresource]


def _is_us(entry: ManagedFieldsEntry) -> bool:
    return entry.manager == FIELD_MANAGER


def _names(entry: ManagedFieldsEntry, *path: str) -> set[str]:
    node: Any = entry.fields_v1
    for part in path:
        node = node.get(f"f:{part}") if isinstance(node, dict) else None
    return {key[2:] for key in node if key.startswith("f:")} if isinstance(node, dict) else set()


def partial_message(failed: Mapping[str, ControllerError], targets: Mapping[str, str]) -> str:
    """PartialSync's message: a JSON list with one item per key, failures first; `targets` maps key to sourcePath."""
    items: list[dict[str, str | int]] = [
        {"targetKey": key, "sourcePath": targets[key], "status": "failed", "message": error.message[:300]}
        for key, error in sorted(failed.items())
    ]
    items += [
        {"targetKey": key, "sourcePath": path, "status": "synced"} for key, path in targets.items() if key not in failed
    ]
    shown = len(items)
    while True:
        rest = (
            [{"failed": len(failed), "keys": len(targets), "notShown": len(items) - shown}]
            if shown < len(items)
            else []
        )
        text = msgspec.json.encode([*items[:shown], *rest])
        if len(text) <= MOST_MESSAGE:
            return text.decode()
        shown = shown * 3 // 4
