"""Implement the commands of the Azure CLI that the pages use. They create their objects in the emulator.

`python -m tests.support.cluster.az FILE keyvault create --name …`: FILE keeps the state between calls. The program
ends with an error message for an unknown command, an unknown, abbreviated or missing option, and a missing object.
"""

import argparse
import json
import re
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.codegen import values
from tools.keyvault_emulator.client import ControlClient

SUBSCRIPTION = "00000000-0000-0000-0000-0000000000f1"
USER = "user@example.com"
_SCOPE = re.compile(
    f"/subscriptions/{SUBSCRIPTION}/resource[gG]roups/([^/]+)/providers/Microsoft.KeyVault/vaults/([^/]+)"
)
_CLUSTER = "--name --cluster-name --cluster-type --resource-group"


class AzureError(Exception):
    """An error with which Azure refuses a command."""


class AzureCommands:
    """The state of Azure. Each method is a command: it takes the options by name and returns the output."""

    def __init__(self, world: dict[str, Any]) -> None:
        self.world = world
        self._emulator = ControlClient("127.0.0.1", world["port"], Path(world["directory"]))

    def login(self) -> None:
        self.world["signed_in"] = True

    def account_show(self, subscription: str = SUBSCRIPTION) -> Any:
        require_equal("subscription", subscription, SUBSCRIPTION)
        return {"id": SUBSCRIPTION, "tenantId": self.world["tenant"], "user": {"name": USER, "type": "user"}}

    def group_create(self, name: str, location: str) -> None:
        self.world.setdefault("groups", {})[name] = location

    def connect(self, name: str, resource_group: str, enable_oidc_issuer: bool = False) -> None:
        self._group(resource_group)
        self.world.setdefault("clusters", {})[name] = enable_oidc_issuer

    def cluster_show(self, name: str, resource_group: str) -> Any:
        self._group(resource_group)
        issues = self._known("clusters", name)
        return {"oidcIssuerProfile": {"issuerUrl": self.world["issuer"] if issues else ""}}

    def vault_create(
        self, name: str, resource_group: str, location: str, enable_rbac_authorization: bool = False
    ) -> None:
        self._group(resource_group)
        if not enable_rbac_authorization:
            raise AzureError("the vault uses access policies, but the page assigns roles")
        self._emulator.add_vault(name, self.world["tenant"])
        self.world.setdefault("vaults", {})[name] = resource_group

    def role_create(self, role: str, assignee: str, scope: str) -> None:
        found = _SCOPE.fullmatch(scope)
        if not found:
            raise AzureError(f"{scope} is not the id of a vault")
        group, vault = found.groups()
        require_equal("resource group", group, self._known("vaults", vault))
        if assignee == USER:
            self.world.setdefault("roles", []).append([role, vault])
        else:
            self._emulator.assign_role(assignee, vault, role)

    def secret_set(self, vault_name: str, name: str, value: str) -> None:
        if ["Key Vault Secrets Officer", vault_name] not in self.world.get("roles", []):
            raise AzureError(f"{USER} has no role that allows writing secrets of {vault_name}")
        self._emulator.set_secret(vault_name, name, value)
        # Two versions of the same second would have no defined order. A person types the commands more slowly.
        made = self.world.setdefault("written", 0)
        self._emulator.set_attributes(vault_name, name, created=int(time.time()) - 3600 + made)
        self.world["written"] = made + 1

    def identity_create(self, name: str, resource_group: str, location: str, subscription: str = SUBSCRIPTION) -> None:
        self._group(resource_group)
        require_equal("subscription", subscription, SUBSCRIPTION)
        client = str(uuid.uuid4())
        self._emulator.add_identity(client, self.world["tenant"])
        self.world.setdefault("identities", {})[name] = client

    def identity_show(self, name: str, resource_group: str) -> Any:
        self._group(resource_group)
        return {"clientId": self._known("identities", name)}

    def credential_create(
        self, name: str, identity_name: str, resource_group: str, issuer: str, subject: str, audiences: str
    ) -> None:
        self._group(resource_group)
        client = self._known("identities", identity_name)
        self._emulator.federate(client, issuer, subject, audiences)
        self.world.setdefault("credentials", {})[name] = [client, issuer, subject]

    def credential_delete(self, name: str, identity_name: str, resource_group: str, yes: bool) -> None:
        self._group(resource_group)
        client, issuer, subject = self._known("credentials", name)
        require_equal("identity", self._known("identities", identity_name), client)
        self._emulator.unfederate(client, issuer, subject)
        del self.world["credentials"][name]

    def deploy(self, resource_group: str, template_file: str, parameters: list[str]) -> Any:
        """Check the parameters against the template."""
        self._group(resource_group)
        template = json.loads(Path(template_file).read_text())
        given = dict(pair.split("=", 1) for pair in parameters)
        if unknown := given.keys() - template["parameters"].keys():
            raise AzureError(f"{template_file} has no parameter {', '.join(sorted(unknown))}")
        needed = {name for name, about in template["parameters"].items() if "defaultValue" not in about}
        if missing := needed - given.keys():
            raise AzureError(f"{template_file} needs the parameter {', '.join(sorted(missing))}")
        for name, text in given.items():
            if template["parameters"][name]["type"] in ("array", "object"):
                json.loads(text)
        return {"properties": {"outputs": template.get("outputs", {})}}

    def extension_create(
        self,
        name: str,
        cluster_name: str,
        cluster_type: str,
        resource_group: str,
        extension_type: str,
        scope: str,
        release_namespace: str = "",
        auto_upgrade_minor_version: str = "true",
        version: str = "",
        release_train: str = "",
        configuration_settings: list[str] | None = None,
    ) -> None:
        self._cluster(cluster_name, cluster_type, resource_group)
        require_equal("scope", scope, "cluster")
        if version and auto_upgrade_minor_version != "false":
            raise AzureError("a version is pinned only with --auto-upgrade-minor-version false")
        about = {"extensionType": extension_type, "configurationSettings": parse_settings(configuration_settings or [])}
        self.world.setdefault("extensions", {})[name] = about

    def extension_update(
        self, name: str, cluster_name: str, cluster_type: str, resource_group: str, configuration_settings: list[str]
    ) -> None:
        self._cluster(cluster_name, cluster_type, resource_group)
        self._known("extensions", name)["configurationSettings"] |= parse_settings(configuration_settings)

    def extension_show(self, name: str, cluster_name: str, cluster_type: str, resource_group: str) -> Any:
        self._cluster(cluster_name, cluster_type, resource_group)
        return self._known("extensions", name)

    def extension_delete(self, name: str, cluster_name: str, cluster_type: str, resource_group: str) -> None:
        self._cluster(cluster_name, cluster_type, resource_group)
        self._known("extensions", name)
        del self.world["extensions"][name]

    def flux_create(
        self,
        name: str,
        cluster_name: str,
        cluster_type: str,
        resource_group: str,
        namespace: str,
        scope: str,
        kind: str,
        url: str,
        tag: str,
        service_account_name: str,
        kustomization: list[str],
    ) -> None:
        self._cluster(cluster_name, cluster_type, resource_group)
        require_equal("kind", kind, "oci")
        require_equal("scope", scope, "cluster")
        dict(pair.split("=", 1) for pair in kustomization)
        self.world.setdefault("configurations", {})[name] = f"{url}:{tag}"

    def flux_show(self, name: str, cluster_name: str, cluster_type: str, resource_group: str) -> Any:
        self._cluster(cluster_name, cluster_type, resource_group)
        return {"url": self._known("configurations", name)}

    def flux_delete(self, name: str, cluster_name: str, cluster_type: str, resource_group: str) -> None:
        self._cluster(cluster_name, cluster_type, resource_group)
        self._known("configurations", name)
        del self.world["configurations"][name]

    def _group(self, name: str) -> None:
        self._known("groups", name)

    def _cluster(self, name: str, kind: str, resource_group: str) -> None:
        self._group(resource_group)
        self._known("clusters", name)
        require_equal("cluster type", kind, "connectedClusters")

    def _known(self, kind: str, name: str) -> Any:
        if name not in self.world.get(kind, {}):
            raise AzureError(f"{name!r} is not in the {kind}: {sorted(self.world.get(kind, {}))}")
        return self.world[kind][name]


