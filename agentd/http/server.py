"""The door: every request comes in here, and every answer and failure goes out here.

    health or preflight? -> request id -> route -> token or signed URL -> path, query and JSON to Structs -> handler
    -> answer -> log and metrics

A handler whose client leaves is cancelled. What is left of a body after the answer is read and dropped for at most
10 s, so that a client that is still sending gets to see its answer.
"""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from uuid import uuid4

import msgspec

from agentd.errors import (
    AgentError,
    ClientGone,
    HeaderTooLarge,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    RequestTimeout,
    Unavailable,
    UnsupportedMediaType,
)
from agentd.http import codec, web
from agentd.http.access import Access
from agentd.http.body import Body, Pace
from agentd.http.connection import Connection, Connections
from agentd.http.download import Download
from agentd.http.ending import Ending
from agentd.http.endpoint import SOCKET, Call, Dialect, FileResult, Stand, StreamResult, TextResult
from agentd.http.flow import taking
from agentd.http.health import Health
from agentd.http.origin import Origins
from agentd.http.problem import SERVER, internal, respond
from agentd.http.router import Place, Route, Router
from agentd.http.signing import Grant
from agentd.http.socket import Socket, converse, handshake
from agentd.http.stream import Stream
from agentd.linux.threads import Pool
from agentd.telemetry import Metrics, fields, request_id

BACKLOG = 1024
CANCEL_SECONDS = 5.0
LAST_SECONDS = 1.0
LARGE = 256 << 10  # bytes of an answer that the sockets may not hold
GONE_STATUS = 499
JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json *(;|(?![\s\S]))", re.IGNORECASE)
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}(?![\s\S])")

_log = logging.getLogger("agentd.access")


class Limits(msgspec.Struct, frozen=True):
    """Sizes in bytes, times in seconds.

    keepalive_timeout: how long a connection may be idle. body_stall_timeout: how long a body may bring nothing, a
    client may take nothing of a file, and the headers of a request may take. body_min_rate: bytes per second that a
    body brings at least, over each body_stall_timeout.
    """

    header_bytes: int = 16384
    json_bytes: int = 1 << 20
    connections: int = 1024
    keepalive_timeout: float = 75.0
    body_stall_timeout: float = 30.0
    body_min_rate: int = 1024


class Exchange(msgspec.Struct):
    """One request and what became of it. dialect, mount: in charge of its errors; None where the path leads nowhere.
    ending: of what answers.
    refused_with: the status of the answer that told of its failure."""

    request: web.BaseRequest
    request_id: str
    place: Place
    query: str
    body: Body
    dialect: Dialect | None
    mount: str
    ending: Ending
    route: Route | None = None
    error: AgentError | None = None
    response: web.StreamResponse | None = None
    socket: Socket | None = None
    refused_with: int = 0

    @property
    def endpoint(self) -> str:
        return self.route.endpoint.name if self.route else ""


