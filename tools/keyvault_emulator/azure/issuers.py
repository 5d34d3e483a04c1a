"""Find the signing keys of federated token issuers by OIDC discovery, as Entra does.

Fetched keys are cached, so that the issuer can go offline. An unknown key id causes another discovery, at most every
`REFETCH` seconds.
"""

import asyncio
import json
import ssl
from typing import Any

import aiohttp
import jwt

from tools.keyvault_emulator.azure.state import EmulatorState, TokenIssuer

REFETCH = 5.0
"""Seconds between two discoveries for an unknown key id, by the machine's clock."""

TIMEOUT = aiohttp.ClientTimeout(total=5)
MAX_DOCUMENT_BYTES = 1 << 20
"""The most bytes of a discovery document or key set."""


class UnreachableError(Exception):
    """The issuer's documents cannot be fetched, and no keys are cached."""


class IssuerKeys:
    """Fetches and caches the keys of the issuers that the state trusts."""

    def __init__(self, world: EmulatorState) -> None:
        self._world = world
        self._locks: dict[str, asyncio.Lock] = {}
        self._discovered_at: dict[str, float] = {}

    async def key(self, url: str, kid: str | None) -> jwt.PyJWK | None:
        """Return the issuer's key with that id (the only one if the token has no key id), or None.

        Raise `UnreachableError` if the issuer is not registered with `trust_issuer`, or does not answer.
        """
        issuer = self._world.issuers.get(url)
        if issuer is None:
            raise UnreachableError(f"{url} is not a trusted issuer; call trust_issuer for it")
        async with self._locks.setdefault(url, asyncio.Lock()):
            found = _pick_key(issuer.jwks, kid)
            now = asyncio.get_running_loop().time()
            if found is None and (issuer.jwks is None or now - self._discovered_at.get(url, -REFETCH) >= REFETCH):
                try:
                    issuer.jwks = await _discover_keys(url, issuer)
                except UnreachableError:
                    if issuer.jwks is None:
                        raise
                self._discovered_at[url] = now
                found = _pick_key(issuer.jwks, kid)
            return found


def _pick_key(jwks: dict[str, Any] | None, kid: str | None) -> jwt.PyJWK | None:
    keys = (jwks or {}).get("keys", [])
    matching = [key for key in keys if key.get("kid") == kid] if kid else keys if len(keys) == 1 else []
    try:
        return jwt.PyJWK(matching[0]) if matching else None
    except jwt.InvalidKeyError:
        return None


async def _discover_keys(url: str, issuer: TokenIssuer) -> dict[str, Any]:
    context = ssl.create_default_context(cadata=issuer.ca) if issuer.ca else ssl.create_default_context()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context), timeout=TIMEOUT, raise_for_status=True
    ) as session:
        base = (issuer.discovery or url).rstrip("/")
        document = await _fetch_json(session, f"{base}/.well-known/openid-configuration")
        if document.get("issuer") != url:
            raise UnreachableError(f"the discovery document of {url} names the issuer {document.get('issuer')!r}")
        jwks = await _fetch_json(session, str(document.get("jwks_uri")))
        if not isinstance(jwks.get("keys"), list):
            raise UnreachableError(f"{document['jwks_uri']} has no list of keys")
        return jwks


async def _fetch_json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    try:
        async with session.get(url) as response:
            # An API server sends application/jwk-set+json, so only the content is checked.
            raw = await response.content.read(MAX_DOCUMENT_BYTES + 1)
            if len(raw) > MAX_DOCUMENT_BYTES:
                raise UnreachableError(f"{url} is larger than {MAX_DOCUMENT_BYTES} bytes")
            document = json.loads(raw)
    except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
        raise UnreachableError(f"{url}: {problem or type(problem).__name__}") from problem
    if not isinstance(document, dict):
        raise UnreachableError(f"{url} is not a JSON object")
    return document
