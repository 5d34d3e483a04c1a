"""Doing it: one SecretSync from what is wanted to what is there. Look, fetch, `plan()`, write; the outcome tells how.

Everything that goes wrong leaves here as a `ControllerError` or, for what only time mends, as `Again`.
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import msgspec

from controller import confined, errors, permissions, reserved
from controller.accounts import identity_of
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync
from controller.certificates import is_pem
from controller.class_reader import ClassReader
from controller.clouds import find_cloud
from controller.contents import contents, needs_parsing, warnings
from controller.fetched import Fetched, Results, Same
from controller.identity import Identity
from controller.kube import Kube
from controller.objects import VaultClass, VersionOf
from controller.parsing import Parser
from controller.plan import (
    Observed,
    Refuse,
    Wait,
    Write,
    contested,
    data_keys,
    drifted,
    failures,
    foreign,
    mark,
    metadata_patch,
    mistake,
    ownership,
    partial_message,
    plan,
    turn,
)
from controller.queue import Key
from controller.schedule import COLLECTED_SOON, refresh_interval
from controller.settings import FOREIGN_SECRET, Cloud, Settings
from controller.status import Outcome, versions
from controller.telemetry import Metrics
from controller.vaults import Vaults

# Seconds for which values are kept that can only be written together with others.
MOST_PATIENCE = 300.0
NOT_COLLECTED = (
    "the Secret {0} of an earlier SecretSync of this name is still there; look at its finalizers and at the cluster's"
    " garbage collector (kube-controller-manager), or delete it"
)


log = logging.getLogger(__name__)


class Again(Exception):  # noqa: N818 -- not an error
    """Somebody was faster, or an old Secret is being collected: look again after `seconds`, nothing to report yet.

    `obstacle` says what is waited for, should it take long.
    """

    def __init__(self, seconds: float, obstacle: str = "") -> None:
        super().__init__()
        self.seconds = seconds
        self.obstacle = obstacle


class Ask(msgspec.Struct, frozen=True):
    """What is to be fetched: nothing read before `since` (monotonic clock); of `stale` target keys, None: of all."""

    since: float
    stale: frozenset[str] | None = None


class Equal(msgspec.Struct, frozen=True):
    """Nothing is to be fetched: a look at the vault has found the Secret equal to it, and that is to be told."""


class Reading(NamedTuple):
    """From which vault a SecretSync reads as whom, and what, by target key."""

    identity: Identity
    cloud: str
    vault: str
    wanted: Mapping[str, VersionOf]
    warnings: tuple[str, ...] = ()  # about the items of the class that it asks for


class Written(msgspec.Struct):
    """What this process knows of a Secret that it wrote: digests by key, and the mark of managedFields (see `plan`).

    `untried` until the first attempt. `failing` are the keys without which nothing could be written at the last
    attempt. `contested` says which labels or annotations another component changes back, and `repairs` counts the drift
    checks in a row that found them changed.
    """

    digests: Mapping[str, bytes] = {}
    mark: str = ""
    untried: bool = True
    failing: frozenset[str] = frozenset()
    contested: str = ""
    repairs: int = 0


Class = SecretProviderClass | Unreadable | None


class Syncer:
    """Syncs one SecretSync at a time per caller; several callers share one."""

    def __init__(
        self, kube: Kube, settings: Settings, clouds: Mapping[str, Cloud], vaults: Vaults, metrics: Metrics
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._vaults = vaults
        self._metrics = metrics
        self._clouds = clouds
        # Digests tell equal values from others; under a key that never leaves this process they tell nobody else.
        self._key = secrets.token_bytes(32)
        self._parser = Parser()
        self._classes = ClassReader(self._parser, without_identity=settings.identity_from_service_account)

    async def reading(self, sync: SecretSync, source: Class) -> Reading:
        """What the SecretSync and its class ask for. Raises `ControllerError` where they cannot be understood."""
        vault_class = await self._understand(sync, source)
        if (
            wrong := self._type_mistake(sync)
            or mistake(sync)
            or self._reserved_mistake(sync)
            or self._interval_mistake(sync)
        ):
            raise wrong
        identity = await identity_of(self._kube, sync, vault_class)
        wanted = vault_class.wanted(sync.spec.secret_object)
        warnings = vault_class.warnings_about(wanted.values())
        return Reading(identity, vault_class.cloud, vault_class.vault, wanted, warnings)

    async def sync(self, sync: SecretSync, reading: Reading, written: Written, ask: Ask) -> Outcome:
        """Makes the Secret equal to the vault. Raises `ControllerError` where nothing could be done, or `Again`."""
        try:
            # Whose Secret it is comes first: no value is fetched for one that cannot be written. But where nobody has
            # worked on a SecretSync yet there is rarely a Secret, and if there is one, the attempt to create it tells.
            secret = None if written.untried and not sync.status.conditions else await self._look(sync)
            written.untried = False
            match ownership(sync, secret):
                case Wait():
                    raise Again(COLLECTED_SOON, NOT_COLLECTED.format(sync.metadata.name))
                case Refuse(error):
                    raise error
            unchanged = _unchanged_keys(sync, secret, written, ask)
            fetched = await self._fetch(sync, reading, ask, unchanged, written.failing - unchanged)
            return await self._carry_out(sync, reading, secret, fetched, written)
        except errors.Conflict as error:
            raise Again(COLLECTED_SOON) from error

    async def unchanged(self, sync: SecretSync, written: Written) -> bool:
        """The drift check: whether the Secret still is as we left it. Metadata only: no value is fetched or read."""
        try:
            secret = await self._look(sync)
        except errors.OwnershipError:
            return False
        except errors.KubeError:
            return True  # nothing is known; the next look may tell
        if secret is None or ownership(sync, secret) or drifted(sync, secret, written.mark):
            written.digests = {}
            return False
        written.mark = mark(await self._repair(sync, secret, written))
        return True

    async def _repair(self, sync: SecretSync, secret: ObjectMeta, written: Written) -> ObjectMeta:
        """Write the labels and annotations that were changed, without a value; return the metadata afterwards.

        Where another component changes them back each time, the writes become rarer and rarer.
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
            after = await self._write(sync, secret, Write(create=False, body=body))
        except (errors.ControllerError, Again) as error:
            log.debug("metadata of %s not repaired: %s", sync.metadata.name, type(error).__name__)
            return secret
        written.contested = contested(sync, after)
        return after

    def forget_class(self, key: Key) -> None:
        """The class is gone."""
        self._classes.forget(key)

    async def _understand(self, sync: SecretSync, source: Class) -> VaultClass:
        name = sync.spec.secret_provider_class_name
        if source is None:
            raise errors.ClassError(
                f"there is no SecretProviderClass {name} in namespace {sync.metadata.namespace}; create it or correct"
                " secretProviderClassName"
            )
        if isinstance(source, Unreadable):
            raise errors.ClassError(f"SecretProviderClass {name}: {source.problem}")
        if wait := self._classes.wait(source):
            raise Again(wait)  # by then there may be a newer edit
        read = await self._classes.read(source)
        asked = read.cloud or self._settings.default_cloud
        cloud = find_cloud(asked, self._clouds)
        if cloud is None:
            raise errors.ClassError(
                f"SecretProviderClass {name}: cloudName {asked[:60]!r} is not one of the administrator's; known are"
                f" {', '.join(sorted(self._clouds))}"
            )
        return msgspec.structs.replace(read, cloud=cloud)

    def _type_mistake(self, sync: SecretSync) -> errors.InputError | None:
        allowed, asked = self._settings.allowed_secret_types, sync.spec.secret_object.type
        if not allowed or asked in allowed:
            return None
        return errors.InputError(
            f"secretObject.type is {asked[:100]!r}: accepted are {', '.join(allowed)}; to accept another type, the"
            " administrator adds it to the chart's validatingAdmissionPolicies.allowedSecretTypes"
        )

    def _reserved_mistake(self, sync: SecretSync) -> errors.InputError | None:
        """What the admission policies would refuse after the vault was read."""
        wanted = sync.spec.secret_object
        found = reserved.violation(sync.metadata.name, wanted.labels, wanted.annotations)
        return errors.InputError(found) if found and self._settings.probe_secret_type else None

    def _interval_mistake(self, sync: SecretSync) -> errors.InputError | None:
        asked, shortest = sync.metadata.annotations.get(REFRESH_INTERVAL), self._settings.shortest_refresh_interval
        if refresh_interval(asked, self._settings.rotation_poll_interval, shortest) is not None:
            return None
        return errors.InputError(f"annotation {REFRESH_INTERVAL} is {str(asked)[:60]!r}: write a number of seconds")

    async def _look(self, sync: SecretSync) -> ObjectMeta | None:
        """The metadata of the Secret of that name; None where there is none, `OwnershipError` where it is foreign."""
        try:
            return await permissions.SECRETS.look(self._kube, sync.metadata.namespace, sync.metadata.name)
        except errors.NotFound:
            return None
        except errors.PolicyRefused as error:
            # Even a patch that changes nothing is refused by policy where the Secret has another owner.
            if FOREIGN_SECRET in error.message:
                raise foreign(sync) from error
            raise

    async def _fetch(
        self, sync: SecretSync, reading: Reading, ask: Ask, unchanged: frozenset[str], failing: frozenset[str]
    ) -> dict[str, Fetched | Same | errors.ControllerError]:
        """Fetch what is not known to be unchanged.

        Where nothing could be written because of `failing` keys, the others are of no use before these can be fetched.
        """
        if failing and len(failing) < len(reading.wanted):
            rest = frozenset(reading.wanted) - failing
            tried = await self._fetch(sync, reading, ask, rest, frozenset())
            failed = failures(tried)
            if len(failed) == len(failing) or (failed and not self._settings.enable_partial_secret_sync):
                return tried
        wanted = {key: version for key, version in reading.wanted.items() if key not in unchanged}
        # What there is nothing of yet comes first at a busy vault.
        first = not {item.target_key for item in sync.status.objects}.issuperset(wanted)
        read = await self._read(reading, {version.whole for version in wanted.values()}, ask.since, first)
        fetched: dict[str, Fetched | errors.ControllerError] = {}
        for whole in {version.whole for version in wanted.values()}:
            keys = {key: version for key, version in wanted.items() if version.whole == whole}
            fetched |= await self._contents(sync.metadata.namespace, reading.vault, keys, read[whole])
        return {key: Same() if key in unchanged else fetched[key] for key in reading.wanted}

    async def _contents(
        self, namespace: str, vault: str, keys: Mapping[str, VersionOf], read: Fetched | errors.ControllerError
    ) -> Mapping[str, Fetched | errors.ControllerError]:
        """Return what each of these keys gets of one version of one object."""
        now = datetime.now(UTC)
        results = dict.fromkeys((version.whole for version in keys.values()), read)
        if not isinstance(read, Fetched) or not any(needs_parsing(version, read) for version in keys.values()):
            return contents(vault, keys, results, now)
        try:
            return await self._parser.run(
                namespace,
                lambda charge: contents(vault, keys, results, now, partial(confined.pem_of_pfx, charge=charge)),
                pfx=not is_pem(read.value.reveal()),
            )
        except errors.ParsingDeferred as error:
            return dict.fromkeys(keys, error.bare())

    async def _read(self, reading: Reading, wanted: Collection[VersionOf], since: float, first: bool) -> Results:
        """What is wanted; where only all of it makes a Secret, what a busy vault puts off is waited for."""
        reader = self._vaults.reader(reading.identity, reading.cloud, reading.vault)
        read = dict(await reader.read(wanted, since=since, first=first))
        patience = 0.0 if self._settings.enable_partial_secret_sync else MOST_PATIENCE
        while failed := {version: item for version, item in read.items() if isinstance(item, errors.ControllerError)}:
            wait = turn(failed)
            if wait is None or wait > patience or any(item.retry is not errors.Retry.TURN for item in failed.values()):
                break
            patience -= wait
            await asyncio.sleep(wait)
            read |= await reader.read(failed, since=since, first=first)
        return read

    async def _carry_out(
        self,
        sync: SecretSync,
        reading: Reading,
        secret: ObjectMeta | None,
        fetched: Mapping[str, Fetched | Same | errors.ControllerError],
        written: Written,
    ) -> Outcome:
        wanted = reading.wanted
        digests = {key: self._digest(item) for key, item in fetched.items() if isinstance(item, Fetched)}
        untouched = secret is not None and written.mark == mark(secret)
        decision = plan(
            Observed(
                sync=sync,
                secret=secret,
                fetched=fetched,
                digests=digests,
                known=written.digests if untouched else {},
                partial=self._settings.enable_partial_secret_sync,
            )
        )
        written.failing = frozenset(failures(fetched)) if isinstance(decision, Refuse) else frozenset()
        match decision:
            case Refuse(error):
                raise error
            case Wait():
                raise Again(COLLECTED_SOON, NOT_COLLECTED.format(sync.metadata.name))
        changed = False
        if isinstance(decision, Write):
            after = await self._write(sync, secret, decision)
            # Values that were equal already leave the resourceVersion alone: the API server compares, we need not read.
            changed = secret is None or after.resource_version != secret.resource_version
            secret = after
            written.contested = contested(sync, after)
            kept = written.digests if untouched else {}
            written.digests = {key: digest for key, digest in kept.items() if key in wanted} | digests
        written.mark = mark(secret) if secret else ""
        objects = versions(fetched, wanted, sync.status)
        contest = (written.contested,) if written.contested else ()
        odd = (*reading.warnings, *contest, *warnings(reading.vault, wanted, fetched))
        if decision.failed:
            paths = {pair.target_key: pair.source_path for pair in sync.spec.secret_object.data}
            wait = turn(decision.failed)
            return Outcome(
                reason=Reason.PARTIAL,
                message=partial_message(decision.failed, paths),
                ready=False,
                exists=True,
                objects=objects,
                retry_after=wait or max(error.retry_after or 0.0 for error in decision.failed.values()),
                retry=errors.Retry.TURN if wait else errors.Retry.TIME,
                left=frozenset(decision.failed),
                away=all(errors.is_away(error) for error in decision.failed.values()),
                warnings=odd,
            )
        everything = not any(isinstance(item, Same) for item in fetched.values())
        return msgspec.structs.replace(
            confirmed(reading),
            reason=Reason.WRITTEN if changed else Reason.UP_TO_DATE,
            message=_told(reading, "written from" if changed else "equal to"),
            objects=objects,
            warnings=odd if odd or everything else None,
        )

    def _digest(self, item: Fetched) -> bytes:
        return hmac.digest(self._key, item.value.reveal(), "sha256")

    async def _write(self, sync: SecretSync, secret: ObjectMeta | None, write: Write) -> ObjectMeta:
        try:
            if secret is None:
                after = await permissions.SECRETS.create(self._kube, sync.metadata.namespace, write.body)
            else:
                after = await permissions.SECRETS.merge(self._kube, secret, write.body)
            self._metrics.secret_writes.labels("create" if secret is None else "patch").inc()
            return after
        except errors.NotFound as error:
            raise Again(COLLECTED_SOON) from error
        except errors.PolicyRefused:
            raise
        except errors.Refused as error:
            name = sync.metadata.name
            if "`immutable` is set" in error.message:
                text = f"Secret {name} is marked immutable: delete it and the sync makes it anew"
                raise errors.Refused(text, status=error.status, retry=errors.Retry.OBSTACLE) from error
            if "field is immutable" in error.message:
                text = f"Secret {name} is of another type than {sync.spec.secret_object.type}: delete it and the sync"
                raise errors.InputError(f"{text} makes it anew", retry=errors.Retry.OBSTACLE) from error
            raise


def confirmed(reading: Reading) -> Outcome:
    """The outcome where a look has shown that the Secret equals the vault."""
    return Outcome(reason=Reason.UP_TO_DATE, message=_told(reading, "equal to"), ready=True, equal=True, exists=True)


def _told(reading: Reading, how: str) -> str:
    count = len(reading.wanted)
    return f"{count} key{'s' if count != 1 else ''} {how} Key Vault {reading.vault}"


def _unchanged_keys(sync: SecretSync, secret: ObjectMeta | None, written: Written, ask: Ask) -> frozenset[str]:
    """The keys that need no fetch: they are not stale, and nobody else's hand shows in the Secret."""
    if ask.stale is None or secret is None or drifted(sync, secret, written.mark):
        return frozenset()
    return frozenset(data_keys(secret) - ask.stale)
