"""Decide what to do about one SecretSync from the observed state. Pure: no clock, no network, no random source.

`check_ownership` decides whether the controller may write the Secret. It needs no values. `decide_write` needs the
values. It checks in this order whether the vault returned all values, whether Kubernetes accepts them as a Secret, and
which keys differ. The first check with a result decides.
"""

import base64
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from controller.api.meta import ObjectMeta, OwnerReference
from controller.api.secretsync import RESERVED_PREFIX, TLS_TYPE, SecretSync
from controller.domain import secret_limits
from controller.domain.managed_fields import data_keys, names_set_by_controller
from controller.domain.provider_class import EXPANDED_SUFFIX
from controller.domain.values import SecretBytes, Unchanged, VaultValue, items_with_known_keys
from controller.errors import ControllerError, InputError, OwnershipError, ProviderError, Retry
from controller.runtime.backoff import FIRST_RETRY

# SSE's label on its Secrets. With the same label, a cluster can switch between SSE and this controller without a write.
SYNC_LABEL = (RESERVED_PREFIX, "")
# The maximum size of a Secret's data is 1 MiB (Kubernetes documentation, "Secrets").
MAX_BYTES = 1024 * 1024
# Maximum bytes of PartialSync's list. The CRD allows 32,768 characters.
MAX_MESSAGE = 32_000
# Maximum number of labels and annotations in a message.
MAX_CONTESTED = 5
# Keys that Kubernetes requires for each type (Kubernetes documentation, "Types of Secret").
REQUIRED_KEYS: Mapping[str, tuple[str, ...]] = {
    TLS_TYPE: ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}
# Types of which a Secret needs at least one of several keys.
ALTERNATIVE_KEYS: Mapping[str, tuple[str, ...]] = {"kubernetes.io/basic-auth": ("username", "password")}
# Types whose key must be a JSON object. The controller checks this itself, because the API server's error would quote a
# character of the value.
JSON_TYPES = ("kubernetes.io/dockercfg", "kubernetes.io/dockerconfigjson")
# The value of a dry run: a JSON object, because some types accept nothing else.
_PLACEHOLDER = VaultValue(value=SecretBytes(b"{}"), version="")


class WaitForGarbageCollection(msgspec.Struct, frozen=True):
    """The Secret belongs to an earlier SecretSync of this name. Check again after the garbage collector deleted it."""


class RejectWrite(msgspec.Struct, frozen=True):
    """The controller cannot write the Secret. The status reports the error."""

    error: ControllerError


class NoChange(msgspec.Struct, frozen=True):
    """The Secret needs no write. `failed` are the keys that keep their last good value."""

    failed: Mapping[str, ControllerError] = {}


class WriteSecret(msgspec.Struct, frozen=True):
    """Create the Secret, or merge `body` into it. `body` contains secret values, so drop it after the write."""

    create: bool
    body: dict[str, Any]
    failed: Mapping[str, ControllerError] = {}

    def __repr__(self) -> str:
        return f"WriteSecret(create={self.create})"


class ObservedState(msgspec.Struct, frozen=True, kw_only=True):
    """The observed state that a decision depends on.

    `secret` is the metadata of the Secret with the SecretSync's name, or None if there is no such Secret. The keys of
    `fetched` and `digests` are target keys. `known` are the digests of the last write. It is empty if this process has
    not written yet, or if the Secret's metadata shows a change by another writer.
    """

    sync: SecretSync
    secret: ObjectMeta | None
    fetched: Mapping[str, VaultValue | Unchanged | ControllerError]
    digests: Mapping[str, bytes]
    known: Mapping[str, bytes]
    partial: bool


def decide_write(observed: ObservedState) -> RejectWrite | NoChange | WriteSecret:
    """Decide what to do about a Secret that the controller may write. The first check with a result decides."""
    return _reject_missing_values(observed) or _reject_invalid_values(observed) or _compare_secret(observed)


def check_ownership(sync: SecretSync, secret: ObjectMeta | None) -> WaitForGarbageCollection | RejectWrite | None:
    """Decide whether the controller may write the Secret with the SecretSync's name. Return None if it may."""
    if secret is None or is_owned_by(sync, secret):
        return None
    owners = secret.owner_references
    if len(owners) == 1 and _is_sync(owners[0]) and owners[0].name == sync.metadata.name:
        return WaitForGarbageCollection()
    return RejectWrite(foreign_error(sync))


def is_owned_by(sync: SecretSync, secret: ObjectMeta) -> bool:
    """Return whether this SecretSync is the only owner of the Secret, by UID."""
    owners = secret.owner_references
    return len(owners) == 1 and _is_sync(owners[0]) and owners[0].uid == sync.metadata.uid