COMMANDS: dict[str, tuple[Callable[..., Any], str]] = {
    "login": (AzureCommands.login, ""),
    "account show": (AzureCommands.account_show, "[--subscription]"),
    "group create": (AzureCommands.group_create, "--name --location"),
    "connectedk8s connect": (AzureCommands.connect, "--name --resource-group --enable-oidc-issuer!"),
    "connectedk8s update": (AzureCommands.connect, "--name --resource-group --enable-oidc-issuer!"),
    "connectedk8s show": (AzureCommands.cluster_show, "--name --resource-group"),
    "keyvault create": (AzureCommands.vault_create, "--name --resource-group --location --enable-rbac-authorization!"),
    "keyvault secret set": (AzureCommands.secret_set, "--vault-name --name --value"),
    "role assignment create": (AzureCommands.role_create, "--role --assignee --scope"),
    "identity create": (AzureCommands.identity_create, "--name --resource-group --location [--subscription]"),
    "identity show": (AzureCommands.identity_show, "--name --resource-group"),
    "identity federated-credential delete": (
        AzureCommands.credential_delete,
        "--name --identity-name --resource-group --yes!",
    ),
    "identity federated-credential create": (
        AzureCommands.credential_create,
        "--name --identity-name --resource-group --issuer --subject --audiences",
    ),
    "deployment group create": (AzureCommands.deploy, "--resource-group --template-file --parameters+"),
    "k8s-extension create": (
        AzureCommands.extension_create,
        f"{_CLUSTER} --extension-type --scope [--release-namespace] [--auto-upgrade-minor-version] [--version]"
        " [--release-train] [--configuration-settings]+",
    ),
    "k8s-extension update": (AzureCommands.extension_update, f"{_CLUSTER} --configuration-settings+"),
    "k8s-extension show": (AzureCommands.extension_show, _CLUSTER),
    "k8s-extension delete": (AzureCommands.extension_delete, _CLUSTER),
    "k8s-configuration flux create": (
        AzureCommands.flux_create,
        f"{_CLUSTER} --namespace --scope --kind --url --tag --service-account-name --kustomization+",
    ),
    "k8s-configuration flux show": (AzureCommands.flux_show, _CLUSTER),
    "k8s-configuration flux delete": (AzureCommands.flux_delete, _CLUSTER),
}
"""The options of each command: required, [optional], switch!, several+. Each command also has --query and --output."""


