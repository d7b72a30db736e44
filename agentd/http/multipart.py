"""multipart/form-data (RFC 7578), part by part, as it comes.

    async for part in call.body.multipart(FormLimits(total=1 << 30)):
        if part.filename is None:
            values[part.name] = await part.read(4096)
        else:
            await part.receive(file.write, 1 << 30)

The parser gives events for a piece of the body and can rest between two of them, so a piece that ends one part and
begins the next is kept by the parser itself while the handler decides where that one goes. Names come as they are sent,
a leading slash and bytes that are no UTF-8 included: they are paths to nobody here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import msgspec
from multipart import MultipartError, ParserLimitReached, PushMultipartParser  # type: ignore[import-untyped]

from agentd.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from agentd.linux.threads import in_thread

if TYPE_CHECKING:
    from agentd.http.body import Body, Turn

PREAMBLE_BYTES = 64 << 10  # in which a form has begun; what stands before its first part means nothing

WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2
PARAMETER = re.compile(rf'\s*;\s*({WORD})\s*=\s*("(?:\\.|[^"\\])*"|[^\s;"]+)', re.DOTALL)
EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[^']*'((?:%[0-9A-Fa-f]{2}|[!#$&+.^_`|~0-9A-Za-z-])*)", re.IGNORECASE)
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 section 5.1.1


class FormLimits(msgspec.Struct, frozen=True):
    """total: bytes of the body. parts: how many. header_bytes: of one header of a part, its names included. headers:
    of a part."""

    total: int
    parts: int = 1000
    header_bytes: int = 16384
    headers: int = 16


class Part:
    """One part, until the next is asked for; what has not been read of it by then is dropped.

    name: of the field. filename: as sent, None where the part is a plain field. headers: by lower-case name.
    """

    def __init__(self, form: "Form", headers: Mapping[str, str]) -> None:
        self._form = form
        self.headers = headers
        parameters = _parameters(headers.get("content-disposition", ""), "form-data", "Content-Disposition")
        if "name" not in parameters:
            raise InvalidRequest("a part of the form has no name")
        self.name = _unquoted(parameters["name"])
        self.filename: str | None = None
        if (extended := parameters.get("filename*")) is not None:
            self.filename = _extended(extended)
        elif "filename" in parameters:
            self.filename = _unquoted(parameters["filename"])

    async def receive(self, write: Callable[[memoryview], None], limit: int, turn: "Turn" = nullcontext) -> int:
        """Feeds the part to ``write`` as `Body.receive` does the body, and returns the number of its bytes.

        Raises RequestTooLarge above ``limit`` bytes, InvalidRequest where the form ends within the part, what
        `Body.receive` raises, and what ``write`` raises. The parts behind it can be had nonetheless, unless the form
        itself is broken.
        """
        size = 0

        def take(piece: memoryview) -> None:
            nonlocal size
            size += len(piece)
            if size > limit:
                raise RequestTooLarge(f"the part {self.name!r} has more than {limit} bytes", limit=limit)
            write(piece)

        await self._form.finish(self, take, turn)
        return size

    async def read(self, limit: int) -> bytes:
        """The whole part, of at most ``limit`` bytes."""
        pieces: list[bytes] = []
        await self.receive(lambda piece: pieces.append(bytes(piece)), limit)
        return b"".join(pieces)


class _Rest(Exception):
    """A part begins: the parser rests."""


class Form:
    """The parts, for ``async for``; made by `Body.multipart`. The body is read to its end."""

    def __init__(self, body: "Body", content_type: str, limits: FormLimits) -> None:
        self._body = body
        self._limits = limits
        self._parser = PushMultipartParser(
            _boundary(content_type),
            max_header_size=limits.header_bytes,
            max_header_count=limits.headers,
            max_segment_count=limits.parts,
            header_charset="latin-1",
        )
        self._events: Iterator[Any] = iter(())
        self._resting = False
        self._write: Callable[[memoryview], None] = _drop
        self._part: Part | None = None
        self._headers: list[tuple[str, str]] | None = None
        self._opened = False
        self._preamble: int | None = 0

    def __aiter__(self) -> "Form":
        return self

    async def __anext__(self) -> Part:
        """The next part. Raises InvalidRequest, RequestTooLarge, and what `Body.receive` raises."""
        if not self._opened:
            self._body.open(self._limits.total)
            self._opened = True
        if self._part is not None:
            await self.finish(self._part, _drop, nullcontext)
        while self._headers is None:
            if not await self._go_on(nullcontext):
                self._complete()
                raise StopAsyncIteration
        headers, self._headers = self._headers, None
        self._part = Part(self, _folded(headers))
        return self._part

    async def finish(self, part: Part, write: Callable[[memoryview], None], turn: "Turn") -> None:
        """The rest of a part, which is the one that was given out last."""
        if part is not self._part:
            raise RuntimeError("a part is read before the next is asked for, and once")
        self._write = write
        try:
            while self._part is not None:
                if not await self._go_on(turn):
                    self._complete()
        finally:
            self._write = _drop

    async def _go_on(self, turn: "Turn") -> bool:
        """To the next rest of the parser, or through the next bytes; False where none are left."""
        try:
            if not self._resting:
                return await self._body.step(self._feed, turn)
            async with turn():
                await in_thread(self._parse)
        except _Rest:
            pass
        except ParserLimitReached as error:
            raise RequestTooLarge(f"the form: {error}") from None
        except MultipartError as error:
            raise InvalidRequest(f"the form: {error}") from None
        return True

    def _feed(self, piece: memoryview) -> None:
        self._events = self._parser.parse(bytes(piece))
        self._parse()
        if self._preamble is not None:
            self._preamble += len(piece)
            if self._preamble > PREAMBLE_BYTES:
                raise InvalidRequest("the form does not begin with its boundary")

    def _parse(self) -> None:
        """Gives out what the piece holds, up to the next part. Whatever is raised, the next call goes on from there."""
        self._resting = True
        for event in self._events:
            if event is None:
                self._part, self._write = None, _drop
            elif isinstance(event, bytes | bytearray):
                self._write(memoryview(event))
            else:
                self._headers, self._preamble = event.headerlist, None
                raise _Rest
        self._resting = False

    def _complete(self) -> None:
        try:
            self._parser.close()
        except MultipartError:
            raise InvalidRequest("the form ends before its last boundary") from None


def _drop(_: memoryview) -> None:
    pass


def _boundary(content_type: str) -> str:
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedMediaType("send the body as Content-Type: multipart/form-data")
    boundary = _parameters(content_type, "multipart/form-data", "Content-Type").get("boundary", "")
    if boundary.startswith('"'):
        boundary = boundary[1:-1]
    if not BOUNDARY.fullmatch(boundary):
        raise InvalidRequest("the Content-Type has no boundary of 1 to 70 characters (RFC 2046 section 5.1.1)")
    return boundary


def _folded(headers: list[tuple[str, str]]) -> dict[str, str]:
    """By lower-case name. The parser reads bytes as Latin-1, so that what is no UTF-8 survives (PEP 383)."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name.lower() in found:
            raise InvalidRequest(f"a part of the form has two headers {name}")
        found[name.lower()] = value.encode("latin-1").decode("utf-8", "surrogateescape")
    if found.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise InvalidRequest("send the parts of the form as they are, without a Content-Transfer-Encoding")
    return found


