"""Access a cluster with the rights of the operator's kubeconfig.

The controller does not use this client: its own handles (`controller.kube.permissions`) are limited to its verbs.
"""

import asyncio
import os
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from controller import errors
from controller.api.meta import Resource
from controller.kube import config
from controller.kube.client import KubeClient
from controller.kube.resources import METADATA_ONLY, ResourceClient
from controller.runtime.json_decoding import Undecodable, decode_json
from tools.cli.common import command, json_depth

JSON_PATCH = "application/json-patch+json"
_LIST_METADATA_ONLY = METADATA_ONLY.replace("PartialObjectMetadata;", "PartialObjectMetadataList;")
_USER_AGENT = "akv-secret-store-tools"
MAX_DEPTH = 200
"""Levels of nested JSON in metadata that is written back. The managed fields of real objects have far fewer."""
PAGE_SIZE = 500
"""Objects per page of a list. If a page has more bytes than the client reads, the next request asks for half."""
MAX_PAGES = 10_000
MAX_LIST_BYTES = 256 * 2**20
MAX_LIST_SECONDS = 600.0

R = TypeVar("R", bound=Resource)
T = TypeVar("T")
Object = dict[str, Any]


class _PageMetadata(msgspec.Struct, rename="camel"):
    continue_: str = msgspec.field(name="continue", default="")


class _ListPage(msgspec.Struct, rename="camel"):
    """A page of a list. In an empty list of metadata, the API server writes `items: null`."""

    metadata: _PageMetadata
    items: list[msgspec.Raw] | None = None


class _MetadataOnly(msgspec.Struct):
    """An object of which only the metadata is read."""

    metadata: Object


class _ItemMetadata(msgspec.Struct):
    name: str
    namespace: str = ""


class _ListItem(msgspec.Struct):
    """The fields that each object of a list must have."""

    metadata: _ItemMetadata


class _ReviewStatus(msgspec.Struct):
    allowed: bool = False


class _AccessReview(msgspec.Struct):
    """The answer to a SubjectAccessReview."""

    status: _ReviewStatus


class _ServerVersion(msgspec.Struct, rename="camel"):
    git_version: str


class OperatorKubeClient:
    """Read objects by their kind, if a struct exists for it, or by their path. All methods raise `KubeError`."""

    def __init__(self, kube: KubeClient) -> None:
        self.kube = kube

    async def get(self, kind: type[R], namespace: str, name: str) -> R:
        """Return one object. Raise `NotFound` if it does not exist, `Refused` if it does not fit its kind."""
        return await self.get_as(ResourceClient(kind, "").url_path(namespace, name), kind)

    async def get_as(self, path: str, shape: type[T]) -> T:
        """Return the object at that path as a `shape`. Raise `Refused` if it does not fit."""
        return _decode_answer(await self.kube.call("GET", path), shape, path)

    async def list_kind(self, kind: type[R], namespace: str = "") -> list[R]:
        """Return all objects of that kind, in one namespace or in all. Leave out those that do not fit the kind."""
        raw = await self._list_items(ResourceClient(kind, "").url_path(namespace), "")
        found = []
        for item in raw:
            try:
                found.append(_decode_answer(item, kind, ""))
            except errors.Refused:
                continue  # the controller reports such an object
        return found

    async def get_object(self, path: str) -> Object:
        """Return the JSON object at that path, of any media type: the key set for tokens has its own."""
        return _decode_answer(await self.kube.call("GET", path, accept="*/*"), dict[str, Any], path)

    async def get_metadata(self, path: str) -> Object:
        """Return the metadata of the object at that path, unchanged. The API server does not send the rest.

        Raise `Refused` if it is nested more than `MAX_DEPTH` levels deep.
        """
        answer = await self.kube.call("GET", path, accept=METADATA_ONLY)
        if json_depth.is_deeper_than(answer, MAX_DEPTH):
            raise errors.Refused(f"{path}: its metadata is nested more than {MAX_DEPTH} levels deep")
        return _decode_answer(answer, _MetadataOnly, path).metadata

    async def is_allowed(self, user: str, groups: list[str], wanted: dict[str, str]) -> bool:
        """Return whether a user has a right (SubjectAccessReview)."""
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": wanted},
        }
        return _decode_answer(await self.kube.call("POST", path, body=body), _AccessReview, path).status.allowed

    async def set_managed_fields(self, path: str, held: Object, entries: list[Object]) -> None:
        """Replace the managed fields. Raise `KubeError` if the object changed after `held`, its metadata, was read."""
        body = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": held["resourceVersion"]},
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        ]
        await self.kube.call("PATCH", path, body=body, accept=METADATA_ONLY, content_type=JSON_PATCH)

    async def set_owner(self, path: str, held: Object, owner: Object) -> None:
        """Make `owner` the only owner. Raise `KubeError` if the object changed after `held`, its metadata, was read."""
        body = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": held["resourceVersion"]},
            {"op": "add", "path": "/metadata/ownerReferences", "value": [owner]},
        ]
        await self.kube.call("PATCH", path, body=body, accept=METADATA_ONLY, content_type=JSON_PATCH)

    async def list_objects(self, path: str, labels: str = "") -> list[Object]:
        """Return every item of the list at that path that has these labels."""
        items = await self._list_items(path, labels)
        for item in items:
            _decode_answer(item, _ListItem, path)
        return [_decode_answer(item, dict[str, Any], path) for item in items]

    async def list_metadata(self, path: str, labels: str = "", fields: str = "") -> list[Object]:
        """Return the metadata of every item of the list at that path. The API server does not send the rest."""
        items = await self._list_items(path, labels, fields, accept=_LIST_METADATA_ONLY)
        return [_decode_answer(item, _MetadataOnly, path).metadata for item in items]

    async def get_server_version(self) -> str:
        """Return the API server's version, such as v1.37.2."""
        return (await self.get_as("/version", _ServerVersion)).git_version

    async def read_issuer(self) -> str:
        """Return the issuer of the cluster's tokens, or an empty text if the caller cannot read it."""
        try:
            return str((await self.get_object("/.well-known/openid-configuration"))["issuer"])
        except (errors.KubeError, KeyError):
            return ""

    async def _list_items(
        self, path: str, labels: str, fields: str = "", accept: str = "application/json"
    ) -> list[msgspec.Raw]:
        query = ({"labelSelector": labels} if labels else {}) | ({"fieldSelector": fields} if fields else {})
        try:
            async with asyncio.timeout(MAX_LIST_SECONDS):
                return await self._read_pages(path, query, accept)
        except TimeoutError:
            raise errors.Unreachable(
                f"{path}: the list did not end within {MAX_LIST_SECONDS:.0f} s; name a namespace or one object"
            ) from None

    async def _read_pages(self, path: str, query: dict[str, str], accept: str) -> list[msgspec.Raw]:
        """Return the items of all pages, within bounds."""
        items: list[msgspec.Raw] = []
        size, limit, token = 0, PAGE_SIZE, ""
        for _ in range(MAX_PAGES):
            asked = query | {"limit": str(limit)} | ({"continue": token} if token else {})
            try:
                answer = await self.kube.call("GET", path, query=asked, accept=accept)
            except errors.AnswerTooLarge:
                if limit == 1:
                    raise
                limit //= 2
                continue
            size += len(answer)
            if size > MAX_LIST_BYTES:
                raise errors.Unreachable(
                    f"{path}: the list has more than {MAX_LIST_BYTES // 2**20} MiB; name a namespace or one object"
                )
            page = _decode_answer(answer, _ListPage, path)
            items += page.items or []
            token = page.metadata.continue_
            if not token:
                return items
        raise errors.Unreachable(f"{path}: the list has more than {MAX_PAGES} pages; name a namespace or one object")


