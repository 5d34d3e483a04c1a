"""Watches of the Kubernetes API, over real HTTP: lines, silence, and room beside them."""

import asyncio

import msgspec

from controller import errors, permissions
from controller.kube import Kube
from tests.unit.api_server import Answer, ApiServer
from tests.unit.kube.calls import PARTIAL, failure, look


async def test_a_line_larger_than_any_buffer_arrives_whole(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    large = msgspec.json.encode({"type": "ADDED", "object": {"spec": "x" * 2**21}})
    small = msgspec.json.encode({"type": "BOOKMARK", "object": {}})
    server.will_answer([large + b"\n" + small + b"\n\n", b"", small[:9], small[9:] + b"\n"])
    lines = [line async for line in api.lines("/", {}, quiet=5)]
    assert lines == [large, small, small]


async def test_a_half_line_at_the_end_is_not_an_event(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer([b'{"type":"ADDED"}\n{"type":"DEL'])
    assert [line async for line in api.lines("/", {}, quiet=5)] == [b'{"type":"ADDED"}']


async def test_a_watch_that_falls_silent_is_given_up(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer(Answer([b'{"type":"ADDED"}\n'], held=True))
    lines = api.lines("/", {}, quiet=0.05)
    assert await anext(lines) == b'{"type":"ADDED"}'
    error = await failure(anext(lines))
    assert isinstance(error, errors.Unreachable)


async def test_a_watch_asks_for_bookmarks_and_an_end(both: tuple[ApiServer, Kube]) -> None:
    server, api = both
    server.will_answer([{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}])
    events = [event async for event in permissions.SECRET_SYNCS.watch(api, "team", "5")]
    assert [event.type for event in events] == ["BOOKMARK"]
    assert server.asked[0].query == {
        "watch": "true",
        "resourceVersion": "5",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "290",
    }


async def test_many_watches_leave_room_for_requests(both: tuple[ApiServer, Kube]) -> None:
    # 40 watched namespaces are 80 watches, and all of them last.
    server, api = both
    server.will_answer(*[Answer([b"{}\n"], held=True) for _ in range(80)])

    async def watch() -> None:
        async for _ in api.lines("/", {}, quiet=60):
            pass

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        watches = [tasks.create_task(watch()) for _ in range(80)]
        await server.idle.wait()
        server.will_answer(PARTIAL)
        await look(api)
        for task in watches:
            task.cancel()
