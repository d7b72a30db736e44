"""A file as an answer: conditional, in part where that is wished, sent by the kernel where that is possible.

::

    loop    headers through the transport, until it holds nothing -> burst -> wait until the socket takes more -> ...
    worker                                                           sendfile(2) until the socket is full

A worker waits for the disk and, but for moments, never for the client: a slow client costs a watched socket and no
thread. Where there is no plain socket (TLS), for files that sendfile does not take, and for small ones, pieces go
through the transport instead. Either way a client that takes nothing for the stall timeout is let go.

Holes of a sparse file are not read from the disk: the kernel fills its cache with zeros.
"""

import asyncio
import errno
import fcntl
import os
import select
import socket
import termios
import time
from calendar import timegm
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate, parsedate_tz
from urllib.parse import quote

from aiohttp import hdrs, web

from agentd.core.ranges import Verdict, Version, Wishes, answer
from agentd.errors import ClientGone, PreconditionFailed, RangeNotSatisfiable, RequestTimeout, StorageFailed
from agentd.http.endpoint import FileResult
from agentd.linux.threads import in_thread

PIECE = 256 << 10  # bytes; what goes through the transport at once
LARGE = 256 << 10  # bytes; below, a second packet and a second fd cost more than a copy
BURST = 8 << 20  # bytes after which a worker is somebody else's
BRISK = 64 << 10  # bytes after which a worker waits a moment for more room
MOMENT = 4  # milliseconds

GONE = "the client left before the end of its answer"
_UNSUITED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_LOST = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENOTCONN)


class Download:
    """The answer to ``request`` that ``file`` is. Raises PreconditionFailed, RangeNotSatisfiable.

    response: status and headers, to be prepared by the caller before `send`.
    """

    def __init__(self, request: web.BaseRequest, file: FileResult) -> None:
        now = time.time()
        modified = int(max(0, min(file.mtime, now)))
        version = Version(file.size, file.version, modified, dated=modified < int(now))
        self._answer = answer(_wishes(request), version)
        self._request = request
        self._fd = file.fd
        if self._answer.verdict is Verdict.PRECONDITION_FAILED:
            raise PreconditionFailed("the file is not in the state that the request asks for")
        if self._answer.verdict is Verdict.NOT_SATISFIABLE:
            raise RangeNotSatisfiable(f"the file has {file.size} bytes, none of them in this range", size=file.size)
        self.response = web.StreamResponse(status=self._answer.verdict.value, headers=_headers(file, version))
        if self._answer.verdict is not Verdict.NOT_MODIFIED:
            self._describe(file)

    def _describe(self, file: FileResult) -> None:
        headers, first, length = self.response.headers, self._answer.first, self._answer.length
        headers["Content-Type"] = "application/octet-stream"
        headers["Content-Length"] = str(length)
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(_text(file.name), safe='')}"
        if self._answer.verdict is Verdict.PART:
            headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{file.size}"

    async def send(self, stall_timeout: float) -> None:
        """The bytes, after the response has been prepared; none for HEAD.

        Whatever goes wrong, fewer bytes than announced have gone out, and the connection has to be cut. Raises
        StorageFailed (the file became shorter, or the disk failed), ClientGone, ConnectionError, RequestTimeout.
        """
        first, length, transport = self._answer.first, self._answer.length, self._request.transport
        if self._request.method == hdrs.METH_HEAD or not length:
            return
        if transport is None:
            raise ClientGone(GONE)
        out = _duplicate(transport)
        try:
            async with _moving(lambda: self._position(transport, out), stall_timeout):
                sent = 0
                plain = transport.get_extra_info("sslcontext") is None
                if out is not None and plain and length >= LARGE and await self._flush(transport):
                    sent = await self._past_transport(out, first, length)
                await self._through_transport(first + sent, length - sent)
        finally:
            if out is not None:
                out.close()

    def _position(self, transport: asyncio.Transport, out: socket.socket | None) -> object:
        """Something else whenever a byte has moved, be it only out of the kernel's send queue (tcp(7), SIOCOUTQ)."""
        queued = b"" if out is None else fcntl.ioctl(out, termios.TIOCOUTQ, bytes(4))
        held = 0 if transport.is_closing() else transport.get_write_buffer_size()
        return self._request.writer.output_size, held, queued

    async def _flush(self, transport: asyncio.Transport) -> bool:
        """Sends the headers. Whether the transport holds nothing now, so that what passes it by stays in order."""
        transport.set_write_buffer_limits(high=0)
        try:
            self._request.writer.send_headers()
            await self._request.writer.drain()
            return transport.get_write_buffer_size() == 0
        finally:
            if not transport.is_closing():
                transport.set_write_buffer_limits()

    async def _past_transport(self, out: socket.socket, first: int, length: int) -> int:
        """Bytes sent: all of them, unless sendfile cannot take this file."""
        sent = 0
        while sent < length:
            try:
                moved, full = await in_thread(_burst, out, self._fd, first + sent, length - sent)
            except _Unsuited:
                break
            sent += moved
            self._request.writer.output_size += moved
            if full:
                await _writable(out)
        return sent

    async def _through_transport(self, first: int, length: int) -> None:
        sent = 0
        while sent < length:
            piece = await in_thread(_read, self._fd, first + sent, min(PIECE, length - sent))
            await self.response.write(piece)
            sent += len(piece)
        # The stall timeout watches over the last piece too.
        await self._request.writer.drain()


