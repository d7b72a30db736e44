"""Bodies that come straight from the socket, beside the same ones that come through aiohttp's stream, on both loops."""

import asyncio
import errno
import hashlib
import os
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentd.errors import ClientGone, RateLimited
from agentd.http.endpoint import Call, Endpoint
from agentd.linux.threads import in_thread
from tests.conftest import UNIT
from tests.unit.http.conftest import Door, OpenDoor, Peer

MIB = 1 << 20
LENGTH, CHUNKED = "length", "chunked"


@pytest.fixture(params=[LENGTH, CHUNKED])
def framing(request: pytest.FixtureRequest) -> object:
    """LENGTH comes from the socket, CHUNKED through the stream; both have to end alike."""
    return request.param


class Sink:
    """A row that takes a body, and what became of it. full: its disk takes no more than so many bytes."""

    def __init__(self, full: int | None = None) -> None:
        self.digest = hashlib.md5()
        self.taken = 0
        self.full = full
        self.direct: set[bool] = set()
        self.failure: BaseException | None = None
        self.over = asyncio.Event()
        self.turns = asyncio.Semaphore(1)
        self.call: Call | None = None
        self.row = Endpoint("PUT", "/sink", "sink", self.put)
        self.other = Endpoint("GET", "/other", "other", self.get)

    def write(self, piece: memoryview) -> None:
        self.direct.add(threading.current_thread().name.startswith("ingest"))
        if self.full is not None and self.taken + len(piece) > self.full:
            raise OSError(errno.ENOSPC, "full")
        self.digest.update(piece)
        self.taken += len(piece)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self.turns:
            yield

    async def put(self, call: Call) -> object:
        self.call, self.digest = call, hashlib.md5()
        try:
            received = await call.body.receive(self.write, 64 * MIB, self.turn)
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.over.set()
        return {"received": received, "md5": self.digest.hexdigest()}

    async def get(self, call: Call) -> object:
        return {"hello": "there"}


def framed(body: bytes, framing: str, declared: int | None = None) -> tuple[bytes, str]:
    """The body as it is sent, and the header that frames it. declared: more is announced than there is."""
    if framing == LENGTH:
        return body, f"Content-Length: {len(body) if declared is None else declared}"
    pieces = [body[start : start + 100_000] for start in range(0, len(body), 100_000)]
    end = b"0\r\n\r\n" if declared is None else b""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + end, "Transfer-Encoding: chunked"


async def begin(peer: Peer, body: bytes, framing: str, declared: int) -> None:
    """Sends the head and the beginning of a body of ``declared`` bytes."""
    sent, header = framed(body, framing, declared)
    await peer.send("PUT /sink", sent, header)


async def check_intact(peer: Peer, body: bytes, framing: str) -> None:
    sent, header = framed(body, framing)
    await peer.send("PUT /sink", sent, header)
    assert await peer.json() == {"received": len(body), "md5": hashlib.md5(body).hexdigest()}


async def until_it_waits(sink: Sink, taken: int) -> None:
    """Until ``taken`` bytes are written and the rest is awaited."""
    async with asyncio.timeout(20 * UNIT):
        while sink.call is None or sink.taken < taken or sink.turns.locked():
            await asyncio.sleep(0.005)


async def test_bodies_of_all_sizes_arrive_intact_on_one_connection(open_door: OpenDoor, framing: str) -> None:
    sink, sizes = Sink(), [0, 1, 100, 65536, 65537, 200_000, 262144, 262145, MIB, 5 * MIB]
    peer = await (await open_door(sink.row, sink.other)).connect()
    chosen = random.Random(1)
    for size in chosen.choices(sizes, k=40):
        await check_intact(peer, chosen.randbytes(size), framing)
        if chosen.random() < 0.3:
            await peer.send("GET /other")
            assert (await peer.answer())[0] == 200
    assert (True in sink.direct) is (framing == LENGTH)


async def test_a_body_in_small_late_pieces_arrives_intact(open_door: OpenDoor, framing: str) -> None:
    sink, body = Sink(), random.Random(2).randbytes(300_000)
    peer = await (await open_door(sink.row)).connect()
    sent, header = framed(body, framing)
    await peer.send("PUT /sink", b"", header)
    for start in range(0, len(sent), 7001):
        await peer.write(sent[start : start + 7001])
        await asyncio.sleep(0.001)
    assert await peer.json() == {"received": len(body), "md5": hashlib.md5(body).hexdigest()}


