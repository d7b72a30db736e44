"""Answers sent while they are made: what the client sees, and that whoever makes them learns of its leaving."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from agentd.errors import NoSpace
from agentd.http.endpoint import Call, Endpoint, StreamResult
from tests.conftest import UNIT

from .conftest import Door, OpenDoor, Peer, until

STALL = 0.6 * UNIT
BLOCK = bytes(1 << 16)


class Source:
    """Chunks on demand: those of ``given``, then nothing until ``more`` is set, then ``error`` or the end."""

    def __init__(self, *given: bytes, error: Exception | None = None, **shape: Any) -> None:
        self.given = given
        self.error = error
        self.shape = shape
        self.more = asyncio.Event()
        self.closed = asyncio.Event()
        self.asked = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for one in self.given:
                self.asked += 1
                yield one
            await self.more.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()

    async def handler(self, call: Call) -> StreamResult:
        return StreamResult(self.chunks(), "text/x", **self.shape)

    @property
    def rows(self) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(method, "/s", method, self.handler) for method in ("GET", "HEAD"))


async def begun(door: Door, head: str = "GET /s", *headers: str) -> tuple[asyncio.StreamReader, Peer, str]:
    """A reader behind the headers of the answer, its connection, and the headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port, limit=1 << 20)
    door.peers.append(Peer(reader, writer))
    await door.peers[-1].send(head, b"", *headers)
    return reader, door.peers[-1], (await reader.readuntil(b"\r\n\r\n")).decode().lower()


async def test_a_chunk_is_there_before_the_next_is_made(open_door: OpenDoor) -> None:
    source = Source(b"one", b"two", status=201, headers={"X-More": "7"}, name="a\u00e9.tar")
    reader, _, headers = await begun(await open_door(*source.rows), "GET /s", "Connection: close")
    assert headers.startswith("http/1.1 201")
    for line in ("content-type: text/x", "x-more: 7", "disposition: attachment; filename*=utf-8''a%c3%a9.tar"):
        assert line in headers
    assert await reader.readexactly(16) == b"3\r\none\r\n3\r\ntwo\r\n"
    source.more.set()
    assert await reader.read() == b"0\r\n\r\n"
    assert source.closed.is_set()


async def test_the_connection_serves_the_next_request_afterwards(open_door: OpenDoor) -> None:
    source = Source(b"x")
    source.more.set()
    reader, peer, _ = await begun(await open_door(*source.rows))
    await reader.readuntil(b"0\r\n\r\n")
    await peer.send("GET /s")
    assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"1\r\nx\r\n0\r\n\r\n")


async def test_head_has_the_headers_and_makes_nothing(open_door: OpenDoor) -> None:
    source = Source(b"x")
    reader, _, headers = await begun(await open_door(*source.rows), "HEAD /s", "Connection: close")
    assert "text/x" in headers
    assert await reader.read() == b""
    assert source.asked == 0


@pytest.mark.parametrize("leave", [Peer.reset, Peer.finish])
async def test_a_client_that_leaves_an_idle_stream_ends_it(open_door: OpenDoor, leave: Callable[[Peer], None]) -> None:
    source = Source(b"x")
    door = await open_door(*source.rows)
    reader, peer, _ = await begun(door)
    await reader.readexactly(6)
    leave(peer)
    async with asyncio.timeout(10 * UNIT):
        await source.closed.wait()
    await until(lambda: 'code="client_gone"' in door.metrics.render())


@pytest.mark.parametrize("error", [NoSpace("full"), KeyError("secret")])
async def test_a_failure_in_the_middle_resets_the_connection(open_door: OpenDoor, error: Exception) -> None:
    source = Source(b"x", error=error)
    door = await open_door(*source.rows)
    for version in ("1.1", "1.0"):
        reader, _, _ = await begun(door, f"GET /s HTTP/{version}\r\nX-Ignored:")
        source.more.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert ('code="insufficient_storage"' in door.metrics.render()) is isinstance(error, NoSpace)


async def test_fewer_bytes_than_announced_reset_the_connection(open_door: OpenDoor) -> None:
    source = Source(b"x", headers={"Content-Length": "2"})
    source.more.set()
    reader, _, headers = await begun(await open_door(*source.rows))
    assert "content-length: 2" in headers
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_before_http_1_1_the_end_of_the_connection_is_the_end(open_door: OpenDoor) -> None:
    source = Source(b"x")
    source.more.set()
    reader, _, _ = await begun(await open_door(*source.rows), "GET /s HTTP/1.0\r\nConnection: keep-alive\r\nX-Ignored:")
    assert await reader.read() == b"x"


async def test_no_more_is_made_than_the_client_takes(open_door: OpenDoor) -> None:
    source = Source(*[BLOCK] * 2000)
    await begun(await open_door(*source.rows))
    before = -1
    while source.asked != before:
        before = source.asked
        await asyncio.sleep(0.3 * UNIT)
    assert 0 < source.asked < 1000


async def test_a_client_that_takes_nothing_is_let_go(open_door: OpenDoor) -> None:
    source = Source(*[BLOCK] * 2000)
    door = await open_door(*source.rows, body_stall_timeout=STALL)
    await begun(door)
    async with asyncio.timeout(20 * UNIT):
        await source.closed.wait()
    await until(lambda: 'code="request_timeout"' in door.metrics.render())


async def test_a_slow_client_and_a_slow_stream_are_not_let_go(open_door: OpenDoor) -> None:
    source = Source(*[BLOCK] * 400)
    door = await open_door(*source.rows, body_stall_timeout=STALL)
    reader, _, _ = await begun(door)
    for _ in range(5):
        await reader.readexactly(1 << 20)
        await asyncio.sleep(STALL / 2)
    for _ in range(20):
        await reader.readexactly(1 << 20)
    await asyncio.sleep(3 * STALL)
    source.more.set()
    assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


async def test_what_is_idle_sends_its_filler_and_nothing_else_does(open_door: OpenDoor) -> None:
    source = Source(b"x", filler=b":\n\n", idle_seconds=0.1 * UNIT)
    reader, _, _ = await begun(await open_door(*source.rows))
    assert await reader.readexactly(22) == b"1\r\nx\r\n" + 2 * b"3\r\n:\n\n\r\n"
    source.more.set()
    assert (await reader.readuntil(b"0\r\n\r\n")).replace(b"3\r\n:\n\n\r\n", b"") == b"0\r\n\r\n"


async def test_a_failure_beside_a_filler_is_itself(open_door: OpenDoor) -> None:
    source = Source(b"x", error=NoSpace("full"), filler=b"\n")
    door = await open_door(*source.rows)
    reader, _, _ = await begun(door)
    source.more.set()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert 'code="insufficient_storage"' in door.metrics.render()


async def test_what_lasts_does_not_hold_up_a_drain(open_door: OpenDoor) -> None:
    source = Source(b"x", lasting=True, filler=b"\n")
    door = await open_door(*source.rows)
    reader, _, _ = await begun(door)
    async with asyncio.timeout(10 * UNIT):
        assert await door.server.drain(0, 60)
    assert source.closed.is_set()
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_what_is_held_for_a_stream_is_closed_though_nothing_of_it_was_asked_for(open_door: OpenDoor) -> None:
    held = AsyncExitStack()
    source, closed = Source(b"x", held=held), asyncio.Event()
    held.callback(closed.set)
    door = await open_door(*source.rows)
    assert (await door.ask("HEAD /s"))[0] == 200
    assert (source.asked, closed.is_set()) == (0, True)


async def test_what_is_held_for_a_stream_is_closed_after_it(open_door: OpenDoor) -> None:
    held = AsyncExitStack()
    source = Source(b"x", held=held)
    order: list[bool] = []
    held.callback(lambda: order.append(source.closed.is_set()))
    door = await open_door(*source.rows)
    _, peer, _ = await begun(door)
    peer.reset()
    await until(lambda: order == [True])


async def test_what_does_not_last_is_finished_during_a_drain(open_door: OpenDoor) -> None:
    source = Source(b"x")
    door = await open_door(*source.rows)
    reader, _, _ = await begun(door)
    async with asyncio.TaskGroup() as group:
        draining = group.create_task(door.server.drain(0, 30 * UNIT))
        await asyncio.sleep(0.2 * UNIT)
        source.more.set()
        assert (await reader.read()).endswith(b"0\r\n\r\n")
    assert draining.result()


async def test_a_stream_that_listens_says_its_last_words(open_door: OpenDoor) -> None:
    async def chunks(call: Call) -> AsyncIterator[bytes]:
        yield b"x"
        await call.ending.begun.wait()
        yield b"cursor 1"

    async def handler(call: Call) -> StreamResult:
        return StreamResult(chunks(call), lasting=True)

    door = await open_door(Endpoint("GET", "/s", "s", handler))
    reader, _, _ = await begun(door)
    assert await door.server.drain(0, 60)
    assert (await reader.read()).endswith(b"cursor 1\r\n0\r\n\r\n")
