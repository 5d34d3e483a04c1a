"""Test that any keyvaultName leads to a host in the domain of the administrator's cloud."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from controller.config.settings import BUILT_IN_CLOUDS
from controller.domain.provider_class import read_class
from controller.errors import ClassError
from tests.support.builders import make_azure_class


@given(
    name=st.one_of(
        st.text(st.sampled_from("aZ09-./:@#?%\\ \n\t\u3002{}é"), max_size=26),
        st.from_regex(r"[a-z][a-z0-9-]{1,24}", fullmatch=True),
        st.text(max_size=26),
    ),
    cloud=st.sampled_from(sorted(BUILT_IN_CLOUDS)),
)
@example(name="vault.evil.example", cloud="AzurePublicCloud")
@example(name="evil.example/", cloud="AzurePublicCloud")
@example(name="evil.example#", cloud="AzureChinaCloud")
@example(name="user@evil-example", cloud="AzurePublicCloud")
@example(name="evil\u3002example", cloud="AzureUSGovernmentCloud")
@example(name="{vault}", cloud="AzurePublicCloud")
def test_any_vault_name_leads_to_a_host_of_its_cloud(name: str, cloud: str) -> None:
    pattern = BUILT_IN_CLOUDS[cloud].vault_url
    try:
        vault = read_class(make_azure_class(keyvaultName=name)).vault
    except ClassError:
        return
    host, _, domain = (URL(pattern.replace("{vault}", vault)).host or "").partition(".")
    assert host == vault.lower()
    assert f"https://{{vault}}.{domain}" == pattern


@pytest.mark.parametrize("name", ["my-vault", "MyVault24", "abc", "a" * 24])
def test_valid_vault_name_is_accepted(name: str) -> None:
    assert read_class(make_azure_class(keyvaultName=name)).vault == name
