"""The bytes of a request's body, on their way to whoever wants them.

Reading can fail in four ways, and none of them looks like a fault of the disk:
the client left (`ClientGone`), it sent nothing for too long (`RequestTimeout`), it sent more than was allowed
(`RequestTooLarge`), or what it sent is no HTTP (`InvalidRequest`). An OSError that comes out of `Body.receive` was
raised by the caller's own ``write``.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from agentd.errors import ClientGone, InvalidRequest, RequestTimeout, RequestTooLarge
from agentd.linux.threads import in_thread

PIECE = 1 << 20
DISCARD_BYTES = 64 << 20
DISCARD_SECONDS = 10.0


class Body:
    """A body that has not been read yet.

    length: the declared Content-Length in bytes; None when it is sent in chunks. received: bytes read so far.
    keep_alive: False once the connection cannot serve another request.
    """

    def __init__(self, request: web.BaseRequest, stall_timeout: float) -> None:
        self.length = request.content_length if request.content_length is not None or request.body_exists else 0
        self.received = 0
        self.keep_alive = True
        self._request = request
        self._stall_timeout = stall_timeout
        self._continue = self.length != 0 and request.headers.get("Expect", "").lower() == "100-continue"

    @property
    def awaits_continue(self) -> bool:
        """Whether the client holds its body back until it is asked for it."""
        return self._continue

    async def receive(self, write: Callable[[memoryview], None], limit: int) -> int:
        """Feeds the bytes in order to ``write``, which blocks and runs in a worker thread, one call at a time.

        A piece has about 1 MiB. Returns the number of bytes. More than ``limit`` bytes raise RequestTooLarge as soon
        as that is known; pieces may have been written by then. ``write`` has returned whenever this has ended.
        """
        self._begin(limit)
        self._request.content.set_read_chunk_size(PIECE // 2)
        try:
            while piece := await self._piece(limit):
                await in_thread(write, memoryview(piece))
        except asyncio.CancelledError:
            if self._request.transport is not None:
                raise
            # The server cancels a request whose client has left: that is the client's leaving, not a cancellation.
            if task := asyncio.current_task():
                task.uncancel()
            raise ClientGone("the client left before the end of its request body") from None
        return self.received

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
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while await self._next(self.received + DISCARD_BYTES):
                    pass
        except (TimeoutError, RequestTimeout, RequestTooLarge):
            self.keep_alive = False

    def cut(self) -> None:
        """Shuts the connection: whoever is receiving gets ClientGone soon. To be called on the loop's thread."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def _begin(self, limit: int) -> None:
        if self.length is not None and self.length > limit:
            raise RequestTooLarge(f"the body has {self.length} bytes, at most {limit} are taken", limit=limit)
        if self._continue and self._request.transport is not None:
            self._continue = False
            self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _piece(self, limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while size < PIECE and (chunk := await self._next(limit)):
            chunks.append(chunk)
            size += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _next(self, limit: int) -> bytes:
        if self._request.transport is None:
            raise ClientGone("the client left before the end of its request body")
        try:
            async with asyncio.timeout(self._stall_timeout):
                chunk = await self._request.content.readany()
        except TimeoutError:
            self.keep_alive = False
            raise RequestTimeout(f"no byte of the body came for {self._stall_timeout:g} s") from None
        except ConnectionError:
            raise ClientGone("the client left before the end of its request body") from None
        except web.RequestPayloadError:
            self.keep_alive = False
            raise InvalidRequest("the body is not framed as HTTP/1.1 asks (RFC 9112 section 7)") from None
        self.received += len(chunk)
        if self.received > limit:
            self.keep_alive = False
            raise RequestTooLarge(f"the body has more than the {limit} bytes that are taken", limit=limit)
        return chunk
