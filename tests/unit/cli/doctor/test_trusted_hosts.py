"""Test to which hosts a tool may send a token: the hosts of Azure, and the hosts that the caller names."""

import pytest

from controller.config.settings import BUILT_IN_CLOUDS, Cloud
from tools.cli.doctor import trusted_hosts

ENTRA = "https://login.microsoftonline.com"
VAULT_URL = "https://{vault}.vault.azure.net"


def list_untrusted(authority: str, vault_url: str, *named: str) -> list[str]:
    return trusted_hosts.unnamed(Cloud(authority=authority, vault_url=vault_url), "shop", named)


@pytest.mark.parametrize("name", BUILT_IN_CLOUDS)
def test_built_in_cloud_is_trusted(name: str) -> None:
    assert trusted_hosts.unnamed(BUILT_IN_CLOUDS[name], "shop", ()) == []


@pytest.mark.parametrize(
    ("authority", "vault_url"),
    [
        (ENTRA, VAULT_URL),
        (f"{ENTRA}/", VAULT_URL),
        (f"{ENTRA}:443", "https://{vault}.vault.azure.net:443/"),
        (ENTRA.upper().replace("HTTPS", "https"), VAULT_URL),
    ],
)
def test_cloud_with_azures_hosts_is_trusted_under_any_name(authority: str, vault_url: str) -> None:
    assert list_untrusted(authority, vault_url) == []


@pytest.mark.parametrize(
    "authority",
    [
        "https://evil.example",
        f"{ENTRA}.evil.example",
        f"{ENTRA}:8443",
        "https://login.microsoftonline.com@evil.example",
        "https://evil.example\\@login.microsoftonline.com",
        "https://evil.example\\.login.microsoftonline.com",
        "https://login\u3002microsoftonline.com",
        "https://login.microsoftonline.com\u2044.evil.example",
        "https://xlogin.microsoftonline.com",
        "https://a.login.microsoftonline.com",
        "http://login.microsoftonline.com",
        "https://[::1]",
        "https:///login.microsoftonline.com",
        "https://login.microsoftonline.com?.evil.example",
        "https://login.microsoftonline.com#.evil.example",
        "https://login.microsoftonline.com\n.evil.example",
        "https://shop.vault.azure.net.evil.example",
    ],
)
def test_other_authority_is_not_trusted(authority: str) -> None:
    assert list_untrusted(authority, VAULT_URL) != []


@pytest.mark.parametrize(
    "vault_url",
    [
        "https://evil.example/{vault}",
        "https://{vault}.vault.azure.net.evil.example",
        "https://{vault}.evil.vault.azure.net.evil.example",
        "https://vault.azure.net/{vault}",
        "https://{vault}",
        "https://{vault}.a.vault.azure.net",
        "https://{vault}.vault.azure.net:444",
        "https://evil.example\\{vault}.vault.azure.net",
    ],
)
def test_other_vault_is_not_trusted(vault_url: str) -> None:
    assert list_untrusted(ENTRA, vault_url) != []


@pytest.mark.parametrize(
    ("named", "untrusted"),
    [
        ((), ["login.stack.example", "*.vault.stack.example:8443"]),
        (("login.stack.example",), ["*.vault.stack.example:8443"]),
        (("login.stack.example", "*.vault.stack.example:8443"), []),
        (("login.stack.example", "shop.vault.stack.example:8443"), []),
        (("login.stack.example", "*.vault.stack.example"), ["*.vault.stack.example:8443"]),
        (("*.stack.example",), ["*.vault.stack.example:8443"]),
    ],
)
def test_host_that_the_caller_names_is_trusted(named: tuple[str, ...], untrusted: list[str]) -> None:
    """Check that the tool reports the untrusted hosts, and reports none after the caller named them."""
    cloud = ("https://login.stack.example", "https://{vault}.vault.stack.example:8443")
    assert list_untrusted(*cloud, *named) == untrusted
    assert list_untrusted(*cloud, *named, *map(trusted_hosts.parse, untrusted)) == []


@pytest.mark.parametrize("text", ["", "https://a.example", "a b", "*", "*.", "*.*.example", "a.example/", "-a", "a:x"])
def test_text_that_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(trusted_hosts.HostError):
        trusted_hosts.parse(text)


def test_azures_hosts_are_verified_with_system_certificates_only() -> None:
    cloud = Cloud(authority=ENTRA, vault_url=VAULT_URL, ca="PEM")
    assert trusted_hosts.connecting(cloud, "shop", ()).ca == ""
    assert trusted_hosts.connecting(cloud, "shop", ("login.microsoftonline.com",)).ca == ""
    assert trusted_hosts.connecting(cloud, "shop", ("login.microsoftonline.com", "*.vault.azure.net")).ca == "PEM"
