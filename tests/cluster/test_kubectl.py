"""Test kubectl's output for this product's kinds, and the API server's messages about mistakes in them."""

from typing import Any

import pytest

from tests.support.cluster.namespace import Namespace
from tools.local_cluster.errors import ClusterError

ADDRESSES = ("https://shop.vault.azure.net", "https://shop.vault.azure.net/", "shop.vault.azure.net")


def read_refusal(space: Namespace, body: dict[str, Any]) -> str:
    """Return the message with which the API server refuses the object."""
    with pytest.raises(ClusterError) as refused:
        space.apply(body)
    return str(refused.value)


@pytest.mark.parametrize("address", ADDRESSES)
def test_vault_address_in_an_akvsync_is_explained(address: str, space: Namespace) -> None:
    body = space.akv_sync({"secretInAKV": "a"})
    body["spec"]["keyvaultName"] = address
    assert "keyvaultName is the vault's name alone: shop-vault, not its address" in read_refusal(space, body)


def test_vault_name_that_is_too_long_is_explained(space: Namespace) -> None:
    body = space.akv_sync({"secretInAKV": "a"})
    body["spec"]["keyvaultName"] = "v" * 25
    assert "a Key Vault's name has at most 24 characters" in read_refusal(space, body)


@pytest.mark.parametrize("kind", ["tls", "opaque", "dockerconfigjson"])
def test_part_of_a_secret_type_is_explained(kind: str, space: Namespace) -> None:
    body = space.sync("s", {"k": "a"}, secretObject={"type": kind})
    assert "secretObject.type is a Secret's whole type, such as Opaque or kubernetes.io/tls" in read_refusal(
        space, body
    )


@pytest.mark.parametrize("address", ADDRESSES)
def test_vault_address_in_a_class_is_explained(address: str, space: Namespace) -> None:
    space.apply(space.provider_class("a", keyvaultName=address), space.sync("s", {"k": "a"}))
    assert "; write shop" in space.wait_reason("s", "ControllerSpcError")


def test_objects_without_an_array_are_explained(space: Namespace) -> None:
    objects = "- |\n  objectName: a\n  objectType: secret\n"
    space.apply(space.provider_class(objects=objects), space.sync("s", {"k": "a"}))
    assert "expected `array:` with one `- |` item per object" in space.wait_reason("s", "ControllerSpcError")


def test_kubectl_shows_wide_columns_short_names_and_the_category(space: Namespace) -> None:
    space.apply(space.provider_class("a"), space.sync("s", {"k": "missing"}))
    space.wait_reason("s", "UserInputValidationFailed")
    wide = space.kubectl("get", "ssync", "--output", "wide")
    assert wide.split("\n")[0].split()[-2:] == ["CLASS", "MESSAGE"]
    assert "the SecretProviderClass has no such object" in wide
    assert "MESSAGE" not in space.kubectl("get", "ssync")
    space.apply(space.akv_sync({"secretInAKV": "a"}))
    header, row = space.kubectl("get", "akvs", "--output", "wide").splitlines()
    assert header.split()[-2:] == ["VAULT", "MESSAGE"]
    assert space.vault in row
    everything = space.kubectl("get", "akv", "--output", "name")
    assert "secretsync.secret-sync.x-k8s.io/s" in everything
    assert "akvsync.secret-sync.x-k8s.io/made" in everything
    assert "secretproviderclass.secrets-store.csi.x-k8s.io/shop" in everything
