"""Sync one SecretSync: bring its Secret from the current to the wanted state.

The syncer probes the Secret unless the SecretSync is new. It fetches values (`ValueFetcher`), decides what to write
(`decide_write`), and writes it. It raises each failure as a `ControllerError`. It returns `Requeue` if a later attempt
can succeed without a change.
"""

import hmac
import logging
import secrets
from collections.abc import Collection, Iterable, Mapping

import msgspec

from controller import errors
from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync
from controller.config.settings import FOREIGN_SECRET, Settings
from controller.domain.decision import (
    ObservedState,
    RejectWrite,
    WaitForGarbageCollection,
    WriteSecret,
    check_ownership,
    contested_fields,
    decide_write,
    failed_keys,
    foreign_error,
    metadata_patch,
    partial_message,
    source_paths,
)
from controller.domain.decode_values import hold_tls_half, value_warnings
from controller.domain.managed_fields import data_fingerprint, data_keys, has_drifted
from controller.domain.snapshot import NONE_UNUSABLE
from controller.domain.status import Outcome, PartiallySynced, Requeue, Synced, group_properties, object_versions
from controller.domain.values import Unchanged, VaultValue
from controller.kube import permissions
from controller.kube.client import KubeClient
from controller.kube.foreign_text import IMMUTABLE_SECRET, IMMUTABLE_TYPE, TOO_LARGE
from controller.observability.telemetry import Metrics
from controller.runtime.backoff import COLLECTED_SOON
from controller.runtime.sharing import share_text
from controller.secretsync.refused_write import RefusedWrite
from controller.secretsync.sync_resolver import ResolvedSync, poll_interval
from controller.secretsync.tasks import NO_KEYS, Fetch
from controller.secretsync.value_fetcher import Fetched, Known, Properties, ValueFetcher, has_usable_properties

NOT_COLLECTED = (
    "the Secret {0} of an earlier SecretSync of this name still exists; check its finalizers and the cluster's garbage"
    " collector (kube-controller-manager), or delete it"
)

log = logging.getLogger(__name__)


class LastWrite(msgspec.Struct):
    """The state of a Secret after this process's last write.

    `digests` are of the values by key. `fingerprint` is the `data_fingerprint` of the Secret. `untried` is true until
    the first attempt. `exists` says whether the SecretSync had its Secret at the last probe or write. `failing` are the
    keys whose failure prevented the last write, and `refused` is the write that the API server refused. `unusable` has
    the error of each key whose fetched value cannot be used. The error remains until a poll finds another value.
    `contested` is a warning about labels or annotations that another component changes back. `repairs` counts the
    consecutive drift checks that found them changed.
    """

    digests: Mapping[str, bytes] = {}
    fingerprint: str = ""
    untried: bool = True
    exists: bool | None = None
    failing: frozenset[str] = NO_KEYS
    refused: RefusedWrite | None = None
    unusable: Mapping[str, errors.UnusableValue] = NONE_UNUSABLE
    contested: str = ""
    repairs: int = 0


