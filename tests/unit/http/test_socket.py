"""WebSockets: the door before them, what their handlers see, and how they end."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, ClientWSTimeout, WSMsgType, WSServerHandshakeError
from msgspec import Struct

from agentd.errors import Conflict, NoSpace
from agentd.http import socket as sockets
from agentd.http.endpoint import Call, Endpoint
from agentd.http.socket import FRAME_BYTES, Socket, SocketClosed
from tests.conftest import UNIT

from .conftest import Door, OpenDoor, until

Handler = Callable[[Call, Socket], Awaitable[None]]
Connect = Callable[..., Awaitable[ClientWebSocketResponse]]


class Params(Struct):
    n: int = 0


def row(handler: Handler, **shape: Any) -> Endpoint:
    return Endpoint("GET", "/ws", "ws", handler, params=Params, socket=True, **shape)


async def echo(_: Call, socket: Socket) -> None:
    while True:
        await socket.send(await socket.receive())


class Life:
    """A handler that waits, and what became of it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.end: BaseException | None = None

    async def handler(self, call: Call, socket: Socket) -> None:
        self.begun.set()
        try:
            await self.wait(call, socket)
        except BaseException as error:
            self.end = error
            raise
        finally:
            self.ended.set()

    async def wait(self, call: Call, socket: Socket) -> None:
        await asyncio.Event().wait()

    async def over(self) -> BaseException | None:
        async with asyncio.timeout(10 * UNIT):
            await self.ended.wait()
        return self.end


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    opened: list[ClientWebSocketResponse] = []
    async with ClientSession() as session:

        async def connected(door: Door, path: str = "/ws", **shape: Any) -> ClientWebSocketResponse:
            defaults = {"max_msg_size": 0, "timeout": ClientWSTimeout(ws_close=0.2 * UNIT)}
            opened.append(await session.ws_connect(f"http://127.0.0.1:{door.port}{path}", **{**defaults, **shape}))
            return opened[-1]

        yield connected
        for client in opened:
            await client.close()


@pytest.mark.parametrize("compress", [0, 15])
async def test_text_and_bytes_go_both_ways(open_door: OpenDoor, connect: Connect, compress: int) -> None:
    client = await connect(await open_door(row(echo)), compress=compress)
    assert bool(client.compress) == bool(compress)
    for text in ("", "h\u00e9", "x" * 500_000):
        await client.send_str(text)
        assert await client.receive_str() == text
    await client.send_bytes(bytes(range(256)) * 4000)
    assert await client.receive_bytes() == bytes(range(256)) * 4000


async def test_the_return_of_the_handler_closes_and_is_one_line_in_the_log(
    open_door: OpenDoor, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def once(_: Call, socket: Socket) -> None:
        await socket.send(await socket.receive())

    caplog.set_level("INFO", "agentd.access")
    door = await open_door(row(once))
    client = await connect(door, headers={"X-Request-Id": "r-1"})
    await client.send_str("four")
    assert [(await client.receive()).type for _ in range(2)] == [WSMsgType.TEXT, WSMsgType.CLOSE]
    assert client.close_code == 1000
    await until(lambda: "request" in caplog.messages)  # the loop may have complained of a slow callback before
    line = vars(caplog.records[caplog.messages.index("request")])["fields"]
    assert [line[key] for key in ("endpoint", "status", "code", "bytes_in", "bytes_out")] == ["ws", 101, "", 4, 4]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/ws?n=x", {}, 400), ("/nowhere", {}, 404), ("/ws", {"Sec-WebSocket-Version": "12"}, 426)],
)
async def test_before_the_upgrade_a_failure_is_an_answer(
    open_door: OpenDoor, connect: Connect, path: str, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        await connect(await open_door(row(echo)), path, headers=headers)
    assert refused.value.status == status
    assert refused.value.headers is not None
    assert refused.value.headers["Content-Type"] == "application/problem+json"


async def test_a_plain_get_is_told_to_upgrade_unless_it_has_a_row_of_its_own(
    open_door: OpenDoor, connect: Connect
) -> None:
    async def plain(_: Call) -> object:
        return 7

    status, headers, _ = await (await open_door(row(echo))).ask("GET /ws")
    assert (status, headers["upgrade"], headers["sec-websocket-version"]) == (426, "websocket", "13")
    both = await open_door(row(echo), Endpoint("GET", "/ws", "plain", plain))
    assert (await both.ask("GET /ws"))[::2] == (200, b"7")
    await (await connect(both)).send_str("x")
    assert (await both.ask("PUT /ws"))[1]["allow"] == "GET"


@pytest.mark.parametrize(
    ("error", "reason"), [(NoSpace("full"), "insufficient_storage"), (KeyError("secret"), "internal_error")]
)
async def test_a_failure_after_the_upgrade_is_a_close_code(
    open_door: OpenDoor, connect: Connect, error: Exception, reason: str
) -> None:
    async def fail(_: Call, socket: Socket) -> None:
        raise error

    door = await open_door(row(fail))
    message = await (await connect(door)).receive()
    assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 1011, reason)
    await until(lambda: f'code="{reason}"' in door.metrics.render())


