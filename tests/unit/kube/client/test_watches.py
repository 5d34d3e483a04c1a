"""Test watches of the Kubernetes API over real HTTP: lines, timeouts, and connections for other requests."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from controller import errors
from controller.kube import permissions
from controller.kube.client import KubeClient
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse
from tests.unit.kube.client.calls import PARTIAL, catch_error, probe_secret


async def test_line_that_is_larger_than_the_buffer_is_read_whole(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
) -> None:
    server, api = server_and_client
    large = msgspec.json.encode({"type": "ADDED", "object": {"spec": "x" * 2**21}})
    small = msgspec.json.encode({"type": "BOOKMARK", "object": {}})
    server.add_responses([large + b"\n" + small + b"\n\n", b"", small[:9], small[9:] + b"\n"])
    lines = [line async for line in api.watch_lines("/", {}, quiet=5)]
    assert lines == [large, small, small]


async def test_incomplete_line_at_the_end_is_not_an_event(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
) -> None:
    server, api = server_and_client
    server.add_responses([b'{"type":"ADDED"}\n{"type":"DEL'])
    assert [line async for line in api.watch_lines("/", {}, quiet=5)] == [b'{"type":"ADDED"}']


async def test_silent_watch_is_ended(server_and_client: tuple[ScriptedApiServer, KubeClient]) -> None:
    server, api = server_and_client
    server.add_responses(ScriptedResponse([b'{"type":"ADDED"}\n'], held=True))
    lines = api.watch_lines("/", {}, quiet=0.05)
    assert await anext(lines) == b'{"type":"ADDED"}'
    error = await catch_error(anext(lines))
    assert isinstance(error, errors.Unreachable)


def keepalive_seconds(port: int) -> list[float]:
    """Return the seconds until the kernel's next probe of each connection to this port (man 5 proc, net/tcp)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    timers = [row[5].split(":") for row in rows if row[2].endswith(f":{port:04X}")]
    return [int(moment, 16) / 100 for kind, moment in timers if kind == "02"]


async def test_silent_api_server_of_a_watch_is_probed_within_half_a_minute(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
) -> None:
    """A node that loses power closes no connection. Otherwise the watch would notice that after five minutes."""
    server, api = server_and_client
    server.add_responses(ScriptedResponse([b"{}\n"], held=True))
    lines = api.watch_lines("/", {}, quiet=60)
    assert await anext(lines) == b"{}"
    [seconds] = keepalive_seconds(urlsplit(server.url).port or 0)
    assert 25 < seconds <= 30


async def test_watch_requests_bookmarks_and_a_timeout(server_and_client: tuple[ScriptedApiServer, KubeClient]) -> None:
    server, api = server_and_client
    server.add_responses([{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}])
    events = [event async for event in permissions.SECRET_SYNCS.watch(api, "team", "5")]
    assert [event.type for event in events] == ["BOOKMARK"]
    assert server.requests[0].query == {
        "watch": "true",
        "resourceVersion": "5",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "290",
    }


async def test_many_watches_leave_connections_for_requests(
    server_and_client: tuple[ScriptedApiServer, KubeClient],
) -> None:
    # 40 watched namespaces need 80 watches, and all of them stay open.
    server, api = server_and_client
    server.add_responses(*[ScriptedResponse([b"{}\n"], held=True) for _ in range(80)])

    async def watch() -> None:
        async for _ in api.watch_lines("/", {}, quiet=60):
            pass

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        watches = [tasks.create_task(watch()) for _ in range(80)]
        await server.idle.wait()
        server.add_responses(PARTIAL)
        await probe_secret(api)
        for task in watches:
            task.cancel()
