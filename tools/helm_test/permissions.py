"""The table of all permissions of the test's Pod, as controller/kube/permissions.py is for the controller.

The test creates one SecretProviderClass and one SecretSync. All objects that it uses have the same name, which the
chart chooses. tools/codegen/rbac.py generates the chart's Roles from this table.
"""

from typing import Any

import msgspec

from controller.api.meta import Resource
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube.resources import CreateAccess, DeleteAccess, GetAccess, GetPatch, ResourceClient


class SyncedSecret(Resource, frozen=True, kw_only=True):
    """core/v1 Secret, with its values in base64."""

    group = ""
    version = "v1"
    kind = "Secret"
    plural = "secrets"

    data: dict[str, str] = msgspec.field(default_factory=dict)


class ConfigMap(Resource, frozen=True, kw_only=True):
    """core/v1 ConfigMap: the clouds of the test, which the controller mounts."""

    group = ""
    version = "v1"
    kind = "ConfigMap"
    plural = "configmaps"


class Role(Resource, frozen=True, kw_only=True):
    """rbac.authorization.k8s.io/v1 Role: the owner of the sample's objects."""

    group = "rbac.authorization.k8s.io"
    version = "v1"
    kind = "Role"
    plural = "roles"


NEW_CLASS = CreateAccess(SecretProviderClass, "make the sample's class")
NEW_SYNC = CreateAccess(SecretSync, "make the sample")

# In the sample's namespace. RBAC cannot limit a create to a name.
MAKE: tuple[ResourceClient[Any], ...] = (NEW_CLASS, NEW_SYNC)

SYNC = GetPatch(SecretSync, "read the status, and make the controller read the vault now")
SYNC_GONE = DeleteAccess(SecretSync, "leave nothing behind")
CLASS = GetAccess(SecretProviderClass, "find the class of an earlier run")
CLASS_GONE = DeleteAccess(SecretProviderClass, "leave nothing behind")
SECRET = GetAccess(SyncedSecret, "compare the value byte for byte")

OWNER = GetAccess(Role, "make this Role the sample's owner, so that it is deleted with the Role if this test is killed")

# In the sample's namespace, limited to its name.
SAMPLE: tuple[ResourceClient[Any], ...] = (SYNC, SYNC_GONE, CLASS, CLASS_GONE, SECRET, OWNER)

CLOUDS = GetPatch(ConfigMap, "add the cloud of the test's own vault to the controller while the test runs")

# In the release's own namespace, and only if the test has its own vault.
OWN_VAULT: tuple[ResourceClient[Any], ...] = (CLOUDS,)
