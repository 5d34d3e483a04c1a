"""Fetch the wanted values of a SecretSync from its vault, and decode them."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec

from controller import errors
from controller.api.secretsync import ObjectVersion, SecretSync
from controller.config.settings import Settings
from controller.domain.certificates import is_pem
from controller.domain.decision import failed_keys, seconds_until_served
from controller.domain.decode_values import DecodedSize, decode_values, flatten_expanded, needs_bundle, needs_parsing
from controller.domain.provider_class import EXPANDED_SUFFIX, ObjectVersionRef
from controller.domain.status import group_properties
from controller.domain.values import ExpandedValues, Results, Unchanged, VaultValue
from controller.keyvault.pool import VaultPool
from controller.runtime.threads.parsing import ParsingPool
from controller.secretsync import pkcs12_sandbox
from controller.secretsync.sync_resolver import ResolvedSync
from controller.secretsync.tasks import Fetch

# Maximum seconds to hold fetched values while a throttled vault delays the others of the same Secret.
MAX_PATIENCE = 300.0
Known = Mapping[str, Unchanged | errors.UnusableValue]
"""The results of wanted keys that need no fetch."""
Properties = Mapping[str, Sequence[ObjectVersion]]
"""The properties of expanded items at the last sync, by the key of the item."""
Fetched = Mapping[str, VaultValue | Unchanged | errors.ControllerError]
"""The result for each wanted key."""
Decoded = VaultValue | ExpandedValues | errors.ControllerError
"""The result for one key that was fetched. An expanded item can have any number of properties."""


class ValueFetcher:
    """Fetch values through vault readers. The threads of `parser` decode values that need parsing."""

    def __init__(self, settings: Settings, vaults: VaultPool, parser: ParsingPool) -> None:
        self._settings = settings
        self._vaults = vaults
        self._parser = parser

    async def fetch_values(
        self,
        sync: SecretSync,
        resolved: ResolvedSync,
        task: Fetch,
        known: Known,
        failing: frozenset[str],
        held: Properties,
    ) -> Fetched:
        """Return the result for each wanted key. Fetch those that are not in `known`.

        If the failure of the `failing` keys prevented the last write, they are fetched first. The other keys are
        fetched only if that helps. `held` are the properties of expanded items that the Secret has.
        """
        if failing and len(failing) < len(resolved.wanted):
            rest = dict.fromkeys(resolved.wanted.keys() - failing, Unchanged())
            tried = await self.fetch_values(sync, resolved, task, {**known, **rest}, frozenset(), held)
            failed = failed_keys(tried)
            if len(failed) == len(failing) or (failed and not self._settings.enable_partial_secret_sync):
                return tried
        wanted = {key: version for key, version in resolved.wanted.items() if key not in known}
        lost = {key: _lost_error(wanted.pop(key), resolved.vault) for key in list(wanted) if wanted[key].object.keep}
        # Keys without a value have precedence at a busy vault.
        first = not {item.expanded_from or item.target_key for item in sync.status.objects}.issuperset(wanted)
        read = await self._read_versions(
            resolved, {version.whole for version in wanted.values()}, task.not_before, first
        )
        fetched: dict[str, VaultValue | Unchanged | ExpandedValues | errors.ControllerError] = {
            **_known_values(sync, known),
            **lost,
        }
        by_object: dict[ObjectVersionRef, dict[str, ObjectVersionRef]] = defaultdict(dict)
        for key, version in wanted.items():
            by_object[version.whole][key] = version
        size = DecodedSize()
        for whole, keys in by_object.items():
            decoded = await self._decode_object(sync.metadata.namespace, resolved.vault, keys, read[whole], size)
            fetched |= {key: _keep_unusable(item, held.get(key, ())) for key, item in decoded.items()}
        names = {key: [entry.target_key for entry in entries] for key, entries in held.items()}
        return flatten_expanded(resolved.wanted, fetched, names)

    async def _decode_object(
        self,
        namespace: str,
        vault: str,
        keys: Mapping[str, ObjectVersionRef],
        read: VaultValue | errors.ControllerError,
        size: DecodedSize,
    ) -> Mapping[str, VaultValue | ExpandedValues | errors.ControllerError]:
        """Return the value of each of these keys. All keys read the same version of the same object."""
        now = datetime.now(UTC)
        results = dict.fromkeys((version.whole for version in keys.values()), read)
        if not isinstance(read, VaultValue) or not any(needs_parsing(version, read) for version in keys.values()):
            return decode_values(vault, keys, results, now, size=size)
        try:
            return await self._parser.run(
                namespace,
                lambda charge: decode_values(
                    vault, keys, results, now, partial(pkcs12_sandbox.pfx_to_pem, charge=charge), size
                ),
                pfx=_may_be_pfx(keys.values(), read),
            )
        except errors.ParsingDeferred as error:
            return dict.fromkeys(keys, error.bare())

    async def _read_versions(
        self, resolved: ResolvedSync, wanted: Collection[ObjectVersionRef], since: float, first: bool
    ) -> Results:
        """Return the requested versions.

        If the Secret needs all of them (no partial sync), wait for those that a throttled vault delays.
        """
        reader = self._vaults.reader(resolved.identity, resolved.cloud, resolved.vault)
        read = dict(await reader.read(wanted, since=since, first=first))
        patience = 0.0 if self._settings.enable_partial_secret_sync else MAX_PATIENCE
        while failed := {version: item for version, item in read.items() if isinstance(item, errors.ControllerError)}:
            wait = seconds_until_served(failed)
            if (
                wait is None
                or wait > patience
                or any(item.retry is not errors.Retry.THROTTLED for item in failed.values())
            ):
                break
            patience -= wait
            await asyncio.sleep(wait)
            read |= await reader.read(failed, since=since, first=first)
        return read


def _lost_error(version: ObjectVersionRef, vault: str) -> errors.ObjectError:
    return errors.ObjectError(
        f"{version.object.noun} of Key Vault {vault} is not read any more (objectKeep), and the Secret lacks its last"
        " value; remove the key, or the SecretSync, if it is not needed",
    )


def _may_be_pfx(wanted: Iterable[ObjectVersionRef], read: VaultValue) -> bool:
    """Return whether parsing the value can need the PFX sandbox's process."""
    bundles = [version for version in wanted if needs_bundle(version, read)]
    is_made = any(version.object.property_path for version in bundles)
    return bool(bundles) and (is_made or not is_pem(read.value.reveal()))


