"""What is asked of the world outside the cluster: documents, whether somebody answers at all, Entra, and vaults."""

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import HttpRequest

from controller import errors
from controller.identity import FederatedCredential, Identity
from controller.network import CONNECT_SECONDS, explain_connection, new_session, new_transport, proxy_for
from controller.settings import Cloud
from tools.caller import Object

Answer = Mapping[str, str]
"""The headers, whatever their letters' case."""


class Outside:
    """The connections, one pool for each set of trusted roots. Close it."""

    def __init__(self) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Lets go of the connections."""
        for session in self._sessions.values():
            await session.close()

    async def document(self, url: str) -> Object:
        """A JSON object. Raises `aiohttp.ClientError`, `TimeoutError` or `ValueError`."""
        address, limit = urlsplit(url), aiohttp.ClientTimeout(total=CONNECT_SECONDS)
        proxy = proxy_for(address.scheme, address.netloc)
        async with self._session("").get(url, proxy=proxy, timeout=limit) as answer:
            found = json.loads(await answer.read())
        if not isinstance(found, dict):
            raise ValueError(url)
        return found

    async def reach(self, url: str, cloud: Cloud, other: str) -> Answer | errors.ProviderError:
        """The headers of any answer at all, or why there is none, in the controller's words."""
        transport = new_transport(self._session(cloud.ca))
        try:
            answer = await transport.send(
                HttpRequest("GET", url), connection_timeout=CONNECT_SECONDS, read_timeout=CONNECT_SECONDS
            )
        except AzureError as error:
            return errors.ProviderError(explain_connection(error, other))
        headers: Answer = answer.headers  # whatever their letters' case
        return headers

    async def sign_in(self, identity: Identity, cloud: Cloud, token: str) -> errors.ControllerError | None:
        """Why Entra does not take the token for that identity; None where it does."""

        async def assertion() -> str:
            return token

        async with FederatedCredential(
            identity, cloud, new_transport(self._session(cloud.ca)), assertion
        ) as credential:
            try:
                await credential.get_token_info()
            except errors.ControllerError as error:
                return error.bare()
        return None

    def _session(self, ca: str) -> aiohttp.ClientSession:
        if ca not in self._sessions:
            self._sessions[ca] = new_session(ca)
        return self._sessions[ca]