class _Unsuited(Exception):
    """sendfile does not take this file."""


def _burst(out: socket.socket, fd: int, first: int, length: int) -> tuple[int, bool]:
    """Sends what the socket takes, at most `BURST`. The bytes sent, and whether the socket is full."""
    sent = 0
    room = select.poll()
    room.register(out, select.POLLOUT)
    while sent < min(length, BURST):
        try:
            moved = os.sendfile(out.fileno(), fd, first + sent, min(length, BURST) - sent)
        except BlockingIOError:
            if sent < BRISK or not room.poll(MOMENT):
                return sent, True
            continue
        except OSError as error:
            if sent:
                break  # the next burst meets it again
            if error.errno in _UNSUITED:
                raise _Unsuited from None
            raise _meaning(error) from error
        if not moved:
            raise _shorter()
        sent += moved
    return sent, False


def _read(fd: int, first: int, length: int) -> bytes:
    try:
        piece = os.pread(fd, length, first)
    except OSError as error:
        raise _meaning(error) from error
    if not piece:
        raise _shorter()
    return piece


def _meaning(error: OSError) -> ClientGone | StorageFailed:
    if isinstance(error, ConnectionError) or error.errno in _LOST:
        return ClientGone(GONE)
    return StorageFailed(f"the file could not be read to its end: {error.strerror}")


def _shorter() -> StorageFailed:
    return StorageFailed("the file became shorter while it was sent")


async def _writable(out: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = loop.create_future()

    def wake() -> None:
        if not writable.done():
            writable.set_result(None)

    loop.add_writer(out.fileno(), wake)
    try:
        await writable
    finally:
        loop.remove_writer(out.fileno())


@asynccontextmanager
async def _moving(position: Callable[[], object], seconds: float) -> AsyncIterator[None]:
    """Ends what runs inside by RequestTimeout once ``position()`` has been the same for ``seconds``."""
    loop = asyncio.get_running_loop()
    seen = position()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal seen, timer
        if (now := position()) == seen:
            limit.reschedule(loop.time())
        else:
            seen = now
            timer = loop.call_later(seconds, look)

    timer = loop.call_later(seconds, look)
    try:
        async with asyncio.timeout(None) as limit:
            yield
    except TimeoutError:
        raise RequestTimeout(f"the client took nothing of its answer for {seconds:g} s") from None
    finally:
        timer.cancel()


def _duplicate(transport: asyncio.Transport) -> socket.socket | None:
    """The transport's socket under an fd of its own, which the loop is not watching; None where there is none left."""
    try:
        return socket.fromfd(transport.get_extra_info("socket").fileno(), -1, -1)
    except (AttributeError, OSError):
        return None


def _wishes(request: web.BaseRequest) -> Wishes:
    def text(name: str) -> str | None:
        found = request.headers.getall(name, ())
        return ", ".join(found) if found else None

    if_range = text("If-Range")
    date = _date(if_range)
    return Wishes(
        if_match=text("If-Match"),
        if_unmodified_since=_date(text("If-Unmodified-Since")),
        if_none_match=text("If-None-Match"),
        if_modified_since=_date(text("If-Modified-Since")),
        span=text("Range") if request.method == hdrs.METH_GET else None,
        if_range=if_range if date is None else date,
    )


def _date(text: str | None) -> int | None:
    """An HTTP-date (RFC 9110 section 5.6.7) as Unix seconds, None for what is none."""
    parsed = parsedate_tz(text) if text else None
    if parsed is None or parsed[9]:
        return None
    try:
        return timegm(parsed[:6])
    except (ValueError, OverflowError):
        return None


def _headers(file: FileResult, version: Version) -> dict[str, str]:
    """Those of every answer, the one without content too (RFC 9110 section 15.4.5)."""
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Last-Modified": formatdate(version.modified, usegmt=True),
    }
    return headers | ({"ETag": f'"{file.version}"'} if file.version else {})


def _text(name: str) -> str:
    """A file name as Unicode (RFC 8187 section 3.2.1): U+FFFD for each byte that is no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
