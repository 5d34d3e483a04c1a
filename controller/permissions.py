"""The one table of what the controller may do. The chart's Roles are generated from it (tools/rbac.py).

Every request goes through one of these handles, so the code cannot use a right that is not here; the audit log of the
end-to-end tests shows that no right is here that the code does not use.
"""

from typing import Any

from controller.api.akvsync import AKVSync
from controller.api.lease import Lease
from controller.api.meta import CustomResourceDefinition, Event, Secret, ServiceAccount
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube import (
    Create,
    CreatePatch,
    CreateToken,
    Delete,
    Get,
    GetPatch,
    GetPatchNamed,
    Handle,
    ListWatch,
    StatusPatch,
)

SECRET_SYNCS = ListWatch(SecretSync, "what is to be synced")
SECRET_SYNC_STATUS = StatusPatch(SecretSync, "what came of it")
CLASSES = ListWatch(SecretProviderClass, "from which vault, as whom, which objects")
SECRETS = CreatePatch(Secret, "write Secrets; none can be read, listed or deleted")
TOKENS = CreateToken(ServiceAccount, "tokens for Entra, of the ServiceAccounts that SecretSyncs name")
EVENTS = Create(Event, "what a person sees with kubectl describe")

# Where a handle's resource is namespaced, the chart grants it in the watched namespaces, or everywhere.
CONTROLLER: tuple[Handle[Any], ...] = (SECRET_SYNCS, SECRET_SYNC_STATUS, CLASSES, SECRETS, TOKENS, EVENTS)

AKV_SYNCS = ListWatch(AKVSync, "what is to be made of a vault")
AKV_SYNC_STATUS = StatusPatch(AKVSync, "what became of its parts")
MADE_SYNCS = CreatePatch(SecretSync, "make and mend those of an AKVSync")
MADE_SYNCS_GONE = Delete(SecretSync, "prune what an AKVSync no longer has")
MADE_CLASSES = CreatePatch(SecretProviderClass, "make and mend that of an AKVSync")

# … granted there as well, if akvSync.enabled is set.
AKV_SYNC: tuple[Handle[Any], ...] = (AKV_SYNCS, AKV_SYNC_STATUS, MADE_SYNCS, MADE_SYNCS_GONE, MADE_CLASSES)

SERVICE_ACCOUNTS = Get(ServiceAccount, "clientID and tenantID, where the SecretProviderClass leaves them to it")

# … and this, if identityFromServiceAccount is set.
IDENTITY: tuple[Handle[Any], ...] = (SERVICE_ACCOUNTS,)

LEASE = GetPatch(Lease, "one process leads; the right is for that name alone")

# Granted in the release's own namespace, whatever is watched.
HOME: tuple[Handle[Any], ...] = (LEASE,)

LEASE_CREATED = Create(Lease, "create the Lease where it is missing; the admission policies allow that name alone")

# … and this there as well. A Role cannot limit the names of what is created.
HOME_CREATED: tuple[Handle[Any], ...] = (LEASE_CREATED,)

CRDS = GetPatchNamed(
    CustomResourceDefinition,
    "bring our CRDs up to date before an upgrade",
    names=tuple(f"{resource.plural}.{resource.group}" for resource in (SecretSync, SecretProviderClass, AKVSync)),
)

# The chart's upgrade Job runs under a ServiceAccount of its own.
CRD_JOB: tuple[Handle[Any], ...] = (CRDS,)