@pytest.mark.parametrize("size", [10, 100_000, 3 * MIB])
async def test_requests_behind_a_body_are_answered(open_door: OpenDoor, framing: str, size: int) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row, sink.other)).connect()
    sent, header = framed(bytes(size), framing)
    request = f"PUT /sink HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode() + sent
    other = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"
    sending = asyncio.gather(peer.write((request + other) * 3))
    for _ in range(3):
        assert (await peer.json())["received"] == size
        assert await peer.json() == {"hello": "there"}
    await sending


async def test_a_body_that_is_asked_for_leaves_the_connection_usable(open_door: OpenDoor, framing: str) -> None:
    sink, body = Sink(), bytes(2 * MIB)
    peer = await (await open_door(sink.row)).connect()
    for _ in range(3):
        sent, header = framed(body, framing)
        await peer.send("PUT /sink", b"", header, "Expect: 100-continue")
        assert [await peer.line(), await peer.line()] == ["HTTP/1.1 100 Continue", ""]
        await peer.write(sent)
        assert (await peer.json())["received"] == len(body)


@pytest.mark.parametrize("sent", [0, 1, 100_000, 3 * MIB])
@pytest.mark.parametrize("how", ["closed", "reset", "half closed"])
async def test_a_client_that_leaves_is_gone(open_door: OpenDoor, framing: str, sent: int, how: str) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row)).connect()
    await begin(peer, bytes(sent), framing, 9 * MIB)
    await asyncio.sleep(0.01)
    if framing == LENGTH:
        await until_it_waits(sink, sent // 2 if sent > MIB else 0)
    if how == "half closed":
        peer.finish()
    elif how == "reset":
        peer.reset()
    else:
        await peer.close()
    await asyncio.wait_for(sink.over.wait(), 10 * UNIT)
    assert isinstance(sink.failure, ClientGone)


async def test_a_receiver_that_waits_is_cut(open_door: OpenDoor, framing: str) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row)).connect()
    await begin(peer, bytes(MIB), framing, 9 * MIB)
    await until_it_waits(sink, MIB // 2 if framing == LENGTH else 0)
    assert sink.call is not None
    sink.call.body.cut()
    await asyncio.wait_for(sink.over.wait(), 10 * UNIT)
    assert isinstance(sink.failure, ClientGone)
    assert await peer.ended()


async def test_a_receiver_that_writes_is_cut_and_writes_no_more(open_door: OpenDoor, framing: str) -> None:
    sink, writing, release, pieces = Sink(), threading.Event(), threading.Event(), list[int]()

    def slow(piece: memoryview) -> None:
        pieces.append(len(piece))
        if sum(pieces) > MIB // 2:
            writing.set()
            release.wait()

    sink.write = slow  # type: ignore[method-assign]
    peer = await (await open_door(sink.row)).connect()
    await begin(peer, bytes(3 * MIB), framing, 9 * MIB)
    await in_thread(writing.wait)
    assert sink.call is not None
    sink.call.body.cut()
    await asyncio.sleep(0.02)
    assert not sink.over.is_set()
    count = len(pieces)
    release.set()
    await asyncio.wait_for(sink.over.wait(), 10 * UNIT)
    assert (type(sink.failure), len(pieces)) == (ClientGone, count)


@pytest.mark.parametrize("sent", [0, 10, MIB])
async def test_a_stalled_body_is_408_and_ends_the_connection(open_door: OpenDoor, framing: str, sent: int) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row, body_stall_timeout=0.1, body_min_rate=1)).connect()
    await begin(peer, bytes(sent), framing, 2 * MIB)
    status, headers, _ = await peer.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert await peer.ended()