def build_parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command's options."""
    made = argparse.ArgumentParser(prog=f"az {command}", allow_abbrev=False)
    for word in COMMANDS[command][1].split():
        flag = word.strip("[]!+")
        if word.endswith("!"):
            made.add_argument(flag, action="store_true")
        else:
            nargs = "+" if word.endswith("+") else None
            made.add_argument(flag, required=not word.startswith("["), default=argparse.SUPPRESS, nargs=nargs)
    made.add_argument("--query")
    made.add_argument("--output")
    return made


def parse_settings(pairs: list[str]) -> dict[str, str]:
    """Return the settings. Raise an error for one that is not a value of the chart."""
    given = dict(pair.split("=", 1) for pair in pairs)
    known = {entry.path for entry in values.walk(values.ChartValues())}
    if unknown := given.keys() - known:
        raise AzureError(f"the chart has no value {', '.join(sorted(unknown))}")
    return given


def require_equal(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise AzureError(f"the {what} is {found!r}, not {wanted!r}")


def main(argv: list[str]) -> None:
    """Run one command. If Azure refuses it, end with an error message and exit code 1."""
    file, *words = argv
    bare = " ".join(words[: next((at for at, word in enumerate(words) if word.startswith("-")), len(words))])
    if bare not in COMMANDS:
        sys.exit(f"az: this test has no command {bare!r}")
    options = vars(build_parser(bare).parse_args(words[len(bare.split()) :]))
    query, output = options.pop("query"), options.pop("output")
    azure = AzureCommands(json.loads(Path(file).read_text()))
    if not azure.world.get("signed_in") and bare != "login":
        sys.exit("az: run az login first")
    try:
        answer = COMMANDS[bare][0](azure, **options)
        for name in query.split(".") if query else ():
            answer = answer[name]
    except AzureError as error:
        sys.exit(f"az {bare}: {error}")
    Path(file).write_text(json.dumps(azure.world))
    if answer is not None:
        sys.stdout.write(f"{answer if output == 'tsv' else json.dumps(answer, indent=2)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
