"""All readers: who shares one, and when they are let go."""

from types import SimpleNamespace

import pytest

from controller import vaults
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
    assert len(all_vaults._readers) == len(all_vaults._credentials) == 1
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
    assert not all_vaults._readers
    assert not all_vaults._transports
    await all_vaults.close()
