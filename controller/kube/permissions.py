"""Define all rights of the controller. The chart's Roles are generated from this table (tools/codegen/rbac.py).

Every request uses one of these handles, so the code cannot use a right that is not here. The audit log of the
end-to-end tests shows that the code uses every right.
"""

from typing import Any

from controller.api.akvsync import AKVSync
from controller.api.lease import Lease
from controller.api.meta import CustomResourceDefinition, Event, Secret, ServiceAccount
from controller.api.reviews import SubjectAccessReview, TokenReview
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube.resources import (
    CreateAccess,
    CreatePatch,
    CreateToken,
    DeleteAccess,
    GetAccess,
    GetPatch,
    GetPatchNamed,
    ListWatch,
    ResourceClient,
    ReviewAccess,
    StatusPatch,
)

SECRET_SYNCS = ListWatch(SecretSync, "the desired state of Secrets")
SECRET_SYNC_STATUS = StatusPatch(SecretSync, "the result of each sync")
CLASSES = ListWatch(SecretProviderClass, "the vault, the identity and the objects")
SECRETS = CreatePatch(Secret, "write Secrets; none can be read, listed or deleted")
TOKENS = CreateToken(ServiceAccount, "tokens for Entra, for the ServiceAccounts that SecretSyncs name")
EVENTS = CreateAccess(Event, "events for kubectl describe")

# Handles of namespaced resources are granted in the watched namespaces, or in all.
CONTROLLER: tuple[ResourceClient[Any], ...] = (SECRET_SYNCS, SECRET_SYNC_STATUS, CLASSES, SECRETS, TOKENS, EVENTS)

AKV_SYNCS = ListWatch(AKVSync, "the Secrets to create from a vault")
AKV_SYNC_STATUS = StatusPatch(AKVSync, "the state of its parts")
MADE_SYNCS = CreatePatch(SecretSync, "create and repair the SecretSyncs of an AKVSync")
MADE_SYNCS_GONE = DeleteAccess(SecretSync, "delete SecretSyncs that an AKVSync no longer has")
MADE_CLASSES = CreatePatch(SecretProviderClass, "create and repair the SecretProviderClass of an AKVSync")

# Granted in the same namespaces, if akvSync.enabled is set.
AKV_SYNC: tuple[ResourceClient[Any], ...] = (AKV_SYNCS, AKV_SYNC_STATUS, MADE_SYNCS, MADE_SYNCS_GONE, MADE_CLASSES)

SERVICE_ACCOUNTS = GetAccess(ServiceAccount, "clientID and tenantID, if the SecretProviderClass has none")

# Granted in the same namespaces, if identityFromServiceAccount is set.
IDENTITY: tuple[ResourceClient[Any], ...] = (SERVICE_ACCOUNTS,)

TOKEN_REVIEWS = ReviewAccess(TokenReview, "the user of a token that a client of the metrics sends")
ACCESS_REVIEWS = ReviewAccess(SubjectAccessReview, "the right of that client to read the metrics")

# Granted in the cluster, if metrics.authentication.enabled is set.
METRICS_ACCESS: tuple[ResourceClient[Any], ...] = (TOKEN_REVIEWS, ACCESS_REVIEWS)

LEASE = GetPatch(Lease, "the leader election; the right is for that name only")

# Granted in the release's own namespace, independent of the watched ones.
HOME: tuple[ResourceClient[Any], ...] = (LEASE,)

LEASE_CREATED = CreateAccess(Lease, "create the Lease if it is missing; the admission policies allow that name only")

# Granted there, too. A Role cannot limit the names of created objects.
HOME_CREATED: tuple[ResourceClient[Any], ...] = (LEASE_CREATED,)

CRDS = GetPatchNamed(
    CustomResourceDefinition,
    "update the CRDs before an upgrade",
    names=tuple(f"{resource.plural}.{resource.group}" for resource in (SecretSync, SecretProviderClass, AKVSync)),
)

# The chart's upgrade Job has its own ServiceAccount.
CRD_JOB: tuple[ResourceClient[Any], ...] = (CRDS,)
