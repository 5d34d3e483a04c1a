"""Decide which hosts the caller's tools may contact for a release's clouds. Pure.

A release's clouds are in a ConfigMap, and an editor of the release's namespace can change it. The tools therefore trust
the hosts of Azure's own clouds, and others only if the caller names them. For Azure's own hosts, the machine's
certificates apply, and not those of the ConfigMap.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from controller.config.settings import BUILT_IN_CLOUDS, Cloud

# Stricter than the settings, because every URL parser must find the same host in it.
_URL = re.compile(r"https://(?P<host>[a-z0-9]([a-z0-9.-]*[a-z0-9])?)(:(?P<port>[0-9]{1,5}))?(/[^\s?#@\\]*)?")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")
_HTTPS = "443"
_BUILT_IN = frozenset(
    urlsplit(url.replace("{vault}", "*")).netloc
    for cloud in BUILT_IN_CLOUDS.values()
    for url in (cloud.authority, cloud.vault_url)
)


class HostError(ValueError):
    """The caller's text is not a host. The message describes a valid one."""


def parse(text: str) -> str:
    """Return a host that the caller may name. Raise `HostError` for other texts."""
    host = text.lower()
    if not _HOST.fullmatch(host):
        raise HostError(f"{text}: expected a host such as login.example.com, *.vault.example.com or 10.0.0.1:8443")
    return host.removesuffix(f":{_HTTPS}")


def vault_url(cloud: Cloud, vault: str) -> str:
    """Return the address of that vault."""
    return cloud.vault_url.replace("{vault}", vault)


def unnamed(cloud: Cloud, vault: str, named: Iterable[str]) -> list[str]:
    """Return the hosts of this cloud that are neither Azure's own nor named by the caller.

    They have the form of `--allow-host`. If there are none, the caller may contact the authority and that vault.
    """
    allowed = _BUILT_IN | set(named)
    found = []
    for url, shown in ((cloud.authority, cloud.authority), (vault_url(cloud, vault), cloud.vault_url)):
        host = _host_of(url)
        if not host or not any(_fits_pattern(host, pattern) for pattern in allowed):
            found.append(_host_pattern(shown))
    return list(dict.fromkeys(found))


def hosts(cloud: Cloud) -> list[str]:
    """Return the hosts of this cloud in the form of `--allow-host`."""
    return list(dict.fromkeys(_host_pattern(url) for url in (cloud.authority, cloud.vault_url)))


def connecting(cloud: Cloud, vault: str, named: Iterable[str]) -> Cloud:
    """Return the cloud for the caller's connections: Azure's own hosts only with the machine's certificates."""
    named = list(named)
    hosts_of_cloud = [_host_of(url) for url in (cloud.authority, vault_url(cloud, vault))]
    are_named = all(host and any(_fits_pattern(host, pattern) for pattern in named) for host in hosts_of_cloud)
    return cloud if are_named else msgspec.structs.replace(cloud, ca="")


def _host_of(url: str) -> str:
    """Return the host, with its port if that is not 443. Return an empty text if parsers might disagree."""
    found = _URL.fullmatch(url.lower())
    if not found:
        return ""
    port = found["port"] or _HTTPS
    return found["host"] if port == _HTTPS else f"{found['host']}:{port}"


def _host_pattern(url: str) -> str:
    """Return the host of a URL that contains {vault} for the vault's name."""
    netloc = urlsplit(re.sub(r"[a-z0-9-]*\{vault\}[a-z0-9-]*\.", "*.", url.lower())).netloc
    return netloc.removesuffix(f":{_HTTPS}")


def _fits_pattern(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        label, _, rest = host.partition(".")
        return bool(label) and rest == pattern.removeprefix("*.")
    return host == pattern
