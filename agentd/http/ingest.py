"""A body's bytes, taken from the socket where they lie: by a worker thread, past the loop and past aiohttp.

::

    loop    lend: aiohttp stops reading -> wait until bytes are there -> take a turn ----> ... -> give_back: it goes on
    worker                                                         recv_into, write, until nothing comes

A worker never waits for a client: it takes what is there, and goes on for as long as more is there almost at once. So
a slow client costs a watched socket and no thread. Where the socket knows a low-water mark (socket(7), SO_RCVLOWAT;
not AF_UNIX), it is not even reported before a good piece has come.

What leans on private parts of aiohttp is in `Lender`.
"""

import asyncio
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from aiohttp import web_protocol
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import StreamReader

from agentd.errors import ClientGone
from agentd.http import web

BUFFER = 512 << 10  # bytes; stays in a core's cache between recv, hash and write
WINDOW = 256 << 10  # bytes that a client may send ahead, at least
BURST = 8 << 20  # bytes after which a worker is somebody else's
BRISK = 64 << 10  # bytes after which a worker waits a moment for more
MOMENT = 4  # milliseconds
HEAD = 16 << 10  # bytes that are read at once while a request's head is awaited

GONE = "the client left before the end of its request body"

_of_thread = threading.local()
_inlet = memoryview(bytearray(WINDOW))  # filled and emptied in one go by the loop, for all its connections


class Tap:
    """A socket of which the next ``left`` bytes are ours. Used by the loop and one worker in turn, never by both."""

    def __init__(self, opened: socket.socket, head: list[bytes], left: int) -> None:
        self.left = left
        self._socket = opened
        self._head = head
        self._shut = False
        self._mark = 0 if opened.family == socket.AF_UNIX else 1
        if self._mark and left > WINDOW:
            self._set_mark(WINDOW)  # the kernel makes room for as much, tcp(7), and keeps it when the mark sinks again
        self._poll = select.poll()
        self._poll.register(opened, select.POLLIN)

    @property
    def begun(self) -> bool:
        """Whether bytes were read before there was a tap; `drain` begins with them."""
        return bool(self._head)

    async def ready(self, seconds: float) -> None:
        """Returns when there is something to drain, and after ``seconds`` at the latest."""
        loop = asyncio.get_running_loop()
        readable = loop.create_future()

        def wake() -> None:
            if not readable.done():
                readable.set_result(None)

        self._raise_mark()
        loop.add_reader(self._socket.fileno(), wake)
        try:
            await asyncio.wait([readable], timeout=seconds)
        finally:
            loop.remove_reader(self._socket.fileno())

    def drain(self, write: Callable[[memoryview], None]) -> bool:
        """Feeds ``write`` with what is there, and with what comes meanwhile. Blocks. A piece is valid during its call.

        Returns whether there may be more by now: True after `BURST` bytes, False where the client is slower than we.
        Raises ClientGone, and what ``write`` raises.
        """
        while self._head:
            write(memoryview(self._head.pop(0)))
        taken = 0
        buffer = _buffer()
        while self.left and taken < BURST:
            if self._shut:
                raise ClientGone(GONE)
            try:
                got = self._socket.recv_into(buffer, min(self.left, BUFFER))
            except BlockingIOError:
                if taken < BRISK or not self._more():
                    return False
                continue
            except OSError:
                raise ClientGone(GONE) from None
            if not got:
                raise ClientGone(GONE)
            self.left -= got
            taken += got
            write(buffer[:got])
        return True

    def shut(self) -> None:
        """Ends a `drain` that runs, and the connection. On the loop."""
        self._shut = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """To be called when no `drain` runs."""
        if self._mark > 1:
            self._set_mark(1)
        self._socket.close()

    def _more(self) -> bool:
        self._raise_mark()
        return bool(self._poll.poll(MOMENT))

    def _raise_mark(self) -> None:
        """Few large pieces instead of many small ones; a quarter of the receive buffer leaves the sender its window."""
        if self._mark:
            room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 4
            mark = max(1, min(self.left, BUFFER, room))
            if mark != self._mark:
                self._set_mark(mark)

    def _set_mark(self, mark: int) -> None:
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
            self._mark = mark


class Inlet(asyncio.BufferedProtocol):
    """Between a transport and its protocol object: brings bytes in by way of buffers that are there already, and not
    much with a request's head, for what comes behind it is better left in the socket."""

    def __init__(self, lender: "Lender") -> None:
        self._lender = lender
        self.connection_lost = lender.connection_lost  # type: ignore[method-assign]
        self.eof_received = lender.eof_received  # type: ignore[method-assign]
        self.pause_writing = lender.pause_writing  # type: ignore[method-assign]
        self.resume_writing = lender.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return _inlet if self._lender.in_request else _inlet[:HEAD]

    def buffer_updated(self, nbytes: int) -> None:
        self._lender.data_received(bytes(_inlet[:nbytes]))


class Lender(web.RequestHandler):
    """aiohttp's protocol object, which lends its socket for the rest of a body and takes it back."""

    __slots__ = ("_content", "_rest")

    def __init__(self, site: web.Server, **settings: object) -> None:
        super().__init__(site, **settings)  # type: ignore[arg-type]
        self._rest = 0
        self._content: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).set_protocol(Inlet(self))

    @property
    def in_request(self) -> bool:
        return self._current_request is not None

    def lend(self, content: StreamReader, length: int) -> Tap | None:
        """The socket, for what is missing of a body of ``length`` bytes; until `give_back` nothing is read here.

        None: all is there already, or it does not come as it is (TLS, another protocol, no fd left).
        """
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None or self._upgraded:
            return None
        if content.is_eof() or content.exception() is not None or content.total_bytes >= length:
            return None
        try:
            opened = socket.fromfd(transport.get_extra_info("socket").fileno(), -1, -1)
        except (AttributeError, OSError):
            return None
        opened.setblocking(False)
        head = []
        while content._size:  # reading resumes aiohttp's own reading, so that is stopped afterwards
            head.append(content.read_nowait(-1))
        self._pause_reading_for_buffer()
        return Tap(opened, head, length - content.total_bytes)

    def give_back(self, content: StreamReader, tap: Tap) -> None:
        """Goes on reading behind what the tap has taken: the rest of the body, then the next request."""
        tap.close()
        if self.transport is None:
            return
        self._content, self._rest = content, tap.left
        if not self._rest:
            self._end_of_body()
        self._resume_reading_for_buffer()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._feed(data)
            if not data:
                return
        super().data_received(data)

    def _feed(self, data: bytes) -> bytes:
        """The parser has lost count of this body, so its rest is counted here. Returns what comes behind it."""
        assert self._content is not None
        piece = data[: self._rest]
        self._rest -= len(piece)
        self._content.feed_data(piece)
        if not self._rest:
            self._end_of_body()
        return data[len(piece) :]

    def _end_of_body(self) -> None:
        assert self._content is not None
        self._parser = HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=web_protocol.MAX_MSG_QUEUE_SIZE,
        )
        self._content.feed_eof()
        self._content = None


def _buffer() -> memoryview:
    """The calling thread's own."""
    found: memoryview | None = getattr(_of_thread, "buffer", None)
    if found is None:
        found = _of_thread.buffer = memoryview(bytearray(BUFFER))
    return found
