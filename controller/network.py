"""How the Azure SDK reaches the outside: one pool of connections per set of trusted certificates, and its failures.

azure-core's `connection_verify=<file>` makes a new TLS context for every request (3.4 ms and a leak of 0.3 MiB each),
so extra certificates go into one context on a session of ours.
"""

import errno
import functools
import ssl
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import Connection
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.policies import (
    AsyncBearerTokenCredentialPolicy,
    CustomHookPolicy,
    UserAgentPolicy,
)
from azure.core.pipeline.transport import AioHttpTransport

from controller.wiped import Wiped

CONNECT_SECONDS = 10
READ_SECONDS = 20
# Far above what Key Vault and Entra say (25 KB a value, 25 items a page); above it an answer is not read to its end.
MOST_ANSWER = 2 * 2**20
# Hosts whose proxy is remembered.
MAX_HOSTS = 1024
CLIENT_OPTIONS: dict[str, Any] = {
    # Retries belong to the queue, which knows the object, the vault and what else is waiting.
    "retry_total": 0,
    "connection_timeout": CONNECT_SECONDS,
    "read_timeout": READ_SECONDS,
    # An answer must not name the next host: only the administrator does.
    "permit_redirects": False,
}


class AnswerTooLarge(aiohttp.ClientPayloadError):
    """An answer is longer than any that the API gives."""


class CompressedAnswer(aiohttp.ClientPayloadError):
    """An answer is compressed, although the request asked that it is not."""


class _Bounded(aiohttp.ClientResponse):
    """An answer that cannot fill the memory."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        # The SDK decompresses by itself, without a bound, so such an answer must not reach it.
        started = await super().start(connection)
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            self.close()
            raise CompressedAnswer("it is compressed")
        return started

    async def read(self) -> bytes:
        answer = Wiped()  # it may have a value in it
        try:
            async for part in self.content.iter_any():
                answer += part
                if len(answer) > MOST_ANSWER:
                    raise AnswerTooLarge("more than is ever answered")
        except BaseException:
            self.close()
            raise
        return answer  # type: ignore[return-value]  # the SDK only decodes it


def new_session(ca: str, resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """Connections that trust the system's roots and `ca` (PEM, may be empty). `resolver` keeps its own answers."""
    tls = ssl.create_default_context()
    if ca:
        tls.load_verify_locations(cadata=ca)
    return aiohttp.ClientSession(
        # Unlimited: how many requests are under way is decided before, by `Slots`.
        connector=aiohttp.TCPConnector(ssl=tls, limit=0, resolver=resolver, use_dns_cache=resolver is None),
        timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS + READ_SECONDS),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        response_class=_Bounded,
        # `_Bounded` rejects an answer that is compressed all the same.
        headers={"Accept-Encoding": "identity"},
    )


class _Transport(AioHttpTransport):  # type: ignore[misc]  # untyped, as the SDK exports it
    """The SDK's, with a question before each request: whether it may still be sent.

    Proxies come from the environment, looked up once for each host. aiohttp's own `trust_env` does so for each request,
    in two threads, and takes credentials out of a .netrc besides.
    """

    def __init__(self, session: aiohttp.ClientSession, check: Callable[[], None]) -> None:
        super().__init__(
            session=session, session_owner=False, connection_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS
        )
        self._check = check
        self._proxy_for = functools.lru_cache(MAX_HOSTS)(proxy_for)  # editors name vaults, and so hosts

    async def send(self, request: Any, **options: Any) -> Any:
        self._check()
        address = urlsplit(request.url)
        if proxy := self._proxy_for(address.scheme, address.netloc):
            options["proxies"] = {address.scheme: proxy}
        return await super().send(request, **options)


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY ask for, as curl and the Python library read them."""
    return None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)


def new_transport(session: aiohttp.ClientSession, check: Callable[[], None] = lambda: None) -> AioHttpTransport:
    """The SDK's transport on a session that it shares and does not own; `check` raises where nothing may be sent."""
    return _Transport(session, check)


def new_pipeline(credential: AsyncTokenCredential, note: Callable[[PipelineResponse[Any, Any]], None]) -> list[Any]:
    """What a request to a vault passes on its way; `note` sees every answer first.

    The SDK's own way begins with a request without a token, to be told where to get one and for what. Both are the
    administrator's to say, so the token goes along at once. Retries belong to the queue, and an answer never names the
    next host: there is no policy for either.
    """
    return [
        UserAgentPolicy(sdk_moniker="akv-secret-store"),
        AsyncBearerTokenCredentialPolicy(credential, "vault"),
        CustomHookPolicy(raw_response_hook=note),
    ]


def is_too_large(error: AzureError) -> bool:
    """Return whether the SDK failed because the answer was too large to be read."""
    return isinstance(getattr(error, "inner_exception", None) or error.__cause__, AnswerTooLarge)


def explain_connection(error: AzureError, other: str) -> str:
    """Why no usable answer came from `other`, in one sentence with the next step."""
    cause: BaseException | None = getattr(error, "inner_exception", None) or error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
        return f"{other}: the controller may open no more files or connections; raise the limit of its node (nofile)"
    if isinstance(cause, CompressedAnswer):
        return (
            f"{other} sent a compressed answer that was not asked for, so it was not read; if a proxy is in between,"
            " turn its compression off"
        )
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return f"{other}: the name {cause.host} does not resolve; check that name and the cluster's DNS"
    if isinstance(cause, aiohttp.ClientConnectorCertificateError | ssl.SSLError | aiohttp.ClientConnectorSSLError):
        return (
            f"{other}: the TLS certificate is not trusted; if a proxy inspects TLS, add its CA to the chart's"
            " `caBundle`"
        )
    if isinstance(cause, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return f"{other}: the proxy refuses the connection; check HTTPS_PROXY and what the proxy allows"
    if isinstance(cause, TimeoutError):
        return f"{other} did not answer in time; check the route and firewall to it"
    name = type(cause or error).__name__
    return f"{other} cannot be reached ({name}); the controller tries again by itself"