def _decode_answer(answer: bytes | bytearray | msgspec.Raw, shape: type[T], what: str) -> T:
    try:
        return decode_json(answer, shape)
    except Undecodable as error:
        raise errors.Refused(f"{what} does not have the form of its kind: {error}") from None


@asynccontextmanager
async def connect(kubeconfig: Path | None) -> AsyncIterator[OperatorKubeClient]:
    """Yield a client with the identity of a kubeconfig: the given file, $KUBECONFIG, ~/.kube/config, or the pod's own.

    Raise `BadInput` for a kubeconfig that cannot be used, and `KubeError` for every other error.
    """
    if kubeconfig and not await asyncio.to_thread(kubeconfig.is_file):
        raise command.BadInput(f"--kubeconfig {kubeconfig}: there is no such file")
    named = str(kubeconfig or "") or os.environ.get("KUBECONFIG", "") or await asyncio.to_thread(_default_kubeconfig)
    await asyncio.to_thread(_check_kubeconfigs, named)
    access = await config.find_config({**os.environ, "KUBECONFIG": named})
    next_step = f"check that this machine can reach {access.server}, the server of the kubeconfig"
    async with KubeClient(access, _USER_AGENT, next_step) as kube:
        try:
            yield OperatorKubeClient(kube)
        except Exception as error:
            raise translate_error(error) from error


_MALFORMED = (LookupError, TypeError, AttributeError, ValueError, msgspec.ValidationError)


def translate_error(error: Exception) -> Exception:
    """Return the error to raise when the use of an answer failed.

    An answer that does not fit its kind leads to an error of Python. It becomes `errors.Refused`, with the line of
    the tool that failed. Of a group of errors, the first counts.
    """
    if isinstance(error, ExceptionGroup):
        return translate_error(error.exceptions[0])
    if not isinstance(error, _MALFORMED):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    return errors.Refused(
        f"an answer of the API server does not have the form of its kind ({type(error).__name__} in {place}); check"
        " that the kubeconfig names a Kubernetes API server"
    )


def _check_kubeconfigs(variable: str) -> None:
    """Raise `BadInput` for a file that is not a kubeconfig. The Kubernetes client has no readable message for it.

    Without any file, that client reports it, or uses the pod's own configuration.
    """
    files = config.list_kubeconfigs(variable)
    # One of several files can have only a part.
    needed = {"clusters", "contexts"} if len(files) == 1 else set()
    for path in files:
        found = command.read_yaml(Path(path))
        if len(found) > 1 or not isinstance(found[0], dict) or not needed <= found[0].keys():
            raise command.BadInput(
                f"{path} is not a kubeconfig: it has no clusters and contexts; set KUBECONFIG to another file"
            )


def _default_kubeconfig() -> str:
    path = Path("~/.kube/config").expanduser()
    return str(path) if path.is_file() else ""


def first_line(error: errors.KubeError) -> str:
    """Return the first line of the API server's message, at most 200 characters."""
    return error.message.partition("\n")[0][:200]
