"""Doing it: one SecretSync from what is wanted to what is there. Look, fetch, `plan()`, write; the outcome tells how.

Everything that goes wrong leaves here as a `ControllerError` or, for what only time mends, as `Again`.
"""

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from controller import errors, permissions
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.contents import contents, warnings
from controller.fetched import Fetched
from controller.identity import Identity
from controller.kube import Kube
from controller.objects import VaultClass, VersionOf, read_class
from controller.plan import (
    Observed,
    Refuse,
    Wait,
    Write,
    drifted,
    foreign,
    mark,
    mistake,
    ownership,
    partial_message,
    plan,
)
from controller.queue import Key
from controller.schedule import COLLECTED_SOON
from controller.settings import FOREIGN_SECRET, TOKEN_AUDIENCE, TOKEN_SECONDS, Settings
from controller.status import Outcome, versions
from controller.telemetry import Metrics
from controller.vault import Vaults

NOT_COLLECTED = (
    "the Secret {0} of an earlier SecretSync of this name is still there; look at its finalizers and at the cluster's"
    " garbage collector (kube-controller-manager), or delete it"
)


class Again(Exception):  # noqa: N818 -- not an error
    """Somebody was faster, or an old Secret is being collected: look again after `seconds`, nothing to report yet.

    `obstacle` says what is waited for, should it take long.
    """

    def __init__(self, seconds: float, obstacle: str = "") -> None:
        super().__init__()
        self.seconds = seconds
        self.obstacle = obstacle


class Written(msgspec.Struct):
    """What this process knows of a Secret that it wrote: digests by key, and the mark of managedFields (see `plan`)."""

    digests: Mapping[str, bytes] = {}
    mark: str = ""


class _Understood(NamedTuple):
    """What was read of a SecretProviderClass, as of one edit of it."""

    uid: str
    generation: int
    result: VaultClass | errors.ClassError


Class = SecretProviderClass | Unreadable | None


class Syncer:
    """Syncs one SecretSync at a time per caller; several callers share one."""

    def __init__(self, kube: Kube, settings: Settings, vaults: Vaults, metrics: Metrics) -> None:
        self._kube = kube
        self._settings = settings
        self._vaults = vaults
        self._metrics = metrics
        self._clouds = settings.clouds()
        # Digests tell equal values from others; under a key that never leaves this process they tell nobody else.
        self._key = secrets.token_bytes(32)
        self._understood: dict[Key, _Understood] = {}

    async def sync(self, sync: SecretSync, source: Class, written: Written) -> Outcome:
        """Makes the Secret equal to the vault. Raises `ControllerError` where nothing could be done, or `Again`."""
        vault_class = self._understand(sync, source)
        if wrong := mistake(sync):
            raise wrong
        wanted = vault_class.wanted(sync.spec.secret_object)
        try:
            secret = await self._look(sync)
            # Whose Secret it is comes first: no value is fetched for one that cannot be written.
            match ownership(sync, secret):
                case Wait():
                    raise Again(COLLECTED_SOON, NOT_COLLECTED.format(sync.metadata.name))
                case Refuse(error):
                    raise error
            fetched = await self._fetch(sync, vault_class, wanted)
            return await self._carry_out(sync, vault_class, wanted, secret, fetched, written)
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
        written.mark = mark(secret)
        return True

    def forget_class(self, key: Key) -> None:
        """The class was edited or is gone."""
        self._understood.pop(key, None)

    def _understand(self, sync: SecretSync, source: Class) -> VaultClass:
        name = sync.spec.secret_provider_class_name
        if source is None:
            raise errors.ClassError(
                f"there is no SecretProviderClass {name} in namespace {sync.metadata.namespace}; create it or correct"
                " secretProviderClassName"
            )
        if isinstance(source, Unreadable):
            raise errors.ClassError(f"SecretProviderClass {name}: {source.problem}")
        key, meta = Key(sync.metadata.namespace, name), source.metadata
        known = self._understood.get(key)
        if not known or (known.uid, known.generation) != (meta.uid, meta.generation):
            known = self._understood[key] = _Understood(meta.uid, meta.generation, _try_read(source))
        if isinstance(known.result, errors.ClassError):
            raise known.result.bare()
        cloud = known.result.cloud or self._settings.default_cloud
        if cloud not in self._clouds:
            raise errors.ClassError(
                f"SecretProviderClass {name}: cloudName {cloud[:60]!r} is not one of the administrator's; known are"
                f" {', '.join(sorted(self._clouds))}"
            )
        return msgspec.structs.replace(known.result, cloud=cloud)

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
        self, sync: SecretSync, vault_class: VaultClass, wanted: Mapping[str, VersionOf]
    ) -> dict[str, Fetched | errors.ControllerError]:
        namespace, account = sync.metadata.namespace, sync.spec.service_account_name
        identity = Identity(namespace, account, vault_class.client_id, vault_class.tenant_id)
        reader = self._vaults.reader(identity, vault_class.cloud, vault_class.vault)
        read = await reader.read({version.whole for version in wanted.values()})
        # A PFX with a long RSA key takes a quarter of a second: other SecretSyncs go on between one and the next.
        return await asyncio.to_thread(contents, vault_class.vault, wanted, read, datetime.now(UTC))

    async def _carry_out(
        self,
        sync: SecretSync,
        vault_class: VaultClass,
        wanted: Mapping[str, VersionOf],
        secret: ObjectMeta | None,
        fetched: Mapping[str, Fetched | errors.ControllerError],
        written: Written,
    ) -> Outcome:
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
            kept = written.digests if untouched else {}
            written.digests = {key: digest for key, digest in kept.items() if key in wanted} | digests
        written.mark = mark(secret) if secret else ""
        objects = versions(fetched, wanted, sync.status)
        odd = tuple(warnings(vault_class.vault, wanted, fetched))
        if decision.failed:
            paths = {pair.target_key: pair.source_path for pair in sync.spec.secret_object.data}
            message = partial_message(decision.failed, paths)
            retry_after = max((error.retry_after or 0.0 for error in decision.failed.values()), default=0.0)
            return Outcome(
                reason=Reason.PARTIAL,
                message=message,
                ready=False,
                exists=True,
                objects=objects,
                retry_after=retry_after,
                warnings=odd,
            )
        keys = f"{len(wanted)} key{'s' if len(wanted) != 1 else ''}"
        return Outcome(
            reason=Reason.WRITTEN if changed else Reason.UP_TO_DATE,
            message=f"{keys} {'written from' if changed else 'equal to'} Key Vault {vault_class.vault}",
            ready=True,
            equal=True,
            exists=True,
            objects=objects,
            warnings=odd,
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


def _try_read(source: SecretProviderClass) -> VaultClass | errors.ClassError:
    try:
        return read_class(source)
    except errors.ClassError as error:
        return errors.ClassError(f"SecretProviderClass {source.metadata.name}: {error.message}")


def assertions(kube: Kube) -> Callable[[Identity], Awaitable[str]]:
    """How an identity's assertion is made: a token of its ServiceAccount, for Entra alone."""

    async def request(identity: Identity) -> str:
        namespace, name = identity.namespace, identity.service_account
        try:
            answer = await permissions.TOKENS.request(
                kube, namespace, name, audience=TOKEN_AUDIENCE, seconds=TOKEN_SECONDS
            )
        except errors.NotFound as error:
            text = f"there is no ServiceAccount {name} in namespace {namespace}"
            raise errors.ProviderError(f"{text}; create it or correct serviceAccountName") from error
        return answer.status.token

    return request
