"""Test the program that repeats the writes of a first sync, and the count of these writes."""

import asyncio

import pytest

from tests.bench.bound import BoundError, Request, receive_answer
from tests.bench.meter import SyncWrites, Write

CREATE = Request("POST", "/api/v1/namespaces/a/secrets", "application/json", "application/json", {"kind": "ä"}, 201)


def read_answers(*answers: bytes) -> None:
    async def read_all() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(answers))
        reader.feed_eof()
        for _ in answers:
            await receive_answer(reader, CREATE)
        assert await reader.read() == b""

    asyncio.run(read_all())


def test_answers_are_read_to_their_end() -> None:
    plain = b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\n{ }"
    chunked = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{ \r\n1\r\n}\r\n0\r\n\r\n"
    read_answers(plain, chunked, plain)


def test_refused_write_is_not_counted() -> None:
    with pytest.raises(BoundError, match="403"):
        read_answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")


def test_length_of_a_request_is_its_number_of_bytes() -> None:
    head, _, body = CREATE.encode("host", "Bearer x").partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert head.startswith(b"POST /api/v1/namespaces/a/secrets?fieldManager=")


def test_writes_of_a_first_sync_are_counted_by_kind() -> None:
    writes = [
        Write(0.0, "create", "secrets", "a", 201),
        Write(0.0, "patch", "secrets", "b", 404),
        Write(0.0, "create", "secrets", "b", 201),
        *(Write(0.0, "patch", "secretsyncs/status", name, 200) for name in ("a", "b", "b")),
        Write(0.0, "create", "events", "a.1", 201),
    ]
    counted = SyncWrites(creates=2, empty_patches=1, status_patches=3, repeated_status_patches=1, events=1)
    assert SyncWrites.of(writes) == counted
