"""Talking to the Kubernetes API: one connection, and handles that know no more than the verbs they stand for.

A handle is a resource together with verbs. `controller.permissions` makes every handle there is, the code reaches the
API only through them, and the chart's Roles are generated from the same table: a verb that is not granted has no
method, and the type checker fails.

The official client's typed models cost 110 MiB and 1.8 s on first use, so requests are plain HTTP, typed by our own
structs. `controller.access` says where to and as whom.
"""

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from controller import errors
from controller.access import Access
from controller.api.meta import ObjectMeta, Partial, Resource, Wire
from controller.decode import Undecodable, decode
from controller.foreign_text import passable
from controller.schedule import asked_to_wait
from controller.settings import FIELD_MANAGER, FOREIGN_SECRET
from controller.wiped import wipe

TIMEOUT = 30.0
# Most objects of a list's page. The reflector asks for fewer where they are large: a page is in memory as a whole.
PAGE = 50
# Bytes of an answer, and of a line of a watch. etcd takes objects of 1.5 MiB by default, so an answer with one object
# is always smaller.
MAX_ANSWER = 8 * 2**20
# An error is a short Status; of a longer answer nothing is read.
MAX_ERROR = 2**16
# Larger answers are decoded in a thread: text that is nested deep takes up to 100 ms for each MiB.
_LARGE = 2**19
# A watch is ended by the server after this long, so that a connection that died in silence is noticed.
WATCH_SECONDS = 290
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
MERGE_PATCH = "application/merge-patch+json"

R = TypeVar("R", bound=Resource)
T = TypeVar("T")
Query = Mapping[str, str]
_ENCODER = msgspec.json.Encoder()


class _Status(Wire, frozen=True, kw_only=True):
    """What the API server answers with an error (meta/v1 Status)."""

    message: str = ""
    reason: str = ""


class _ListMeta(Wire, frozen=True, kw_only=True):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class Page(Wire, frozen=True, kw_only=True):
    """One page of a list; items are decoded one by one, so that a bad one does not fail the others."""

    metadata: _ListMeta
    items: list[msgspec.Raw] = msgspec.field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes of its items."""
        return sum(memoryview(item).nbytes for item in self.items)


class WatchEvent(Wire, frozen=True, kw_only=True):
    """One line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class _TokenStatus(Wire, frozen=True, kw_only=True):
    token: str
    expiration_timestamp: str


class TokenRequest(Wire, frozen=True, kw_only=True):
    """The answer to a TokenRequest (authentication.k8s.io/v1)."""

    status: _TokenStatus


