"""The settings of the test's Pod: all environment variables that it reads. The chart sets them."""

import os
from collections.abc import Mapping

import msgspec

VAULT_PORT = 8443
"""The port of the test's own vault, which the chart's NetworkPolicies open."""
CLOUDS_FILE = "clouds.json"
"""The file in the ConfigMap that the controller mounts. It has content while a test runs."""


class ReleaseTestSettings(msgspec.Struct, kw_only=True, frozen=True):
    """The settings. The environment variable of field `x_y` is `X_Y`.

    Without `keyvault_name` the test runs its own vault.
    """

    namespace: str
    deployment: str
    name: str
    """The name of all objects that the test creates, and of the ConfigMap for its cloud."""
    pod_ip: str
    sample_namespace: str
    service_account: str
    controller_name: str = ""
    keyvault_name: str = ""
    client_id: str = ""
    tenant_id: str = ""
    secret_name: str = ""
    sha256: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ReleaseTestSettings":
        """Read the environment. Raise `msgspec.ValidationError`, which names a missing variable."""
        given = {field: environment[field.upper()] for field in cls.__struct_fields__ if field.upper() in environment}
        return msgspec.convert(given, cls)
