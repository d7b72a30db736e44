"""The newest of what a terminal showed, for any number of readers."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agentd.processes.scrollback import Scrollback
from tests.conftest import UNIT


async def everything(kept: Scrollback, cursor: int) -> bytes:
    return b"".join([piece.content async for piece in kept.follow(cursor)])


async def test_a_reader_gets_what_was_there_and_what_comes() -> None:
    kept = Scrollback(100)
    kept.append(b"before ")
    async with asyncio.timeout(5 * UNIT), asyncio.TaskGroup() as group:
        reading = group.create_task(everything(kept, 0))
        await asyncio.sleep(0)
        kept.append(b"after")
        kept.close()
    assert reading.result() == b"before after"


async def test_readers_stand_where_they_like() -> None:
    kept = Scrollback(100)
    kept.append(b"0123456789")
    kept.close()
    assert [await everything(kept, cursor) for cursor in (0, 4, 10)] == [b"0123456789", b"456789", b""]


async def test_what_is_gone_is_counted() -> None:
    kept = Scrollback(4)
    kept.append(b"0123456789")
    piece = kept.read(3)
    assert piece is not None
    assert (piece.cursor, piece.content, piece.skipped, piece.next) == (6, b"6789", 3, 10)


async def test_a_cursor_that_is_not_there_yet_waits_at_the_end() -> None:
    kept = Scrollback(10)
    kept.append(b"abc")
    assert kept.read(1000) is None
    kept.close()
    assert await everything(kept, 1000) == b""


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40), st.integers(0, 200), st.integers(1, 50))
def test_reading_on_gives_the_end_of_all_that_there_was(
    pieces: list[bytes], capacity: int, cursor: int, limit: int
) -> None:
    kept, whole = Scrollback(capacity), b"".join(pieces)
    for piece in pieces:
        kept.append(piece)
    found = b""
    while (part := kept.read(cursor, limit)) is not None:
        assert part.skipped == max(0, part.cursor - cursor)
        found, cursor = found + part.content, part.next
    assert whole.endswith(found)
    assert len(found) <= capacity
