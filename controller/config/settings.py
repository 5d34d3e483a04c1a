"""Read the settings of the controller from its environment variables and the file of clouds.

The chart is generated from `Settings`, so the chart and the controller have the same settings.
"""

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, structs

# The controller's name as field manager in managedFields.
FIELD_MANAGER = "akv-secret-store"
# The start of the message with which the admission policy refuses a foreign Secret. The controller recognizes it.
FOREIGN_SECRET = "this Secret does not belong to a SecretSync of its name"  # noqa: S105
TOKEN_AUDIENCE = "api://AzureADTokenExchange"  # noqa: S105 - the audience that Entra expects of federated tokens
# The shortest lifetime that a TokenRequest accepts (Kubernetes API reference, TokenRequestSpec). It is sufficient.
TOKEN_SECONDS = 600
DEFAULT_CLOUD = "AzurePublicCloud"
# The only cloud that TEST_CLOUDS_FILE can add: the emulator of `helm test`.
TEST_CLOUD = "helm-test"
NAMESPACE, MAX_NAMESPACE = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", 63
PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_PORT = f"(:{PORT})?"
HOST_AND_PORT = rf"(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+){_PORT}"
HTTPS_URL = rf"^https://{HOST_AND_PORT}(/[^\s?#]*)?$"
# Maximum characters of an address. The patterns below take quadratic time, and an editor can write the test's cloud.
MAX_ADDRESS = 1024
_VAULT_IN_HOST = rf"[^\s/?#@:\[\]]*\{{vault\}}[^\s/?#@:\[\]]*{_PORT}(/[^\s?#@]*)?"
_VAULT_IN_PATH = rf"{HOST_AND_PORT}/[^\s?#@]*\{{vault\}}[^\s?#@]*"
# The version of Key Vault's REST API, independent of the SDK's default. All clouds of Azure support it.
KEY_VAULT_API_VERSION = "7.4"
API_VERSION = r"^([0-9]{1,4}\.[0-9]{1,4}|[0-9]{4}-[0-9]{2}-[0-9]{2})(-preview(\.[0-9]{1,4})?)?$"


class SettingsError(Exception):
    """A setting is invalid. The message names the setting and the accepted values."""