async def test_a_failure_in_a_task_of_the_handler_is_the_same_failure(open_door: OpenDoor, connect: Connect) -> None:
    async def fail() -> None:
        raise Conflict("no")

    async def both(_: Call, socket: Socket) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(socket.receive())
            group.create_task(fail())

    message = await (await connect(await open_door(row(both)))).receive()
    assert (message.data, message.extra) == (1011, "conflict")


async def test_what_was_sent_before_the_close_is_received_before_its_code(
    open_door: OpenDoor, connect: Connect
) -> None:
    class Late(Life):
        async def wait(self, call: Call, socket: Socket) -> None:
            await asyncio.sleep(0.2 * UNIT)
            assert [await socket.receive() for _ in range(3)] == ["0", "1", "2"]
            await socket.receive()

    life = Late()
    client = await connect(await open_door(row(life.handler)))
    for n in range(3):
        await client.send_str(str(n))
    await client.close(code=4001)
    end = await life.over()
    assert isinstance(end, SocketClosed)
    assert end.code == 4001


async def test_a_handler_that_does_not_look_is_cancelled_after_a_close(open_door: OpenDoor, connect: Connect) -> None:
    life = Life()
    door = await open_door(row(life.handler))
    client = await connect(door, timeout=ClientWSTimeout(ws_close=10 * UNIT))
    await client.close()
    assert client.close_code == 1000
    assert isinstance(await life.over(), asyncio.CancelledError)
    await until(lambda: "agentd_requests_active 0\n" in door.metrics.render())


async def test_a_handler_whose_client_vanishes_is_cancelled(open_door: OpenDoor, connect: Connect) -> None:
    life = Life()
    door = await open_door(row(life.handler))
    client = await connect(door)
    await life.begun.wait()
    client._writer.transport.abort()
    assert isinstance(await life.over(), asyncio.CancelledError)
    await until(lambda: 'code="client_gone"' in door.metrics.render())


async def test_a_busy_handler_does_not_keep_pings_unanswered(open_door: OpenDoor, connect: Connect) -> None:
    life = Life()
    client = await connect(await open_door(row(life.handler)), autoping=False)
    await client.ping(b"7")
    message = await client.receive(timeout=10 * UNIT)
    assert (message.type, message.data) == (WSMsgType.PONG, b"7")


@pytest.mark.parametrize(("answers", "alive"), [(True, True), (False, False)])
async def test_a_client_that_answers_no_ping_is_gone(
    open_door: OpenDoor, connect: Connect, monkeypatch: pytest.MonkeyPatch, answers: bool, alive: bool
) -> None:
    monkeypatch.setattr(sockets, "PING_SECONDS", 0.2 * UNIT)
    life = Life()
    client = await connect(await open_door(row(life.handler)), autoping=False)
    pings = 0
    while pings < 6 and (await client.receive(timeout=10 * UNIT)).type is WSMsgType.PING:
        pings += 1
        if answers:
            await client.pong()
    assert (pings, life.ended.is_set()) == ((6, False) if alive else (2, True))


async def test_a_message_too_long_closes_with_1009(open_door: OpenDoor, connect: Connect) -> None:
    door = await open_door(row(echo, longest_message=1000))
    client = await connect(door, compress=15)
    await client.send_bytes(bytes(1000))
    assert len(await client.receive_bytes()) == 1000
    await client.send_bytes(bytes(2000))
    assert (await client.receive()).data == 1009
    await until(lambda: "agentd_requests_active 0\n" in door.metrics.render())


