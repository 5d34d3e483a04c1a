"""Define handles: clients for one Kubernetes resource with only the granted verbs.

`controller.kube.permissions` defines all handles. The code uses the API only through them, and the chart's Roles are
generated from the same table. A verb that is not granted has no method, so the type checker refuses a call of it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

import msgspec

from controller import errors
from controller.api.meta import IdentifiedObject, ObjectMeta, PartialObject, Resource, Wire
from controller.config.settings import FIELD_MANAGER
from controller.kube.client import TIMEOUT, KubeClient, Query
from controller.runtime.json_decoding import Undecodable, decode_json

# Maximum number of objects of a list's page. The informer requests fewer if they are large, because it holds a whole
# page in memory.
PAGE = 50
# Larger answers are decoded in a thread, because deeply nested text takes up to 100 ms for each MiB.
_LARGE = 2**19
# The server ends a watch after this time, so that the client notices a connection that died without an error.
WATCH_SECONDS = 290
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
MERGE_PATCH = "application/merge-patch+json"

R = TypeVar("R", bound=Resource)
T = TypeVar("T")


class _ListMeta(Wire, frozen=True, kw_only=True):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class ObjectPage(Wire, frozen=True, kw_only=True):
    """One page of a list. The items are not decoded yet, so that an invalid one does not affect the others."""

    metadata: _ListMeta
    items: list[msgspec.Raw] = msgspec.field(default_factory=list)

    @property
    def size_in_bytes(self) -> int:
        """Return the size of its items in bytes."""
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


def _decode_answer(answer: bytes | bytearray, shape: type[T]) -> T:
    """Decode an answer. Raise `errors.Unreachable` for one of another form, such as a proxy's page."""
    try:
        return decode_json(answer, shape)
    except Undecodable:
        raise errors.Unreachable("the Kubernetes API gave no usable answer; it is tried again") from None


async def _read_large(answer: bytes | bytearray, shape: type[T]) -> T:
    """Decode an answer like `_decode_answer`, but a large one in a thread."""
    return (
        _decode_answer(answer, shape)
        if len(answer) < _LARGE
        else await asyncio.to_thread(_decode_answer, answer, shape)
    )


