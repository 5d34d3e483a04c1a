"""Emulate the operations of Key Vault's data plane. Pure: from the state to a JSON body or an `ErrorAnswer`."""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from controller.config.settings import KEY_VAULT_API_VERSION
from tools.keyvault_emulator.azure import bundles
from tools.keyvault_emulator.azure.bundles import is_live, item
from tools.keyvault_emulator.azure.certificates import base64url
from tools.keyvault_emulator.azure.routes import ParsedAddress
from tools.keyvault_emulator.azure.state import NAME, Entry, Kind, Vault, Version
from tools.keyvault_emulator.errors import ErrorAnswer, vault_error

PAGE = 25
"""The most items in a page, and the highest value of `maxresults`. A page can have fewer items, or none."""

API_VERSIONS = (
    "2015-06-01",
    "2016-10-01",
    "7.0-preview",
    "7.0",
    "7.1-preview",
    "7.1",
    "7.2-preview",
    "7.2",
    "7.3-preview",
    "7.3",
    "7.4-preview.1",
    KEY_VAULT_API_VERSION,
    "7.5-preview.1",
    "7.5",
    "7.6-preview.1",
    "7.6-preview.2",
    "7.6",
    "2025-06-01-preview",
    "2025-07-01",
    "2026-04-01",
)
"""All versions of Key Vault's REST API, oldest first."""

_VERSION = re.compile(r"[0-9a-fA-F]{32}")
_Listed = tuple[str, Entry, Version | None, bool]
"""Sort key, entry, version (None: hidden), and whether the object is managed."""


def answer(vault: Vault, route: ParsedAddress, query: Mapping[str, str], origin: str) -> dict[str, Any]:
    """Return the body of a call. Raise `ErrorAnswer`. `origin` is the address of the request and of further pages."""
    _check_version(vault, query.get("api-version"))
    kind_name, _, verb = route.operation.partition(".")
    kind: Kind = kind_name  # type: ignore[assignment]  # routes.KINDS
    if verb == "issuers":
        return {"value": [], "nextLink": None}
    if verb == "contacts":
        raise vault_error(404, "ContactsNotFound", "Contacts not found")
    if verb == "list":
        entries = vault.entries(kind, after=_page_marker(query))
        listed = ((entry.name.lower(), entry, _listed_version(kind, entry), managed) for entry, managed in entries)
        page, following = _build_page(vault, listed, query, f"{origin}{route.base}/{kind}")
        return {
            "value": [item(vault, kind, entry, version, managed) for _, entry, version, managed in page if version],
            "nextLink": following,
        }
    if not NAME.fullmatch(route.name):
        raise vault_error(400, "BadParameter", f"The request URI contains an invalid name: {route.name}")
    found = vault.find(kind, route.name)
    if verb == "versions":
        # Key Vault sorts versions by their ids. The ids are random, so the order does not depend on the age.
        entry, managed = found or (Entry(), False)
        after = _page_marker(query)
        versions = sorted((each for each in entry.versions if each.id > after), key=lambda each: each.id)
        listed = ((each.id, entry, each, managed) for each in versions)
        page, following = _build_page(vault, listed, query, f"{origin}{route.base}/{kind}/{route.name}/versions")
        return {
            "value": [
                item(vault, kind, entry, version, managed, versioned=True)
                for _, entry, version, managed in page
                if version
            ],
            "nextLink": following,
        }
    if verb == "pending" or (found is None and kind == "certificates"):
        return _request_bundle(vault, route, verb)
    if found is None:
        entry = vault.certificates.get(route.name.lower(), Entry())
        if kind == "secrets" and entry.request and not route.version:
            raise bundles.disabled_secret()
        raise _not_found(kind, route.name)
    entry, managed = found
    _check_version_id(route.version)
    version = _find_version(kind, entry, route.version)
    if verb == "policy":
        return bundles.policy(vault, entry, version)
    if kind == "certificates" and route.version:
        return bundles.certificate_version(vault, entry, version)
    return _BUNDLES[kind](vault, entry, version, managed)


def _check_version(vault: Vault, asked: str | None) -> None:
    if not asked:
        raise vault_error(400, "BadParameter", "api-version must be specified")
    known = vault.api_versions or API_VERSIONS
    if asked not in known:
        raise vault_error(
            400,
            "BadParameter",
            f"The specified version ({asked[:40]}) is not recognized. Consider using the latest supported version"
            f" ({known[-1]}).",
        )