async def test_no_message_is_longer_than_clients_take(open_door: OpenDoor, connect: Connect) -> None:
    async def long(_: Call, socket: Socket) -> None:
        await socket.send("x" * FRAME_BYTES)
        with pytest.raises(ValueError, match="at most"):
            await socket.send("\u00e9" * (FRAME_BYTES // 2 + 1))

    client = await connect(await open_door(row(long)), max_msg_size=1 << 20)
    assert len(await client.receive_str()) == FRAME_BYTES
    await client.receive()
    assert client.close_code == 1000


async def test_what_a_handler_does_not_receive_waits_with_the_client(open_door: OpenDoor, connect: Connect) -> None:
    life = Life()
    client = await connect(await open_door(row(life.handler)), compress=0)
    sent = 0
    with suppress(TimeoutError):
        while sent < 200:
            async with asyncio.timeout(0.5 * UNIT):
                await client.send_bytes(bytes(1 << 19))
            sent += 1
    assert 1 < sent < 200


async def test_a_slow_reader_makes_the_sender_wait_and_one_that_takes_nothing_is_let_go(
    open_door: OpenDoor, connect: Connect
) -> None:
    class Flood(Life):
        sent = 0

        async def wait(self, call: Call, socket: Socket) -> None:
            for self.sent in range(1000):
                await socket.send(bytes(1 << 19))

    life = Flood()
    door = await open_door(row(life.handler), body_stall_timeout=0.5 * UNIT)
    client = await connect(door, compress=0)
    for _ in range(4):
        assert len(await client.receive_bytes()) == 1 << 19
        await asyncio.sleep(0.2 * UNIT)
    await life.over()
    assert life.sent < 500
    await until(lambda: 'code="request_timeout"' in door.metrics.render())


async def test_a_drain_closes_sockets_and_is_not_held_up(open_door: OpenDoor, connect: Connect) -> None:
    life = Life()
    door = await open_door(row(life.handler))
    client = await connect(door)
    async with asyncio.TaskGroup() as group:
        draining = group.create_task(door.server.drain(0, 60 * UNIT))
        message = await client.receive(timeout=10 * UNIT)
    assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
    assert draining.result()


async def test_a_handler_that_is_still_cleaning_up_after_its_client_does_not_break_a_drain(
    open_door: OpenDoor, connect: Connect
) -> None:
    class Slow(Life):
        cleaning = asyncio.Event()

        async def wait(self, call: Call, socket: Socket) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.cleaning.set()
                await asyncio.sleep(0.5 * UNIT)

    life = Slow()
    door = await open_door(row(life.handler))
    client = await connect(door, timeout=ClientWSTimeout(ws_close=10 * UNIT))
    async with asyncio.TaskGroup() as group:
        group.create_task(client.close())
        await life.cleaning.wait()
        assert await door.server.drain(0, 60 * UNIT)
    assert life.ended.is_set()


async def test_a_handler_has_the_last_word_at_a_drain(open_door: OpenDoor, connect: Connect) -> None:
    async def handler(_: Call, socket: Socket) -> None:
        socket.farewell = 1012
        await socket.ending.begun.wait()
        await socket.send("until later")
        await asyncio.Event().wait()

    door = await open_door(row(handler))
    client = await connect(door)
    async with asyncio.TaskGroup() as group:
        group.create_task(door.server.drain(0, 60 * UNIT))
        assert await client.receive_str(timeout=10 * UNIT) == "until later"
        assert (await client.receive(timeout=10 * UNIT)).data == 1012


async def test_a_handler_may_close_with_a_code_of_its_own(open_door: OpenDoor, connect: Connect) -> None:
    async def handler(_: Call, socket: Socket) -> None:
        await socket.close(4004, "\u00e9" * 100)
        with pytest.raises(SocketClosed):
            await socket.send("x")

    message = await (await connect(await open_door(row(handler)))).receive()
    assert (message.data, message.extra) == (4004, "\u00e9" * 61)


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("failure", [None, Conflict])
async def test_what_a_handler_has_held_goes_with_its_socket(
    open_door: OpenDoor, connect: Connect, failure: type[Exception] | None
) -> None:
    held: list[weakref.ref[Life]] = []

    async def handler(_: Call, socket: Socket) -> None:
        life = Life()
        held.append(weakref.ref(life))
        async with asyncio.TaskGroup() as group:
            group.create_task(life.wait(_, socket))
            await socket.receive()
            if failure is not None:
                raise failure("no")

    client = await connect(await open_door(row(handler)))
    await (client.close() if failure is None else client.send_str("x"))
    await until(lambda: held[0]() is None)