class ResourceClient(Generic[R]):
    """A resource, the allowed verbs, and the reason why the controller needs them."""

    verbs: ClassVar[tuple[str, ...]]
    subresource: ClassVar[str] = ""

    def __init__(self, resource: type[R], why: str) -> None:
        self.resource = resource
        self.why = why

    def url_path(self, namespace: str = "", name: str = "") -> str:
        """Return the URL path of the resource, or of the object with this name. An empty namespace means all."""
        resource = self.resource
        parts = [f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"]
        if resource.namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts += [resource.plural, *([quote(name, safe="")] if name else []), *([self.subresource] * bool(name))]
        return "/".join(part for part in parts if part)

    def decode_object(self, raw: msgspec.Raw) -> R:
        """Decode one object of this resource. Raise `Undecodable` with the field that does not fit."""
        return decode_json(raw, self.resource)


class ListWatch(ResourceClient[R]):
    """A resource that the controller can list and watch."""

    verbs = ("list", "watch")

    async def list_page(self, kube: KubeClient, namespace: str, token: str, limit: int = PAGE) -> ObjectPage:
        """Return up to `limit` objects from the continue token on. Raise `errors.AnswerTooLarge` for a large page."""
        query = {"limit": str(limit)} | ({"continue": token} if token else {})
        return await _read_large(await kube.call("GET", self.url_path(namespace), query=query), ObjectPage)

    async def watch(self, kube: KubeClient, namespace: str, resource_version: str) -> AsyncIterator[WatchEvent]:
        """Yield events from that resourceVersion on, until the server ends the watch."""
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async for line in kube.watch_lines(self.url_path(namespace), query, quiet=WATCH_SECONDS + TIMEOUT):
            yield await _read_large(line, WatchEvent)


class StatusPatch(ResourceClient[R]):
    """A resource whose status the controller can patch, and nothing else."""

    verbs = ("patch",)
    subresource = "status"

    async def patch_status(self, kube: KubeClient, meta: ObjectMeta, status: Mapping[str, Any]) -> R | None:
        """Merge into `status`, or raise `errors.Conflict` if the object changed since `meta` was read.

        Return the object as the API server keeps it: a foreign CRD can remove fields of its status. Return None if it
        does not fit its type.
        """
        body = {"metadata": {"resourceVersion": meta.resource_version}, "status": status}
        answer = await kube.call(
            "PATCH",
            self.url_path(meta.namespace, meta.name),
            query={"fieldManager": FIELD_MANAGER},
            body=body,
            content_type=MERGE_PATCH,
        )
        try:
            return decode_json(answer, self.resource).trimmed()
        except Undecodable:
            _decode_answer(answer, IdentifiedObject)
            return None


def _write_query(*, dry_run: bool) -> Query:
    return {"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})


class CreatePatch(ResourceClient[R]):
    """A resource that the controller can create, and patch by name.

    Answers contain only metadata, because they must not contain the values that were written.
    """

    verbs = ("create", "patch")

    async def probe_metadata(self, kube: KubeClient, namespace: str, name: str) -> ObjectMeta:
        """Return the metadata from an empty patch. Raise `errors.NotFound` if the object does not exist."""
        return await self._send_patch(kube, namespace, name, {})

    async def create(
        self, kube: KubeClient, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> ObjectMeta:
        """Create an object. Raise `errors.Conflict` if one of that name exists."""
        query = _write_query(dry_run=dry_run)
        answer = await kube.call("POST", self.url_path(namespace), query=query, body=body, accept=METADATA_ONLY)
        return _decode_answer(answer, PartialObject).metadata

    async def merge(
        self, kube: KubeClient, meta: ObjectMeta, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> ObjectMeta:
        """Send a merge patch, or raise `errors.Conflict` if the object changed since `meta` was read."""
        precondition = {"uid": meta.uid, "resourceVersion": meta.resource_version}
        metadata = {**body.get("metadata", {}), **precondition}
        return await self._send_patch(kube, meta.namespace, meta.name, {**body, "metadata": metadata}, dry_run=dry_run)

    async def _send_patch(
        self, kube: KubeClient, namespace: str, name: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> ObjectMeta:
        answer = await kube.call(
            "PATCH",
            self.url_path(namespace, name),
            query=_write_query(dry_run=dry_run),
            body=body,
            accept=METADATA_ONLY,
            content_type=MERGE_PATCH,
        )
        return _decode_answer(answer, PartialObject).metadata


class GetAccess(ResourceClient[R]):
    """A resource that the controller can get by name."""

    verbs: ClassVar[tuple[str, ...]] = ("get",)

    async def get(self, kube: KubeClient, namespace: str, name: str) -> R:
        """Return the object. Raise `errors.NotFound` if it does not exist."""
        return _decode_answer(await kube.call("GET", self.url_path(namespace, name)), self.resource)


class GetPatch(GetAccess[R]):
    """A resource that the controller can get and patch by name."""

    verbs = ("get", "patch")

    async def merge(self, kube: KubeClient, before: R, body: Mapping[str, Any]) -> R:
        """Send a merge patch, or raise `errors.Conflict` if the object changed since it was read."""
        meta = before.metadata
        answer = await kube.call(
            "PATCH",
            self.url_path(meta.namespace, meta.name),
            query={"fieldManager": FIELD_MANAGER},
            body={**body, "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}},
            content_type=MERGE_PATCH,
        )
        return _decode_answer(answer, self.resource)


class CreateAccess(ResourceClient[R]):
    """A resource that the controller can create, without any other right."""

    verbs = ("create",)

    async def create(self, kube: KubeClient, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False) -> None:
        """Create the object and ignore the answer."""
        query = {"dryRun": "All"} if dry_run else {}
        await kube.call("POST", self.url_path(namespace), query=query, body=body, accept=METADATA_ONLY)


class ReviewAccess(ResourceClient[R]):
    """A review that the controller can request. The API server answers it and does not store it."""

    verbs = ("create",)

    async def review(self, kube: KubeClient, spec: Mapping[str, Any]) -> R:
        """Return the review with its status."""
        body = {"apiVersion": self.resource.api_version(), "kind": self.resource.kind, "spec": spec}
        return _decode_answer(await kube.call("POST", self.url_path(), body=body), self.resource)


class DeleteAccess(ResourceClient[R]):
    """A resource that the controller can delete by name."""

    verbs = ("delete",)

    async def delete(self, kube: KubeClient, meta: ObjectMeta) -> None:
        """Delete the object, or raise `errors.Conflict` if it changed since `meta` was read."""
        preconditions = {"uid": meta.uid, "resourceVersion": meta.resource_version}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        await kube.call("DELETE", self.url_path(meta.namespace, meta.name), body=body, accept=METADATA_ONLY)


class CreateToken(ResourceClient[R]):
    """ServiceAccounts for which the controller can request tokens."""

    verbs = ("create",)
    subresource = "token"

    async def request_token(
        self, kube: KubeClient, namespace: str, name: str, *, audience: str, seconds: int
    ) -> TokenRequest:
        """Return a token for that audience. Raise `errors.NotFound` if the ServiceAccount does not exist."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": seconds},
        }
        return _decode_answer(await kube.call("POST", self.url_path(namespace, name), body=body), TokenRequest)


class GetPatchNamed(ResourceClient[R]):
    """A resource of which the controller can get and patch objects with certain names only."""

    verbs = ("get", "patch")

    def __init__(self, resource: type[R], why: str, names: tuple[str, ...]) -> None:
        super().__init__(resource, why)
        self.names = names

    async def get(self, kube: KubeClient, name: str) -> dict[str, Any]:
        """Return the whole object."""
        return _decode_answer(await kube.call("GET", self.url_path(name=name)), dict[str, Any])

    async def merge(self, kube: KubeClient, name: str, body: Mapping[str, Any]) -> None:
        """Send a merge patch with the resourceVersion that `body` contains."""
        await kube.call("PATCH", self.url_path(name=name), body=body, content_type=MERGE_PATCH)
