"""Events as they happen: lines of JSON, or server-sent events, whichever the client would rather have.

    async def follow(call: Call) -> StreamResult:
        return stream(call, (Event(line.text, id=line.cursor) async for line in log.follow(call.params.cursor)))

Server-sent events are the format of the HTML standard, section 9.2; NDJSON is one JSON text a line. Where nothing
happens for a while, a comment or an empty line keeps proxies from closing the connection.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

import msgspec

from agentd.http.codec import encode
from agentd.http.endpoint import Call, StreamResult

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
IDLE_SECONDS = 15.0
# A cache must not keep them, nor a proxy collect them.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Event(msgspec.Struct, frozen=True):
    """value: what JSON can say. name, id: the ``event`` and ``id`` of a server-sent event, one line each; "" for none.

    A line of NDJSON holds the value alone.
    """

    value: object
    name: str = ""
    id: str = ""


def as_ndjson(event: Event) -> bytes:
    return encode(event.value) + b"\n"


def as_sse(event: Event) -> bytes:
    """``data: `` is its last line, and JSON has no line breaks. ValueError for a name or id of several lines."""
    fields = {"event": event.name, "id": event.id}
    if any(set(text) & set("\r\n\0") for text in fields.values()):
        raise ValueError("the name and the id of an event are one line")
    head = "".join(f"{field}: {text}\n" for field, text in fields.items() if text)
    return head.encode() + b"data: " + encode(event.value) + b"\n\n"


FORMATS: dict[str, tuple[Callable[[Event], bytes], bytes]] = {
    SSE: (as_sse, b": still here\n\n"),
    NDJSON: (as_ndjson, b"\n"),
}


def stream(
    call: Call,
    events: AsyncGenerator[Event, None],
    offered: Sequence[str] = (SSE, NDJSON),
    *,
    lasting: bool = True,
    idle_seconds: float = IDLE_SECONDS,
    held: AsyncExitStack | None = None,
) -> StreamResult:
    """The answer made of ``events``, which are closed with it.

    offered: media types of `FORMATS`, the best first; that is also what a client gets that accepts none of them.
    lasting, held: as in `StreamResult`.
    """
    chosen = negotiate(call.headers.get("Accept", ""), offered) or offered[0]
    form, filler = FORMATS[chosen]
    chunks = _encoded(events, form)
    return StreamResult(chunks, chosen, HEADERS, lasting=lasting, filler=filler, idle_seconds=idle_seconds, held=held)


async def _encoded(events: AsyncGenerator[Event, None], form: Callable[[Event], bytes]) -> AsyncIterator[bytes]:
    async with aclosing(events):
        async for event in events:
            yield form(event)


def negotiate(accept: str, offered: Sequence[str]) -> str | None:
    """The media type of ``offered`` that an Accept header likes best, the first of several (RFC 9110 section 12.5.1).

    None where it takes none of them. No header takes everything; a range that cannot be read counts as not there.
    """
    if not accept.strip():
        return offered[0]
    ranges = [found for one in accept.split(",") if (found := _range(one)) is not None]
    best, wanted = None, 0.0
    for media in offered:
        fitting = [one for one in ranges if one[0] in (media, f"{media.partition('/')[0]}/*", "*/*")]
        quality = max(fitting, key=_rank)[1] if fitting else 0.0
        if quality > wanted:
            best, wanted = media, quality
    return best


def _rank(found: tuple[str, float]) -> int:
    """The more precise a range is, the more its quality counts."""
    return -found[0].count("*")


def _range(text: str) -> tuple[str, float] | None:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return None
    return (media, quality) if math.isfinite(quality) and 0 <= quality <= 1 else None
