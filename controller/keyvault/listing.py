"""Read a vault's lists: all objects of a kind with the time of their last change, and the versions of one object.

Source: Azure Key Vault REST API reference, "Get Secrets", "Get Secret Versions" and the same calls for certificates and
keys.
"""

import re
from collections.abc import AsyncIterator, Callable, Container, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec

from controller.domain.provider_class import VaultObject
from controller.domain.selection import SelectionCollector
from controller.domain.snapshot import ListedObject
from controller.domain.vault_objects import ListItem
from controller.errors import AccessDenied, ControllerError, ObjectError, ObjectGone, ProviderError, Retry
from controller.keyvault.client import VaultClient
from controller.keyvault.objects import ObjectClient, ObjectPage

# Maximum number of pages of one object's versions: 10,000 versions, twenty times Key Vault's limit for backups.
MAX_PAGES = 400
# Maximum number of pages of a list that is compared with a selection: 10,000 objects.
MAX_SELECTED_PAGES = 400
PAGE_SIZE = 25
# Seconds until a list that needed more calls than gets is tried again, and until a forbidden list is.
RETRY_COSTLY_LIST = 86_400.0
RETRY_FORBIDDEN_LIST = 3_000.0
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
OnListed = Callable[[str, str, ListedObject], None]
"""Receive the kind, the lower-case name and the state of an object as soon as its page of a list was read."""
# Maximum number of objects whose order of versions is cached.
MAX_ORDERS = 256