class Server:
    """Serves dialects on any number of listening sockets, from `start` to `drain`.

    writable(): blocks; whether the workspace takes writes, for ``/readyz``. receivers: threads that take bodies in.
    """

    def __init__(
        self,
        dialects: Sequence[Dialect] = (),
        *,
        access: Access,
        writable: Callable[[], bool],
        metrics: Metrics,
        limits: Limits,
        origins: Origins | None = None,
        receivers: int = 16,
    ) -> None:
        self.take(dialects)
        self._access = access
        self._origins = origins or Origins()
        self._health = Health(lambda: self._draining, writable)
        self._limits = limits
        self._receivers = Pool("ingest", receivers)
        self._listeners: list[asyncio.Server] = []
        self._active: set[asyncio.Task[object]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._draining = False
        self._ending = Ending()
        self._connections = Connections(
            self._handle,
            refused=self._refused,
            limit=limits.connections,
            header_bytes=limits.header_bytes,
            header_timeout=limits.body_stall_timeout,
            keepalive_timeout=limits.keepalive_timeout,
        )
        self._seconds = metrics.histogram(
            "agentd_request_seconds", "Time to the end of the answer", "dialect", "endpoint"
        )
        self._errors = metrics.counter("agentd_errors_total", "Failed requests by error code", "dialect", "code")
        self._received = metrics.counter("agentd_body_bytes_received_total", "Bytes of request bodies read")
        self._sent = metrics.counter("agentd_bytes_sent_total", "Bytes of answers sent, headers included")
        metrics.gauge("agentd_requests_active", "Requests being answered", lambda: len(self._active))
        metrics.gauge("agentd_connections", "Open connections", lambda: len(self._connections.connections))

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accepts requests on bound stream sockets, which it owns from here on. OSError where it cannot."""
        loop = asyncio.get_running_loop()
        for one in sockets:
            one.listen(BACKLOG)  # uvloop only logs that it cannot
            make = loop.create_unix_server if one.family == socket.AF_UNIX else loop.create_server
            self._listeners.append(await make(self._connections, sock=one, backlog=BACKLOG))

    def take(self, dialects: Sequence[Dialect], *, waiting: bool = False) -> None:
        """Serves these from now on, in place of the others. waiting: what is not there may come yet."""
        self._router = Router(tuple(dialects))
        self._waiting = waiting

    @property
    def serving(self) -> bool:
        return bool(self._listeners)

    async def drain(self, notice: float, timeout: float) -> bool:
        """Says on ``/readyz`` that it ends, accepts requests for ``notice`` seconds more, closes listeners and idle
        connections, ends what would last, waits at most ``timeout`` seconds for the requests that run, and cancels
        them then.

        Returns whether all ended by themselves.
        """
        self._draining = True
        await asyncio.sleep(notice)
        for listener in self._listeners:
            listener.close()
        self._ending.begin("draining", "the daemon ends")
        self._close_idle()
        try:
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        except TimeoutError:
            late = set(self._active)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=CANCEL_SECONDS)
            return not late
        finally:
            self._close_idle()
            await self._connections.shutdown(LAST_SECONDS)
            self._receivers.executor.shutdown(wait=False)
        return True

    def _close_idle(self) -> None:
        for connection in self._connections.idle():
            connection.force_close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, query = _target(request)
        if (answer := await self._health.answer(request.method, path)) is not None:
            if "Origin" in request.headers:
                answer.headers["Access-Control-Allow-Origin"] = "*"
            return answer
        if request.method == "OPTIONS" and "Origin" in request.headers:
            return web.Response(headers={"Server": SERVER, **self._origins.preflight(request.headers)})
        ident = _request_id(request)
        place = self._router.find(path)
        body = Body(request, Pace(self._limits.body_stall_timeout, self._limits.body_min_rate), self._receivers)
        exchange = Exchange(request, ident, place, query, body, place.dialect, place.mount, self._ending)
        started = time.perf_counter()
        task = asyncio.current_task()
        assert task is not None
        self._active.add(task)
        self._quiet.clear()
        try:
            return await self._answer(exchange)
        finally:
            self._active.discard(task)
            if not self._active:
                self._quiet.set()
            self._record(exchange, time.perf_counter() - started)
            exchange.error = None  # whose traceback leads back here, by way of all that the request has held

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        """The answer, sent. Every failure ends here and becomes an answer; only a cancellation goes on."""
        result: object = None
        stream: Stream | None = None
        try:
            result = await self._result(exchange)
            if isinstance(result, web.WebSocketResponse):
                return result
            if isinstance(result, FileResult):
                download = Download(exchange.request, result)
                return await self._send(exchange, download.response, download)
            if isinstance(result, StreamResult):
                stream = Stream(exchange.request, result, exchange.ending)
                return await self._send(exchange, stream.response, stream)
            return await self._send(exchange, _response(result, exchange.route))
        except AgentError as error:
            exchange.error = error
        except asyncio.CancelledError:
            exchange.error = Unavailable("draining") if self._draining else ClientGone("the client left")
            raise
        except Exception as error:  # noqa: BLE001 - the one place where what nobody foresaw becomes an answer
            exchange.error = internal(error, exchange.endpoint or "the server")
        finally:
            if isinstance(result, FileResult):
                os.close(result.fd)
            if stream is not None:
                await stream.close(failed=exchange.error is not None)
        if exchange.request.writer.output_size == 0 and not isinstance(exchange.error, ClientGone):
            asked = exchange.request.method, _target(exchange.request)[0]
            failure = respond(exchange.error, exchange.request_id, exchange.dialect, exchange.mount, asked)
            exchange.refused_with = failure.status
            try:
                return await self._send(exchange, failure)
            except ClientGone as error:
                exchange.error = error
        exchange.body.cut()
        return web.Response(status=GONE_STATUS)

    async def _result(self, exchange: Exchange) -> object:
        """What the handler gives, after everything that can be refused before it."""
        request, place, body = exchange.request, exchange.place, exchange.body
        if sum(len(name) + len(value) for name, value in request.raw_headers) > self._limits.header_bytes:
            raise HeaderTooLarge(f"the request's headers have more than {self._limits.header_bytes} bytes")
        route = place.route(request.method, request.headers.get("Upgrade", ""))
        grant = self._admit(exchange, route)
        if not place.routes and self._waiting:
            raise Unavailable("this daemon waits for POST /v1/init, which makes it a sandbox's; repeat after that")
        if not place.routes:
            raise NotFound("there is nothing at this path")
        if route is None:
            raise MethodNotAllowed("this path takes other methods", allow=place.methods)
        exchange.route, exchange.dialect, exchange.mount = route, route.dialect, route.mount
        row = route.endpoint
        params = data = None
        values = dict(zip(route.names, place.values, strict=True))
        if route.dialect.admit is not None:
            route.dialect.admit(values)
        stand = Stand(row.handler, self._ending)
        if route.dialect.stand_in is not None:
            stand = route.dialect.stand_in(row, values, self._ending)
        if grant is not None and grant.sandbox != stand.sandbox:
            raise PermissionDenied("this URL was signed for another sandbox")
        exchange.ending = stand.ending
        if row.params is not None:
            params = codec.decode_params(row.params, values, exchange.query, route.lists)
        if body.length != 0 and request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("send the body without a Content-Encoding")
        if row.body is not None:
            if body.length != 0 and not JSON_TYPE.match(request.headers.get("Content-Type", "application/json")):
                raise UnsupportedMediaType("send the body as Content-Type: application/json")
            data = codec.decode_json(await body.read(row.body_limit or self._limits.json_bytes), row.body)
        call = Call(
            *(params, data, request.headers, body, exchange.request_id, exchange.mount, stand.ending),
            public_url=partial(self._origins.public_url, request.headers, request.remote, request.scheme),
            sign=lambda wanted: self._access.signer.sign(msgspec.structs.replace(wanted, sandbox=stand.sandbox)),
            grant=grant,
        )
        if row.socket:
            return await self._converse(exchange, route, partial(stand.handler, call))
        try:
            return await stand.handler(call)
        finally:
            body.close()

    def _admit(self, exchange: Exchange, route: Route | None) -> Grant | None:
        """Raises where the caller may not ask; before anything is said about the path."""
        request = exchange.request
        access = (route.endpoint.access if route is not None else None) or self._access
        if access.open:
            self._origins.admit(request.headers)
        peer = request.remote or "unix"
        grant = None
        if route is not None and route.endpoint.signed:
            method = SOCKET if route.endpoint.socket else request.method
            grant = self._access.redeem(exchange.query, method, peer)
        if grant is None and not (route is not None and route.endpoint.public):
            access.check(request.headers, peer)
        return grant

    async def _converse(
        self, exchange: Exchange, route: Route, handler: Callable[[Socket], Awaitable[object]]
    ) -> web.WebSocketResponse:
        """The handshake, where failures are answers still, and all of the conversation, where none is."""
        request = exchange.request
        response = handshake(request, route.endpoint.longest_message)
        response.headers["X-Request-Id"] = exchange.request_id
        response.headers["Server"] = SERVER
        try:
            await response.prepare(request)
            socket = Socket(request, response, self._limits.body_stall_timeout, exchange.ending)
        except ConnectionError:
            raise ClientGone("the client left before its socket was open") from None
        exchange.response, exchange.socket = response, socket
        exchange.error = await converse(socket, partial(handler, socket), route.dialect.close)
        return response

    async def _send(
        self, exchange: Exchange, response: web.StreamResponse, content: Download | Stream | None = None
    ) -> web.StreamResponse:
        request, body = exchange.request, exchange.body
        exchange.response = response
        response.headers["X-Request-Id"] = exchange.request_id
        response.headers["Server"] = SERVER
        response.headers.update(self._origins.allow(request.headers))
        if self._draining or not body.keep_alive or body.awaits_continue:
            response.force_close()
        if isinstance(exchange.error, RequestTimeout) and isinstance(request.protocol, Connection):
            request.protocol.no_lingering()
        taken: AbstractAsyncContextManager[None] = nullcontext()
        if content is None and (response.content_length or 0) > LARGE and request.transport is not None:
            taken = taking(request.transport, self._limits.body_stall_timeout, lambda: request.writer.output_size)
        try:
            async with taken:
                await response.prepare(request)
                if content is not None:
                    await content.send(self._limits.body_stall_timeout)
                await response.write_eof()
        except ConnectionError:
            raise ClientGone("the client left before the end of its answer") from None
        return response

    def _refused(self, error: AgentError) -> web.Response:
        """The answer to what is no HTTP request, and its line in the log."""
        ident = uuid4().hex
        self._errors.add("", error.code)
        _log.info("refused", extra=fields(request_id=ident, status=error.status, code=error.code))
        return respond(error, ident)

    def _record(self, exchange: Exchange, seconds: float) -> None:
        response, error = exchange.response, exchange.error
        dialect = exchange.dialect.name if exchange.dialect else ""
        code = error.code if error else ""
        status = exchange.refused_with or (error.status if error else response.status if response else 0)
        status = GONE_STATUS if isinstance(error, ClientGone) else status
        received, sent = exchange.body.received, response.body_length if response is not None else 0
        if exchange.socket is not None:
            received, sent = exchange.socket.received, exchange.socket.sent
        self._seconds.observe(dialect, exchange.endpoint, value=seconds)
        if code:
            self._errors.add(dialect, code)
        self._received.add(amount=received)
        self._sent.add(amount=sent)
        _log.info(
            "request",
            extra=fields(
                dialect=dialect,
                endpoint=exchange.endpoint,
                status=status,
                code=code,
                bytes_in=received,
                bytes_out=sent,
                ms=round(seconds * 1000, 2),
            ),
        )


def _target(request: web.BaseRequest) -> tuple[str, str]:
    """Raw path and raw query of the request target, in origin or absolute form (RFC 9112 section 3.2)."""
    target = request.raw_path if request.raw_path.startswith("/") else request.rel_url.raw_path_qs
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


def _request_id(request: web.BaseRequest) -> str:
    """The caller's id where it is sane, else a new one; from here on every line of the log carries it."""
    given = request.headers.get("X-Request-Id", "")
    ident = given if REQUEST_ID.match(given) else uuid4().hex
    request_id.set(ident)
    return ident


def _response(result: object, route: Route | None) -> web.StreamResponse:
    status = route.endpoint.status if route else 200
    if result is None:
        return web.Response(status=status)
    if isinstance(result, TextResult):
        headers = {"Content-Type": result.content_type, **result.headers}
        return web.Response(status=result.status, body=result.text.encode(), headers=headers)
    return web.Response(status=status, body=codec.encode(result), headers={"Content-Type": "application/json"})
