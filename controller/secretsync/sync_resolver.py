"""Validate a SecretSync and its SecretProviderClass, and resolve them to a vault, an identity and objects."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from controller import errors
from controller.api.meta import Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync
from controller.config.clouds import find_cloud
from controller.config.settings import Cloud, Settings
from controller.domain import reserved
from controller.domain.decision import find_spec_mistake
from controller.domain.provider_class import ObjectVersionRef, ProviderConfig
from controller.domain.status import Requeue
from controller.keyvault.credentials import Identity
from controller.keyvault.service_accounts import resolve_identity
from controller.kube.client import KubeClient
from controller.runtime.backoff import refresh_interval
from controller.runtime.threads.parsing import ParsingPool
from controller.runtime.work_queue import Key
from controller.secretsync.class_reader import ClassReader


class ResolvedSync(NamedTuple):
    """The vault, the identity and the objects by target key of a SecretSync."""

    identity: Identity
    cloud: str
    vault: str
    wanted: Mapping[str, ObjectVersionRef]
    warnings: tuple[str, ...] = ()
    """Warnings about the items of the class that the SecretSync uses."""


Class = SecretProviderClass | Unreadable | None
"""The class of a SecretSync in the informer's store, or None if it does not exist."""


class SyncResolver:
    """A resolver of SecretSyncs. The threads of `parser` parse classes, once for each edit."""

    def __init__(self, kube: KubeClient, settings: Settings, clouds: Mapping[str, Cloud], parser: ParsingPool) -> None:
        self._kube = kube
        self._settings = settings
        self._clouds = clouds
        self._classes = ClassReader(parser, without_identity=settings.identity_from_service_account)

    async def resolve_sync(self, sync: SecretSync, source: Class) -> ResolvedSync | Requeue:
        """Return the resolved SecretSync, or `Requeue` if its class cannot be parsed yet.

        Raise `ControllerError` if the SecretSync, its class or its ServiceAccount is missing or invalid.
        """
        vault_class = await self._parse_class(sync, source)
        if isinstance(vault_class, Requeue):
            return vault_class
        if (
            mistake := self._type_mistake(sync)
            or find_spec_mistake(sync)
            or self._reserved_mistake(sync)
            or self._interval_mistake(sync)
        ):
            raise mistake
        identity = await resolve_identity(self._kube, sync, vault_class)
        wanted = vault_class.wanted(sync.spec.secret_object)
        warnings = vault_class.warnings_about(wanted.values())
        return ResolvedSync(identity, vault_class.cloud, vault_class.vault, wanted, warnings)

    def forget_class(self, key: Key) -> None:
        """Forget a deleted class."""
        self._classes.forget(key)

    async def _parse_class(self, sync: SecretSync, source: Class) -> ProviderConfig | Requeue:
        name = sync.spec.secret_provider_class_name
        if source is None:
            raise errors.ClassNotFound(
                f"there is no SecretProviderClass {name} in namespace {sync.metadata.namespace}; create it or correct"
                " secretProviderClassName"
            )
        if isinstance(source, Unreadable):
            raise errors.ClassError(f"SecretProviderClass {name}: {source.problem}")
        if wait := self._classes.seconds_until_parse(source):
            return Requeue(wait)  # by then there can be a newer edit
        read = await self._classes.read_config(source)
        requested = read.cloud or self._settings.default_cloud
        cloud = find_cloud(requested, self._clouds)
        if cloud is None:
            raise errors.ClassError(
                f"SecretProviderClass {name}: cloudName {requested[:60]!r} is not one of the administrator's; the known"
                " clouds are"
                f" {', '.join(sorted(self._clouds))}"
            )
        return msgspec.structs.replace(read, cloud=cloud)

    def _type_mistake(self, sync: SecretSync) -> errors.InputError | None:
        allowed, requested = self._settings.allowed_secret_types, sync.spec.secret_object.type
        if not allowed or requested in allowed:
            return None
        return errors.InputError(
            f"secretObject.type is {requested[:100]!r}: accepted are {', '.join(allowed)}; to accept another type, the"
            " administrator adds it to the chart's validatingAdmissionPolicies.allowedSecretTypes"
        )

    def _reserved_mistake(self, sync: SecretSync) -> errors.InputError | None:
        """Return the error that the admission policies would raise after the vault was read."""
        if not self._settings.probe_secret_type:  # the chart sets it together with the policies
            return None
        wanted = sync.spec.secret_object
        found = reserved.find_reserved(sync.metadata.name, wanted.labels, wanted.annotations)
        return errors.InputError(found) if found else None

    def _interval_mistake(self, sync: SecretSync) -> errors.InputError | None:
        if _requested_interval(sync, self._settings) is not None:
            return None
        requested = str(sync.metadata.annotations.get(REFRESH_INTERVAL))[:60]
        return errors.InputError(f"annotation {REFRESH_INTERVAL} is {requested!r}: write a number of seconds")


def poll_interval(sync: SecretSync, settings: Settings) -> float:
    """Return the seconds between two polls of a SecretSync. An invalid annotation counts as missing."""
    return _requested_interval(sync, settings) or settings.rotation_poll_interval


def _requested_interval(sync: SecretSync, settings: Settings) -> float | None:
    requested = sync.metadata.annotations.get(REFRESH_INTERVAL)
    return refresh_interval(requested, settings.rotation_poll_interval, settings.shortest_refresh_interval)
