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

# Where the sample is; a create has no name that RBAC could hold it to.
MAKE: tuple[ResourceClient[Any], ...] = (NEW_CLASS, NEW_SYNC)

SYNC = GetPatch(SecretSync, "see what the controller says, and ask it to look at the vault now")
SYNC_GONE = DeleteAccess(SecretSync, "leave nothing behind")
CLASS = GetAccess(SecretProviderClass, "find what an earlier run left")
CLASS_GONE = DeleteAccess(SecretProviderClass, "leave nothing behind")
SECRET = GetAccess(SyncedSecret, "compare the value byte for byte")

OWNER = GetAccess(Role, "let the garbage collector delete the sample with these rights, if this test is killed")

# … of the sample's name alone.
SAMPLE: tuple[ResourceClient[Any], ...] = (SYNC, SYNC_GONE, CLASS, CLASS_GONE, SECRET, OWNER)

CLOUDS = GetPatch(ConfigMap, "tell the controller where the test's own vault is, for as long as the test runs")

# In the release's own namespace, and only where the test brings its own vault.
OWN_VAULT: tuple[ResourceClient[Any], ...] = (CLOUDS,)