def _listed_version(kind: Kind, entry: Entry) -> Version | None:
    """Return the version whose attributes a list shows. The list of secrets shows a requested certificate, too."""
    if is_live(entry):
        return entry.versions[-1]
    return entry.request if kind == "secrets" else None


def _check_version_id(version: str) -> None:
    if version and not _VERSION.fullmatch(version):
        raise vault_error(400, "BadParameter", f"Method GET does not allow operation '{version}'")


def _request_bundle(vault: Vault, route: ParsedAddress, verb: str) -> dict[str, Any]:
    """Return the pending request of a certificate, or the certificate or policy of one without a version.

    Raise `ErrorAnswer`.
    """
    entry = vault.certificates.get(route.name.lower(), Entry())
    if verb == "pending":
        if entry.deleted or not entry.pending:
            raise vault_error(404, "PendingCertificateNotFound", f"Pending certificate not found: {route.name}")
        return bundles.operation(vault, entry)
    request = entry.request
    if request is None:
        raise _not_found("certificates", route.name)
    if route.version:
        _check_version_id(route.version)
        raise _not_found("certificates", f"{route.name}/{route.version}")
    requested = bundles.requested(vault, entry, request)
    return dict(requested["policy"]) if verb == "policy" else requested


def _not_found(kind: Kind, name: str) -> Exception:
    word = kind[:-1]
    return vault_error(
        404,
        f"{word.capitalize()}NotFound",
        f"A {word} with (name/id) {name} was not found in this key vault. If you recently deleted this {word} you may "
        "be able to recover it using the correct recovery command. For help resolving this issue, please see "
        "https://go.microsoft.com/fwlink/?linkid=2125182",
    )


def _find_version(kind: Kind, entry: Entry, wanted: str) -> Version:
    if not wanted:
        return entry.versions[-1]
    for version in entry.versions:
        if version.id == wanted.lower():
            return version
    raise _not_found(kind, f"{entry.name}/{wanted}")


_BUNDLES: dict[Kind, Callable[[Vault, Entry, Version, bool], dict[str, Any]]] = {
    "secrets": bundles.secret,
    "certificates": bundles.certificate,
    "keys": bundles.key,
}


def _build_page(
    vault: Vault, listed: Iterator[_Listed], query: Mapping[str, str], url: str
) -> tuple[list[_Listed], str | None]:
    """Return one page of `listed`, and the URL of the next page (None for the last one).

    The token of the next page has the last key of this page. Therefore an item that is added or deleted between two
    pages neither repeats nor hides another item.
    """
    size, number = _page_size(query), _page_number(query)
    if vault.page_sizes:
        size = min(size, vault.page_sizes[number % len(vault.page_sizes)])
    page = list(itertools.islice(listed, size))
    if next(listed, None) is None:
        return page, None
    # The page after an empty page starts at the same key.
    last = page[-1][0] if page else _page_marker(query)
    marker = json.dumps({"NextMarker": last, "TargetLocation": 0, "Page": number + 1})
    most = f"&maxresults={query['maxresults']}" if "maxresults" in query else ""
    return page, f"{url}?api-version={query['api-version']}&$skiptoken={base64url(marker.encode())}{most}"


def _page_size(query: Mapping[str, str]) -> int:
    text = query.get("maxresults", str(PAGE))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= PAGE):
        raise vault_error(400, "BadParameter", f"maxresults must be between 1 and {PAGE}, found {text[:20]!r}")
    return int(text)


def _page_marker(query: Mapping[str, str]) -> str:
    """Return the last key of the previous page; an empty text, which sorts before all keys, for the first page."""
    return str(_page_token(query).get("NextMarker", ""))


def _page_number(query: Mapping[str, str]) -> int:
    """Return the number of the page, counted from 0."""
    number = _page_token(query).get("Page", 0)
    return number if isinstance(number, int) and number >= 0 else 0


def _page_token(query: Mapping[str, str]) -> dict[str, Any]:
    token = query.get("$skiptoken")
    if token is None:
        return {}
    try:
        found = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        if "NextMarker" in found:
            return dict(found)
    except (ValueError, TypeError):
        pass
    raise _bad_token()


def _bad_token() -> ErrorAnswer:
    return vault_error(400, "BadParameter", "The $skiptoken is invalid; start again with the first page")