class VaultLister:
    """The lists of one vault that one identity can read."""

    def __init__(self, client: VaultClient) -> None:
        self._client = client
        self.version_orders: dict[VaultObject, tuple[object, list[str]]] = {}
        self._paused_lists: dict[str, _ListPause] = {}

    async def list_all(
        self,
        kind: str,
        gets: int,
        collectors: Sequence[SelectionCollector] = (),
        names: Container[str] | None = None,
        on_listed: OnListed | None = None,
    ) -> dict[str, ListedObject] | None:
        """Return all objects of that kind by lower-case name.

        Return None if the list is forbidden, or needs more calls than the `gets` that it would replace. `collectors`
        need all objects, so with them the list is read even if it saves no calls, and the result contains only the
        objects in `names` (lower case). `on_listed` is called for each object of the result, page by page. Raise
        `ProviderError` on failure.
        """
        pause = self._paused_lists.get(kind)
        if (
            pause
            and self._client.clock() < pause.until
            and (pause.gets is None or (gets <= pause.gets and not collectors))
        ):
            return None
        source, max_pages = self._client.source_of(kind), MAX_SELECTED_PAGES if collectors else gets
        found: dict[str, ListedObject] = {}
        try:
            async for item in self._list_pages(source, "list", None, source.everything(), max_pages, first=False):
                for collector in collectors:
                    collector.add(item)
                name = item.name.lower()
                if names is None or name in names:
                    found[name] = ListedObject(item.updated, item.enabled)
                    if on_listed:
                        on_listed(kind, name, found[name])
        except AccessDenied as error:
            self._paused_lists[kind] = _ListPause(None, self._client.clock() + RETRY_FORBIDDEN_LIST, error.bare())
            return None
        except _TooManyPages:
            too_many = ObjectError(
                f"Key Vault {self._client.vault} has more than {MAX_SELECTED_PAGES * PAGE_SIZE} {source.plural}, which"
                " is too many for select: name the objects, or split the vault",
                retry=Retry.ON_EDIT,
            )
            limit = None if collectors else gets
            self._paused_lists[kind] = _ListPause(limit, self._client.clock() + RETRY_COSTLY_LIST, too_many)
            return None
        return found

    def list_refusal(self, kind: str) -> ControllerError | None:
        """Return why the list of that kind cannot be read for selections, or None if it can."""
        pause = self._paused_lists.get(kind)
        return pause.why if pause and pause.gets is None else None

    def forget_refusal(self, kind: str) -> None:
        """Let the next poll try the list again, if it is forbidden."""
        if self.list_refusal(kind):
            del self._paused_lists[kind]

    def note_denied_get(self, kind: str) -> None:
        """Record a denied get. The next poll tries a forbidden list again, because gets cannot replace it."""
        if (pause := self._paused_lists.get(kind)) and pause.gets is None:
            del self._paused_lists[kind]

    async def _list_pages(
        self,
        source: ObjectClient,
        verb: str,
        vault_object: VaultObject | None,
        url: str,
        max_pages: int,
        *,
        first: bool,
    ) -> AsyncIterator[ListItem]:
        """Yield the items of a list. Each page is one call. Raise `_TooManyPages` above `max_pages` pages."""
        for _ in range(max_pages):
            read_page = partial(_read_page, source, vault_object, url)
            page = await self._client.request(source, verb, vault_object, read_page, first=first)
            # If a busy vault interrupts a list, its pages so far are lost. So its other pages have precedence.
            first = True
            # The value that changed first has waited longest for its get.
            for item in sorted(page.items, key=lambda item: item.updated or _LONG_AGO):
                yield item
            if not page.following:
                return
            # The request for the next page carries the token, so it must not go to another host or vault.
            if not _is_next_page(page.following, self._client.url, url):
                raise ProviderError(
                    f"Key Vault {self._client.vault} refers to another host or path for the rest of a list, and the"
                    " controller does not follow it; check which server answers for the vault"
                )
            url = page.following
        raise _TooManyPages

    async def enabled_ids(self, vault_object: VaultObject, first: bool) -> list[str]:
        """Return the ids of an object's enabled versions, newest first. Begin with its objectVersion, if it has one.

        Raise `ObjectError` if there is none, or another `ControllerError` if the vault cannot be read.
        """
        source = self._client.source_of(vault_object.type)
        items = self._list_pages(
            source, "versions", vault_object, source.versions(vault_object.name), MAX_PAGES, first=first
        )
        try:
            listed = [item async for item in items if item.enabled]
        except _TooManyPages:
            raise ObjectError(
                f"{vault_object.noun} has more versions than the controller reads in Key Vault {self._client.vault};"
                " take objectVersionHistory out, or create the object under another name there"
            ) from None
        if not listed:
            raise ObjectError(
                f"{vault_object.noun} has no enabled version in Key Vault {self._client.vault}; create or enable one"
                " there"
            )
        seen = {(item.version, item.created) for item in listed}
        known = self.version_orders.get(vault_object)
        if known and known[0] == seen:
            ids = known[1]
        else:
            ids = await self._sort_ids(source, vault_object, listed, first)
            self.version_orders[vault_object] = (seen, ids)
            if len(self.version_orders) > MAX_ORDERS:  # editors choose the names of objects
                del self.version_orders[next(iter(self.version_orders))]
        if not vault_object.version:
            return ids
        if vault_object.version not in ids:
            raise ObjectError(
                f"{vault_object.noun} has no enabled version {vault_object.version} in Key Vault {self._client.vault};"
                " correct objectVersion or remove it"
            )
        return ids[ids.index(vault_object.version) :]

    async def _sort_ids(
        self, source: ObjectClient, vault_object: VaultObject, listed: list[ListItem], first: bool
    ) -> list[str]:
        listed.sort(key=lambda item: (item.created or _LONG_AGO, item.version), reverse=True)
        if len(listed) > 1 and listed[0].created == listed[1].created:
            # `created` has a resolution of one second. A get without a version returns the newest.
            try:
                newest = await self._client.request(
                    source, "get", vault_object, lambda: source.get(vault_object, ""), first=first
                )
                listed.sort(key=lambda item: item.version != newest.version)
            except ObjectGone:
                pass  # the newest version is disabled, so it is not in the list either
        return [item.version for item in listed]


async def _read_page(source: ObjectClient, vault_object: VaultObject | None, url: str) -> ObjectPage:
    page = await source.page(url)
    # An item without an identifier does not affect other items.
    return ObjectPage([item for item in page.items if (item.version if vault_object else item.name)], page.following)


def _is_next_page(following: str, vault: str, url: str) -> bool:
    """Return whether an address belongs to the same list of the same vault, so that at most its query differs."""
    scheme, host, prefix = _parse_address(vault)
    path = _parse_address(url)[2] if "://" in url else prefix + url.lower().rstrip("/")
    return _parse_address(following) == (scheme, host, path)


def _parse_address(url: str) -> tuple[str, str, str]:
    """Return scheme, host and path of an address in lower case."""
    scheme, _, rest = re.split(r"[?#]", url.lower(), maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return scheme, host.removesuffix(":443"), (slash + path).rstrip("/")


class _TooManyPages(Exception):  # noqa: N818 - it is not an error of the vault
    """A list has more pages than the controller reads."""


class _ListPause(msgspec.Struct, frozen=True):
    """A list that is not read before `until` (monotonic clock), because of `why`.

    Gets replace it for up to `gets` objects, or with None for any number.
    """

    gets: int | None
    until: float
    why: ControllerError
