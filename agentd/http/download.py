"""A file as an answer: conditional, in part where that is wished, piece by piece.

A worker thread reads a piece from the disk, the loop sends it, and the next is read when the client has taken most of
it: a slow client costs one piece of memory and no thread. One that takes nothing for the stall timeout is let go.

The bytes are copied on purpose. sendfile(2) queues the pages of the file themselves, and a file that is truncated
before they are acknowledged has zeros in them from its new end on (truncate(2); with large folios a megabyte and more):
the client would get a whole answer of the right length with content that no file ever had.

Holes of a sparse file are not read from the disk: the kernel fills its cache with zeros.
"""

import os
import time
from calendar import timegm
from email.utils import formatdate, parsedate_tz

from aiohttp import hdrs

from agentd.core.ranges import Verdict, Version, Wishes, answer
from agentd.errors import ClientGone, PreconditionFailed, RangeNotSatisfiable, StorageFailed
from agentd.http import web
from agentd.http.endpoint import FileResult
from agentd.http.flow import taking
from agentd.http.stream import attachment
from agentd.linux.threads import in_thread

PIECE = 1 << 20  # bytes


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
        headers["Content-Disposition"] = attachment(file.name)
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
        if transport is None or transport.is_closing():
            raise ClientGone("the client left before its answer")
        async with taking(transport, stall_timeout, lambda: self._request.writer.output_size):
            sent = 0
            while sent < length:
                piece = await in_thread(_read, self._fd, first + sent, min(PIECE, length - sent))
                await self.response.write(piece)
                sent += len(piece)
            await self._request.writer.drain()


def _read(fd: int, first: int, length: int) -> bytes:
    try:
        piece = os.pread(fd, length, first)
        # A file that is cut while it is read may end in zeros of the kernel's; its size is set before they are.
        piece = piece[: max(0, os.fstat(fd).st_size - first)]
    except OSError as error:
        raise StorageFailed(f"the file could not be read to its end: {error.strerror}") from error
    if not piece:
        raise StorageFailed("the file became shorter while it was sent")
    return piece


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
