"""An answer that is sent while it is made.

The next chunk is asked for when the client has taken most of those before. A client that leaves ends the asking at
once, also while nothing is sent: aiohttp cancels the request. A chunk that fails ends the connection by a reset, so
that nobody takes the half for the whole.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from urllib.parse import quote

from aiohttp import hdrs
from aiohttp.http import HttpVersion11
from aiohttp.http_writer import StreamWriter

from agentd.errors import ClientGone, Unavailable
from agentd.http import web
from agentd.http.ending import Ending
from agentd.http.endpoint import StreamResult
from agentd.http.flow import cut, taking
from agentd.http.problem import internal

# Bytes of an answer that are made before the client has taken them: less, and each piece would wait for the one before.
BUFFERED = 256 << 10


class Stream:
    """The answer to ``request`` that ``made`` is. response: to be prepared by the caller before `send`.

    Whatever happens, `close` comes last.
    """

    def __init__(self, request: web.BaseRequest, made: StreamResult, ending: Ending) -> None:
        self._request = request
        self._made = made
        self._ending = ending
        self.response = web.StreamResponse(status=made.status, headers=dict(made.headers))
        self.response.headers["Content-Type"] = made.content_type
        if made.name:
            self.response.headers["Content-Disposition"] = attachment(made.name)
        if request.version < HttpVersion11:
            self.response.force_close()

    async def send(self, stall_timeout: float) -> None:
        """All chunks, after the response has been prepared; none for HEAD.

        Raises what the chunks raise, ClientGone, ConnectionError, RequestTimeout where the client takes nothing, and
        Unavailable where what answers ends before a lasting stream.
        """
        writer, transport = self._request.writer, self._request.transport
        if self._request.method == hdrs.METH_HEAD:
            return
        if transport is None or transport.is_closing():
            raise ClientGone("the client left before its answer")
        transport.set_write_buffer_limits(BUFFERED)
        async with taking(transport, stall_timeout, lambda: writer.output_size):
            await (self._follow() if self._made.lasting else self._forward())
            if writer.length:
                raise RuntimeError(f"a stream ended {writer.length} bytes before the length that it announced")
            await writer.drain()

    async def close(self, failed: bool) -> None:
        """Lets the chunks end what they hold open, also where none was asked for, and resets the connection where
        the answer has begun and ``failed``."""
        try:
            async with self._made.held or AsyncExitStack():
                if isinstance(self._made.chunks, AsyncGenerator):
                    await self._made.chunks.aclose()
        except Exception as error:  # noqa: BLE001 - the answer is over; the log has what is wrong
            internal(error, "the end of a stream")
        if failed and self._request.transport is not None and self._request.writer.output_size:
            cut(self._request.transport)

    async def _follow(self) -> None:
        try:
            async with self._ending.lasting() as scope:
                await self._forward()
        except TimeoutError:
            if not scope.expired():
                raise
            raise Unavailable(f"{self._ending.why}; ask again") from None

    async def _forward(self) -> None:
        if not self._made.filler:
            await self._write_all()
            return
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                filling = group.create_task(self._fill_pauses())
                try:
                    await self._write_all()
                except Exception as error:  # noqa: BLE001 - raised below, as itself and not as a group
                    failure = error
                filling.cancel()
        except asyncio.CancelledError as cancelled:
            cancelled.__traceback__ = None  # leads to the task group's frame, and back from there
            raise
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # whose traceback leads back here

    async def _write_all(self) -> None:
        async for chunk in self._made.chunks:
            await self.response.write(chunk)

    async def _fill_pauses(self) -> None:
        """Never waits for the client: while that takes nothing it needs no filler, and two tasks may not wait at once
        (aiohttp has one future for them, which a cancelled one takes along)."""
        writer = self._request.writer
        assert isinstance(writer, StreamWriter)
        try:
            while True:
                before = writer.output_size
                await asyncio.sleep(self._made.idle_seconds)
                if writer.output_size == before and not self._request.protocol.writing_paused:
                    await writer.write(self._made.filler, drain=False)
        except ConnectionError:
            return  # the client has left, and the request is about to be cancelled


def attachment(name: str) -> str:
    """A Content-Disposition that names a file (RFC 6266, RFC 8187): U+FFFD for each byte that is no UTF-8."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return f"attachment; filename*=UTF-8''{quote(text, safe='')}"
