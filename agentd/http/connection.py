"""One connection: what aiohttp leaves open about it.

aiohttp bounds single headers and idle time. Added here: all headers of a request together and the time they take, a
limit on connections, errors in our shape for what is no HTTP, and an end to a body whose framing breaks off.
Everything in the package that leans on private parts of aiohttp stands in this module and in `ingest`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web_protocol
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from agentd.errors import AgentError, HeaderTooLarge, InvalidRequest, RequestTimeout
from agentd.http import web
from agentd.http.flow import cut
from agentd.http.ingest import Lender
from agentd.http.problem import internal

HALF_OPEN_SECONDS = 2.0  # in which a client that sends nothing more gets its answer
READ_AHEAD = 4 << 10  # bytes of a body read before anybody asks for it: what is left in the socket is the worker's

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%s"
)
BUSY_BODY = (
    b'{"status":503,"code":"unavailable","title":"Unavailable","detail":"too many connections","retryable":true}'
)


class Connection(Lender):
    """aiohttp's protocol object, with bounds on headers. heard: how often bytes have come in."""

    __slots__ = ("_body", "_head_bytes", "_site", "_timer", "heard")

    _manager: "Connections | None"

    def __init__(self, manager: "Connections", **settings: object) -> None:
        super().__init__(manager, **settings)
        self._site = manager
        self.heard = 0
        self._head_bytes = 0
        self._body: StreamReader | None = None  # of the newest request
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Between two requests, or before the first is complete."""
        return self._waiter is not None and not self._waiter.done() and not self._force_close

    @property
    def idle_since(self) -> float:
        return self._next_keepalive_close_time

    def no_lingering(self) -> None:
        """The rest of the body is not awaited after the answer: nobody sends it."""
        self._lingering_time = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._site.admit():
            super().connection_made(transport)
            return
        self._force_close = True
        transport = cast(asyncio.Transport, transport)  # uvloop's only look like it
        transport.write(BUSY % (len(BUSY_BODY), BUSY_BODY))
        transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end_of_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.heard += 1
        in_head = self.idle or self._request_count == 0
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]
        if not in_head:
            self._end_broken_body()
        elif self._messages:
            self._end_of_head()
        elif data:
            self._head_bytes += len(data)
            if self._head_bytes > self._site.header_bytes:
                self._refuse(HeaderTooLarge(f"the request's headers have more than {self._site.header_bytes} bytes"))
            elif self._timer is None:
                late = RequestTimeout(f"the request's headers took longer than {self._site.header_timeout:g} s")
                self._timer = self._loop.call_later(self._site.header_timeout, self._refuse, late)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open. A client may send nothing more and still listen (RFC 9112 section 9.6): it
        gets what it has asked for. As one that has left looks the same, that must not take long."""
        if self.idle or self._upgraded or self._body is None or not self._body.is_eof():
            return False
        if self._timer is None:
            if not self._messages:
                self.close()  # after the answer
            self._timer = self._loop.call_later(HALF_OPEN_SECONDS, self._end_half_open)
        return True

    def _end_half_open(self) -> None:
        if self.idle:
            self.force_close()
        elif self.transport is not None:
            cut(self.transport)  # a close would wait for a client that takes nothing

    def _end_of_head(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: AgentError) -> None:
        self._messages.append((web_protocol._ErrInfo(error.status, error, error.detail), EMPTY_PAYLOAD))
        if self.idle and self._waiter is not None:
            self._waiter.set_result(None)
        self._close = True  # aiohttp drops what else comes in

    def _end_broken_body(self) -> None:
        """aiohttp queues bad framing as the next message, and leaves the reader of the body waiting for more."""
        request = self._current_request
        if request is None or not self._messages or request.content.is_eof():
            return
        if isinstance(self._messages[-1][0], web_protocol._ErrInfo):
            request.content.set_exception(web.RequestPayloadError("broken framing"))

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is no HTTP; the caller's bytes are neither logged nor sent back."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        error: AgentError
        if isinstance(exc, AgentError):
            error = exc
        elif isinstance(exc, LineTooLong):
            error = HeaderTooLarge(f"the request line or a header has more than {self.max_field_size} bytes")
        elif isinstance(exc, HttpProcessingError):
            error = InvalidRequest("this is no valid HTTP/1.1 request")
        else:
            error = internal(exc or RuntimeError(f"aiohttp answers {status}"), "the HTTP protocol")
        response = self._site.refused(error)
        response.force_close()
        self.no_lingering()
        return response


class Connections(web.Server):
    """All connections of a server. refused(error): makes and records the answer to what is no HTTP request."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        refused: Callable[[AgentError], web.Response],
        limit: int,
        header_bytes: int,
        header_timeout: float,
        keepalive_timeout: float,
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=keepalive_timeout,
            read_bufsize=READ_AHEAD,
            max_line_size=header_bytes,
            max_field_size=header_bytes,
        )
        self.refused = refused
        self.limit = limit
        self.header_bytes = header_bytes
        self.header_timeout = header_timeout

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)

    def idle(self) -> list[Connection]:
        """The connections without a request, longest idle first."""
        connections = (one for one in self.connections if isinstance(one, Connection) and one.idle)
        return sorted(connections, key=lambda one: one.idle_since)

    def admit(self) -> bool:
        """Whether a new connection may stay. At the limit, the one that is idle longest makes room."""
        if len(self._connections) < self.limit:
            return True
        idle = self.idle()
        if idle:
            idle[0].force_close()
        return bool(idle)