class Kube:
    """One connection pool to the API server. Use as an async context manager."""

    def __init__(self, access: Access, user_agent: str = FIELD_MANAGER) -> None:
        self._access = access
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._check: Callable[[], None] = _anybody

    def fenced(self, check: Callable[[], None]) -> "Kube":
        """The same open connections, for who writes only while it leads: else `check` raises, and nothing is sent."""
        fenced = copy.copy(self)
        fenced._check = check
        return fenced

    async def __aenter__(self) -> "Kube":
        self._session = aiohttp.ClientSession(
            # Unlimited: each watch holds one, and the number of workers bounds the rest.
            connector=aiohttp.TCPConnector(ssl=self._access.tls, limit=0),
            # Compressed, a small answer could fill the memory. `_open` rejects one that is compressed all the same.
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, path: str, *, query: Query, body: Any, headers: dict[str, str], limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if not self._session:
            raise RuntimeError("use `async with Kube(...)`")
        content = bytearray()
        if body is not None:
            _ENCODER.encode_into(body, content)
        try:
            if authorization := await self._access.authorization():
                headers["Authorization"] = authorization
            if method != "GET":
                self._check()
            async with self._session.request(
                method,
                self._access.server + path,
                params=query,
                data=None if body is None else content,
                headers=headers,
                timeout=limits,
            ) as response:
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise errors.Unreachable(
                        "the Kubernetes API sent a compressed answer that was not asked for; if a proxy is in between,"
                        " turn its compression off"
                    )
                if response.status >= 400:
                    text = _message(response, await _read_error(response))
                    shown = passable(text, method, path, body, _KNOWN_REFUSALS)
                    raise _translate(response, text, shown, sent_values=_has_values(body))
                yield response
        except TimeoutError as error:
            raise errors.Unreachable("the Kubernetes API did not answer in time; it is tried again") from error
        except (aiohttp.ClientError, OSError) as error:
            text = f"the Kubernetes API cannot be reached ({type(error).__name__}); it is tried again"
            raise errors.Unreachable(text) from error
        finally:
            wipe(content)  # a Secret's has values in it

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
        """One request, answered within `TIMEOUT` or `errors.KubeError`."""
        async with self._open(
            method,
            path,
            query=query or {},
            body=body,
            headers={"Accept": accept, "Content-Type": content_type},
            limits=aiohttp.ClientTimeout(total=TIMEOUT),
        ) as response:
            answer = bytearray()  # `response.read()` would have it in memory twice for a moment
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > MAX_ANSWER:
                    response.close()
                    raise errors.AnswerTooLarge(
                        f"the Kubernetes API sent more than {MAX_ANSWER} bytes at once; it is tried again"
                    )
            return answer

    async def lines(self, path: str, query: Query, quiet: float) -> AsyncIterator[bytes]:
        """The lines of a watch; `errors.Unreachable` after `quiet` seconds without one."""
        async with self._open(
            "GET",
            path,
            query=query,
            body=None,
            headers={"Accept": "application/json"},
            limits=aiohttp.ClientTimeout(total=None, connect=TIMEOUT, sock_read=quiet),
        ) as response:
            # readline is bounded by the read buffer and an object may be larger, so lines are cut here.
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


def _anybody() -> None:
    """Who was not fenced may always write."""


async def _read_error(response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > MAX_ERROR:
            response.close()
            break
    return bytes(answer)


def _has_values(body: Any) -> bool:
    """Whether a request writes the data of a Secret."""
    return isinstance(body, Mapping) and bool(body.get("data"))


def _message(response: aiohttp.ClientResponse, body: bytes) -> str:
    try:
        return decode(body, _Status).message or f"HTTP {response.status}"
    except Undecodable:
        return f"HTTP {response.status}"


def _translate(response: aiohttp.ClientResponse, text: str, shown: str, *, sent_values: bool) -> errors.KubeError:
    """Return the error for an answer with this text, of which `shown` may be passed on."""
    code = response.status
    if code == 404:
        return errors.NotFound(shown, status=code)
    if code == 409:
        return errors.Conflict(shown, status=code)
    if code == 410:
        return errors.Expired(shown, status=code)
    if code >= 500 and any(known in text for known in _TOO_LARGE):
        return errors.Refused(
            "the object is larger than the cluster's database accepts (1.5 MiB by default): write fewer or shorter"
            " keys, labels and annotations",
            status=code,
            retry=errors.Retry.EDIT,
        )
    if code == 429 or code >= 500:
        return errors.Unreachable(shown, status=code, retry_after=asked_to_wait(response.headers))
    if "ValidatingAdmissionPolicy" in text:
        return errors.PolicyRefused(shown, status=code)
    # What is invalid or too large stays so until somebody edits it. A webhook's rules may change without an edit.
    lasting = code in (400, 413, 422) and "admission webhook" not in text
    if lasting and sent_values and code in (400, 422):
        shown = _without_values(text)
    return errors.Refused(shown, status=code, retry=errors.Retry.EDIT if lasting else None)


# What etcd, and the client of it in the API server, answer to an object that is too large.
_TOO_LARGE = ("etcdserver: request is too large", "trying to send message larger than max")
# What the API server says of a Secret that it rejects, and `Syncer` explains.
_KNOWN_REFUSALS = ("`immutable` is set", "field is immutable", FOREIGN_SECRET)


def _without_values(text: str) -> str:
    """Return what may be passed on of a refused write with values: a validation message can quote the values."""
    for known in _KNOWN_REFUSALS:
        if known in text:
            return f"the API server rejected the Secret: {known}"
    return (
        "the API server rejected the Secret as invalid; its message is not shown, because it can quote values: check"
        " that the values have the form that the Secret's type needs"
    )


def _read(answer: bytes | bytearray, shape: type[T]) -> T:
    """A decoded answer; one of another shape (a proxy's page, say) is as good as none, and its text goes nowhere."""
    try:
        return decode(answer, shape)
    except Undecodable:
        raise errors.Unreachable("the Kubernetes API gave no usable answer; it is tried again") from None


async def _read_large(answer: bytes | bytearray, shape: type[T]) -> T:
    """As `_read`, for answers whose size others choose."""
    return _read(answer, shape) if len(answer) < _LARGE else await asyncio.to_thread(_read, answer, shape)


class Handle(Generic[R]):
    """A resource, the verbs it may be asked for, and why the controller needs them."""

    verbs: ClassVar[tuple[str, ...]]
    subresource: ClassVar[str] = ""

    def __init__(self, resource: type[R], why: str) -> None:
        self.resource = resource
        self.why = why

    def path(self, namespace: str = "", name: str = "") -> str:
        """The URL path; without a namespace, of all namespaces."""
        resource = self.resource
        parts = [f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"]
        if resource.namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts += [resource.plural, *([quote(name, safe="")] if name else []), *([self.subresource] * bool(name))]
        return "/".join(part for part in parts if part)

    def decode(self, raw: msgspec.Raw) -> R:
        """Decode one object of this resource; `Undecodable` names the field that does not fit."""
        return decode(raw, self.resource)


class ListWatch(Handle[R]):
    """May list and watch."""

    verbs = ("list", "watch")

    async def page(self, kube: Kube, namespace: str, token: str, limit: int = PAGE) -> Page:
        """Return up to `limit` objects from the continue token on; raise `errors.AnswerTooLarge` for large ones."""
        query = {"limit": str(limit)} | ({"continue": token} if token else {})
        return await _read_large(await kube.call("GET", self.path(namespace), query=query), Page)

    async def watch(self, kube: Kube, namespace: str, resource_version: str) -> AsyncIterator[WatchEvent]:
        """Events from that resourceVersion on, until the server ends the watch."""
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async for line in kube.lines(self.path(namespace), query, quiet=WATCH_SECONDS + TIMEOUT):
            yield await _read_large(line, WatchEvent)


class StatusPatch(Handle[R]):
    """May patch the status, and nothing else of the object."""

    verbs = ("patch",)
    subresource = "status"

    async def patch(self, kube: Kube, meta: ObjectMeta, status: Mapping[str, Any]) -> R:
        """Merges into `status` unless the object changed since `meta` was read (`errors.Conflict`).

        Answers with the object as the API server keeps it: a foreign CRD may have pruned fields of its status.
        """
        body = {"metadata": {"resourceVersion": meta.resource_version}, "status": status}
        answer = await kube.call(
            "PATCH",
            self.path(meta.namespace, meta.name),
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            content_type=MERGE_PATCH,
        )
        return _read(answer, self.resource).trimmed()


class CreatePatch(Handle[R]):
    """May create, and patch by name. Answers are asked for as metadata only: they must not carry what was written."""

    verbs = ("create", "patch")

    async def look(self, kube: Kube, namespace: str, name: str) -> ObjectMeta:
        """The metadata of what is there, by a patch that changes nothing; `errors.NotFound` where nothing is."""
        return await self._patch(kube, namespace, name, {})

    async def create(self, kube: Kube, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False) -> ObjectMeta:
        """Creates; `errors.Conflict` where one of that name exists."""
        query = {"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})
        answer = await kube.call("POST", self.path(namespace), query=query, body=body, accept=METADATA_ONLY)
        return _read(answer, Partial).metadata

    async def merge(self, kube: Kube, meta: ObjectMeta, body: Mapping[str, Any]) -> ObjectMeta:
        """Merge patch, unless the object changed since `meta` was read (`errors.Conflict`)."""
        precondition = {"uid": meta.uid, "resourceVersion": meta.resource_version}
        metadata = {**body.get("metadata", {}), **precondition}
        return await self._patch(kube, meta.namespace, meta.name, {**body, "metadata": metadata})

    async def _patch(self, kube: Kube, namespace: str, name: str, body: Mapping[str, Any]) -> ObjectMeta:
        answer = await kube.call(
            "PATCH",
            self.path(namespace, name),
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            accept=METADATA_ONLY,
            content_type=MERGE_PATCH,
        )
        return _read(answer, Partial).metadata


class Get(Handle[R]):
    """May get by name."""

    verbs: ClassVar[tuple[str, ...]] = ("get",)

    async def get(self, kube: Kube, namespace: str, name: str) -> R:
        """The object."""
        return _read(await kube.call("GET", self.path(namespace, name)), self.resource)


class GetPatch(Get[R]):
    """May get and patch by name."""

    verbs = ("get", "patch")

    async def merge(self, kube: Kube, before: R, body: Mapping[str, Any]) -> R:
        """Merge patch, unless the object changed since (`errors.Conflict`)."""
        meta = before.metadata
        answer = await kube.call(
            "PATCH",
            self.path(meta.namespace, meta.name),
            query={"fieldManager": FIELD_MANAGER},
            body={**body, "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}},
            content_type=MERGE_PATCH,
        )
        return _read(answer, self.resource)


class Create(Handle[R]):
    """May create, and nothing afterwards."""

    verbs = ("create",)

    async def create(self, kube: Kube, namespace: str, body: Mapping[str, Any]) -> None:
        """Creates the object; what it became is not looked at."""
        await kube.call("POST", self.path(namespace), body=body, accept=METADATA_ONLY)


class Delete(Handle[R]):
    """May delete by name."""

    verbs = ("delete",)

    async def delete(self, kube: Kube, meta: ObjectMeta) -> None:
        """Deletes the object unless it changed since `meta` was read (`errors.Conflict`)."""
        preconditions = {"uid": meta.uid, "resourceVersion": meta.resource_version}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        await kube.call("DELETE", self.path(meta.namespace, meta.name), body=body, accept=METADATA_ONLY)


class CreateToken(Handle[R]):
    """May ask for tokens of a ServiceAccount."""

    verbs = ("create",)
    subresource = "token"

    async def request(self, kube: Kube, namespace: str, name: str, *, audience: str, seconds: int) -> TokenRequest:
        """A token for that audience; `errors.NotFound` where there is no such ServiceAccount."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": seconds},
        }
        return _read(await kube.call("POST", self.path(namespace, name), body=body), TokenRequest)


class GetPatchNamed(Handle[R]):
    """May get and patch objects of given names only."""

    verbs = ("get", "patch")

    def __init__(self, resource: type[R], why: str, names: tuple[str, ...]) -> None:
        super().__init__(resource, why)
        self.names = names

    async def get(self, kube: Kube, name: str) -> dict[str, Any]:
        """The whole object."""
        return _read(await kube.call("GET", self.path(name=name)), dict[str, Any])

    async def merge(self, kube: Kube, name: str, body: Mapping[str, Any]) -> None:
        """Merge patch with the resourceVersion that `body` carries."""
        await kube.call("PATCH", self.path(name=name), body=body, content_type=MERGE_PATCH)
