"""Test a new connection to a vault while all other threads of the process are occupied."""

import asyncio
import functools
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core.credentials import AccessTokenInfo

from controller.config.settings import Cloud
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.values import VaultValue
from controller.keyvault import pool
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.pool import VaultPool
from controller.keyvault.resolver import LOOKUPS_AT_ONCE, FairResolver
from controller.runtime.threads.parsing import PFX_AT_ONCE, TEXTS_AT_ONCE, ParsingPool
from tests.support.scripted_api_server import ReceivedRequest, ScriptedResponse, run_api_server
from tools.local_cluster.pki import ClusterAuthority

# Hanging work ends only with the test, so this limit matters only on slow machines.
TIMEOUT = 30.0
# More than the number of threads of asyncio's default executor.
BLOCKED_THREADS = 64
PIN = ObjectVersionRef(VaultObject(name="pin"))


def answer_with_host(request: ReceivedRequest) -> ScriptedResponse:
    return ScriptedResponse({"value": request.headers["Host"], "id": "https://x/secrets/pin/1", "attributes": {}})


async def read(vaults: VaultPool, namespace: str, vault: str) -> str:
    reader = vaults.reader(Identity(namespace, "robot", "client", "tenant"), "here", vault)
    (found,) = (await reader.read([PIN], since=time.monotonic(), first=True)).values()
    assert isinstance(found, VaultValue), found
    return found.value.reveal().decode()


async def test_hanging_work_delays_no_new_connection_of_another_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Let an editor's classes, PFX files and host names hang, and also the default executor of asyncio."""
    gate = threading.Event()
    authority = ClusterAuthority(tmp_path_factory.mktemp("pki"), "vaults")
    pair = authority.issue("server", user="server", hosts=["*.vault.example.com"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        if host.startswith("hang"):
            gate.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def assertion(_: Identity) -> str:
        return "a.b.c"

    async def token(*_: object, **__: object) -> AccessTokenInfo:
        return AccessTokenInfo("token", 4_000_000_000)

    monkeypatch.setattr(pool, "FairResolver", functools.partial(FairResolver, resolve))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(FederatedCredential, "get_token_info", token)
    async with run_api_server(tls) as server:
        server.default_response = answer_with_host
        port = urlsplit(server.url).port
        cloud = Cloud(
            authority="https://login.example.com",
            vault_url=f"https://{{vault}}.vault.example.com:{port}",
            ca=authority.pair.cert.read_text(),
        )
        vaults, parser = VaultPool({"here": cloud}, assertion, lambda *_: None), ParsingPool()
        loop = asyncio.get_running_loop()
        hanging: list[asyncio.Future[Any]] = [loop.run_in_executor(None, gate.wait) for _ in range(BLOCKED_THREADS)]
        for namespace in ("editor", "accomplice"):
            for pfx, places in ((False, TEXTS_AT_ONCE), (True, PFX_AT_ONCE)):
                work = functools.partial(parser.run, namespace, lambda _: gate.wait(), pfx=pfx)
                hanging += [asyncio.create_task(work()) for _ in range(places * 2)]
        names = [f"hang-{number}" for number in range(LOOKUPS_AT_ONCE * 2)]
        hanging += [asyncio.create_task(read(vaults, "editor", name)) for name in names]
        await asyncio.sleep(0.2)
        assert not any(future.done() for future in hanging)

        try:
            async with asyncio.timeout(TIMEOUT):
                for number in range(3):
                    assert await read(vaults, "shop", f"shop-{number}") == f"shop-{number}.vault.example.com:{port}"
        finally:
            gate.set()  # The loop waits for the threads of its executor when it ends.
            await asyncio.gather(*hanging, return_exceptions=True)
            await vaults.close()
