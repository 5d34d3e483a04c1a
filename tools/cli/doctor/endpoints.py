"""Contact endpoints outside of the cluster: documents, reachability, Entra, and vaults."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import HttpRequest

from controller import errors
from controller.config.settings import Cloud
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.transport import (
    CONNECT_SECONDS,
    explain_connection,
    new_session,
    new_transport,
    proxy_for,
)
from tools.cli.common.kube_client import Object

Answer = Mapping[str, str]
"""The headers, independent of letter case."""


class EndpointProber:
    """The connections, one pool for each set of trusted roots. Close it after use."""

    def __init__(self) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()

    async def document(self, url: str) -> Object:
        """Return a JSON object. Raise `aiohttp.ClientError`, also for a refusal, `TimeoutError` or `ValueError`."""
        address, limit = urlsplit(url), aiohttp.ClientTimeout(total=CONNECT_SECONDS)
        proxy = proxy_for(address.scheme, address.netloc)
        async with self._session_for("").get(url, proxy=proxy, timeout=limit, raise_for_status=True) as answer:
            text = await answer.read()
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except (ValueError, RecursionError):
            raise ValueError(f"{url} is not a JSON object") from None

    async def reach(self, url: str, cloud: Cloud, other: str) -> Answer | errors.ProviderError:
        """Return the headers of any answer, or the controller's error if there is none."""
        transport = new_transport(self._session_for(cloud.ca))
        try:
            answer = await transport.send(
                HttpRequest("GET", url), connection_timeout=CONNECT_SECONDS, read_timeout=CONNECT_SECONDS
            )
        except AzureError as error:
            return errors.ProviderError(explain_connection(error, other))
        headers: Answer = answer.headers  # independent of letter case
        return headers

    async def sign_in(self, identity: Identity, cloud: Cloud, token: str) -> errors.ControllerError | None:
        """Return why Entra does not accept the token for that identity, or None if it does."""

        async def assertion() -> str:
            return token

        async with FederatedCredential(
            identity, cloud, new_transport(self._session_for(cloud.ca)), assertion
        ) as credential:
            try:
                await credential.get_token_info()
            except errors.ControllerError as error:
                return error.bare()
        return None

    def _session_for(self, ca: str) -> aiohttp.ClientSession:
        if ca not in self._sessions:
            self._sessions[ca] = new_session(ca)
        return self._sessions[ca]