def _known_values(sync: SecretSync, known: Known) -> dict[str, Unchanged | ExpandedValues | errors.UnusableValue]:
    """Return the results for the wanted keys that are not fetched."""
    properties = group_properties(sync.status.objects)
    return {
        key: _expand_known(properties.get(key, ()), item) if key.endswith(EXPANDED_SUFFIX) else item
        for key, item in known.items()
    }


def _expand_known(
    properties: Sequence[ObjectVersion], item: Unchanged | errors.UnusableValue
) -> ExpandedValues | errors.UnusableValue:
    """Return the result for an expanded item that is not fetched. `properties` are those at the last sync."""
    found = ExpandedValues({entry.target_key: Unchanged() for entry in properties})
    if isinstance(item, Unchanged):
        return found
    return msgspec.structs.replace(found, error=item) if has_usable_properties(properties, item) else item


def has_usable_properties(properties: Iterable[ObjectVersion], error: errors.UnusableValue) -> bool:
    """Return whether an unusable expanded item has usable properties, too: those of the same version."""
    return any(entry.version == error.version for entry in properties)


def _keep_unusable(item: Decoded, held: Iterable[ObjectVersion]) -> Decoded:
    """Let unusable properties keep their last value in the Secret."""
    if not isinstance(item, ExpandedValues):
        return item
    kept = {entry.target_key: Unchanged() for entry in held if entry.target_key in item.unusable}
    return msgspec.structs.replace(item, properties={**item.properties, **kept})
