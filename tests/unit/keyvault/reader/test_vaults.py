"""Test that the pool shares readers, evicts idle ones, and is bounded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession

from controller.config.settings import TEST_CLOUD, Cloud
from controller.errors import ClassError
from controller.keyvault import pool
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.pool import VaultPool
from controller.keyvault.reader import VaultReader
from controller.keyvault.resolver import FairResolver
from controller.runtime import budgets
from tools.local_cluster.pki import ClusterAuthority

HERE = Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")
READERS_OF_A_NAMESPACE = int(budgets.READERS.limit)


async def assertion(_: Identity) -> str:
    return "a.b.c"


def make_identity(namespace: str = "team", account: str = "robot") -> Identity:
    return Identity(namespace, account, "client", "tenant-1")


def fill_namespace(vaults: VaultPool, namespace: str, count: int) -> None:
    """Use this many readers of vaults that no test names otherwise."""
    for number in range(count):
        vaults.reader(make_identity(namespace, "other"), "here", f"other-{number}")


class Closed:
    """Record what the pool closes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readers: list[str] = []
        self.identities: list[Identity] = []
        self.resolvers = 0
        closed = self

        class Reader(VaultReader):
            async def close(self) -> None:
                closed.readers.append(self.client.vault)
                await super().close()

        class Credential(FederatedCredential):
            def __init__(self, identity: Identity, *rest: Any) -> None:
                super().__init__(identity, *rest)
                self.identity = identity

            async def close(self) -> None:
                closed.identities.append(self.identity)
                await super().close()

        class Resolver(FairResolver):
            async def close(self) -> None:
                closed.resolvers += 1
                await super().close()

        monkeypatch.setattr(pool, "VaultReader", Reader)
        monkeypatch.setattr(pool, "FederatedCredential", Credential)
        monkeypatch.setattr(pool, "FairResolver", Resolver)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Closed:
    return Closed(monkeypatch)


async def test_reader_is_shared_by_one_identity_and_evicted_when_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clouds = {"here": HERE}
    all_vaults = VaultPool(clouds, assertion, lambda *_: None)
    identity, other = Identity("team", "robot", "c", "tenant-1"), Identity("else", "robot", "c", "tenant-1")
    first = all_vaults.reader(identity, "here", "shop")
    assert all_vaults.reader(identity, "here", "shop") is first
    assert all_vaults.reader(identity, "here", "bank") is not first
    assert all_vaults.reader(other, "here", "shop") is not first
    now[0] = 500
    assert all_vaults.reader(other, "here", "shop")
    now[0] = 600
    await all_vaults.evict_idle(600)
    assert all_vaults.vault_names() == {"shop", "bank"}
    now[0] = 700
    await all_vaults.evict_idle(600)
    assert len(all_vaults.entries) == len(all_vaults.credentials) == 1
    second = all_vaults.reader(identity, "here", "shop")
    assert second is not first
    # After a cloud is removed or moved to another host, its old readers are not used.
    clouds["here"] = Cloud(authority="https://login.example.org", vault_url="https://{vault}.example.org")
    assert all_vaults.reader(identity, "here", "shop") is not second
    clouds["b"] = clouds["a"] = clouds.pop("here")
    with pytest.raises(ClassError, match=r"cloud 'here' was removed; set cloudName to one of a, b"):
        all_vaults.reader(identity, "here", "shop")
    now[0] = 1400
    await all_vaults.evict_idle(600)
    assert not len(all_vaults.entries)
    assert not all_vaults.transports
    assert not all_vaults.rate_limiters
    await all_vaults.close()


async def test_new_reader_gets_no_connections_that_are_being_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds = {
        name: Cloud(
            authority="https://login.example.com",
            vault_url="https://{vault}.example.com",
            ca=ClusterAuthority(tmp_path, name).pair.cert.read_text(),
        )
        for name in ("one", "two", "three")
    }

    all_vaults = VaultPool(clouds, assertion, lambda *_: None)
    identity = Identity("team", "robot", "client", "tenant-1")
    for name in clouds:
        all_vaults.reader(identity, name, "shop")
    before = dict(all_vaults.transports)

    async def read_meanwhile(closed: ClientSession) -> None:
        for name in clouds:
            all_vaults.reader(identity, name, "shop")
        assert not {id(each) for each in all_vaults.transports.values()} & {id(each) for each in before.values()}
        await close_session(closed)

    close_session = ClientSession.close
    with monkeypatch.context() as closing:
        closing.setattr(ClientSession, "close", read_meanwhile)
        await all_vaults.evict_idle(-1)
    await all_vaults.close()


async def test_renamed_vaults_of_one_namespace_keep_no_more_than_its_budget() -> None:
    clouds = {"here": HERE}
    all_vaults = VaultPool(clouds, assertion, lambda *_: None)
    victim = all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop")
    for number in range(500):
        all_vaults.reader(Identity("editor", f"robot-{number % 200}", "c", "tenant-1"), "here", f"v{number}")
        all_vaults.reader(Identity("editor", "robot", "c", "tenant-1"), "here", "shop")
    limit = int(budgets.READERS.limit)
    assert len(all_vaults.entries) == limit + 1
    assert len(all_vaults.credentials) <= limit + 1
    assert len(all_vaults.rate_limiters) <= limit + 1
    assert all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop") is victim
    await all_vaults.close()


