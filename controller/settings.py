"""The Deployment's contract: every environment variable that the controller reads, and the file of clouds.

The chart renders these names from `Settings` itself, so a setting that one side does not know cannot exist.
"""

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, structs

# The name under which our writes stand in managedFields.
FIELD_MANAGER = "akv-secret-store"
# How the admission policy's refusal of somebody else's Secret begins; the controller tells it from others by this.
FOREIGN_SECRET = "this Secret does not belong to a SecretSync of its name"  # noqa: S105
TOKEN_AUDIENCE = "api://AzureADTokenExchange"  # noqa: S105 -- the audience that Entra asks of federated tokens
# The shortest expiry that a TokenRequest accepts (Kubernetes API reference, TokenRequestSpec), and all we need.
TOKEN_SECONDS = 600
DEFAULT_CLOUD = "AzurePublicCloud"
# The only cloud that TEST_CLOUDS_FILE may add: the emulator of `helm test`.
TEST_CLOUD = "helm-test"
NAMESPACE, MAX_NAMESPACE = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", 63
HTTPS_URL = r"^https://[^\s/?#@]+(/[^\s?#]*)?$"
# The version of Key Vault's REST API to ask for, whichever the SDK prefers: every cloud of Azure knows it.
KEY_VAULT_API_VERSION = "7.4"
API_VERSION = r"^([0-9]{1,4}\.[0-9]{1,4}|[0-9]{4}-[0-9]{2}-[0-9]{2})(-preview(\.[0-9]{1,4})?)?$"


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and what it accepts."""


class Cloud(msgspec.Struct, rename="camel", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where Entra and the vaults of one cloud are. Only an administrator can name hosts: a namespace names a cloud."""

    authority: Annotated[
        str,
        Meta(pattern=HTTPS_URL, description="Entra's address, as https://login.microsoftonline.com"),
    ]
    vault_url: Annotated[
        str,
        Meta(
            pattern=r"^https://[^\s?#@]*\{vault\}[^\s?#@]*$",
            description="A vault's address, {vault} standing for keyvaultName, as https://{vault}.vault.azure.net",
        ),
    ]
    audience: Annotated[
        str, Meta(pattern=HTTPS_URL, description="What tokens are asked for, as https://vault.azure.net")
    ] = "https://vault.azure.net"
    ca: Annotated[str, Meta(description="Certificates (PEM) to trust besides the system's")] = ""
    api_version: Annotated[
        str,
        Meta(
            pattern=API_VERSION,
            description="The version of Key Vault's REST API to ask for, as a string: 7.1 for Azure Stack Hub",
        ),
    ] = KEY_VAULT_API_VERSION


# Source: Azure Key Vault developer's guide and "Azure environments" of the Azure SDK for Python.
BUILT_IN_CLOUDS: Mapping[str, Cloud] = {
    "AzurePublicCloud": Cloud(
        authority="https://login.microsoftonline.com", vault_url="https://{vault}.vault.azure.net"
    ),
    "AzureUSGovernmentCloud": Cloud(
        authority="https://login.microsoftonline.us",
        vault_url="https://{vault}.vault.usgovcloudapi.net",
        audience="https://vault.usgovcloudapi.net",
    ),
    "AzureChinaCloud": Cloud(
        authority="https://login.chinacloudapi.cn",
        vault_url="https://{vault}.vault.azure.cn",
        audience="https://vault.azure.cn",
    ),
}

