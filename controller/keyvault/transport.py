"""Connect the Azure SDK to the network: one connection pool per set of trusted certificates, with readable errors.

azure-core's `connection_verify=<file>` creates a TLS context for every request (3.4 ms and a leak of 0.3 MiB each).
Additional certificates therefore go into one context on a session that the controller creates.
"""

import errno
import functools
import ipaddress
import ssl
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

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

from controller.runtime.zeroize import ZeroizedBytes

CONNECT_SECONDS = 10
READ_SECONDS = 20
# Far above the answers of Key Vault and Entra (25 KB per value, 25 items per page). A longer answer is not read to its
# end.
MAX_ANSWER = 2 * 2**20
# Number of hosts whose proxy is cached.
MAX_HOSTS = 1024
# OpenSSL's results of a verification (X509_verify_cert_error_string): not yet valid, expired; name, address.
_OUTSIDE_VALID_TIME, _ANOTHER_NAME = (9, 10), (62, 64)
_DEFAULT_PORTS = {"http": 80, "https": 443}
CLIENT_OPTIONS: dict[str, Any] = {
    # The queue retries, because it knows the object, the vault and the other waiting work.
    "retry_total": 0,
    "connection_timeout": CONNECT_SECONDS,
    "read_timeout": READ_SECONDS,
    # An answer must not name the next host: only the administrator chooses hosts.
    "permit_redirects": False,
}


class AnswerTooLarge(aiohttp.ClientPayloadError):
    """An answer is longer than all answers of the API."""


class CompressedAnswer(aiohttp.ClientPayloadError):
    """An answer is compressed, although the request excluded compression."""


class _BoundedResponse(aiohttp.ClientResponse):
    """An answer of limited size. The status of a refusal counts, whatever its body is."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        # The SDK decompresses without a limit, so such an answer must not reach it.
        started = await super().start(connection)
        if self._is_compressed and not self._is_refusal:
            self.close()
            raise CompressedAnswer("it is compressed")
        return started

    @property
    def _is_compressed(self) -> bool:
        return self.headers.get("Content-Encoding", "identity").lower() != "identity"

    @property
    def _is_refusal(self) -> bool:
        return self.status >= 400

    async def read(self) -> bytes:
        answer = ZeroizedBytes()  # it can contain a value
        if self._is_compressed:
            self.close()
            return answer  # type: ignore[return-value]  # the SDK only decodes it
        try:
            async for part in self.content.iter_any():
                answer += part
                if len(answer) > MAX_ANSWER:
                    raise AnswerTooLarge("the answer is too long")
        except aiohttp.ClientPayloadError:
            self.close()
            if not self._is_refusal:
                raise
            answer.clear()  # half a text has no meaning
        except BaseException:
            self.close()
            raise
        return answer  # type: ignore[return-value]  # the SDK only decodes it


def new_session(ca: str, resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """Return a session that trusts the system's roots and `ca` (PEM, may be empty). `resolver` has its own cache."""
    # The system's roots take 0.8 MiB. aiohttp has read them for its own context, which `True` selects.
    tls: ssl.SSLContext | bool = True
    if ca:
        tls = ssl.create_default_context()
        tls.load_verify_locations(cadata=ca)
    return aiohttp.ClientSession(
        # Unlimited: `FairSemaphore` limits the number of requests.
        connector=aiohttp.TCPConnector(ssl=tls, limit=0, resolver=resolver, use_dns_cache=resolver is None),
        timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS + READ_SECONDS),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        response_class=_BoundedResponse,
        # `_BoundedResponse` also rejects a compressed answer that was not requested.
        headers={"Accept-Encoding": "identity"},
    )


class _CheckedTransport(AioHttpTransport):  # type: ignore[misc]  # untyped, as the SDK exports it
    """The SDK's transport, which checks before each request whether it may still be sent.

    Proxies come from the environment, read once for each host. aiohttp's own `trust_env` reads it for each request, in
    two threads, and also takes credentials from a .netrc.
    """

    def __init__(self, session: aiohttp.ClientSession, check: Callable[[], None], *, direct: bool) -> None:
        super().__init__(
            session=session, session_owner=False, connection_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS
        )
        self._check = check
        find = _no_proxy if direct else proxy_for
        # Editors choose the names of vaults, and so hosts.
        self.choose_proxy = functools.lru_cache(MAX_HOSTS)(find)

    async def send(self, request: Any, **options: Any) -> Any:
        self._check()
        address = urlsplit(request.url)
        if proxy := self.choose_proxy(address.scheme, address.netloc):
            options["proxies"] = {address.scheme: proxy}
        return await super().send(request, **options)


def proxy_for(scheme: str, host: str) -> str | None:
    """Return the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY set, with the rules of curl and Go."""
    address = _split_host(host)
    listed = urllib.request.getproxies().get("no", "").split(",")
    if any(_covers(item.strip().lower(), scheme, address) for item in listed):
        return None
    return urllib.request.getproxies().get(scheme)