class Syncer:
    """Sync SecretSyncs. Several workers share one syncer; it keeps no state of a SecretSync."""

    def __init__(self, kube: KubeClient, settings: Settings, fetcher: ValueFetcher, metrics: Metrics) -> None:
        self.kube = kube
        self._settings = settings
        self._fetcher = fetcher
        self._metrics = metrics
        # Digests detect equal values. Their key never leaves this process, so they reveal nothing to others.
        self._key = secrets.token_bytes(32)

    async def sync(self, sync: SecretSync, resolved: ResolvedSync, written: LastWrite, task: Fetch) -> Outcome:
        """Make the Secret equal to the vault. Raise `ControllerError` if nothing could be written."""
        try:
            # Check the owner of the Secret first, so that no value is fetched for one that cannot be written. A
            # SecretSync without status rarely has a Secret, and the attempt to create one detects it.
            secret = None
            if not written.untried or sync.status.conditions:
                secret = await self._probe_metadata(sync)
                written.exists = secret is not None
            written.untried = False
            match check_ownership(sync, secret):
                case WaitForGarbageCollection():
                    written.exists = False
                    return Requeue(COLLECTED_SOON, NOT_COLLECTED.format(sync.metadata.name))
                case RejectWrite(error):
                    raise error
            if refused := written.refused:
                await refused.raise_if_lasting(self.kube, sync, secret)
                written.refused = None
            unchanged = _unchanged_keys(sync, resolved.wanted, secret, written, task) | _kept_keys(resolved, secret)
            held = _held_properties(sync, secret)
            unusable = _unusable_keys(sync, resolved.wanted, written, task, held)
            known = {**dict.fromkeys(unchanged, Unchanged()), **unusable}
            failing = written.failing - (unchanged - unusable.keys())
            fetched = await self._fetcher.fetch_values(sync, resolved, task, known, failing, held)
            if secret is not None:  # without one, decide_write refuses a half
                fetched = hold_tls_half(sync.spec.secret_object.type, fetched)
            return await self._apply_decision(sync, resolved, secret, fetched, written)
        except errors.OwnershipError:
            written.exists = False
            raise
        except (errors.Conflict, errors.NotFound):
            return Requeue(COLLECTED_SOON)  # another client changed or deleted the Secret first

    async def is_unchanged(self, sync: SecretSync, written: LastWrite) -> bool:
        """Check for drift: return whether the Secret is unchanged. It reads only metadata, and fetches no value.

        It repairs labels and annotations. After a failure of the API server, it returns True.
        """
        try:
            secret = await self._probe_metadata(sync)
        except errors.OwnershipError:
            return False
        except errors.KubeError:
            return True  # the next check decides
        if secret is None and written.failing:
            return True  # the controller has not written it, because keys fail
        if secret is None or check_ownership(sync, secret) or has_drifted(sync, secret, written.fingerprint):
            written.digests = {}
            return False
        written.fingerprint = data_fingerprint(await self._repair_metadata(sync, secret, written))
        return True

    async def _repair_metadata(self, sync: SecretSync, secret: ObjectMeta, written: LastWrite) -> ObjectMeta:
        """Write the changed labels and annotations without a value. Return the metadata afterwards.

        If another component changes them back each time, the writes become increasingly rare.
        """
        patch = metadata_patch(sync, secret)
        if not patch:
            written.contested, written.repairs = "", 0
            return secret
        written.repairs += 1
        if written.repairs & (written.repairs - 1):  # not 1, 2, 4, 8 ...
            return secret
        body = {"type": sync.spec.secret_object.type, "metadata": patch}
        try:
            after = await self._write_secret(sync, secret, WriteSecret(create=False, body=body))
        except errors.ControllerError as error:
            log.debug("metadata of %s not repaired: %s", sync.metadata.name, type(error).__name__)
            return secret
        written.contested = contested_fields(sync, after)
        return after

    async def _probe_metadata(self, sync: SecretSync) -> ObjectMeta | None:
        """Return the metadata of the Secret, or None if there is none. Raise `OwnershipError` if it is foreign."""
        try:
            return await permissions.SECRETS.probe_metadata(self.kube, sync.metadata.namespace, sync.metadata.name)
        except errors.NotFound:
            return None
        except errors.PolicyRefused as error:
            # The policy also refuses a patch without changes if the Secret has another owner.
            if FOREIGN_SECRET in error.message:
                raise foreign_error(sync) from error
            raise

    async def _apply_decision(
        self,
        sync: SecretSync,
        resolved: ResolvedSync,
        secret: ObjectMeta | None,
        fetched: Fetched,
        written: LastWrite,
    ) -> Synced | PartiallySynced:
        """Write the Secret if it differs from the fetched values, and update `written`. Return the outcome.

        Raise `ControllerError` if the decision or the API server refuses the write.
        """
        wanted = resolved.wanted
        digests = {key: self._digest_value(item) for key, item in fetched.items() if isinstance(item, VaultValue)}
        untouched = secret is not None and written.fingerprint == data_fingerprint(secret)
        decision = decide_write(
            ObservedState(
                sync=sync,
                secret=secret,
                fetched=fetched,
                digests=digests,
                known=written.digests if untouched else {},
                partial=self._settings.enable_partial_secret_sync,
            )
        )
        failed = failed_keys(fetched)
        unusable = {key: error for key, error in failed.items() if isinstance(error, errors.UnusableValue)}
        written.unusable = unusable or NONE_UNUSABLE
        written.failing = frozenset(failed) if isinstance(decision, RejectWrite) else NO_KEYS
        if isinstance(decision, RejectWrite):
            raise decision.error
        changed = False
        if isinstance(decision, WriteSecret):
            after = await self._write_or_rehearse(sync, secret, decision, written)
            # Equal values do not change the resourceVersion: the API server compares them.
            changed = secret is None or after.resource_version != secret.resource_version
            secret, written.exists = after, True
            written.contested = contested_fields(sync, after)
            kept = written.digests if untouched else {}
            written.digests = {key: digest for key, digest in kept.items() if key in fetched} | digests
        written.fingerprint = share_text(data_fingerprint(secret)) if secret else ""
        objects = object_versions(fetched, wanted, sync.status)
        contest = (written.contested,) if written.contested else ()
        warnings = (*resolved.warnings, *contest, *value_warnings(resolved.vault, wanted, fetched))
        if decision.failed:
            message = partial_message(decision.failed, source_paths(sync, decision.failed))
            return PartiallySynced(message=message, failed=decision.failed, objects=objects, warnings=warnings)
        everything = not any(isinstance(item, Unchanged) for item in fetched.values())
        return Synced(
            message=_synced_message(resolved, "written from" if changed else "equal to"),
            changed=changed,
            objects=objects,
            warnings=warnings if warnings or everything else None,
        )

    async def _write_or_rehearse(
        self, sync: SecretSync, secret: ObjectMeta | None, write: WriteSecret, written: LastWrite
    ) -> ObjectMeta:
        """Write the Secret. Return its metadata. After a refusal, store the result of a dry run and raise the error."""
        try:
            return await self._write_secret(sync, secret, write)
        except (errors.Conflict, errors.NotFound, errors.NotLeading):
            raise
        except errors.ControllerError as error:
            seconds = poll_interval(sync, self._settings)
            written.refused = await RefusedWrite.rehearse_write(self.kube, sync, secret, error, seconds)
            raise

    def _digest_value(self, item: VaultValue) -> bytes:
        return hmac.digest(self._key, item.value.reveal(), "sha256")

    async def _write_secret(self, sync: SecretSync, secret: ObjectMeta | None, write: WriteSecret) -> ObjectMeta:
        """Create or patch the Secret. Return its metadata. Raise `ControllerError` with the next step on a refusal."""
        try:
            if secret is None:
                after = await permissions.SECRETS.create(self.kube, sync.metadata.namespace, write.body)
            else:
                after = await permissions.SECRETS.merge(self.kube, secret, write.body)
            self._metrics.secret_writes.labels("create" if secret is None else "patch").inc()
            return after
        except errors.PolicyRefused:
            raise
        except errors.Refused as error:
            name = sync.metadata.name
            if IMMUTABLE_SECRET in error.message:
                text = f"Secret {name} is marked immutable: delete it and the controller recreates it"
                raise errors.Refused(text, status=error.status, retry=errors.Retry.BLOCKED) from error
            if IMMUTABLE_TYPE in error.message:
                text = f"Secret {name} is of another type than {sync.spec.secret_object.type}: delete it and the"
                raise errors.InputError(f"{text} controller recreates it", retry=errors.Retry.BLOCKED) from error
            if TOO_LARGE in error.message:  # decide_write does not know the size of values that were not fetched
                text = f"Secret {name} would have more than 1 MiB with its unchanged values; split the SecretSync"
                raise errors.InputError(text) from error
            raise


