"""Send requests to the Kubernetes API over one connection pool, and translate its errors.

The handles of `controller.kube.resources` send their requests with it. The official client's typed models take 110 MiB
and 1.8 s on first use. This client therefore sends plain HTTP, and the handles decode answers with their own structs.
`controller.kube.config` finds the address and the credentials.
"""

import contextlib
import copy
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
import msgspec
from aiohttp.connector import Connection

from controller import errors
from controller.api.meta import Wire
from controller.config.settings import FIELD_MANAGER
from controller.kube.config import ApiServerConfig
from controller.kube.foreign_text import RefuserKind, parse_refusal, passable_text
from controller.runtime.backoff import parse_retry_after
from controller.runtime.json_decoding import Undecodable, decode_json
from controller.runtime.threads.resolver import SystemResolver
from controller.runtime.zeroize import zeroize

TIMEOUT = 30.0
# Maximum size of an answer, and of a line of a watch. etcd accepts objects of 1.5 MiB by default, so an answer with one
# object is always smaller.
MAX_ANSWER = 8 * 2**20
# An error is a short Status. The client does not read a longer one.
MAX_ERROR = 2**16

# Seconds before the kernel probes a silent peer, seconds between probes, and the number of probes without an answer
# that end the connection. A watch is silent for minutes, and a node that loses power closes no connection. client-go
# also notices that after 45 s.
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
# Two lookups run at once, so that another attempt can succeed while an abandoned lookup still has its thread.
LOOKUP_THREADS = 4

Query = Mapping[str, str]
_ENCODER = msgspec.json.Encoder()


class _StatusBody(Wire, frozen=True, kw_only=True):
    """The body of an error answer of the API server (meta/v1 Status)."""

    message: str = ""
    reason: str = ""


_current_check: ContextVar[Callable[[], None]] = ContextVar("current_check")
"""The check of the current task's request."""


