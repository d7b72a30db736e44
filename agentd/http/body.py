"""The bytes of a request's body, on their way to whoever wants them.

Reading can fail in four ways, and none of them looks like a fault of the disk:
the client left (`ClientGone`), it sent nothing for too long, or too little (`RequestTimeout`), it sent more than was
allowed (`RequestTooLarge`), or what it sent is no HTTP (`InvalidRequest`). An OSError that comes out of `Body.receive`
was raised by the caller's own ``write``.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from agentd.errors import ClientGone, InvalidRequest, RequestTimeout, RequestTooLarge
from agentd.http import web
from agentd.http.ingest import GONE, Lender, Tap
from agentd.linux.threads import Pool, in_thread

if TYPE_CHECKING:
    from agentd.http.multipart import Form, FormLimits

PIECE = 1 << 20
DISCARD_BYTES = 64 << 20
DISCARD_SECONDS = 10.0

Turn = Callable[[], AbstractAsyncContextManager[object]]


class Pace:
    """Whether a body comes fast enough: ``rate`` bytes a second over each ``window`` seconds of waiting for it.

    A window ends as soon as it has brought enough, and the next begins. Time that we take ourselves does not count.
    """

    def __init__(self, window: float, rate: int) -> None:
        self._window = self.patience = window
        self._enough = max(1, int(window * rate))
        self._brought = 0

    def note(self, brought: int, waited: float) -> None:
        """``brought`` bytes came after ``waited`` seconds. RequestTimeout where `patience` (seconds) is at its end."""
        self._brought += brought
        self.patience -= waited
        if self._brought >= self._enough:
            self._brought, self.patience = 0, self._window
        elif self.patience <= 0:
            raise self.late()

    def late(self) -> RequestTimeout:
        return RequestTimeout(f"less than {self._enough} bytes of the body came in {self._window:g} s")


class Body:
    """A body that has not been read yet.

    length: the declared Content-Length in bytes; None when it is sent in chunks. received: bytes read so far.
    keep_alive: False once the connection cannot serve another request.
    """

    def __init__(self, request: web.BaseRequest, pace: Pace, workers: Pool) -> None:
        self.length = request.content_length if request.content_length is not None or request.body_exists else 0
        self.received = 0
        self.keep_alive = True
        self._request = request
        self._pace = pace
        self._workers = workers
        self._tap: Tap | None = None
        self._more = False
        self._limit = 0
        self._continue = self.length != 0 and request.headers.get("Expect", "").lower() == "100-continue"

    @property
    def awaits_continue(self) -> bool:
        """Whether the client holds its body back until it is asked for it."""
        return self._continue

    async def receive(self, write: Callable[[memoryview], None], limit: int, turn: Turn = nullcontext) -> int:
        """Feeds the bytes in order to ``write``, which blocks and runs in worker threads, one call at a time.

        A piece has at most about 1 MiB and is valid during its call alone. Returns the number of bytes. More than
        ``limit`` bytes raise RequestTooLarge as soon as that is known; pieces may have been written by then. ``write``
        has returned whenever this has ended. ``turn`` is entered whenever bytes are there to be written, for some MiB
        at most, and never while the client is awaited.
        """
        self.open(limit)
        try:
            with self._leaving():
                if self._tap is None:
                    await self._stream(write, limit, turn)
                else:
                    await self._drain(self._tap, write, turn)
        finally:
            self.close()
        return self.received

    def open(self, limit: int) -> None:
        """Begins to take the body in, by `step`, until `close`."""
        self._begin(limit)
        self._limit = limit
        lender = self._request.protocol
        if self.length and isinstance(lender, Lender):
            self._tap = lender.lend(self._request.content, self.length)
            self._more = self._tap is not None and self._tap.begun
        if self._tap is None:
            self._request.content.set_read_chunk_size(PIECE // 2)

    async def step(self, write: Callable[[memoryview], None], turn: Turn = nullcontext) -> bool:
        """Feeds ``write`` as `receive` does, but with the next some MiB at most. Returns whether there were any.

        Where ``write`` raises, the piece that it was given counts as taken, and another step may follow.
        """
        with self._leaving():
            if self._tap is not None:
                return await self._sip(self._tap, write, turn)
            piece = await self._piece(self._limit)
            if piece:
                async with turn():
                    await in_thread(write, memoryview(piece))
            return bool(piece)

    def close(self) -> None:
        """Leaves the rest of the body to the connection."""
        lender = self._request.protocol
        if self._tap is not None and isinstance(lender, Lender):
            lender.give_back(self._request.content, self._tap)
            self._tap = None

    def multipart(self, limits: "FormLimits") -> "Form":
        """The parts of a multipart/form-data body (RFC 7578), in the order in which they come.

        Raises UnsupportedMediaType for another Content-Type, and InvalidRequest for one without a usable boundary.
        """
        from agentd.http.multipart import Form  # most daemons never see a form; it is what imports the parser

        return Form(self, self._request.headers.get("Content-Type", ""), limits)

    async def read(self, limit: int) -> bytes:
        """The whole body, of at most ``limit`` bytes."""
        self._begin(limit)
        pieces = []
        while piece := await self._next(limit):
            pieces.append(piece)
        return b"".join(pieces)

    async def discard(self) -> None:
        """Reads and drops the rest so that the connection can go on; a long or slow rest ends the connection."""
        if self._continue:
            return
        limit = self.received + DISCARD_BYTES
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while await self._next(limit):
                    pass
        except (TimeoutError, RequestTimeout, RequestTooLarge):
            self.keep_alive = False

    def cut(self) -> None:
        """Shuts the connection: whoever is receiving gets ClientGone soon. To be called on the loop's thread."""
        if self._tap is not None:
            self._tap.shut()
        if self._request.transport is not None:
            self._request.transport.abort()

    def _begin(self, limit: int) -> None:
        if self.length is not None and self.length > limit:
            raise RequestTooLarge(f"the body has {self.length} bytes, at most {limit} are taken", limit=limit)
        if self._continue and self._request.transport is not None:
            self._continue = False
            self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """The server cancels a request whose client has left: that is the client's leaving, not a cancellation."""
        try:
            yield
        except asyncio.CancelledError:
            if self._request.transport is not None:
                raise
            if task := asyncio.current_task():
                task.uncancel()
            raise ClientGone(GONE) from None

    async def _drain(self, tap: Tap, write: Callable[[memoryview], None], turn: Turn) -> None:
        while await self._sip(tap, write, turn):
            pass

    async def _sip(self, tap: Tap, write: Callable[[memoryview], None], turn: Turn) -> bool:
        """What is there of the body, or comes next; False where there is none left."""
        assert self.length is not None
        if not (self._more or tap.left):
            return False
        waited, before = 0.0, tap.left
        try:
            if not self._more:
                since = time.monotonic()
                await tap.ready(self._pace.patience)
                waited = time.monotonic() - since
            async with turn():
                self._more = tap.begun or tap.left > 0  # should ``write`` raise
                self._more = await in_thread(tap.drain, write, pool=self._workers) and tap.left > 0
            if tap.left:
                self._pace.note(before - tap.left, waited)
        except RequestTimeout:
            self.keep_alive = False
            raise
        finally:
            self.received = self.length - tap.left
        return True

    async def _stream(self, write: Callable[[memoryview], None], limit: int, turn: Turn) -> None:
        while piece := await self._piece(limit):
            async with turn():
                await in_thread(write, memoryview(piece))

    async def _piece(self, limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while size < PIECE and (chunk := await self._next(limit)):
            chunks.append(chunk)
            size += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _next(self, limit: int) -> bytes:
        if self._request.transport is None:
            raise ClientGone(GONE)
        since = time.monotonic()
        try:
            async with asyncio.timeout(self._pace.patience):
                chunk = await self._request.content.readany()
            if chunk:
                self._pace.note(len(chunk), time.monotonic() - since)
        except TimeoutError:
            self.keep_alive = False
            raise self._pace.late() from None
        except RequestTimeout:
            self.keep_alive = False
            raise
        except ConnectionError:
            raise ClientGone(GONE) from None
        except web.RequestPayloadError:
            self.keep_alive = False
            raise InvalidRequest("the body is not framed as HTTP/1.1 asks (RFC 9112 section 7)") from None
        self.received += len(chunk)
        if self.received > limit:
            self.keep_alive = False
            raise RequestTooLarge(f"the body has more than the {limit} bytes that are taken", limit=limit)
        return chunk