async def drip(peer: Peer, sent: bytes) -> None:
    """About 2500 bytes a second."""
    for start in range(0, len(sent), 50):
        await peer.write(sent[start : start + 50])
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("rate", "status"), [(10_000, 408), (10, 200)])
async def test_a_body_slower_than_the_minimum_rate_is_408(
    open_door: OpenDoor, framing: str, rate: int, status: int
) -> None:
    sink = Sink()
    peer = await (await open_door(sink.row, body_stall_timeout=0.3, body_min_rate=rate)).connect()
    sent, header = framed(bytes(3000), framing)
    await peer.send("PUT /sink", b"", header)
    dripping = asyncio.gather(drip(peer, sent), return_exceptions=True)
    assert (await peer.answer())[0] == status
    await dripping


async def test_a_failed_write_is_answered_and_the_next_request_served(open_door: OpenDoor, framing: str) -> None:
    sink = Sink(full=MIB)
    peer = await (await open_door(sink.row)).connect()
    sent, header = framed(bytes(3 * MIB), framing)
    await peer.send("PUT /sink", sent, header)
    assert (await peer.answer())[0] == 500
    sink.full = None
    await check_intact(peer, bytes(2 * MIB), framing)


async def test_a_turn_that_is_refused_is_answered_and_the_next_request_served(
    open_door: OpenDoor, framing: str
) -> None:
    sink, turn = Sink(), Sink.turn

    @asynccontextmanager
    async def refuse() -> AsyncIterator[None]:
        raise RateLimited("not now", retry_after=1)
        yield

    peer = await (await open_door(sink.row)).connect()
    sink.turn = refuse  # type: ignore[method-assign]
    sent, header = framed(bytes(3 * MIB), framing)
    await peer.send("PUT /sink", sent, header)
    assert (await peer.answer())[0] == 429
    sink.turn = turn.__get__(sink)  # type: ignore[method-assign]
    await check_intact(peer, bytes(2 * MIB), framing)


async def test_clients_that_bring_nothing_keep_neither_turn_nor_thread(open_door: OpenDoor, framing: str) -> None:
    sink = Sink()
    door = await open_door(sink.row, receivers=1)
    for _ in range(20):
        await begin(await door.connect(), bytes(1000), framing, MIB)
    peer = await door.connect()
    async with asyncio.timeout(10 * UNIT):
        await check_alone(peer, framing)
    assert not sink.turns.locked()


async def check_alone(peer: Peer, framing: str) -> None:
    """As `check_intact`, where others write to the same sink."""
    sent, header = framed(bytes(2 * MIB), framing)
    await peer.send("PUT /sink", sent, header)
    assert (await peer.json())["received"] == 2 * MIB


async def test_fast_clients_share_one_thread(open_door: OpenDoor) -> None:
    sink = Sink()
    door = await open_door(sink.row, receivers=1)

    async def send() -> object:
        peer = await door.connect()
        sending = asyncio.gather(peer.send("PUT /sink", bytes(20 * MIB)))
        answer = await peer.json()
        await sending
        return answer["received"]

    assert await asyncio.gather(send(), send(), send()) == [20 * MIB] * 3


async def test_a_drain_ends_receivers_that_wait(open_door: OpenDoor, framing: str) -> None:
    sink = Sink()
    door = await open_door(sink.row)
    await begin(await door.connect(), bytes(MIB), framing, 2 * MIB)
    await until_it_waits(sink, MIB // 2 if framing == LENGTH else 0)
    assert await door.server.drain(0, 0.05) is False
    assert sink.over.is_set()


async def test_neither_fds_nor_threads_are_left(open_door: OpenDoor, framing: str) -> None:
    sink = Sink()
    door = await open_door(sink.row)
    await leave_and_stay(door, framing)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await leave_and_stay(door, framing)
    assert len(os.listdir("/proc/self/fd")) == before
    await door.server.drain(0, 1)
    async with asyncio.timeout(10 * UNIT):
        while any(thread.name.startswith("ingest") for thread in threading.enumerate()):
            await asyncio.sleep(0.005)


async def leave_and_stay(door: Door, framing: str) -> None:
    """One client that goes in the middle of its body, and one that sends all of it."""
    gone, good = await door.connect(), await door.connect()
    await begin(gone, bytes(MIB), framing, 2 * MIB)
    await check_alone(good, framing)
    gone.reset()
    await good.close()
    await gone.close()
    async with asyncio.timeout(10 * UNIT):
        while "agentd_connections 0" not in door.metrics.render():
            await asyncio.sleep(0.005)
