"""What a vault's lists say: everything of a kind with the time of its last change, and the versions of one object.

Source: Azure Key Vault REST API reference, "Get Secrets", "Get Secret Versions" and their like for certificates and
keys.
"""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial

import msgspec

from controller.calls import Calls
from controller.errors import AccessDenied, ObjectError, ProviderError
from controller.objects import VaultObject
from controller.sources import Item, Page, Source
from controller.survey import Listed

# Pages of one object's versions: 10,000 of them, twenty times what Key Vault can back up.
MOST_PAGES = 400
# Whether a list is cheaper than gets is tried again after a day. Whether it is allowed, within the hour.
CHEAPER_AGAIN = 86_400.0
ALLOWED_AGAIN = 3_000.0
# Objects whose order of versions is remembered.
MAX_ORDERS = 256


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
        if instead and (instead.gets is None or gets <= instead.gets) and self._calls.clock() < instead.until:
            return None
        source = self._calls.source(kind)
        found: dict[str, Listed] = {}
        try:
            async for item in self._items(source, "list", None, source.everything(), gets, first=False):
                found[item.name.lower()] = Listed(item.updated, item.enabled)
        except AccessDenied:
            self._gets_instead[kind] = _GetsInstead(None, self._calls.clock() + ALLOWED_AGAIN)
            return None
        except _TooManyPages:
            self._gets_instead[kind] = _GetsInstead(gets, self._calls.clock() + CHEAPER_AGAIN)
            return None
        return found

    def note_denied_get(self, kind: str) -> None:
        """Try the list again at the next poll: gets are denied too, so they do not replace it."""
        if (instead := self._gets_instead.get(kind)) and instead.gets is None:
            del self._gets_instead[kind]

    async def _items(
        self, source: Source, verb: str, found: VaultObject | None, where: str, most: int, *, first: bool
    ) -> AsyncIterator[Item]:
        """A list's items; each page is a call of its own. Raises `_TooManyPages` where there are more than `most`."""
        for _ in range(most):
            ask = partial(_page, source, found, where)
            page = await self._calls.make(source, verb, found, ask, first=first)
            for item in page.items:
                yield item
            if not page.following:
                return
            # The token would go along to wherever the answer says, and another path may be another vault.
            if not _continues(page.following, self._calls.url, where):
                raise ProviderError(
                    f"Key Vault {self._calls.vault} names another host or path for the rest of a list, which is not"
                    " asked; look at what answers in its place"
                )
            where = page.following
        raise _TooManyPages

    async def enabled_ids(self, found: VaultObject, first: bool) -> list[str]:
        """Ids of the enabled versions, newest first, from the pinned one on. Raises `ControllerError`."""
        source = self._calls.source(found.type)
        items = self._items(source, "versions", found, source.versions(found.name), MOST_PAGES, first=first)
        try:
            listed = [item async for item in items if item.enabled]
        except _TooManyPages:
            raise ObjectError(
                f"{found.noun} has more versions than can be looked through in Key Vault {self._calls.vault}; take"
                " objectVersionHistory out, or name the object anew there"
            ) from None
        if not listed:
            raise ObjectError(
                f"{found.noun} has no enabled version in Key Vault {self._calls.vault}; create or enable one there"
            )
        seen = {(item.version, item.created) for item in listed}
        known = self._orders.get(found)
        if known and known[0] == seen:
            ids = known[1]
        else:
            ids = await self._in_order(source, found, listed, first)
            self._orders[found] = (seen, ids)
            if len(self._orders) > MAX_ORDERS:  # editors name objects
                del self._orders[next(iter(self._orders))]
        if not found.version:
            return ids
        if found.version not in ids:
            raise ObjectError(
                f"{found.noun} has no enabled version {found.version} in Key Vault {self._calls.vault};"
                " correct objectVersion or remove it"
            )
        return ids[ids.index(found.version) :]

    async def _in_order(self, source: Source, found: VaultObject, listed: list[Item], first: bool) -> list[str]:
        oldest = datetime.min.replace(tzinfo=UTC)
        listed.sort(key=lambda item: (item.created or oldest, item.version), reverse=True)
        if len(listed) > 1 and listed[0].created == listed[1].created:
            # `created` has a grain of one second; what a get without a version answers is the newest.
            try:
                newest = await self._calls.make(source, "get", found, lambda: source.get(found, ""), first=first)
                listed.sort(key=lambda item: item.version != newest.version)
            except ObjectError:
                pass  # the newest is disabled: it is not among the listed either
        return [item.version for item in listed]


async def _page(source: Source, found: VaultObject | None, where: str) -> Page:
    page = await source.page(where)
    # An item that does not say what it is concerns no other item.
    return Page([item for item in page.items if (item.version if found else item.name)], page.following)


def _continues(following: str, vault: str, where: str) -> bool:
    """Whether an address is of the same list of the same vault: only its query may differ."""
    scheme, host, prefix = _address(vault)
    path = _address(where)[2] if "://" in where else prefix + where.lower().rstrip("/")
    return _address(following) == (scheme, host, path)


def _address(url: str) -> tuple[str, str, str]:
    """Return scheme, host and path, in small letters, of any text that is used as an address."""
    scheme, _, rest = re.split(r"[?#]", url.lower(), maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return scheme, host.removesuffix(":443"), (slash + path).rstrip("/")


class _TooManyPages(Exception):  # noqa: N818 -- not an error
    """A list has more pages than are read."""


class _GetsInstead(msgspec.Struct, frozen=True):
    """Up to `gets` objects are got rather than listed until then (monotonic clock); None: any number of them."""

    gets: int | None
    until: float
