"""Which hosts the caller's tools may contact for a release's clouds. Pure.

A release's clouds are in a ConfigMap, and an editor of the release's namespace can change it. So the hosts of Azure's
own clouds are trusted, and of all others those that the caller names. For Azure's own hosts, the machine's
certificates count and not those that the ConfigMap brings.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from controller.settings import BUILT_IN_CLOUDS, Cloud

# Stricter than what the settings take: every URL parser must find the same host in it.
_URL = re.compile(r"https://(?P<host>[a-z0-9]([a-z0-9.-]*[a-z0-9])?)(:(?P<port>[0-9]{1,5}))?(/[^\s?#@\\]*)?")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")
_HTTPS = "443"
_BUILT_IN = frozenset(
    urlsplit(url.replace("{vault}", "*")).netloc
    for cloud in BUILT_IN_CLOUDS.values()
    for url in (cloud.authority, cloud.vault_url)
)


class HostError(ValueError):
    """The caller named no host; the message says what one is."""


def parse(text: str) -> str:
    """Return a host as the caller may name it; `HostError` for what is none."""
    host = text.lower()
    if not _HOST.fullmatch(host):
        raise HostError(f"{text}: expected a host such as login.example.com, *.vault.example.com or 10.0.0.1:8443")
    return host.removesuffix(f":{_HTTPS}")


def vault_url(cloud: Cloud, vault: str) -> str:
    """Return the address of that vault."""
    return cloud.vault_url.replace("{vault}", vault)


def unnamed(cloud: Cloud, vault: str, named: Iterable[str]) -> list[str]:
    """Return the hosts of this cloud that are neither Azure's own nor named by the caller, as `--allow-host` has them.

    Empty: its authority and that vault may be contacted.
    """
    allowed = _BUILT_IN | set(named)
    found = []
    for url, shown in ((cloud.authority, cloud.authority), (vault_url(cloud, vault), cloud.vault_url)):
        host = _host(url)
        if not host or not any(_fits(host, pattern) for pattern in allowed):
            found.append(_pattern(shown))
    return list(dict.fromkeys(found))


def hosts(cloud: Cloud) -> list[str]:
    """Return the hosts of this cloud, as `--allow-host` has them."""
    return list(dict.fromkeys(_pattern(url) for url in (cloud.authority, cloud.vault_url)))


def connecting(cloud: Cloud, vault: str, named: Iterable[str]) -> Cloud:
    """Return the cloud as the caller connects to it: Azure's own hosts with the machine's certificates alone."""
    named = list(named)
    ours = [_host(url) for url in (cloud.authority, vault_url(cloud, vault))]
    told = all(host and any(_fits(host, pattern) for pattern in named) for host in ours)
    return cloud if told else msgspec.structs.replace(cloud, ca="")


def _host(url: str) -> str:
    """The host with its port where that is not 443; empty where parsers might disagree."""
    found = _URL.fullmatch(url.lower())
    if not found:
        return ""
    port = found["port"] or _HTTPS
    return found["host"] if port == _HTTPS else f"{found['host']}:{port}"


def _pattern(url: str) -> str:
    """The host of a URL in which {vault} stands for the vault's name."""
    netloc = urlsplit(re.sub(r"[a-z0-9-]*\{vault\}[a-z0-9-]*\.", "*.", url.lower())).netloc
    return netloc.removesuffix(f":{_HTTPS}")


def _fits(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        label, _, rest = host.partition(".")
        return bool(label) and rest == pattern.removeprefix("*.")
    return host == pattern
