"""Test that the templates match the schemas of Azure, and that a deployment creates the expected resources."""

import json
import re
from typing import Any

import jsonschema
import pytest

from tests.support import arm_schemas
from tests.support.arm_expressions import Deployment
from tools.codegen import values
from tools.release.azure import arm, extension, flux, identities

CHART = values.ChartValues()
TEMPLATES: dict[str, Any] = {
    "extension": json.loads(extension.extension_template(CHART)),
    "flux": json.loads(flux.flux_template(CHART, "registry.example/akv", "manifests", "0.1.0")),
    "identity": json.loads(identities.identity_template()),
}
GIVEN = {
    "clusterName": "edge",
    "extensionType": "example.secretstore",
    "vaultName": "the-vault",
    "issuer": "https://issuer.example",
    "serviceAccounts": [{"namespace": "shop", "name": "payments"}],
}


def list_resources(template: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all resources of a deployment and of nested deployments."""
    deployment = Deployment(template, given, CompleteAzure())
    resources = []
    for one in (one for resource in template["resources"] for one in deployment.expand_copies(resource)):
        resources.append(one)
        if one["type"] == "Microsoft.Resources/deployments":
            inner = {key: item["value"] for key, item in one["properties"]["parameters"].items()}
            resources += list_resources(one["properties"]["template"], inner)
    return resources


class CompleteAzure(dict[str, Any]):
    """An Azure in which each referenced resource exists."""

    def __missing__(self, key: str) -> dict[str, str]:
        name = key.rpartition("/")[2]
        return {"principalId": f"principal of {name}", "clientId": f"client of {name}"}


def select_resources(kind: str, resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in resources if one["type"].endswith(f"/{kind}")]


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_matches_the_schemas_of_azure(name: str) -> None:
    template = TEMPLATES[name]
    jsonschema.validate(template, arm_schemas.TEMPLATE)
    for one in list_resources(template, GIVEN):
        jsonschema.validate(one, arm_schemas.resource_schema(one["type"]))
        if (inner := one.get("properties", {}).get("template")) is not None:
            assert inner["$schema"] == arm.SCHEMA


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_parameter_and_variable_is_used(name: str) -> None:
    template = TEMPLATES[name]
    body = json.dumps({key: part for key, part in template.items() if key != "parameters"})
    for kind in ("parameters", "variables"):
        used = set(re.findall(rf"{kind}\('(\w+)'\)", body))
        declared = set(template.get(kind, {}))
        nested = {"roles", "vaultName", "identityName", "principalId"} if name == "identity" else set()
        assert declared - used == set()
        assert used - declared <= nested


def test_parameter_has_the_limits_of_its_setting() -> None:
    described = TEMPLATES["extension"]["parameters"]
    poll = described["rotationPollIntervalInSeconds"]
    assert (poll["type"], poll["minValue"], poll["defaultValue"]) == ("int", 1, 3600)
    assert (
        poll["metadata"]["description"]
        == "Interval at which each SecretSync is checked against its Key Vault, in seconds."
    )
    assert described["jitterSeconds"]["minValue"] == 0
    assert set(described["logLevel"]["allowedValues"]) == {"debug", "info", "warning", "error"}
    assert described["nameOverride"]["maxLength"] == 40
    assert described["enablePartialSecretSync"]["type"] == "bool"


def test_value_that_arc_sets_is_not_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    [first, *_] = arm.list_settings(CHART)
    injected = values.LeafValue("Azure.Cluster.Cloud", first.type, "", "The cloud.")
    monkeypatch.setattr(values, "walk", lambda _: iter([first, injected]))
    assert list(arm.list_settings(CHART)) == [first]


def test_settings_with_the_same_parameter_name_are_refused() -> None:
    with pytest.raises(arm.NamesCollideError, match="two parameters have the name imagetag"):
        arm.merge_parameters({"imagetag": {}}, {"imageTag": {}})


def test_extension_is_upgraded_unless_a_version_is_given() -> None:
    def properties(**given: str) -> dict[str, Any]:
        [one] = list_resources(TEMPLATES["extension"], GIVEN | given)
        return dict(one["properties"])

    upgraded, kept = properties(), properties(extensionVersion="0.1.0")
    assert (upgraded["autoUpgradeMinorVersion"], upgraded["releaseTrain"], upgraded["version"]) == (
        True,
        "Stable",
        None,
    )
    assert (kept["autoUpgradeMinorVersion"], kept["releaseTrain"], kept["version"]) == (False, None, "0.1.0")


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (20, 1), (21, 2), (45, 3)])
def test_identity_has_at_most_twenty_credentials(count: int, expected: int) -> None:
    accounts = [{"namespace": "shop", "name": f"account-{number}"} for number in range(count)]
    resources = list_resources(TEMPLATES["identity"], GIVEN | {"serviceAccounts": accounts})
    names = [one["name"] for one in select_resources("userAssignedIdentities", resources)]
    assert names == [f"akv-secret-store-{number + 1}" for number in range(expected)]
    credentials = select_resources("federatedIdentityCredentials", resources)
    assert len({one["name"] for one in credentials}) == count
    owners = [one["name"].partition("/")[0] for one in credentials]
    assert all(owners.count(name) <= identities.MAX_CREDENTIALS for name in names)
    assert set(owners) == set(names)
    subjects = [one["properties"]["subject"] for one in credentials]
    assert subjects == [f"system:serviceaccount:shop:account-{number}" for number in range(count)]


def test_credentials_are_created_one_after_another() -> None:
    [credential] = select_resources("federatedIdentityCredentials", TEMPLATES["identity"]["resources"])
    assert credential["copy"]["mode"] == "serial"
    assert credential["copy"]["batchSize"] == 1
    assert credential["dependsOn"] == ["identities"]


def test_each_identity_gets_both_roles_on_the_vault() -> None:
    accounts = [{"namespace": "shop", "name": f"account-{number}"} for number in range(21)]
    resources = list_resources(
        TEMPLATES["identity"], GIVEN | {"serviceAccounts": accounts, "vaultResourceGroup": "vaults"}
    )
    assert {one["resourceGroup"] for one in select_resources("deployments", resources)} == {"vaults"}
    assignments = select_resources("roleAssignments", resources)
    assert len({one["name"] for one in assignments}) == 4
    assert {one["scope"] for one in assignments} == {"Microsoft.KeyVault/vaults/the-vault"}
    found = {
        (one["properties"]["principalId"], one["properties"]["roleDefinitionId"].rpartition("/")[2])
        for one in assignments
    }
    assert found == {
        (f"principal of akv-secret-store-{number}", role) for number in (1, 2) for role in identities.ROLES
    }


def test_outputs_have_the_client_id_of_each_account() -> None:
    accounts = [{"namespace": "shop", "name": f"account-{number}"} for number in range(21)]
    deployment = Deployment(TEMPLATES["identity"], GIVEN | {"serviceAccounts": accounts}, CompleteAzure())
    output = TEMPLATES["identity"]["outputs"]["serviceAccounts"]["copy"]
    assert deployment.evaluate_node(output["input"], 19)["clientID"] == "client of akv-secret-store-1"
    assert deployment.evaluate_node(output["input"], 20) == {
        "namespace": "shop",
        "name": "account-20",
        "clientID": "client of akv-secret-store-2",
    }


@pytest.mark.parametrize(
    ("value", "settings"),
    [
        ([{"ports": [{"port": 53}, {"port": 443}]}], [("x[0].ports[0].port", "53"), ("x[0].ports[1].port", "443")]),
        ([{"a": True}, {"a": None}], [("x[0].a", "true"), ("x[1].a", "null")]),
    ],
)
def test_nested_value_becomes_settings_with_dotted_names(value: Any, settings: list[tuple[str, str]]) -> None:
    listed = next(leaf for leaf in arm.list_settings(CHART) if leaf.path == "tolerations")
    assert extension.as_settings(values.LeafValue("x", listed.type, value, ""), value) == settings


def test_az_commands_have_the_parameters_of_the_templates() -> None:
    pages = [
        identities.identity_section(),
        extension.extension_section("0.1.0"),
        flux.flux_section("registry.example/akv", "flux/akv-secret-store", "0.1.0"),
    ]
    commands = re.findall(
        r"--template-file (\w+)\.json \\\n  --parameters ((?:.|\\\n)+?)(?: --query|\n```)", "\n".join(pages)
    )
    assert sorted(name for name, _ in commands) == sorted(TEMPLATES)
    for name, parameters in commands:
        described = TEMPLATES[name]["parameters"]
        given = set(re.findall(r"(\w+)=", parameters))
        assert given <= described.keys()
        assert {one for one, about in described.items() if "defaultValue" not in about} <= given


def test_settings_in_the_az_command_exist() -> None:
    commands = re.findall(r"--configuration-settings (.*)", extension.extension_section("0.1.0"))
    paths = {leaf.path for leaf in arm.list_settings(CHART)}
    assert {word.partition("=")[0] for line in commands for word in line.split()} <= paths
    assert commands