def foreign_error(sync: SecretSync) -> OwnershipError:
    """Return the error for a Secret that belongs to another owner."""
    return OwnershipError(
        f"a Secret {sync.metadata.name} exists that does not belong to this SecretSync, so it was not touched; rename"
        " the SecretSync, or delete that Secret: the controller then creates its own. If a backup was restored, run"
        " tools/migrate adopt"
    )


def _is_sync(owner: OwnerReference) -> bool:
    return owner.kind == SecretSync.kind and owner.api_version.partition("/")[0] == SecretSync.group


def _reject_missing_values(observed: ObservedState) -> RejectWrite | None:
    """Return the error if too few values could be fetched to write the Secret."""
    failed = failed_keys(observed.fetched)
    if not failed or (observed.partial and len(failed) < len(observed.fetched)):
        return None
    first = next(iter(failed.values()))
    message = first.message
    if any(error.message != message for error in failed.values()):
        paths = source_paths(observed.sync, failed)
        message = partial_message(failed, {key: paths[key] for key in failed})
    if len(failed) == len(observed.fetched) and (wait := seconds_until_served(failed)):
        return RejectWrite(ProviderError(message, retry_after=wait, retry=Retry.THROTTLED))
    delays = [error.retry_after for error in failed.values() if error.retry_after]
    # The attempt waits for a new value only if all keys wait for one.
    shown = next((error for error in failed.values() if error.retry is not Retry.ON_NEW_VALUE), first)
    return RejectWrite(
        type(shown)(message, retry_after=max(delays, default=None)) if isinstance(shown, ProviderError) else shown
    )


def source_paths(sync: SecretSync, failed: Mapping[str, ControllerError]) -> dict[str, str]:
    """Return the sourcePath by targetKey. The key of an expanded item that failed is `<targetKey>/*`."""
    paths = {item.target_key: item.source_path for item in sync.spec.secret_object.data}
    return {key + EXPANDED_SUFFIX if key + EXPANDED_SUFFIX in failed else key: path for key, path in paths.items()}


def seconds_until_served(failed: Mapping[Any, ControllerError]) -> float | None:
    """Return the seconds until a busy vault serves the first deferred key, or None if it deferred none."""
    waits = (error.retry_after or FIRST_RETRY for error in failed.values() if error.retry is Retry.THROTTLED)
    return min(waits, default=None)


def find_spec_mistake(sync: SecretSync) -> InputError | None:
    """Return a mistake in the SecretSync itself, which no value of the vault can correct, or None."""
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
    if (either := ALTERNATIVE_KEYS.get(wanted.type)) and not set(either) & set(targets):
        return InputError(
            f"type {wanted.type} needs the key {' or '.join(either)}, or both: map one in secretObject.data"
        )
    found = secret_limits.find_violation(wanted.labels, wanted.annotations)
    return InputError(found) if found else None


def _reject_invalid_values(observed: ObservedState) -> RejectWrite | None:
    """Return the error if Kubernetes would not accept a Secret with these values."""
    wanted = observed.sync.spec.secret_object.type
    for key in REQUIRED_KEYS.get(wanted, ()):
        item = observed.fetched[key]
        if isinstance(item, ControllerError):
            if observed.secret is None:
                return RejectWrite(item)
        elif wanted in JSON_TYPES and isinstance(item, VaultValue) and not _is_json_object(item):
            return RejectWrite(
                InputError(
                    f"the value for {key} is not a JSON object, which type {wanted} needs: store the output of"
                    " `kubectl create secret docker-registry` in the vault"
                )
            )
    either = [observed.fetched[key] for key in ALTERNATIVE_KEYS.get(wanted, ()) if key in observed.fetched]
    missing = [item for item in either if isinstance(item, ControllerError)]
    if observed.secret is None and missing and len(missing) == len(either):
        return RejectWrite(missing[0])
    sizes = {key: len(item.value.reveal()) for key, item in observed.fetched.items() if isinstance(item, VaultValue)}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(sizes, key=lambda key: sizes[key])
        return RejectWrite(
            InputError(
                f"the values have {sum(sizes.values())} bytes, and a Secret can have at most {MAX_BYTES};"
                f" split the SecretSync (the largest key is {largest} with {sizes[largest]} bytes)"
            )
        )
    return None


def _is_json_object(item: VaultValue) -> bool:
    try:
        return isinstance(msgspec.json.decode(item.value.reveal()), dict)
    except (ValueError, RecursionError):  # the value is not UTF-8, not JSON, or nested too deeply
        return False


