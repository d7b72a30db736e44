"""A WebSocket (RFC 6455) as its handler sees it: messages in, messages out, and an end that is always noticed.

    loop of the connection -> pump (answers pings) -> bounded queue -> receive()     handler     send() -> transport
                                                                                  heart: a ping every 15 s

What comes in is taken off the connection beside the handler, so a busy handler does not make the client's pings go
unanswered; once 1 MiB waits, the client has to wait too. `Socket.send` waits for a slow client, and gives up on one
that takes nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp.http import WSMsgType
from aiohttp.log import ws_logger

from agentd.errors import AgentError, ClientGone, RequestTimeout, UpgradeRequired
from agentd.http import web
from agentd.http.connection import Connection
from agentd.http.ending import Ending, end_soon
from agentd.http.flow import cut, taking, untaken
from agentd.http.problem import internal

PING_SECONDS = 15.0
MISSED_PONGS = 2
CLOSE_SECONDS = 2.0  # for the client's part of the closing handshake
QUEUE_BYTES = 1 << 20  # of messages that the handler has not received yet
MESSAGE_COST = 256  # bytes that a message takes in the queue, however short it is
FRAME_BYTES = (1 << 20) - 1  # the longest message that a client has to take: common ones close with 1009 above it

NORMAL, GOING_AWAY, NO_CODE, ABNORMAL, INTERNAL = 1000, 1001, 1005, 1006, 1011  # RFC 6455 section 7.4.1

ws_logger.setLevel(logging.ERROR)  # it would log the subprotocols that a client offers, and some send a token as one


class SocketClosed(Exception):
    """The client has closed the socket, or is gone. code: RFC 6455 section 7.4; 1005 for none, 1006 without a goodbye.

    A handler may let it pass: that is a normal end.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Socket:
    """One socket, from the end of the handshake on. The handler's return closes it.

    ending: of the server, or of the sandbox that is asked; the handler has a second for its last words then. farewell:
    the code that the socket is closed with after those; a client may take 1001 for a good end. received, sent: bytes of
    messages.
    """

    def __init__(
        self, request: web.BaseRequest, response: web.WebSocketResponse, stall_timeout: float, ending: Ending
    ) -> None:
        assert isinstance(request.protocol, Connection)
        if request.transport is None:
            raise ClientGone("the client left before its socket was open")
        self.ending = ending
        self.farewell = GOING_AWAY
        self.received = 0
        self.sent = 0
        self._writer = request.writer
        self._response = response
        self._connection = request.protocol
        self._transport = request.transport
        self._stall_timeout = stall_timeout
        self._messages: deque[str | bytes] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._sending = asyncio.Lock()
        self._owed: bytes | None = None
        self._closed: int | None = None
        self._pump: asyncio.Task[None] | None = None
        self._scope: asyncio.Timeout | None = None

    async def receive(self) -> str | bytes:
        """The next message: str for text, bytes for binary. One caller at a time.

        Raises SocketClosed once all that came before the end has been received.
        """
        while not self._messages:
            if self._closed is not None:
                raise SocketClosed(self._closed)
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self._waiting -= len(message) + MESSAGE_COST
        if self._waiting < QUEUE_BYTES:
            self._room.set()
        return message

    async def send(self, message: str | bytes) -> None:
        """Sends a message of at most `FRAME_BYTES` bytes; more raise ValueError. Any number of callers, in order.

        Returns when the client has taken most of it. Raises SocketClosed where it is gone, and RequestTimeout where
        it takes nothing for the stall timeout.
        """
        kind = WSMsgType.TEXT if isinstance(message, str) else WSMsgType.BINARY
        content = message.encode(errors="replace") if isinstance(message, str) else message
        if len(content) > FRAME_BYTES:
            raise ValueError(f"a message of {len(content)} bytes; clients take at most {FRAME_BYTES}")
        async with self._sending:
            if self._closed is not None:
                raise SocketClosed(self._closed)
            try:
                await self._response.send_frame(content, kind)
                self.sent += len(content)
                if self._connection.writing_paused:
                    async with taking(self._transport, self._stall_timeout, lambda: 0):
                        await self._writer.drain()
                await self._answer_ping()
            except ConnectionError:
                raise SocketClosed(ABNORMAL) from None

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Closes the socket; nothing can be sent or received afterwards. reason: at most 123 bytes, the rest is cut."""
        if self._closed is None:
            self._end(code)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        try:
            # What the client has not taken yet cannot be waited for again.
            async with asyncio.timeout(2 * CLOSE_SECONDS):
                text = reason.encode()[:123].decode(errors="ignore").encode()
                await self._response.close(code=code, message=text)
        except TimeoutError:
            self._transport.abort()
        if self._transport.get_write_buffer_size():
            self._transport.abort()

    def abandon(self) -> None:
        """Ends the connection without a goodbye, which nobody would take."""
        cut(self._transport)

    async def run(self, handler: Callable[[], Awaitable[object]]) -> bool:
        """The handler's life, with the pump and the heart beside it. Whether `ending` has ended it.

        Raises what the handler raises, but for SocketClosed: alone or in a group of its tasks.
        """
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            self._pump = group.create_task(self._take_in())
            heart = group.create_task(self._beat())
            try:
                await self._handle(handler)
            except SocketClosed:
                pass
            except ExceptionGroup as errors:
                failure = _first(errors.split(SocketClosed)[1])
                errors.__traceback__ = None  # leads by way of the task group back to it, and to all that it has held
            except Exception as error:  # noqa: BLE001 - raised below, as itself and not as a group
                failure = error
            self._pump.cancel()
            heart.cancel()
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # whose traceback leads back here
        return self._closed is None and self._scope is not None and self._scope.expired()

    async def _handle(self, handler: Callable[[], Awaitable[object]]) -> None:
        try:
            async with self.ending.lasting() as self._scope:
                await handler()
        except TimeoutError:
            assert self._scope is not None
            if not self._scope.expired():
                raise

    def _end(self, code: int) -> None:
        self._closed = code
        self._arrived.set()

    def _lost(self, code: int) -> None:
        """What is queued can still be received; a handler that does not look gets a second."""
        self._end(code)
        if self._scope is not None:
            end_soon(self._scope)

    async def _take_in(self) -> None:
        while self._closed is None:
            message = await self._response.receive()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await self._queue(message.data)
            elif message.type is WSMsgType.PING:
                self._owed = message.data
                with suppress(ConnectionError):
                    await self._answer_ping()
            elif message.type is WSMsgType.CLOSE:
                self._lost(message.data or NO_CODE)
            elif message.type is not WSMsgType.PONG:
                self._lost(self._response.close_code or ABNORMAL)

    async def _queue(self, message: str | bytes) -> None:
        self.received += len(message)
        self._messages.append(message)
        self._waiting += len(message) + MESSAGE_COST
        self._arrived.set()
        if self._waiting >= QUEUE_BYTES:
            self._room.clear()
            await self._room.wait()

    async def _answer_ping(self) -> None:
        """Only the last one needs an answer (RFC 6455 section 5.5.3), which waits while the client takes nothing."""
        if self._owed is not None and not self._connection.writing_paused:
            owed, self._owed = self._owed, None
            await self._response.pong(owed)

    async def _beat(self) -> None:
        """A client that answers neither of two pings is gone, unless it is we who do not listen, or it still takes
        what was sent before them."""
        unanswered = 0
        while self._closed is None:
            heard, left = self._connection.heard, untaken(self._transport)
            await asyncio.sleep(PING_SECONDS)
            if self._connection.heard != heard or self._waiting >= QUEUE_BYTES or untaken(self._transport) < left:
                unanswered = 0
            if unanswered == MISSED_PONGS:
                self._transport.abort()
                return
            unanswered += 1
            with suppress(ConnectionError):
                await self._response.ping()
                await self._answer_ping()


def handshake(request: web.BaseRequest, longest: int) -> web.WebSocketResponse:
    """What the client asks for, to be prepared. longest: bytes of a message that is taken; above it 1009 closes."""
    # aiohttp's own heartbeat and waiting are off: the one takes a queue that is full for a client that is gone, the
    # other has no end.
    response = web.WebSocketResponse(
        timeout=CLOSE_SECONDS, autoclose=False, autoping=False, max_msg_size=longest + 1, writer_limit=1 << 62
    )
    if not response.can_prepare(request):
        raise UpgradeRequired("this path speaks WebSocket, version 13 (RFC 6455)")
    return response


async def converse(
    socket: Socket, handler: Callable[[], Awaitable[object]], describe: Callable[[AgentError], tuple[int, str]]
) -> AgentError | None:
    """Runs a handler and closes its socket, whatever becomes of it. Returns its failure.

    describe: the code and the reason that tell the client of a failure.
    """
    failure: AgentError | None = None
    code, reason = NORMAL, ""
    try:
        if await socket.run(handler):
            code, reason = socket.farewell, socket.ending.why
    except RequestTimeout as error:
        socket.abandon()
        return error
    except AgentError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - what nobody foresaw is told like the rest
        failure = internal(error, "a socket")
    if failure is not None and not isinstance(failure, ClientGone):
        code, reason = describe(failure)
    try:
        await socket.close(code, reason)
        return failure
    finally:
        del failure  # whose traceback leads back here


def _first(errors: ExceptionGroup[Exception] | None) -> Exception | None:
    """One of the failures that several tasks of a handler ended with."""
    if errors is None:
        return None
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner
