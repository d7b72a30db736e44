"""What becomes of a body: order, limits, and that nothing about the network looks like a fault of the disk."""

import asyncio
import errno
import threading

import pytest

from agentd.errors import ClientGone
from agentd.http.endpoint import Call, Endpoint
from agentd.linux.threads import in_thread
from tests.unit.http.conftest import OpenDoor

MIB = 1 << 20


class Sink:
    """A row that takes a body, and what it saw."""

    def __init__(self, limit: int = 64 * MIB) -> None:
        self.limit = limit
        self.pieces: list[bytes] = []
        self.failure: BaseException | None = None
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        self.call: Call | None = None
        self.row = Endpoint("PUT", "/sink", "sink", self.put)

    def write(self, piece: memoryview) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.pieces.append(bytes(piece))

    async def put(self, call: Call) -> object:
        self.call = call
        self.begun.set()
        try:
            return {"received": await call.body.receive(self.write, self.limit)}
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.over.set()


async def test_a_body_arrives_in_order_and_in_large_pieces(open_door: OpenDoor) -> None:
    sink = Sink()
    sent = bytes(range(256)) * (20 << 10)
    status, _, body = await (await open_door(sink.row)).ask("PUT /sink", sent)
    assert (status, body) == (200, b'{"received":5242880}')
    assert b"".join(sink.pieces) == sent
    assert len(sink.pieces) < len(sent) // (32 << 10)


async def test_a_chunked_body_has_no_length_and_arrives_whole(open_door: OpenDoor) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row)).connect()
    await peer.send("PUT /sink", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
    assert await peer.json() == {"received": 11}
    assert b"".join(sink.pieces) == b"hello world"
    assert sink.call is not None
    assert sink.call.body.length is None


async def test_the_connection_serves_the_next_request(open_door: OpenDoor) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row)).connect()
    for size in (0, 1, 70_000, 3 * MIB):
        await peer.send("PUT /sink", b"x" * size)
        assert await peer.json() == {"received": size}


async def test_too_long_a_body_is_refused_before_it_is_asked_for(open_door: OpenDoor) -> None:
    sink = Sink(limit=10)
    peer = await (await open_door(sink.row)).connect()
    await peer.send("PUT /sink", b"", "Content-Length: 11", "Expect: 100-continue")
    status, headers, _ = await peer.answer()
    assert (status, headers["connection"], sink.pieces) == (413, "close", [])


async def test_a_chunked_body_is_refused_once_it_is_too_long(open_door: OpenDoor) -> None:
    sink = Sink(limit=10)
    peer = await (await open_door(sink.row)).connect()
    await peer.send("PUT /sink", b"b\r\nhello world\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
    assert (await peer.answer())[0] == 413
    assert sink.pieces == []


async def test_a_body_is_asked_for_only_when_it_is_received(open_door: OpenDoor) -> None:
    release = asyncio.Event()
    sink = Sink()

    async def later(call: Call) -> object:
        await release.wait()
        return await sink.put(call)

    peer = await (await open_door(Endpoint("PUT", "/later", "later", later))).connect()
    await peer.send("PUT /later", b"", "Content-Length: 2", "Expect: 100-continue")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(peer.line(), 0.05)
    release.set()
    assert [await peer.line(), await peer.line()] == ["HTTP/1.1 100 Continue", ""]
    await peer.write(b"hi")
    assert await peer.json() == {"received": 2}


async def test_a_stalled_body_is_408_and_ends_the_connection(open_door: OpenDoor) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row, body_stall_timeout=0.05)).connect()
    await peer.send("PUT /sink", b"half", "Content-Length: 8")
    status, headers, _ = await peer.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert await peer.ended()


async def test_a_slow_body_that_never_stalls_is_taken(open_door: OpenDoor) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row, body_stall_timeout=0.4, body_min_rate=1)).connect()
    await peer.send("PUT /sink", b"", "Content-Length: 6")
    for _ in range(6):
        await asyncio.sleep(0.1)
        await peer.write(b".")
    assert await peer.json() == {"received": 6}


async def test_a_client_that_leaves_is_gone_and_no_disk_fault(open_door: OpenDoor) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row)).connect()
    await peer.send("PUT /sink", b"half", "Content-Length: 8")
    await sink.begun.wait()
    peer.reset()
    await sink.over.wait()
    assert isinstance(sink.failure, ClientGone)


async def test_write_has_returned_when_the_client_is_gone(open_door: OpenDoor) -> None:
    sink, writing, release = Sink(), threading.Event(), threading.Event()

    def slow(piece: memoryview) -> None:
        writing.set()
        release.wait()
        sink.pieces.append(bytes(piece))

    sink.write = slow  # type: ignore[method-assign]
    peer = await (await open_door(sink.row)).connect()
    await peer.send("PUT /sink", b"x" * 2 * MIB, f"Content-Length: {9 * MIB}")
    await in_thread(writing.wait)
    peer.reset()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sink.over.wait(), 0.05)
    release.set()
    await sink.over.wait()
    assert isinstance(sink.failure, ClientGone)
    assert sink.pieces


async def test_a_failing_write_comes_out_as_it_is(open_door: OpenDoor) -> None:
    sink = Sink()
    full = OSError(errno.ENOSPC, "full")

    def write(_: memoryview) -> None:
        raise full

    sink.write = write  # type: ignore[method-assign]
    assert (await (await open_door(sink.row)).ask("PUT /sink", b"x"))[0] == 500
    assert sink.failure is full


async def test_cut_lets_the_receiver_go(open_door: OpenDoor) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row)).connect()
    await peer.send("PUT /sink", b"half", "Content-Length: 8")
    await sink.begun.wait()
    assert sink.call is not None
    sink.call.body.cut()
    await sink.over.wait()
    assert isinstance(sink.failure, ClientGone)
    assert await peer.ended()


async def test_broken_chunks_are_an_invalid_request_at_once(open_door: OpenDoor) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row)).connect()
    await peer.send("PUT /sink", b"5\r\nhello\r\n", "Transfer-Encoding: chunked")
    await sink.begun.wait()
    await peer.write(b"no size\r\n")
    assert (await peer.answer())[0] == 400
    assert await peer.ended()


@pytest.mark.parametrize("discarded", [True, False])
async def test_an_unread_body_does_not_keep_the_answer_from_its_sender(open_door: OpenDoor, discarded: bool) -> None:
    async def put(call: Call) -> object:
        if discarded:
            await call.body.discard()
        return {}

    peer = await (await open_door(Endpoint("PUT", "/no", "no", put))).connect()
    for _ in range(2):
        await peer.send("PUT /no", b"x" * 5 * MIB)
        assert (await peer.answer())[0] == 200


async def test_what_cannot_be_discarded_ends_the_connection(open_door: OpenDoor) -> None:
    async def put(call: Call) -> object:
        await call.body.discard()
        return {}

    peer = await (await open_door(Endpoint("PUT", "/no", "no", put), body_stall_timeout=0.05)).connect()
    await peer.send("PUT /no", b"half", "Content-Length: 8")
    assert (await peer.answer())[1]["connection"] == "close"


async def test_a_long_rest_is_not_discarded_to_its_end(open_door: OpenDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.http.body.DISCARD_BYTES", MIB)
    calls = []

    async def put(call: Call) -> object:
        calls.append(call)
        await call.body.discard()
        return {}

    peer = await (await open_door(Endpoint("PUT", "/no", "no", put))).connect()
    await peer.send("PUT /no", b"x" * 8 * MIB)
    status, headers, _ = await peer.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert calls[0].body.received < 4 * MIB


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_a_client_that_sends_nothing_more_gets_its_answer_and_an_end(open_door: OpenDoor, size: int) -> None:
    async def put(call: Call) -> object:
        received = await call.body.receive(lambda piece: None, 64 * MIB)
        await asyncio.sleep(0.1)
        return {"received": received}

    peer = await (await open_door(Endpoint("PUT", "/slow", "slow", put))).connect()
    await peer.send("PUT /slow", b"x" * size)
    peer.finish()
    assert await peer.json() == {"received": size}
    assert await peer.ended()


async def test_all_requests_that_came_before_the_end_of_a_client_are_answered(open_door: OpenDoor) -> None:
    async def get(_: Call) -> dict[str, int]:
        return {}

    peer = await (await open_door(Endpoint("GET", "/get", "get", get))).connect()
    await peer.write(b"GET /get HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    peer.finish()
    assert (await peer.everything()).count("HTTP/1.1 200") == 3


async def test_a_client_that_sends_nothing_more_is_not_waited_for_without_end(
    open_door: OpenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentd.http.connection.HALF_OPEN_SECONDS", 0.05)
    over = asyncio.Event()

    async def wait(_: Call) -> object:
        try:
            return await asyncio.Event().wait()
        finally:
            over.set()

    peer = await (await open_door(Endpoint("PUT", "/wait", "wait", wait))).connect()
    await peer.send("PUT /wait", b"all of it")
    peer.finish()
    await over.wait()
    assert await peer.ended()
