"""Test that the pool shares readers, evicts idle ones, and is bounded."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import ClientSession

from controller.config.settings import Cloud
from controller.errors import ClassError
from controller.keyvault import pool
from controller.keyvault.credentials import Identity
from controller.keyvault.pool import VaultPool
from controller.runtime import budgets
from tools.local_cluster.pki import ClusterAuthority


async def test_reader_is_shared_by_one_identity_and_evicted_when_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

    all_vaults = VaultPool(clouds, assertion, lambda *_: None)
    identity, other = Identity("team", "robot", "c", "tenant-1"), Identity("else", "robot", "c", "tenant-1")
    first = all_vaults.reader(identity, "here", "shop")
    assert all_vaults.reader(identity, "here", "shop") is first
    assert all_vaults.reader(identity, "here", "bank") is not first
    assert all_vaults.reader(other, "here", "shop") is not first
    now[0] = 500
    assert all_vaults.reader(other, "here", "shop")
    now[0] = 700
    await all_vaults.evict_idle(600)
    assert len(all_vaults.entries) == len(all_vaults.credentials) == 1
    second = all_vaults.reader(identity, "here", "shop")
    assert second is not first
    # After a cloud is removed or moved to another host, its old readers are not used.
    clouds["here"] = Cloud(authority="https://login.example.org", vault_url="https://{vault}.example.org")
    assert all_vaults.reader(identity, "here", "shop") is not second
    del clouds["here"]
    with pytest.raises(ClassError, match=r"cloud 'here' was removed"):
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

    async def assertion(_: Identity) -> str:
        return "a.b.c"

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
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

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
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

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
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

    all_vaults = VaultPool(clouds, assertion, lambda *_: None)
    victim = all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop")
    for number in range(50):
        all_vaults.reader(Identity(f"editor-{number % 3}", "robot", "c", "tenant-1"), "here", f"v{number}")
    assert len(all_vaults.entries) == 10
    assert all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop") is victim
    await all_vaults.close()
