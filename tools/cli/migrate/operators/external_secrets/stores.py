"""Find the vault and identity of an ExternalSecret in its SecretStore or ClusterSecretStore. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from urllib.parse import urlsplit

import msgspec

from controller.config.settings import BUILT_IN_CLOUDS, DEFAULT_CLOUD
from controller.domain.provider_class import CLIENT
from tools.cli.common import kube_names
from tools.cli.migrate.objects import Manifest, namespace_of, qualified_name
from tools.cli.migrate.operators import foreign_manifests
from tools.cli.migrate.operators.external_secrets.kinds import AzureKV, SecretStore, StoreRef
from tools.cli.migrate.operators.result import ConversionOptions, ConversionResult
from tools.cli.migrate.operators.wanted_secrets import InexpressibleSecret, VaultIdentity

CLUSTER_STORE = "ClusterSecretStore"
CLIENT_ANNOTATION, TENANT_ANNOTATION = (f"azure.workload.identity/{field}-id" for field in ("client", "tenant"))
_CLOUDS = {
    "PublicCloud": DEFAULT_CLOUD,
    "USGovernmentCloud": "AzureUSGovernmentCloud",
    "ChinaCloud": "AzureChinaCloud",
}
_NO_CLIENT = "no client id is known: federate an identity with the ServiceAccount and give its id with --client-id"


class StoreIndex:
    """The stores and ServiceAccounts of an input."""

    def __init__(self, objects: Iterable[Manifest], options: ConversionOptions, result: ConversionResult) -> None:
        self._options = options
        self._result = result
        self._stores: dict[tuple[str, str, str], Manifest] = {}
        self._accounts: dict[tuple[str, str], Mapping[str, str]] = {}
        for each in objects:
            where = namespace_of(each)
            if each["kind"] == "ServiceAccount":
                annotations = each["metadata"].get("annotations")
                found = annotations.items() if isinstance(annotations, dict) else ()
                self._accounts[where, each["metadata"]["name"]] = {str(key): str(value) for key, value in found}
            elif each["kind"].endswith("SecretStore"):
                where = "" if each["kind"] == CLUSTER_STORE else where
                self._stores[each["kind"], where, each["metadata"]["name"]] = each

    def reader(self, ref: StoreRef | None, where: str) -> VaultIdentity:
        """Return the reader for ExternalSecrets of a namespace. Raise `InexpressibleSecret` if there is none."""
        if ref is None or not ref.name:
            if not self._options.vault:
                raise InexpressibleSecret("it has no reference to a store: give --vault")
            return self._without_store()
        kind = ref.kind or "SecretStore"
        store = self._stores.get((kind, "" if kind == CLUSTER_STORE else where, ref.name))
        if store is None:
            if self._options.vault:
                return self._without_store()
            at = "" if kind == CLUSTER_STORE else f"{where}/"
            raise InexpressibleSecret(
                f"{kind} {at}{ref.name} is not among the manifests: add its file, or give --vault"
            )
        return self._reader(store, where)

    def describe(self) -> None:
        """Add the notes about each store, even if no ExternalSecret uses it."""
        for (_, where, _), store in sorted(self._stores.items()):
            try:
                self._reader(store, where or "default", alone=True)
            except InexpressibleSecret as problem:
                self._result.note(qualified_name(store), str(problem))

    def _without_store(self) -> VaultIdentity:
        given = self._options
        return VaultIdentity(
            vault=given.vault,
            client_id=given.client_id,
            tenant_id=given.tenant_id,
            service_account=given.service_account or "default",
        )

    def _reader(self, store: Manifest, where: str, *, alone: bool = False) -> VaultIdentity:
        about = qualified_name(store)
        note = partial(self._result.note, about)

        try:
            read = foreign_manifests.read(store, SecretStore)
            if "azurekv" not in read.spec.provider:
                raise InexpressibleSecret(
                    f"its provider {', '.join(read.spec.provider) or '(none)'} is not azurekv: it stays with External"
                    " Secrets"
                )
            azure = foreign_manifests.read(read.spec.provider["azurekv"], AzureKV)
        except msgspec.ValidationError as error:
            raise InexpressibleSecret(f"it does not have the form of its kind: {error}") from error
        for path in foreign_manifests.unknown_fields(read.spec.provider["azurekv"], azure):
            note(f"azurekv.{path} is not known here and is left out")
        if read.spec.conditions:
            note("its conditions have no counterpart: the federated credentials decide which namespaces read the vault")
        if read.spec.controller:
            note("its controller class has no counterpart: only one release of this controller leads")
        vault, cloud = self._vault_of(azure)
        client, tenant, account = self._identity_of(azure, where, note, alone=alone)
        return VaultIdentity(vault=vault, client_id=client, tenant_id=tenant, service_account=account, cloud=cloud)

    def _vault_of(self, azure: AzureKV) -> tuple[str, str]:
        """Return the vault's name and its cloud. Raise `InexpressibleSecret`.

        The address determines the cloud, because environmentType is often left at its default.
        """
        if azure.custom_cloud_config is not None or azure.environment_type == "AzureStackCloud":
            raise InexpressibleSecret(
                "its cloud is a custom one: add it to the chart's `clouds`, and write a SecretProviderClass with its"
                " name as cloudName"
            )
        url = azure.vault_url.strip()
        host = _host_of(url)
        for cloud, known in BUILT_IN_CLOUDS.items():
            suffix = known.vault_url.partition("{vault}")[2]
            if host.endswith(suffix) and "." not in host.removesuffix(suffix):
                if _CLOUDS.get(azure.environment_type) != cloud:
                    self._result.note(url, f"the address belongs to {cloud}, but environmentType is another cloud")
                vault = self._options.vault or host.removesuffix(suffix)
                return vault, "" if cloud == DEFAULT_CLOUD else cloud
        if self._options.vault and azure.environment_type in _CLOUDS:
            cloud = _CLOUDS[azure.environment_type]
            return self._options.vault, "" if cloud == DEFAULT_CLOUD else cloud
        raise InexpressibleSecret(
            f"vaultUrl {url!r} is not https://NAME and a Key Vault's domain: give --vault, or write a"
            " SecretProviderClass for a cloud of the chart's `clouds`"
        )

    def _identity_of(
        self, azure: AzureKV, where: str, note: Callable[[str], None], *, alone: bool
    ) -> tuple[str, str, str]:
        """Return the client id, the tenant and the ServiceAccount. Raise `InexpressibleSecret`.

        Add notes for settings without a counterpart. `alone` means that no ExternalSecret uses the store.
        """
        ref, secret = azure.service_account_ref, azure.auth_secret_ref
        home = (ref.namespace if ref else "") or where
        annotations = self._accounts.get((home, ref.name), {}) if ref else {}
        client = self._options.client_id
        tenant = self._options.tenant_id or azure.tenant_id or annotations.get(TENANT_ANNOTATION, "")
        account = self._options.service_account
        match azure.auth_type:
            case "WorkloadIdentity":
                client = client or annotations.get(CLIENT_ANNOTATION, "")
                account = account or (ref.name if ref else "")
                if ref is None:
                    note(
                        "External Secrets reads the vault with its own ServiceAccount; this controller uses a"
                        " ServiceAccount of each namespace: give --service-account and --client-id"
                    )
                elif home != where and not alone:
                    note(
                        f"its ServiceAccount {home}/{ref.name} serves namespace {where}; this controller uses a"
                        f" ServiceAccount in the Secret's namespace: create {account} in {where}"
                    )
            case "ManagedIdentity":
                if CLIENT.fullmatch(azure.identity_id):
                    client = client or azure.identity_id
                note("the managed identity of the nodes is not used: federate it with the ServiceAccount")
            case "ServicePrincipal":
                note(
                    "it signs in with a service principal's credential, which this controller does not use: federate a"
                    " managed identity with the ServiceAccount (or that application: az ad app federated-credential"
                    " create), give its id with --client-id, and revoke the credential at the end"
                )
            case other:
                raise InexpressibleSecret(f"authType {other!r} is not known: write an AKVSync by hand")
        if secret and azure.auth_type == "WorkloadIdentity" and not self._options.client_id:
            note("its client id is in a Secret, and this command reads no Secret: give --client-id")
        if not client:
            raise InexpressibleSecret(_NO_CLIENT)
        if not tenant:
            raise InexpressibleSecret("no tenant is known: give --tenant-id")
        account = account or "default"
        if not kube_names.is_name(account):
            raise InexpressibleSecret(f"{account!r} is not a ServiceAccount's name: give --service-account")
        return client, tenant, account


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        return (parts.hostname or "") if parts.scheme == "https" and re.fullmatch(r"/?", parts.path) else ""
    except ValueError:
        return ""
