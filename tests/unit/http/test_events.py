"""Events as they happen, in the format that the client would rather have."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from agentd.http.endpoint import Call, Endpoint, StreamResult
from agentd.http.events import NDJSON, SSE, Event, as_sse, negotiate, stream
from tests.conftest import UNIT

from .conftest import OpenDoor


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", SSE),
        ("*/*", SSE),
        ("text/event-stream", SSE),
        ("application/x-ndjson", NDJSON),
        ("Application/X-NDJSON; charset=utf-8", NDJSON),
        ("application/*, text/*;q=0.5", NDJSON),
        ("*/*;q=0.1, application/x-ndjson;q=0.2", NDJSON),
        ("application/x-ndjson;q=0, */*", SSE),
        ("text/event-stream;q=0.3, application/x-ndjson; q=0.7", NDJSON),
        ("text/event-stream;q=0, text/*", None),
        ("text/event-stream;q=no, application/x-ndjson;q=0.1", NDJSON),
        ("text/event-stream;q=nan", None),
        ("text/event-stream;q=2", None),
        ("image/png", None),
        (",;,/,*", None),
    ],
)
def test_the_accept_header_chooses(accept: str, chosen: str | None) -> None:
    assert negotiate(accept, (SSE, NDJSON)) == chosen


def test_an_event_is_one_block_that_ends_with_its_data() -> None:
    assert as_sse(Event({"text": "a\nb"}, name="out", id="7")) == b'event: out\nid: 7\ndata: {"text":"a\\nb"}\n\n'


def test_a_name_of_two_lines_is_no_name() -> None:
    with pytest.raises(ValueError, match="one line"):
        as_sse(Event(1, name="a\ndata: 2"))


@pytest.mark.parametrize(
    ("accept", "body"),
    [
        ("application/x-ndjson", b'{"n":1}\n{"n":2}\n'),
        ("text/event-stream", b'id: 1\ndata: {"n":1}\n\nid: 2\ndata: {"n":2}\n\n'),
        ("image/png", b'id: 1\ndata: {"n":1}\n\nid: 2\ndata: {"n":2}\n\n'),
    ],
)
async def test_a_client_gets_the_format_that_it_asks_for(open_door: OpenDoor, accept: str, body: bytes) -> None:
    async def events() -> AsyncGenerator[Event, None]:
        for n in (1, 2):
            yield Event({"n": n}, id=str(n))

    async def handler(call: Call) -> StreamResult:
        return stream(call, events())

    peer = await (await open_door(Endpoint("GET", "/e", "e", handler))).connect()
    await peer.send("GET /e HTTP/1.0\r\nX-Ignored:", b"", f"Accept: {accept}")
    assert (await peer.everything()).encode().endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize(("accept", "filler"), [(SSE, ": still here\n\n"), (NDJSON, "\n")])
async def test_where_nothing_happens_something_is_sent_and_leaving_is_noticed(
    open_door: OpenDoor, accept: str, filler: str
) -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[Event, None]:
        try:
            await asyncio.Event().wait()
            yield Event(1)
        finally:
            closed.set()

    async def handler(call: Call) -> StreamResult:
        return stream(call, events(), idle_seconds=0.05 * UNIT)

    peer = await (await open_door(Endpoint("GET", "/e", "e", handler))).connect()
    await peer.send("GET /e", b"", f"Accept: {accept}")
    while await peer.line():
        pass
    assert [await peer.line() for _ in range(2)] == [f"{len(filler):x}", filler.strip()]
    peer.reset()
    async with asyncio.timeout(10 * UNIT):
        await closed.wait()
