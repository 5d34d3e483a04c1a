"""Apply a fault: send another answer than the client requested, or none."""

import asyncio
import contextlib

from aiohttp import web

from tools.keyvault_emulator.faults import Fault


async def break_off(request: web.Request, fault: Fault) -> web.StreamResponse:
    """Answer, or end the connection, as the fault says."""
    text = fault.content()
    transport = request.transport
    if fault.kind == "answer":
        return web.Response(
            body=text, status=fault.status, headers={"Content-Type": "application/json", **fault.headers}
        )
    if fault.kind == "garbage":
        return web.Response(body=b'{"value": "\xff\xfe<html>', content_type="application/json")
    if fault.kind == "hang":
        await asyncio.sleep(fault.seconds)
    if fault.kind in ("drop", "hang"):
        if transport is not None:
            transport.abort()
        return web.Response(status=500)
    response = web.StreamResponse(status=fault.status if fault.kind == "drip" else 200, headers=fault.headers)
    response.content_type = "application/json"
    response.content_length = fault.size + 13 if fault.kind == "huge" else max(len(text), 2)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # the client can give up first, as tests want
        if fault.kind == "huge":
            await response.write(b'{"value": "')
            for sent in range(0, fault.size, 1 << 16):
                await response.write(b"x" * min(1 << 16, fault.size - sent))
            await response.write(b'"}')
        elif fault.kind == "reset":
            await response.write(text[: len(text) // 2])
            if transport is not None:
                transport.abort()
        else:
            for byte in text:
                await asyncio.sleep(fault.seconds)
                await response.write(bytes([byte]))
    return response