class Cloud(msgspec.Struct, rename="camel", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The addresses of Entra and the vaults of one cloud.

    An administrator defines clouds; a namespace only names one.
    """

    authority: Annotated[
        str,
        Meta(
            pattern=HTTPS_URL,
            max_length=MAX_ADDRESS,
            description="Entra's address, as https://login.microsoftonline.com",
        ),
    ]
    vault_url: Annotated[
        str,
        Meta(
            pattern=f"^https://({_VAULT_IN_HOST}|{_VAULT_IN_PATH})$",
            max_length=MAX_ADDRESS,
            description="A vault's address, with {vault} for keyvaultName, as https://{vault}.vault.azure.net",
        ),
    ]
    audience: Annotated[
        str,
        Meta(
            pattern=HTTPS_URL,
            max_length=MAX_ADDRESS,
            description="The audience of tokens for the vaults, as https://vault.azure.net",
        ),
    ] = "https://vault.azure.net"
    ca: Annotated[str, Meta(description="Certificates (PEM) to trust besides the system's")] = ""
    api_version: Annotated[
        str,
        Meta(
            pattern=API_VERSION,
            description="The version of Key Vault's REST API, as a string: 7.1 for Azure Stack Hub",
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
    """The settings of the controller. Field `x_y` is the environment variable `X_Y`. Times are in seconds."""

    rotation_poll_interval: Annotated[
        Seconds, Meta(description="Interval at which the vault is polled for each SecretSync")
    ] = 3600
    enable_partial_secret_sync: Annotated[
        bool, Meta(description="Write the keys that could be fetched if other keys could not")
    ] = True
    jitter: Annotated[
        int, Meta(ge=0, description="Maximum random delay before a poll, a first sync and a sync after an edit")
    ] = 0
    drift_interval: Annotated[
        Seconds, Meta(description="Interval at which a Secret is checked for edits and deletion")
    ] = 300
    shortest_refresh_interval: Annotated[
        int,
        Meta(ge=0, description="Minimum interval that a SecretSync's annotation can set; 0: the annotation is ignored"),
    ] = 0
    normal_events: Annotated[
        bool, Meta(description="Send events of type Normal too; each is a write to the cluster's database")
    ] = True
    identity_from_service_account: Annotated[
        bool, Meta(description="Read clientID and tenantID from the ServiceAccount's annotations if the class has none")
    ] = False
    akv_sync: Annotated[bool, Meta(description="Serve AKVSyncs, besides SecretSyncs")] = True
    controller_name: Annotated[str, Meta(description="Serve this secretSyncControllerName, besides the empty one")] = ""
    watch_namespaces: Annotated[
        tuple[str, ...], Meta(description="Namespaces to serve, comma-separated; none: all")
    ] = ()
    default_cloud: Annotated[str, Meta(description="Cloud of a SecretProviderClass without cloudName")] = DEFAULT_CLOUD
    clouds_file: Annotated[str, Meta(description="JSON file of further clouds by name")] = ""
    ca_file: Annotated[
        str, Meta(description="File of certificates (PEM) to trust besides the system's, for every cloud")
    ] = ""
    test_clouds_file: Annotated[
        str, Meta(description="JSON file of the clouds of helm test, which the controller reads again while it runs")
    ] = ""
    probe_secret_type: Annotated[
        str, Meta(description="A Secret type that policies must refuse before the controller is ready; none: no check")
    ] = ""
    allowed_secret_types: Annotated[
        tuple[str, ...],
        Meta(description="The Secret types that the admission policies allow, comma-separated; none: any type"),
    ] = ()
    policies_name: Annotated[
        str, Meta(description="Suffix of the names of the release's admission policies: secrets.<name> and others")
    ] = ""
    service_account: Annotated[
        str, Meta(description="The controller's own ServiceAccount, with which it tests the policy on tokens")
    ] = "default"
    lease_name: Annotated[
        str,
        Meta(description="The Lease, in the controller's own namespace, for the leader election; none: no election"),
    ] = ""
    lease_duration: Annotated[
        int, Meta(ge=5, description="Seconds after which another process can take the Lease of a failed leader")
    ] = 15
    lease_renew_interval: Annotated[
        Seconds, Meta(description="Seconds between two renewals of the Lease; a third of LEASE_DURATION at the most")
    ] = 2
    pod_namespace: Annotated[str, Meta(description="The controller's own namespace")] = "default"
    pod_name: Annotated[str, Meta(description="The controller's own name, for events")] = "akv-secret-store"
    listen_address: Annotated[
        str, Meta(description="The address at which probes and metrics are served; none: every one, of IPv4 and IPv6")
    ] = ""
    listen_port: Annotated[int, Meta(ge=0, le=65535, description="The port of metrics; 0: a free one")] = 8080
    health_port: Annotated[int, Meta(ge=0, le=65535, description="The port of probes; 0: a free one")] = 8081
    metrics_tls_folder: Annotated[
        str, Meta(description="A folder with tls.crt and tls.key for the port of metrics; none: plain HTTP")
    ] = ""
    metrics_authentication: Annotated[
        bool, Meta(description="Let the API server decide by the client's token whether it can read the metrics")
    ] = False
    otlp_endpoint: Annotated[
        str,
        Meta(
            pattern=f"^$|{HTTPS_URL}",
            description="The collector that receives the logs, as https://host:4318; none: no collector",
        ),
    ] = ""
    otlp_folder: Annotated[
        str, Meta(description="Folder with tls.crt and tls.key for the collector, and ca.crt to verify the collector")
    ] = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Minimum log level")] = "info"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings from the environment. Raise `SettingsError` with the variable that is invalid."""
        # An empty variable counts as missing.
        given = {field: text for field in cls.__struct_fields__ if (text := environment.get(field.upper()))}
        values: dict[str, object] = dict(given)
        if "allowed_secret_types" in given:
            values["allowed_secret_types"] = [text.strip() for text in given["allowed_secret_types"].split(",")]
        if "watch_namespaces" in given:
            values["watch_namespaces"] = _parse_namespaces(given["watch_namespaces"])
        try:
            # strict=False, because every value is a string.
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            found = re.search(r"^(.*) - at `\$\.(\w+)", str(error))
            if not found:
                raise SettingsError(str(error)) from error
            kind = get_type_hints(cls)[found[2]]
            accepted = f"write one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else found[1]
            raise SettingsError(f"{found[2].upper()} is {given[found[2]]!r}: {accepted}") from error

    def clouds(self) -> dict[str, Cloud]:
        """Return the built-in clouds and those of the file, with the certificates to trust besides the system's.

        Raise `SettingsError` with the entry that is invalid.
        """
        clouds = dict(BUILT_IN_CLOUDS)
        if self.clouds_file:
            try:
                clouds |= parse_clouds(Path(self.clouds_file).read_bytes())
            except (OSError, SettingsError) as error:
                raise SettingsError(f"CLOUDS_FILE {self.clouds_file}: {error}") from error
        if self.default_cloud not in clouds:
            raise SettingsError(f"DEFAULT_CLOUD is {self.default_cloud!r}: write one of {', '.join(sorted(clouds))}")
        if bundle := self._read_bundle():
            return {name: structs.replace(cloud, ca=f"{cloud.ca}\n{bundle}") for name, cloud in clouds.items()}
        return clouds

    def _read_bundle(self) -> str:
        try:
            bundle = Path(self.ca_file).read_text(encoding="utf-8", errors="replace") if self.ca_file else ""
            bundle = _check_certificates(bundle)
        except (ssl.SSLError, ValueError) as error:
            raise SettingsError(f"CA_FILE {self.ca_file}: expected certificates in PEM") from error
        except OSError as error:
            raise SettingsError(f"CA_FILE {self.ca_file}: {error}") from error
        return bundle


def _check_certificates(text: str) -> str:
    """Return certificates (PEM, may be empty) as ASCII. Raise `ssl.SSLError` or `ValueError` if they are invalid."""
    # Bundles have comments in any language, and `ssl` raises a TypeError for characters that are not ASCII.
    text = text.encode("ascii", "replace").decode()
    if text:
        ssl.create_default_context(cadata=text)
    return text


def _parse_namespaces(text: str) -> list[str]:
    """Return the names in a comma-separated list, or raise `SettingsError`.

    A text without a name is an error, because an empty list means all namespaces.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if len(name) > MAX_NAMESPACE or not re.fullmatch(NAMESPACE, name):
            raise SettingsError(
                f"WATCH_NAMESPACES is {text!r}: {name!r} is not a namespace's name; write names of at most"
                f" {MAX_NAMESPACE} characters of a-z, 0-9 and - with commas between them"
            )
    return list(dict.fromkeys(names))


def _explain_undecodable(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def parse_clouds(text: bytes) -> dict[str, Cloud]:
    """Return the clouds of a JSON file by name. Raise `SettingsError` with the entry that is invalid."""
    clouds = {}
    try:
        given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError) as error:
        raise SettingsError(_explain_undecodable(error)) from error
    for name, raw in given.items():
        try:
            # An entry with the name of a built-in cloud changes the fields that it has.
            built_in = msgspec.to_builtins(BUILT_IN_CLOUDS[name]) if name in BUILT_IN_CLOUDS else {}
            cloud = msgspec.convert(built_in | msgspec.json.decode(raw, type=dict[str, object]), Cloud)
            clouds[name] = structs.replace(cloud, ca=_check_certificates(cloud.ca))
        except (RecursionError, ssl.SSLError, ValueError) as error:
            is_json = isinstance(error, msgspec.DecodeError | RecursionError | UnicodeDecodeError)
            wrong = _explain_undecodable(error) if is_json else "ca: expected certificates in PEM"
            raise SettingsError(f"cloud {name}: {wrong}") from error
    return clouds
