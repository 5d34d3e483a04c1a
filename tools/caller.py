"""The cluster as the caller sees it, with the rights of a kubeconfig; the controller's own handles are narrower."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from controller import access, errors
from controller.api.meta import Resource
from controller.kube import METADATA_ONLY, Handle, Kube, Page
from tools import command, json_depth

JSON_PATCH = "application/json-patch+json"
_USER_AGENT = "akv-secret-store-tools"
MAX_DEPTH = 200
"""Levels of JSON. Structural schemas and managed fields of real objects have far fewer."""

R = TypeVar("R", bound=Resource)
T = TypeVar("T")
Object = dict[str, Any]


class Caller:
    """Objects by their kind where one of our structs has it, or by their path. Raises `KubeError`."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube

    async def get(self, kind: type[R], namespace: str, name: str) -> R:
        """One object; `NotFound` where there is none, `Refused` where it is not as its kind should be."""
        return await self.read(Handle(kind, "").path(namespace, name), kind)

    async def read(self, path: str, shape: type[T]) -> T:
        """Return what is at that path; `Refused` where it has another shape."""
        return _decode(await self.kube.call("GET", path), shape, path)

    async def every(self, kind: type[R], namespace: str = "") -> list[R]:
        """All objects of that kind that can be read, in one namespace or in all."""
        raw = await self._items(Handle(kind, "").path(namespace), "")
        found = []
        for item in raw:
            try:
                found.append(_decode(item, kind, ""))
            except errors.Refused:
                continue  # the controller tells its owner
        return found

    async def object(self, path: str) -> Object:
        """Whatever is at that path; the key set is JSON of a media type of its own."""
        return _decode(await self.kube.call("GET", path, accept="*/*"), dict[str, Any], path)

    async def metadata(self, path: str) -> Object:
        """Return the metadata of what is at that path, unchanged. The API server does not send the rest.

        `Refused` where it is nested more deeply than managed fields can be.
        """
        answer = await self.kube.call("GET", path, accept=METADATA_ONLY)
        if json_depth.exceeds(answer, MAX_DEPTH):
            raise errors.Refused(f"{path}: its metadata is nested more than {MAX_DEPTH} levels deep")
        found: Object = _decode(answer, dict[str, Any], path)["metadata"]
        return found

    async def set_managed_fields(self, path: str, held: Object, entries: list[Object]) -> None:
        """Replaces them, unless the object changed since `held`, its metadata, was read (`KubeError`)."""
        body = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": held["resourceVersion"]},
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        ]
        await self.kube.call("PATCH", path, body=body, accept=METADATA_ONLY, content_type=JSON_PATCH)

    async def objects(self, path: str, labels: str = "") -> list[Object]:
        """Every item of the list at that path, with these labels."""
        return [_decode(item, dict[str, Any], path) for item in await self._items(path, labels)]

    async def _items(self, path: str, labels: str) -> list[msgspec.Raw]:
        items: list[msgspec.Raw] = []
        token = ""
        while True:
            query = {"limit": "500"} | ({"labelSelector": labels} if labels else {})
            query |= {"continue": token} if token else {}
            page = _decode(await self.kube.call("GET", path, query=query), Page, path)
            items += page.items
            token = page.metadata.continue_
            if not token:
                return items


def _decode(answer: bytes | bytearray | msgspec.Raw, shape: type[T], what: str) -> T:
    try:
        try:
            return msgspec.json.decode(answer, type=shape)
        except RecursionError:
            # Managed fields may be nested 9,995 levels deep. Nothing that the tools read is.
            return msgspec.json.decode(json_depth.cut(answer, MAX_DEPTH), type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.Refused(f"{what} is not as its kind should be: {error}") from None


@asynccontextmanager
async def connect(kubeconfig: Path | None) -> AsyncIterator[Caller]:
    """Asks as whoever the kubeconfig says: the one that is named, $KUBECONFIG, ~/.kube/config, or the pod's own."""
    named = str(kubeconfig or "") or os.environ.get("KUBECONFIG", "") or await asyncio.to_thread(_usual)
    await asyncio.to_thread(_check_kubeconfig, Path(named))
    async with Kube(await access.find({**os.environ, "KUBECONFIG": named}), _USER_AGENT) as kube:
        yield Caller(kube)


def _check_kubeconfig(path: Path) -> None:
    """What is no YAML of that form the client's own reader tells in words of Python's, or not at all."""
    if not path.is_file():
        return  # the next step says it, or there is none to read
    found = command.read_yaml(path)
    if len(found) > 1 or not isinstance(found[0], dict) or not {"clusters", "contexts"} <= found[0].keys():
        raise command.BadInput(f"{path} is no kubeconfig: it has no clusters and contexts; set KUBECONFIG to another")


def _usual() -> str:
    path = Path("~/.kube/config").expanduser()
    return str(path) if path.is_file() else ""


def short(error: errors.KubeError) -> str:
    """The first line of what the API server says, at most 200 characters."""
    return error.message.partition("\n")[0][:200]
