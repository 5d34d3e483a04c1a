"""What the chart tells the test's Pod: every environment variable that it reads."""

import os
from collections.abc import Mapping

import msgspec

VAULT_PORT = 8443
"""The port of the test's own vault, which the chart's NetworkPolicies open."""
CLOUDS_FILE = "clouds.json"
"""Of the ConfigMap that the controller mounts while a test runs."""


class ReleaseTestSettings(msgspec.Struct, kw_only=True, frozen=True):
    """Field `x_y` is the environment variable `X_Y`. Without `keyvault_name` the test brings a vault of its own."""

    namespace: str
    deployment: str
    name: str
    """Of everything that the test makes, and of the ConfigMap for its cloud."""
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
        """Reads the environment; `msgspec.ValidationError` names what is missing."""
        given = {field: environment[field.upper()] for field in cls.__struct_fields__ if field.upper() in environment}
        return msgspec.convert(given, cls)
