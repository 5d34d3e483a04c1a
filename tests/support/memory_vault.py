"""Key Vault and Entra in memory. They replace the transport of the Azure SDK."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from azure.core.rest._http_response_impl_async import AsyncHttpResponseImpl

# The duration of a call.
SECONDS = 0.02
TOKEN_SECONDS = 1800
LOGIN, VAULT = "login.microsoftonline.com", "shop.vault.azure.net"
Answer = tuple[int, dict[str, Any], dict[str, str]]


class _JsonResponse(AsyncHttpResponseImpl):
    """A response of the SDK whose body was read already."""

    def __init__(self, body: Mapping[str, Any], **fields: Any) -> None:
        super().__init__(**fields)
        self._content = json.dumps(body).encode()


class MemoryVault:
    """Secrets by name, with all versions. `on_request` gets "entra" or "vault", and may raise or return an answer.

    `refusals` has the answers to gets of single secrets, and `gets` counts the gets of each.
    """

    def __init__(self) -> None:
        self.session = None
        self.request_counts: Counter[str] = Counter()
        self.secrets: dict[str, list[tuple[str, float]]] = {}
        self.on_request: Callable[[str], Answer | None] = lambda _: None
        self.refusals: dict[str, Answer] = {}
        self.gets: Counter[str] = Counter()
        self._tokens = self._rolled = 0

    def put(self, name: str, value: str) -> None:
        """Add a version of a secret."""
        self.secrets.setdefault(name, []).append((value, time.time()))

    def roll_key(self) -> None:
        """Make all tokens that were issued so far invalid."""
        self._rolled = self._tokens

    async def send(self, request: Any, **_: Any) -> AsyncHttpResponseImpl:
        """Answer a request of the SDK."""
        address = urlsplit(request.url)
        who = "entra" if address.hostname == LOGIN else "vault"
        self.request_counts[who] += 1
        await asyncio.sleep(SECONDS)
        status, body, headers = self.on_request(who) or self._answer(who, address.path, request.headers)
        return _JsonResponse(
            body,
            request=request,
            internal_response=SimpleNamespace(close=_nothing),
            block_size=4096,
            status_code=status,
            reason="",
            content_type="application/json",
            headers={"Content-Type": "application/json", **headers},
            stream_download_generator=None,
        )

    def _answer(self, who: str, path: str, headers: Mapping[str, str]) -> Answer:
        if who == "entra":
            self._tokens += 1
            token = {"token_type": "Bearer", "access_token": str(self._tokens), "expires_in": TOKEN_SECONDS}
            return 200, token, {}
        if int(headers["Authorization"].split()[1]) <= self._rolled:
            return 401, {"error": {"code": "Unauthorized", "message": "another key"}}, {}
        _, _, name, *_ = [*path.split("/"), "", ""]
        self.gets[name] += bool(name)
        if name in self.refusals:
            return self.refusals[name]
        if name and name not in self.secrets:
            return 404, {"error": {"code": "SecretNotFound", "message": f"{name} was not found"}}, {}
        if name:
            return 200, self._secret(name, valued=True), {}
        return 200, {"value": [self._secret(each, valued=False) for each in self.secrets]}, {}

    def _secret(self, name: str, *, valued: bool) -> dict[str, Any]:
        value, moment = self.secrets[name][-1]
        version = f"/{len(self.secrets[name]):032}" if valued else ""
        attributes = {"enabled": True, "created": int(moment), "updated": int(moment)}
        found = {"id": f"https://{VAULT}/secrets/{name}{version}", "attributes": attributes}
        return found | ({"value": value} if valued else {})

    async def __aenter__(self) -> "MemoryVault":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _nothing() -> None:
    pass