async def test_throttling_of_a_vault_outlives_its_evicted_reader() -> None:
    """Keep the limit, because an editor could otherwise reset it by naming many other vaults."""
    clouds = {"here": HERE}
    all_vaults = VaultPool(clouds, assertion, lambda *_: None)
    editor = Identity("editor", "robot", "c", "tenant-1")
    all_vaults.reader(editor, "here", "busy")
    all_vaults.rate_limiters["https://busy.example.com"].note_refusal(300)
    for number in range(100):
        all_vaults.reader(editor, "here", f"v{number}")
    await all_vaults.evict_idle(0)
    assert all_vaults.rate_limiters["https://busy.example.com"].seconds_closed() > 0
    await all_vaults.close()


async def test_full_pool_evicts_readers_of_the_largest_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "MAX_READERS", 10)
    clouds = {"here": HERE}
    all_vaults = VaultPool(clouds, assertion, lambda *_: None)
    victim = all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop")
    for number in range(50):
        all_vaults.reader(Identity(f"editor-{number % 3}", "robot", "c", "tenant-1"), "here", f"v{number}")
    assert len(all_vaults.entries) == 10
    assert all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop") is victim
    await all_vaults.close()


async def test_pool_keeps_at_most_1024_readers() -> None:
    vaults = VaultPool({"here": HERE}, assertion, lambda *_: None)
    for number in range(20):
        fill_namespace(vaults, f"team-{number}", READERS_OF_A_NAMESPACE)
    assert len(vaults.entries) == 1024
    await vaults.close()


async def test_reader_has_the_vaults_address_and_its_identitys_token() -> None:
    asked: list[Identity] = []
    failed: list[str] = []

    async def request_assertion(identity: Identity) -> str:
        asked.append(identity)
        return f"token of {identity.namespace}"

    vaults = VaultPool({"here": HERE}, request_assertion, lambda *_: None, count_no_token=failed.append)
    client = vaults.reader(make_identity(), "here", "Shop").client
    assert (client.vault, client.url) == ("Shop", "https://shop.example.com")
    (credential,) = vaults.credentials.values()
    assert await credential.new_assertion() == "token of team"
    assert asked == [make_identity()]
    credential.count_failure("login.example.com")
    assert failed == ["login.example.com"]
    await vaults.close()


async def test_only_the_vault_of_helm_test_is_reached_without_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault of `helm test` is a Pod of the same cluster, which a proxy may not reach."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "")
    authority = ClusterAuthority(tmp_path, "test").pair.cert.read_text()
    vaults = VaultPool(
        {"here": HERE, TEST_CLOUD: msgspec.structs.replace(HERE, ca=authority)}, assertion, lambda *_: None
    )
    for cloud in ("here", TEST_CLOUD):
        vaults.reader(make_identity(), cloud, "shop")
    proxies = {ca: each.choose_proxy("https", "shop.example.com") for ca, each in vaults.transports.items()}
    assert proxies == {"": "http://proxy:3128", authority: None}
    await vaults.close()


async def test_token_is_kept_until_the_last_reader_of_its_identity_is_evicted() -> None:
    vaults = VaultPool({"here": HERE}, assertion, lambda *_: None)
    vaults.reader(make_identity(), "here", "shop")
    (token,) = vaults.credentials.values()
    vaults.reader(make_identity(), "here", "bank")
    assert list(vaults.credentials.values()) == [token]
    fill_namespace(vaults, "team", READERS_OF_A_NAMESPACE - 1)
    assert vaults.vault_names() & {"shop", "bank"} == {"bank"}
    assert token in vaults.credentials.values()
    vaults.reader(make_identity("team", "other"), "here", "one-more")
    assert "bank" not in vaults.vault_names()
    assert token not in vaults.credentials.values()
    await vaults.close()


async def test_readers_of_one_vault_share_its_limit_after_an_eviction() -> None:
    vaults = VaultPool({"here": HERE}, assertion, lambda *_: None)
    reader = vaults.reader(make_identity("victim"), "here", "shop")
    assert vaults.reader(make_identity("team"), "here", "SHOP").client.rate_limiter is reader.client.rate_limiter
    fill_namespace(vaults, "team", READERS_OF_A_NAMESPACE)
    assert vaults.reader(make_identity("team"), "here", "shop").client.rate_limiter is reader.client.rate_limiter
    await vaults.close()


async def test_idle_readers_and_their_tokens_are_closed(closed: Closed) -> None:
    vaults = VaultPool({"here": HERE}, assertion, lambda *_: None)
    vaults.reader(make_identity(), "here", "shop")
    (transport,) = vaults.transports.values()
    assert transport.session
    await vaults.evict_idle(-1)
    assert closed.readers == ["shop"]
    assert closed.identities == [make_identity()]
    assert transport.session.closed
    assert not closed.resolvers
    await vaults.close()


async def test_closed_pool_has_closed_everything(closed: Closed) -> None:
    vaults = VaultPool({"here": HERE}, assertion, lambda *_: None)
    for vault in ("shop", "bank"):
        vaults.reader(make_identity(), "here", vault)
    (transport,) = vaults.transports.values()
    await vaults.close()
    assert closed.readers == ["shop", "bank"]
    assert closed.identities == [make_identity()]
    assert transport.session
    assert transport.session.closed
    assert closed.resolvers == 1