Seconds = Annotated[int, Meta(ge=1)]


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """What the Deployment says. Field `x_y` is the environment variable `X_Y`; times are in seconds."""

    rotation_poll_interval: Annotated[
        Seconds, Meta(description="How often a SecretSync is checked against the vault")
    ] = 3600
    enable_partial_secret_sync: Annotated[
        bool, Meta(description="Whether the keys that could be fetched are written when others could not")
    ] = True
    jitter: Annotated[int, Meta(ge=0, description="The most that is added, at random, before each look")] = 0
    drift_interval: Annotated[Seconds, Meta(description="How often a Secret is checked for edits and deletion")] = 300
    shortest_refresh_interval: Annotated[
        int, Meta(ge=0, description="The shortest interval that a SecretSync's annotation may ask for; 0: none may")
    ] = 0
    identity_from_service_account: Annotated[
        bool, Meta(description="Whether the ServiceAccount's annotations tell what clientID and tenantID do not")
    ] = False
    akv_sync: Annotated[bool, Meta(description="Whether AKVSyncs are served")] = True
    controller_name: Annotated[
        str, Meta(description="The secretSyncControllerName that is ours; the empty one always is")
    ] = ""
    watch_namespaces: Annotated[
        tuple[str, ...], Meta(description="Namespaces to serve, comma-separated; none: all")
    ] = ()
    default_cloud: Annotated[str, Meta(description="The cloud of classes that name none")] = DEFAULT_CLOUD
    clouds_file: Annotated[str, Meta(description="JSON file of further clouds by name")] = ""
    ca_file: Annotated[
        str, Meta(description="File of certificates (PEM) to trust besides the system's, whatever the cloud")
    ] = ""
    test_clouds_file: Annotated[
        str, Meta(description="The same, of clouds that come and go while the controller runs: those of helm test")
    ] = ""
    probe_secret_type: Annotated[
        str, Meta(description="A Secret type that policies must refuse before the controller is ready; none: no check")
    ] = ""
    allowed_secret_types: Annotated[
        tuple[str, ...],
        Meta(description="The Secret types that the admission policies allow, comma-separated; none: any type"),
    ] = ()
    policies_name: Annotated[
        str, Meta(description="What the names of the release's admission policies end with: secrets.<name> and so on")
    ] = ""
    service_account: Annotated[
        str, Meta(description="The controller's own ServiceAccount, for which it tries the policy on tokens")
    ] = "default"
    lease_name: Annotated[
        str, Meta(description="The Lease, in the controller's own namespace, whose holder works; none: always work")
    ] = ""
    pod_namespace: Annotated[str, Meta(description="The controller's own namespace")] = "default"
    pod_name: Annotated[str, Meta(description="The controller's own name, for events")] = "akv-secret-store"
    listen_address: Annotated[str, Meta(description="Where probes and metrics are served")] = "0.0.0.0"  # noqa: S104
    listen_port: Annotated[int, Meta(ge=0, le=65535, description="The port of metrics; 0: a free one")] = 8080
    health_port: Annotated[int, Meta(ge=0, le=65535, description="The port of probes; 0: a free one")] = 8081
    otlp_endpoint: Annotated[
        str,
        Meta(pattern=f"^$|{HTTPS_URL}", description="The collector to ship logs to, as https://host:4318; none: none"),
    ] = ""
    otlp_folder: Annotated[
        str, Meta(description="Folder of the tls.crt and tls.key to show it, and the ca.crt to know it by")
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe lines to log")
    ] = "info"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Reads the environment; `SettingsError` names the variable that does not fit."""
        # An empty variable is as good as none.
        given = {field: text for field in cls.__struct_fields__ if (text := environment.get(field.upper()))}
        values: dict[str, object] = dict(given)
        if "allowed_secret_types" in given:
            values["allowed_secret_types"] = [text.strip() for text in given["allowed_secret_types"].split(",")]
        if "watch_namespaces" in given:
            values["watch_namespaces"] = _namespaces(given["watch_namespaces"])
        try:
            # strict=False: every value arrives as a string.
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            found = re.search(r"^(.*) - at `\$\.(\w+)", str(error))
            if not found:
                raise SettingsError(str(error)) from error
            raise SettingsError(f"{found[2].upper()} is {given[found[2]]!r}: {found[1]}") from error

    def clouds(self) -> dict[str, Cloud]:
        """The built-in clouds and those of the file, each with all that it is to trust besides the system's roots.

        `SettingsError` names the entry that does not fit.
        """
        clouds = dict(BUILT_IN_CLOUDS)
        if self.clouds_file:
            try:
                clouds |= parse_clouds(Path(self.clouds_file).read_bytes())
            except (OSError, SettingsError) as error:
                raise SettingsError(f"CLOUDS_FILE {self.clouds_file}: {error}") from error
        if self.default_cloud not in clouds:
            raise SettingsError(f"DEFAULT_CLOUD is {self.default_cloud!r}; known are {', '.join(sorted(clouds))}")
        if bundle := self._bundle():
            return {name: structs.replace(cloud, ca=f"{cloud.ca}\n{bundle}") for name, cloud in clouds.items()}
        return clouds

    def _bundle(self) -> str:
        try:
            bundle = Path(self.ca_file).read_text() if self.ca_file else ""
            if bundle:
                ssl.create_default_context(cadata=bundle)
        except (ssl.SSLError, ValueError) as error:
            raise SettingsError(f"CA_FILE {self.ca_file}: expected certificates in PEM") from error
        except OSError as error:
            raise SettingsError(f"CA_FILE {self.ca_file}: {error}") from error
        return bundle


def _namespaces(text: str) -> list[str]:
    """Return the names in a comma-separated list; raise `SettingsError` for anything else.

    A text without a name must not pass as an empty list, because that would mean all namespaces.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if len(name) > MAX_NAMESPACE or not re.fullmatch(NAMESPACE, name):
            raise SettingsError(
                f"WATCH_NAMESPACES is {text!r}: {name!r} is not a namespace's name; write names of at most"
                f" {MAX_NAMESPACE} characters of a-z, 0-9 and - with commas between them"
            )
    return list(dict.fromkeys(names))


def _undecodable(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def parse_clouds(text: bytes) -> dict[str, Cloud]:
    """Clouds by name, from JSON; `SettingsError` names the entry that does not fit."""
    clouds = {}
    try:
        given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise SettingsError(_undecodable(error)) from error
    for name, raw in given.items():
        try:
            # An entry under the name of a built-in cloud changes the fields that it names.
            built_in = msgspec.to_builtins(BUILT_IN_CLOUDS[name]) if name in BUILT_IN_CLOUDS else {}
            clouds[name] = msgspec.convert(built_in | msgspec.json.decode(raw, type=dict[str, object]), Cloud)
            if clouds[name].ca:
                ssl.create_default_context(cadata=clouds[name].ca)
        except (msgspec.DecodeError, RecursionError, ssl.SSLError, ValueError) as error:
            readable = isinstance(error, msgspec.DecodeError | RecursionError)
            wrong = _undecodable(error) if readable else "ca: expected certificates in PEM"
            raise SettingsError(f"cloud {name}: {wrong}") from error
    return clouds