def _kept_keys(resolved: ResolvedSync, secret: ObjectMeta | None) -> frozenset[str]:
    """Return the keys of objects that are no longer read, if the Secret has them."""
    kept = {key for key, version in resolved.wanted.items() if version.object.keep}
    return frozenset(kept & data_keys(secret)) if kept and secret else frozenset()


def confirmed_outcome(resolved: ResolvedSync) -> Synced:
    """Return the outcome of a poll that found the Secret equal to the vault."""
    return Synced(message=_synced_message(resolved, "equal to"))


def _synced_message(resolved: ResolvedSync, how: str) -> str:
    kept = sum(version.object.keep for version in resolved.wanted.values())
    count = len(resolved.wanted) - kept
    more = f"; {kept} key{'s' if kept != 1 else ''} kept, of objects that are not read any more" if kept else ""
    return f"{count} key{'s' if count != 1 else ''} {how} Key Vault {resolved.vault}{more}"


def _held_properties(sync: SecretSync, secret: ObjectMeta | None) -> Properties:
    """Return the properties of expanded items that the Secret has."""
    present = data_keys(secret) if secret else frozenset()
    return group_properties(each for each in sync.status.objects if each.target_key in present)


def _unusable_keys(
    sync: SecretSync, wanted: Collection[str], written: LastWrite, task: Fetch, held: Properties
) -> Known:
    """Return the keys that remain unusable, because no poll or edit concerns them.

    An expanded item is not one of them if the Secret has lost some of its usable properties.
    """
    if task.keys is None or not written.unusable:
        return {}
    properties = group_properties(sync.status.objects)
    lost = {
        key
        for key, error in written.unusable.items()
        if has_usable_properties(properties.get(key, ()), error) and properties[key] != held.get(key)
    }
    return {
        key: error
        for key, error in written.unusable.items()
        if key in wanted and key not in task.keys and key not in lost
    }


def _unchanged_keys(
    sync: SecretSync, wanted: Iterable[str], secret: ObjectMeta | None, written: LastWrite, task: Fetch
) -> frozenset[str]:
    """Return the wanted keys that need no fetch: they are not stale, and no other client has changed the Secret."""
    if task.keys is None or secret is None or has_drifted(sync, secret, written.fingerprint):
        return frozenset()
    present = data_keys(secret)
    # An expanded item is unchanged if the Secret has all keys that the item had at the last sync.
    complete = {
        key
        for key, properties in group_properties(sync.status.objects).items()
        if all(each.target_key in present for each in properties)
    }
    return frozenset(key for key in wanted if key not in task.keys and (key in present or key in complete))
