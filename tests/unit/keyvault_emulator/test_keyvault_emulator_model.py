"""Test the emulator's parts that need no process: addresses, limits and state."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.keyvault_emulator.azure.access import ROLES
from tools.keyvault_emulator.azure.routes import ENTRA, ParsedAddress, parse
from tools.keyvault_emulator.azure.state import EmulatorState, Role, Version, dump, load
from tools.keyvault_emulator.faults import WINDOW, RateLimiter

LOCAL = "127.0.0.1:8443"
OWN = "shop.vault.azure.net:443"


@pytest.mark.parametrize(
    ("method", "host", "path", "route"),
    [
        ("GET", LOCAL, "/shop/secrets", ParsedAddress("shop", "secrets.list", base="/shop")),
        ("GET", LOCAL, "/shop/secrets/", ParsedAddress("shop", "secrets.list", base="/shop")),
        ("GET", LOCAL, "/shop/secrets/pin/", ParsedAddress("shop", "secrets.get", name="pin", base="/shop")),
        (
            "GET",
            LOCAL,
            "/shop/keys/pin/v1",
            ParsedAddress("shop", "keys.get", name="pin", version="v1", base="/shop"),
        ),
        (
            "GET",
            LOCAL,
            "/secrets/secrets/secrets",
            ParsedAddress("secrets", "secrets.get", name="secrets", base="/secrets"),
        ),
        ("GET", OWN, "/secrets/pin", ParsedAddress("shop", "secrets.get", name="pin")),
        ("GET", OWN, "/keys/pin/versions", ParsedAddress("shop", "keys.versions", name="pin")),
        ("GET", "SHOP.vault.usgovcloudapi.net", "/secrets", ParsedAddress("shop", "secrets.list")),
        ("GET", OWN, "/certificates/web/policy", ParsedAddress("shop", "certificates.policy", name="web")),
        ("GET", LOCAL, "/t/v2.0/.well-known/openid-configuration", ParsedAddress(ENTRA, "discovery", tenant="t")),
        ("GET", LOCAL, "/t/.well-known/openid-configuration", ParsedAddress(ENTRA, "discovery", tenant="t")),
        ("GET", LOCAL, "/t/discovery/v2.0/keys", ParsedAddress(ENTRA, "keys", tenant="t")),
        ("GET", LOCAL, "/common/discovery/instance", ParsedAddress(ENTRA, "instance")),
        ("POST", LOCAL, "/t/oauth2/v2.0/token", ParsedAddress(ENTRA, "token", tenant="t")),
        ("GET", LOCAL, "/t/oauth2/v2.0/token", None),
        ("PUT", LOCAL, "/shop/secrets/pin", None),
        ("DELETE", OWN, "/secrets/pin", None),
        ("GET", OWN, "/shop/secrets/pin/v1", None),
        ("GET", LOCAL, "/shop/secrets/pin/policy/x", None),
        ("GET", LOCAL, "/", None),
        ("GET", LOCAL, "/shop", None),
    ],
)
def test_address_is_parsed(method: str, host: str, path: str, route: ParsedAddress | None) -> None:
    assert parse(method, host, path) == route


@given(st.text(), st.text())
def test_any_address_is_parsed_without_an_exception(host: str, path: str) -> None:
    parse("GET", host, path)


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 8))
def test_any_ten_second_window_has_at_most_the_limit(moments: list[float], limit: int) -> None:
    limiter = RateLimiter(limit)
    admitted = [moment for moment in sorted(moments) if limiter.admit(moment) is None]
    for start in admitted:
        assert len([each for each in admitted if 0 <= each - start < WINDOW]) <= limit
    refused = len(moments) - len(admitted)
    assert refused == 0 or len(admitted) >= limit


def test_refused_calls_do_not_count_towards_the_limit() -> None:
    limiter = RateLimiter(2, retry_after=None)
    assert [limiter.admit(moment) is None for moment in (0, 1, 2, 9.99, 10, 10.5, 11)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_every_role_of_the_state_file_is_implemented() -> None:
    assert tuple(ROLES) == get_args(Role)


def test_repr_hides_the_value() -> None:
    assert "canary" not in repr(Version(value="canary"))


def test_dump_can_be_loaded() -> None:
    state = load("vaults: {A: {tenant: t, secrets: {Pin: {versions: [{value: '1', id: abc}]}}}}", Path())
    loaded = load(dump(state), Path())
    assert loaded == state
    assert isinstance(loaded, EmulatorState)
    assert loaded.vaults["a"].secrets["pin"].name == "Pin"
    assert loaded.vaults["a"].url("secrets", "Pin", "abc") == "https://A.vault.azure.net/secrets/Pin/abc"