def _compare_secret(observed: ObservedState) -> NoChange | WriteSecret:
    wanted = observed.sync.spec.secret_object
    failed = failed_keys(observed.fetched)
    values = {key: item for key, item in observed.fetched.items() if isinstance(item, VaultValue)}
    if observed.secret is None:
        return WriteSecret(create=True, body=_new_secret(observed.sync, values), failed=failed)
    present = data_keys(observed.secret)
    changed = {
        key: item
        for key, item in values.items()
        if key not in present or observed.known.get(key) != observed.digests[key]
    }
    leftover = leftover_keys(present, observed.fetched)
    metadata = metadata_patch(observed.sync, observed.secret)
    if not (changed or leftover or metadata):
        return NoChange(failed=failed)
    data = {key: _encode_value(item) for key, item in changed.items()} | dict.fromkeys(sorted(leftover))
    return WriteSecret(create=False, body={"type": wanted.type, "data": data, "metadata": metadata}, failed=failed)


def leftover_keys(
    present: Collection[str], fetched: Mapping[str, VaultValue | Unchanged | ControllerError]
) -> set[str]:
    """Return the keys of a Secret that no item of the SecretSync makes.

    Return none if the properties of an expanded item are not known, because any key can be one of them.
    """
    known = items_with_known_keys(fetched)
    if any(key.endswith(EXPANDED_SUFFIX) and key not in known for key in fetched):
        return set()
    return set(present) - fetched.keys()


def placeholder_write(sync: SecretSync, secret: ObjectMeta | None) -> dict[str, Any]:
    """Return the body that writes this Secret with a placeholder for each value. It is for a dry run."""
    body = _new_secret(sync, {pair.target_key: _PLACEHOLDER for pair in sync.spec.secret_object.data})
    if secret is None:
        return body
    return {"type": body["type"], "data": body["data"], "metadata": metadata_patch(sync, secret)}


def _new_secret(sync: SecretSync, values: Mapping[str, VaultValue]) -> dict[str, Any]:
    wanted = sync.spec.secret_object
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": sync.metadata.name,
            "namespace": sync.metadata.namespace,
            "labels": {**wanted.labels, SYNC_LABEL[0]: SYNC_LABEL[1]},
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
        "data": {key: _encode_value(item) for key, item in values.items()},
    }


def _encode_value(item: VaultValue) -> str:
    return base64.b64encode(item.value.reveal()).decode()


def metadata_patch(sync: SecretSync, secret: ObjectMeta) -> dict[str, dict[str, str | None]]:
    """Return the labels and annotations to set, and with None those to remove. Return {} if all are correct."""
    wanted = sync.spec.secret_object
    patch: dict[str, dict[str, str | None]] = {}
    for field, target, current in (
        ("labels", {**wanted.labels, SYNC_LABEL[0]: SYNC_LABEL[1]}, secret.labels),
        ("annotations", dict(wanted.annotations), secret.annotations),
    ):
        differs: dict[str, str | None] = {key: value for key, value in target.items() if current.get(key) != value}
        # The patch removes only keys that the controller or SSE set. Those of other tools, such as Velero, remain.
        gone = {
            key for key in names_set_by_controller(secret, "metadata", field) if not key.startswith(RESERVED_PREFIX)
        }
        differs |= {key: None for key in sorted(gone & set(current)) if key not in target}
        if differs:
            patch[field] = differs
    return patch


def contested_fields(sync: SecretSync, secret: ObjectMeta) -> str:
    """Return a warning if the answer to a write shows that another component changed the metadata, or ""."""
    changed = [f"{field[:-1]} {key}" for field, keys in metadata_patch(sync, secret).items() for key in sorted(keys)]
    if not changed:
        return ""
    more = f" and {len(changed) - MAX_CONTESTED} more" if len(changed) > MAX_CONTESTED else ""
    return (
        f"another component, such as an admission webhook, changes {', '.join(changed[:MAX_CONTESTED])}{more} of the"
        " Secret after each write: exempt this Secret from that component, or set the same labels and annotations in"
        " secretObject"
    )


def failed_keys(fetched: Mapping[str, VaultValue | Unchanged | ControllerError]) -> dict[str, ControllerError]:
    """Return the keys that could not be fetched, with their errors."""
    return {key: item for key, item in fetched.items() if isinstance(item, ControllerError)}


def partial_message(failed: Mapping[str, ControllerError], targets: Mapping[str, str]) -> str:
    """Return the message of the reason PartialSync: a JSON list with one item for each key, failures first.

    `targets` has the sourcePath of each key.
    """
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
        if len(text) <= MAX_MESSAGE:
            return text.decode()
        shown = shown * 3 // 4