class _FencedRequest(aiohttp.ClientRequest):
    """A request that is checked again when its connection is ready.

    A process that was suspended while it connected can resume after another one took over.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        _current_check.get()()
        return await super().send(conn)


class KubeClient:
    """A connection pool to the API server. Use it as an async context manager.

    `next_step` is the end of the message for a request without an answer.
    """

    def __init__(
        self, access: ApiServerConfig, user_agent: str = FIELD_MANAGER, next_step: str = "it is tried again"
    ) -> None:
        self._access = access
        self._user_agent = user_agent
        self._next_step = next_step
        self._session: aiohttp.ClientSession | None = None
        self.check_write: Callable[[], None] = _allow_all

    def with_fence(self, check: Callable[[], None]) -> "KubeClient":
        """Return a client with the same connections that calls `check`, which can raise, before each write."""
        fenced = copy.copy(self)
        fenced.check_write = check
        return fenced

    async def __aenter__(self) -> "KubeClient":
        self._session = aiohttp.ClientSession(
            # Unlimited: each watch needs one connection, and the number of workers bounds the others.
            connector=aiohttp.TCPConnector(
                limit=0, socket_factory=_new_socket, resolver=SystemResolver(LOOKUP_THREADS)
            ),
            # A small compressed answer could fill the memory. `_open_response` also rejects a compressed answer that
            # was not requested.
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=2**20,
            request_class=_FencedRequest,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def _open_response(
        self, method: str, path: str, *, query: Query, body: Any, headers: dict[str, str], limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if not self._session:
            raise RuntimeError("use `async with KubeClient(...)`")
        content = bytearray()
        if body is not None:
            _ENCODER.encode_into(body, content)
        try:
            if authorization := await self._access.authorization():
                headers["Authorization"] = authorization
            check = _allow_all if method == "GET" else self.check_write
            check()
            _current_check.set(check)
            async with self._session.request(
                method,
                self._access.server + path,
                params=query,
                data=None if body is None else content,
                headers=headers,
                timeout=limits,
                ssl=self._access.tls(),
                proxy=self._access.proxy,
                server_hostname=self._access.server_name,
            ) as response:
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise errors.Unreachable(
                        "the Kubernetes API sent a compressed answer without a request for it; if a proxy is in"
                        " between, turn its compression off"
                    )
                if response.status >= 400:
                    status = _read_status(response, await _read_error(response))
                    shown = passable_text(status.message, response.status, status.reason, method, path, body)
                    raise _translate_error(response, status.message, shown)
                yield response
        except TimeoutError as error:
            raise errors.Unreachable(f"the Kubernetes API did not answer in time; {self._next_step}") from error
        except (aiohttp.ClientError, OSError) as error:
            text = f"the Kubernetes API cannot be reached ({type(error).__name__}); {self._next_step}"
            raise errors.Unreachable(text) from error
        finally:
            zeroize(content)  # the content of a Secret contains values

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        accept: str = "application/json",
        content_type: str = "application/json",
    ) -> bytes | bytearray:
        """Send one request and return the body. Raise `errors.KubeError` if no success arrives within `TIMEOUT`."""
        async with self._open_response(
            method,
            path,
            query=query or {},
            body=body,
            headers={"Accept": accept, "Content-Type": content_type},
            limits=aiohttp.ClientTimeout(total=TIMEOUT),
        ) as response:
            answer = bytearray()  # `response.read()` would hold it in memory twice for a moment
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > MAX_ANSWER:
                    response.close()
                    raise errors.AnswerTooLarge(
                        f"the Kubernetes API sent more than {MAX_ANSWER} bytes at once; it is tried again"
                    )
            return answer

    async def watch_lines(self, path: str, query: Query, quiet: float) -> AsyncIterator[bytes]:
        """Yield the lines of a watch. Raise `errors.Unreachable` after `quiet` seconds without a line."""
        async with self._open_response(
            "GET",
            path,
            query=query,
            body=None,
            headers={"Accept": "application/json"},
            limits=aiohttp.ClientTimeout(total=None, connect=TIMEOUT, sock_read=quiet),
        ) as response:
            # readline is limited by the read buffer, and an object can be larger, so lines are split here.
            rest = bytearray()
            async for chunk in response.content.iter_any():
                first, *others = chunk.split(b"\n")
                rest += first
                for other in others:
                    if rest:
                        yield bytes(rest)
                    rest = bytearray(other)
                if len(rest) > MAX_ANSWER:
                    response.close()
                    raise errors.AnswerTooLarge(
                        f"the Kubernetes API sent an event of more than {MAX_ANSWER} bytes; everything is listed again"
                    )


def _new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket whose connection ends soon after its peer has vanished."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:  # other systems than Linux lack some of them
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _allow_all() -> None:
    """Allow each write. This is the check of a client without a fence."""


async def _read_error(response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > MAX_ERROR:
            response.close()
            break
    return bytes(answer)


def _read_status(response: aiohttp.ClientResponse, body: bytes) -> _StatusBody:
    """Return the Status of an error, or one with the HTTP status as its message if the answer is not a Status."""
    try:
        found = decode_json(body, _StatusBody)
    except Undecodable:
        found = _StatusBody()
    return found if found.message else msgspec.structs.replace(found, message=f"HTTP {response.status}")


def _translate_error(response: aiohttp.ClientResponse, text: str, shown: str) -> errors.KubeError:
    """Return the error for an answer with this text. `shown` is the part that messages can contain."""
    code, refusal = response.status, parse_refusal(text)
    # A webhook chooses the code of its refusal. With 404, 409 or 503 nothing is missing, changed or overloaded.
    if refusal.name and refusal.by is RefuserKind.WEBHOOK:
        return errors.Refused(shown, status=code)
    if code == 404:
        return errors.NotFound(shown, status=code)
    if code == 409:
        return errors.Conflict(shown, status=code)
    if code == 410:
        return errors.ResourceExpired(shown, status=code)
    if code >= 500 and any(known in text for known in _TOO_LARGE):
        return errors.Refused(
            "the object is larger than the cluster's database accepts (1.5 MiB by default): write fewer or shorter"
            " keys, labels and annotations",
            status=code,
            retry=errors.Retry.ON_EDIT,
        )
    if code == 429 or code >= 500:
        return errors.Unreachable(shown, status=code, retry_after=parse_retry_after(response.headers))
    if refusal.by is RefuserKind.POLICY:
        return errors.PolicyRefused(shown, status=code)
    # An invalid or too large object remains so until a user edits it. A webhook's rules can change without an edit.
    lasting = code in (400, 413, 422) and refusal.by is RefuserKind.API_SERVER
    return errors.Refused(shown, status=code, retry=errors.Retry.ON_EDIT if lasting else None)


# The errors of etcd, and of its client in the API server, for an object that is too large.
_TOO_LARGE = ("etcdserver: request is too large", "trying to send message larger than max")
