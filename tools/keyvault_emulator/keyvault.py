"""Key Vault's data plane: what each operation answers. Pure: the world in, a JSON body or a Refusal out."""

import base64
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from tools.keyvault_emulator.certificates import base64url
from tools.keyvault_emulator.errors import vault_error
from tools.keyvault_emulator.routes import Route
from tools.keyvault_emulator.state import NAME, Entry, Kind, Vault, Version

PAGE = 25
"""Items in a page, and the most that `maxresults` may ask for."""

_Listed = tuple[str, Entry, Version, bool]
"""Sort key, entry, version, and whether it is managed."""

RECOVERY = {"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90}


def answer(vault: Vault, route: Route, query: Mapping[str, str], origin: str) -> dict[str, Any]:
    """The body of a successful call. `origin` is the address that was asked, where the next page is found too."""
    if not query.get("api-version"):
        raise vault_error(400, "BadParameter", "api-version must be specified")
    kind_name, _, verb = route.operation.partition(".")
    kind: Kind = kind_name  # type: ignore[assignment]  # routes.KINDS
    if verb == "list":
        entries = vault.entries(kind, after=_marker(query))
        listed = ((entry.name.lower(), entry, entry.versions[-1], managed) for entry, managed in entries)
        page, following = _page(listed, query, f"{origin}{route.base}/{kind}")
        return {"value": [_item(vault, kind, *each[1:]) for each in page], "nextLink": following}
    if not NAME.fullmatch(route.name):
        raise vault_error(400, "BadParameter", f"The request URI contains an invalid name: {route.name}")
    found = vault.find(kind, route.name)
    if verb == "versions":
        # Key Vault sorts versions by their ids, which are random: their order says nothing about their age.
        entry, managed = found or (Entry(), False)
        after = _marker(query)
        versions = sorted((each for each in entry.versions if each.id > after), key=lambda each: each.id)
        listed = ((each.id, entry, each, managed) for each in versions)
        page, following = _page(listed, query, f"{origin}{route.base}/{kind}/{route.name}/versions")
        return {
            "value": [_item(vault, kind, *each[1:], versioned=True) for each in page],
            "nextLink": following,
        }
    if found is None:
        raise _not_found(kind, route.name)
    entry, managed = found
    version = _version(kind, entry, route.version)
    if verb == "policy":
        return _policy(vault, entry, version)
    return _BUNDLES[kind](vault, entry, version, managed)


def _not_found(kind: Kind, name: str) -> Exception:
    word = kind[:-1]
    return vault_error(
        404,
        f"{word.capitalize()}NotFound",
        f"A {word} with (name/id) {name} was not found in this key vault. If you recently deleted this {word} you may "
        "be able to recover it using the correct recovery command. For help resolving this issue, please see "
        "https://go.microsoft.com/fwlink/?linkid=2125182",
    )


def _version(kind: Kind, entry: Entry, wanted: str) -> Version:
    if not wanted:
        return entry.versions[-1]
    for version in entry.versions:
        if version.id == wanted.lower():
            return version
    raise _not_found(kind, f"{entry.name}/{wanted}")


def _attributes(version: Version) -> dict[str, Any]:
    times = {"nbf": version.not_before, "exp": version.expires}
    return {
        "enabled": version.enabled,
        **{key: value for key, value in times.items() if value is not None},
        "created": version.created,
        "updated": version.updated,
        **RECOVERY,
    }


def _secret(vault: Vault, entry: Entry, version: Version, managed: bool) -> dict[str, Any]:
    # Outside nbf and exp a secret is still served; disabled it is not. The public half of a disabled certificate and a
    # disabled key are (Azure/azure-cli#26044).
    if not version.enabled:
        raise vault_error(
            403, "Forbidden", "Operation get is not allowed on a disabled secret.", inner="SecretDisabled"
        )
    body = {"value": version.value, **_item(vault, "secrets", entry, version, managed, versioned=True)}
    if managed:
        body["kid"] = vault.url("keys", entry.name, version.id)
    return body


def _certificate(vault: Vault, entry: Entry, version: Version, _managed: bool) -> dict[str, Any]:
    der = version.certificate or b""
    return {
        **_item(vault, "certificates", entry, version, managed=False, versioned=True),
        "kid": vault.url("keys", entry.name, version.id),
        "sid": vault.url("secrets", entry.name, version.id),
        "cer": base64.b64encode(der).decode(),
        "policy": _policy(vault, entry, version),
    }


def _policy(vault: Vault, entry: Entry, version: Version) -> dict[str, Any]:
    jwk = version.jwk or {}
    properties: dict[str, Any] = {"exportable": True, "kty": jwk.get("kty"), "reuse_key": False}
    if jwk.get("kty") == "RSA":
        properties["key_size"] = len(base64.urlsafe_b64decode(jwk["n"] + "==")) * 8
    else:
        properties["crv"] = jwk.get("crv")
    return {
        "id": f"{vault.url('certificates', entry.name)}/policy",
        "key_props": properties,
        "secret_props": {"contentType": version.content_type},
        "issuer": {"name": "Unknown"},
        "attributes": {"enabled": True, "created": version.created, "updated": version.updated},
    }


def _key(vault: Vault, entry: Entry, version: Version, managed: bool) -> dict[str, Any]:
    jwk = version.jwk or {}
    operations = ["sign", "verify"] + (
        ["encrypt", "decrypt", "wrapKey", "unwrapKey"] if jwk.get("kty") == "RSA" else []
    )
    item = _item(vault, "keys", entry, version, managed, versioned=True)
    return {"key": {"kid": item.pop("kid"), "key_ops": operations, **jwk}, **item}


_BUNDLES: dict[Kind, Callable[[Vault, Entry, Version, bool], dict[str, Any]]] = {
    "secrets": _secret,
    "certificates": _certificate,
    "keys": _key,
}


def _item(
    vault: Vault, kind: Kind, entry: Entry, version: Version, managed: bool, *, versioned: bool = False
) -> dict[str, Any]:
    """What a list shows of an object or, `versioned`, of one of its versions."""
    url = vault.url(kind, entry.name, version.id if versioned else "")
    item: dict[str, Any] = {"kid" if kind == "keys" else "id": url, "attributes": _attributes(version)}
    if kind == "secrets" and version.content_type is not None:
        item["contentType"] = version.content_type
    if kind == "certificates":
        # Key Vault's x5t is SHA-1 by definition (RFC 7515, 4.1.7); nothing is protected by it.
        item["x5t"] = base64url(hashlib.sha1(version.certificate or b"", usedforsecurity=False).digest())
    if managed:
        item["managed"] = True
    if version.tags:
        item["tags"] = version.tags
    return item


def _page(listed: Iterator[_Listed], query: Mapping[str, str], url: str) -> tuple[list[_Listed], str | None]:
    """As many of `listed` as the query asks for, and the address of the next part; it begins behind the query's marker.

    The token of the next page names the last key served, so what is added or deleted between two pages neither repeats
    nor hides another item.
    """
    size = _size(query)
    page = list(itertools.islice(listed, size))
    if next(listed, None) is None:
        return page, None
    marker = json.dumps({"NextMarker": page[-1][0], "TargetLocation": 0})
    parameters = {
        "api-version": query["api-version"],
        "$skiptoken": base64.b64encode(marker.encode()).decode(),
        "maxresults": str(size),
    }
    return page, f"{url}?{urlencode(parameters)}"


def _size(query: Mapping[str, str]) -> int:
    text = query.get("maxresults", str(PAGE))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= PAGE):
        raise vault_error(400, "BadParameter", f"maxresults must be between 1 and {PAGE}, found {text[:20]!r}")
    return int(text)


def _marker(query: Mapping[str, str]) -> str:
    """The last key that was served; empty, which is before all keys, for the first page."""
    token = query.get("$skiptoken")
    if token is None:
        return ""
    try:
        return str(json.loads(base64.b64decode(token, validate=True))["NextMarker"])
    except (ValueError, KeyError, TypeError):
        raise vault_error(400, "BadParameter", "The $skiptoken is invalid; start again with the first page") from None
