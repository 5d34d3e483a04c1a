"""Test the system's resolver in daemon threads. FairResolver's tests cover the shares of the namespaces."""

import errno
import os
import resource
import socket
from typing import Any

import pytest

from controller.runtime.threads.resolver import SystemResolver


def find_no_name(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


async def test_addresses_are_those_of_the_system() -> None:
    found = await SystemResolver(1).resolve("localhost", 443)
    assert {(each["hostname"], each["host"], each["port"]) for each in found} == {("localhost", "127.0.0.1", 443)}


async def test_link_local_address_keeps_its_interface() -> None:
    answer = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 443, 0, 2))]
    (found,) = await SystemResolver(1, lambda *_, **__: answer).resolve("pi.local", 443)
    assert found["host"] == "fe80::1%2"


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
async def test_invalid_host_name_is_an_os_error(host: str) -> None:
    with pytest.raises(OSError, match="it is not a host name"):
        await SystemResolver(1).resolve(host, 443)


async def test_unknown_name_is_an_os_error() -> None:
    with pytest.raises(socket.gaierror, match="no such name"):
        await SystemResolver(1, find_no_name).resolve("vault", 443)


async def test_lookup_without_a_free_descriptor_reports_the_limit_of_files() -> None:
    """The system's resolver reports an unknown name if it cannot open /etc/hosts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.dup(0)
    os.close(first_free)
    # With a limit of 0, poll() would also fail in the threads of other tests.
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
    try:
        with pytest.raises(OSError) as failed:  # noqa: PT011 - the number is checked below
            await SystemResolver(1, find_no_name).resolve("no-hosts-file", 443)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert failed.value.errno == errno.EMFILE
