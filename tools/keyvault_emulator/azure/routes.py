"""Parse the address of a request: the vault or tenant, and the operation. Pure.

A vault has two addresses: its own host (`https://my-vault.vault.azure.net/secrets/x`, in the Host header), and a
path on the emulator's host (`https://127.0.0.1:8443/my-vault/secrets/x`), which needs neither DNS nor a hosts file.
Entra has one: the tenant is the first part of the path.
"""

from typing import NamedTuple

SUFFIXES = ("vault.azure.net", "vault.usgovcloudapi.net", "vault.azure.cn")
"""DNS suffixes under which a Host header names a vault."""

ENTRA = "entra"
"""The name of Entra in counters, delays and faults, in place of a vault's name."""

KINDS = ("secrets", "certificates", "keys")


class ParsedAddress(NamedTuple):
    """A parsed address. `where` is a vault's name or ENTRA; `tenant` is empty for a vault, `name` for a list."""

    where: str
    operation: str
    tenant: str = ""
    name: str = ""
    version: str = ""
    base: str = ""
    """The part of the path that names the vault: "/my-vault", or "" if the host names it."""


def parse(method: str, host: str, path: str) -> ParsedAddress | None:
    """Return the route of a request, or None if the address does not exist."""
    parts = [part for part in path.split("/") if part]
    name, _, suffix = host.partition(":")[0].lower().partition(".")
    if suffix in SUFFIXES:
        return _vault_route(name, "", parts) if method == "GET" else None
    if parts == ["common", "discovery", "instance"] and method == "GET":
        return ParsedAddress(ENTRA, "instance")
    if len(parts) < 2:
        return None
    first, rest = parts[0], parts[1:]
    match method, rest:
        case "POST", ["oauth2", "v2.0", "token"]:
            return ParsedAddress(ENTRA, "token", tenant=first)
        case "GET", ["v2.0", ".well-known", "openid-configuration"] | [".well-known", "openid-configuration"]:
            return ParsedAddress(ENTRA, "discovery", tenant=first)
        case "GET", ["discovery", "v2.0", "keys"]:
            return ParsedAddress(ENTRA, "keys", tenant=first)
        case "GET", _:
            return _vault_route(first, f"/{first}", rest)
    return None


def _vault_route(vault: str, base: str, rest: list[str]) -> ParsedAddress | None:
    match rest:
        case [kind] if kind in KINDS:
            return ParsedAddress(vault, f"{kind}.list", base=base)
        case ["certificates", "issuers" | "contacts" as reserved]:
            return ParsedAddress(vault, f"certificates.{reserved}", base=base)
        case [kind, name] if kind in KINDS:
            return ParsedAddress(vault, f"{kind}.get", name=name, base=base)
        case [kind, name, "versions"] if kind in KINDS:
            return ParsedAddress(vault, f"{kind}.versions", name=name, base=base)
        case ["certificates", name, "policy" | "pending" as part]:
            return ParsedAddress(vault, f"certificates.{part}", name=name, base=base)
        case [kind, name, version] if kind in KINDS:
            return ParsedAddress(vault, f"{kind}.get", name=name, version=version, base=base)
    return None