def _parameters(value: str, kind: str, header: str) -> dict[str, str]:
    """The parameters of a header by lower-case name, as sent. InvalidRequest where it is another kind, or malformed."""
    given, _, _ = value.partition(";")
    if given.strip().lower() != kind:
        raise InvalidRequest(f"a part of the form has no {header}: {kind}")
    found: dict[str, str] = {}
    at, end = len(given), len(value.rstrip(" \t;"))
    while at < end:
        parameter = PARAMETER.match(value, at)
        if parameter is None or parameter[1].lower() in found:
            raise InvalidRequest(f"the {header} of the form, or of a part of it, cannot be read")
        found[parameter[1].lower()] = parameter[2]
        at = parameter.end()
    return found


def _unquoted(value: str) -> str:
    """What browsers write as ``%22``, ``%0D`` and ``%0A`` (WHATWG HTML, multipart/form-data encoding algorithm), and
    others with a backslash (RFC 9110 section 5.6.4)."""
    if value.startswith('"'):
        value = re.sub(r'\\(["\\])', r"\1", value[1:-1])
    return re.sub("%(22|0D|0A)", lambda escaped: chr(int(escaped[1], 16)), value, flags=re.IGNORECASE)


def _extended(value: str) -> str:
    """The value of ``filename*`` (RFC 8187), which RFC 7578 forbids and some send."""
    match = EXTENDED.fullmatch(value)
    if match is None:
        raise InvalidRequest("a part of the form has a filename* that cannot be read (RFC 8187)")
    utf8 = match[1].lower() == "utf-8"
    return unquote_to_bytes(match[2]).decode("utf-8" if utf8 else "latin-1", "surrogateescape")