def _covers(item: str, scheme: str, address: SplitResult) -> bool:
    """Return whether an item of NO_PROXY covers an address: a name, an end of names, an address or a network."""
    host = (address.hostname or "").rstrip(".")
    if item == "*" or _is_in_network(host, item):
        return True
    if "/" in item:
        return False
    try:
        wanted = _split_host(item)
        port = wanted.port
    except ValueError:
        return False
    if port not in (None, address.port or _DEFAULT_PORTS.get(scheme)):
        return False
    name = (wanted.hostname or "").removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_host(text: str) -> SplitResult:
    """Split a host with an optional port."""
    return urlsplit(f"//{text}")


def _is_in_network(host: str, network: str) -> bool:
    """Return whether the host is an address in that network. An address without a length is a network of its own."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False  # one of them is a name


def _no_proxy(scheme: str, host: str) -> None:
    """Return no proxy, independent of the environment."""


def new_transport(
    session: aiohttp.ClientSession, check: Callable[[], None] = lambda: None, *, direct: bool = False
) -> AioHttpTransport:
    """Return the SDK's transport on a shared session, which it does not own.

    `check` raises if nothing may be sent. With `direct`, no proxy is used, independent of the environment.
    """
    return _CheckedTransport(session, check, direct=direct)


class _CurrentTokenPolicy(AsyncBearerTokenCredentialPolicy[Any, Any]):
    """The SDK's policy with the credential's current token in each request.

    The SDK's own policy keeps a token for its whole life, so a token that the credential has renewed would not be used.
    """

    async def on_request(self, request: Any) -> None:
        self._token = None
        await super().on_request(request)


def new_pipeline(credential: AsyncTokenCredential, note: Callable[[PipelineResponse[Any, Any]], None]) -> list[Any]:
    """Return the policies of a request to a vault. `note` receives every answer first.

    The SDK's own pipeline first sends a request without a token, and the answer names the authority and the audience.
    The administrator defines both, so the first request has the token. There is no policy for retries, because the
    queue retries, and none for redirects, because an answer never names the next host.
    """
    return [
        UserAgentPolicy(sdk_moniker="akv-secret-store"),
        _CurrentTokenPolicy(credential, "vault"),
        CustomHookPolicy(raw_response_hook=note),
    ]


def is_cut_off(error: AzureError) -> bool:
    """Return whether the SDK failed because the connection ended within the answer."""
    cause = getattr(error, "inner_exception", None) or error.__cause__
    return isinstance(cause, aiohttp.ClientPayloadError) and not isinstance(cause, AnswerTooLarge)


def was_connected(error: AzureError) -> bool:
    """Return whether the connection existed when the request failed, so that the answer was missing or unusable."""
    cause = getattr(error, "inner_exception", None) or error.__cause__
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ClientSSLError | aiohttp.ClientHttpProxyError):
        return False
    return isinstance(
        cause,
        aiohttp.ClientPayloadError
        | aiohttp.ClientResponseError
        | aiohttp.ServerDisconnectedError
        | aiohttp.ClientConnectionResetError
        | aiohttp.ClientOSError,
    )


def explain_connection(error: AzureError, other: str) -> str:
    """Return why `other` gave no usable answer, in one sentence with the next step."""
    cause: BaseException | None = getattr(error, "inner_exception", None) or error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
        return f"{other}: the controller may open no more files or connections; raise the limit of its node (nofile)"
    if isinstance(cause, CompressedAnswer):
        return (
            f"{other} sent a compressed answer without a request for it, so it was not read; if a proxy is in between,"
            " turn its compression off"
        )
    if is_cut_off(error):
        return f"{other} ended the connection within its answer; the controller tries again by itself"
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return f"{other}: the name {cause.host} does not resolve; check that name and the cluster's DNS"
    if isinstance(cause, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return f"{other}: the TLS certificate {_explain_certificate(cause)}"
    if isinstance(cause, ssl.SSLError | aiohttp.ClientConnectorSSLError):
        return f"{other}: the TLS handshake failed; check which server the cluster's DNS or a proxy connects to"
    if isinstance(cause, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return f"{other}: the proxy refuses the connection; check HTTPS_PROXY and the rules of the proxy"
    if isinstance(cause, TimeoutError):
        return f"{other} did not answer in time; check the route and firewall to it"
    name = type(cause or error).__name__
    return f"{other} cannot be reached ({name}); the controller tries again by itself"


def _explain_certificate(cause: BaseException) -> str:
    """Return why a server's certificate is not accepted, with the next step."""
    code = getattr(getattr(cause, "certificate_error", cause), "verify_code", None)
    if code in _OUTSIDE_VALID_TIME:
        return (
            "is outside its valid time; check the clock of the cluster's nodes, and a proxy's certificate if one"
            " inspects TLS"
        )
    if code in _ANOTHER_NAME:
        return "is for another name; check which server the cluster's DNS or a proxy connects to"
    return "is not trusted; if a proxy inspects TLS, add its CA to the chart's `caBundle`"
