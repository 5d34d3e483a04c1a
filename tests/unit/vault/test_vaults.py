"""All readers: who shares one, and when they are let go."""

from types import SimpleNamespace

import pytest

from controller import budgets, vaults
from controller.errors import ClassError
from controller.identity import Identity
from controller.settings import Cloud
from controller.vaults import Vaults


async def test_readers_are_shared_by_one_identity_and_dropped_when_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(vaults, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

    all_vaults = Vaults(clouds, assertion, lambda *_: None)
    one, other = Identity("team", "robot", "c", "tenant-1"), Identity("else", "robot", "c", "tenant-1")
    first = all_vaults.reader(one, "here", "shop")
    assert all_vaults.reader(one, "here", "shop") is first
    assert all_vaults.reader(one, "here", "bank") is not first
    assert all_vaults.reader(other, "here", "shop") is not first
    now[0] = 500
    assert all_vaults.reader(other, "here", "shop")
    now[0] = 700
    await all_vaults.drop_unused(600)
    assert len(all_vaults._entries) == len(all_vaults._credentials) == 1
    second = all_vaults.reader(one, "here", "shop")
    assert second is not first
    # A cloud that was taken away is not reached by what was made for it, nor when it comes back somewhere else.
    clouds["here"] = Cloud(authority="https://login.example.org", vault_url="https://{vault}.example.org")
    assert all_vaults.reader(one, "here", "shop") is not second
    del clouds["here"]
    with pytest.raises(ClassError, match=r"cloud 'here' is gone"):
        all_vaults.reader(one, "here", "shop")
    now[0] = 1400
    await all_vaults.drop_unused(600)
    assert not len(all_vaults._entries)
    assert not all_vaults._transports
    assert not all_vaults._paces
    await all_vaults.close()


async def test_renamed_vaults_of_one_namespace_keep_no_more_than_its_budget() -> None:
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

    all_vaults = Vaults(clouds, assertion, lambda *_: None)
    victim = all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop")
    for number in range(500):
        all_vaults.reader(Identity("editor", f"robot-{number % 200}", "c", "tenant-1"), "here", f"v{number}")
        all_vaults.reader(Identity("editor", "robot", "c", "tenant-1"), "here", "shop")
    most = int(budgets.READERS.most)
    assert len(all_vaults._entries) == most + 1
    assert len(all_vaults._credentials) <= most + 1
    assert len(all_vaults._paces) <= most + 1
    assert all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop") is victim
    await all_vaults.close()


async def test_what_a_vault_refused_outlives_the_reader_that_was_refused() -> None:
    """Else an editor could have a throttled vault asked at the full pace, by naming many others."""
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

    all_vaults = Vaults(clouds, assertion, lambda *_: None)
    editor = Identity("editor", "robot", "c", "tenant-1")
    all_vaults.reader(editor, "here", "busy")
    all_vaults._paces["https://busy.example.com"].refused(300)
    for number in range(100):
        all_vaults.reader(editor, "here", f"v{number}")
    await all_vaults.drop_unused(0)
    assert all_vaults._paces["https://busy.example.com"].closed() > 0
    await all_vaults.close()


async def test_readers_of_all_namespaces_are_bounded_and_the_largest_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vaults, "MAX_READERS", 10)
    clouds = {"here": Cloud(authority="https://login.example.com", vault_url="https://{vault}.example.com")}

    async def assertion(_: Identity) -> str:
        return "a.b.c"

    all_vaults = Vaults(clouds, assertion, lambda *_: None)
    victim = all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop")
    for number in range(50):
        all_vaults.reader(Identity(f"editor-{number % 3}", "robot", "c", "tenant-1"), "here", f"v{number}")
    assert len(all_vaults._entries) == 10
    assert all_vaults.reader(Identity("victim", "robot", "c", "tenant-1"), "here", "shop") is victim
    await all_vaults.close()
