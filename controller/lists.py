"""What a vault's lists say: everything of a kind with the time of its last change, and the versions of one object.

Source: Azure Key Vault REST API reference, "Get Secrets", "Get Secret Versions" and their like for certificates and
keys.
"""

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from controller.calls import Calls
from controller.errors import ObjectError, ProviderError
from controller.objects import VaultObject
from controller.sources import Source, moment
from controller.survey import Listed

# Pages of one object's versions: 10,000 of them, twenty times what Key Vault can back up.
MOST_PAGES = 400
# Whether a list may be had, and is cheaper than gets, is tried again after a day.
LISTS_AGAIN = 86_400.0

T = TypeVar("T")


class Lists:
    """The lists of one vault as one identity may read them."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._orders: dict[VaultObject, tuple[object, list[str]]] = {}
        self._gets_instead: dict[str, _GetsInstead] = {}

    async def everything(self, kind: str, gets: int) -> dict[str, Listed] | None:
        """Everything of that kind by its name in small letters; None where `gets` calls are fewer, or it is forbidden.

        Raises `ProviderError`.
        """
        instead = self._gets_instead.get(kind)
        if instead and gets <= instead.gets and self._calls.clock() < instead.until:
            return None
        source = self._calls.source(kind)
        found: dict[str, Listed] = {}
        try:
            async for page in self._pages(source, "list", None, source.listed(), _listed, gets, first=False):
                found |= page
        except (ObjectError, _TooManyPages) as reason:
            # Forbidden for whatever number of objects; or dearer for this one.
            limit = gets if isinstance(reason, _TooManyPages) else 1_000_000
            self._gets_instead[kind] = _GetsInstead(limit, self._calls.clock() + LISTS_AGAIN)
            return None
        return found

    async def _pages(
        self,
        source: Source,
        verb: str,
        found: VaultObject | None,
        items: Any,
        take: Callable[[Any], T],
        most: int,
        *,
        first: bool,
    ) -> AsyncIterator[list[T]]:
        """A list page by page, what `take` makes of each item; each page is a call of its own.

        Raises `_TooManyPages` where there are more than `most`.
        """
        pages = items.by_page()

        async def following() -> list[T]:
            return [take(item) async for item in await anext(pages)]

        for _ in range(most):
            yield await self._calls.make(source, verb, found, following, first=first)
            if not pages.continuation_token:
                return
            # The token would go along to wherever the answer says.
            if _host(pages.continuation_token) != _host(self._calls.url):
                raise ProviderError(
                    f"Key Vault {self._calls.vault} names another host for the rest of a list, which is not asked; look"
                    " at what answers in its place"
                )
        raise _TooManyPages

    async def enabled_ids(self, found: VaultObject, first: bool) -> list[str]:
        """Ids of the enabled versions, newest first, from the pinned one on. Raises `ControllerError`."""
        source = self._calls.source(found.type)
        pages = self._pages(source, "versions", found, source.versions(found.name), _version, MOST_PAGES, first=first)
        try:
            listed = [item async for page in pages for item in page if item.enabled]
        except _TooManyPages:
            raise ObjectError(
                f"{found.noun} has more versions than can be looked through in Key Vault {self._calls.vault}; take"
                " objectVersionHistory out, or name the object anew there"
            ) from None
        if not listed:
            raise ObjectError(
                f"{found.noun} has no enabled version in Key Vault {self._calls.vault}; create or enable one there"
            )
        seen = set(listed)
        known = self._orders.get(found)
        if known and known[0] == seen:
            ids = known[1]
        else:
            ids = await self._in_order(source, found, listed, first)
            self._orders[found] = (seen, ids)
        if not found.version:
            return ids
        if found.version not in ids:
            raise ObjectError(
                f"{found.noun} has no enabled version {found.version} in Key Vault {self._calls.vault};"
                " correct objectVersion or remove it"
            )
        return ids[ids.index(found.version) :]

    async def _in_order(self, source: Source, found: VaultObject, listed: list["_Version"], first: bool) -> list[str]:
        oldest = datetime.min.replace(tzinfo=UTC)
        listed.sort(key=lambda item: (item.created or oldest, item.id), reverse=True)
        if len(listed) > 1 and listed[0].created == listed[1].created:
            # `created` has a grain of one second; what a get without a version answers is the newest.
            try:
                newest = await self._calls.make(source, "get", found, lambda: source.get(found, ""), first=first)
                listed.sort(key=lambda item: item.id != newest.version)
            except ObjectError:
                pass  # the newest is disabled: it is not among the listed either
        return [item.id for item in listed]


def _host(url: object) -> tuple[str, str]:
    """Scheme and host of whatever stands where an address should."""
    scheme, _, rest = str(url).lower().partition("://")
    return scheme, re.split(r"[/?#]", rest, maxsplit=1)[0].removesuffix(":443")


def _listed(item: Any) -> tuple[str, Listed]:
    return item.name.lower(), Listed(moment(item.updated_on), item.enabled is not False)


class _Version(NamedTuple):
    """One version of an object, as a list shows it."""

    id: str
    created: datetime | None
    enabled: bool


def _version(item: Any) -> _Version:
    if not item.version:
        raise ValueError
    return _Version(str(item.version), moment(item.created_on), item.enabled is not False)


class _TooManyPages(Exception):  # noqa: N818 -- not an error
    """A list has more pages than are read."""


class _GetsInstead(msgspec.Struct, frozen=True):
    """Up to `gets` objects are got rather than listed until then (monotonic clock)."""

    gets: int
    until: float
