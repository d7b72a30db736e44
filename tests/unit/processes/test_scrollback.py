"""The newest of what a terminal showed, for any number of readers."""

import asyncio
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.linux.descriptor import Descriptor
from agentd.processes.journal import Damaged
from agentd.processes.scrollback import Scrollback
from tests.conftest import UNIT

PIECES = st.lists(st.binary(min_size=1, max_size=30))


def show(kept: Scrollback, content: bytes) -> None:
    """As a terminal would."""
    ours, theirs = os.pipe()
    with open(ours, "rb", 0), open(theirs, "wb", 0) as terminal:
        if content:
            terminal.write(content)
            taken = 0
            while taken < len(content):
                taken += kept.take(ours)
    kept.tell()


async def everything(kept: Scrollback, cursor: int) -> bytes:
    return b"".join([piece.content async for piece in kept.follow(cursor)])


async def test_a_reader_gets_what_was_there_and_what_comes() -> None:
    kept = Scrollback(100)
    show(kept, b"before ")
    async with asyncio.timeout(5 * UNIT), asyncio.TaskGroup() as group:
        reading = group.create_task(everything(kept, 0))
        await asyncio.sleep(0)
        show(kept, b"after")
        kept.close()
    assert reading.result() == b"before after"


async def test_readers_stand_where_they_like() -> None:
    kept = Scrollback(100)
    show(kept, b"0123456789")
    kept.close()
    assert [await everything(kept, cursor) for cursor in (0, 4, 10)] == [b"0123456789", b"456789", b""]


async def test_what_is_gone_is_counted() -> None:
    kept = Scrollback(4)
    show(kept, b"0123456789")
    piece = kept.read(3)
    assert piece is not None
    assert (piece.cursor, piece.content, piece.skipped, piece.next) == (6, b"6789", 3, 10)


async def test_a_cursor_that_is_not_there_yet_waits_at_the_end() -> None:
    kept = Scrollback(10)
    show(kept, b"abc")
    assert kept.read(1000) is None
    kept.close()
    assert await everything(kept, 1000) == b""


@given(PIECES, st.integers(1, 40), st.integers(0, 200), st.integers(1, 50))
def test_reading_on_gives_the_end_of_all_that_there_was(
    pieces: list[bytes], capacity: int, cursor: int, limit: int
) -> None:
    kept, whole = Scrollback(capacity), b"".join(pieces)
    for piece in pieces:
        show(kept, piece)
    found = b""
    while (part := kept.read(cursor, limit)) is not None:
        assert part.skipped == max(0, part.cursor - cursor)
        found, cursor = found + part.content, part.next
    assert whole.endswith(found)
    assert len(found) <= capacity


@pytest.fixture
def made() -> tuple[Scrollback, Descriptor]:
    return Scrollback.new(10_000, b"what it is")


def test_it_goes_on_wherever_the_memory_is_found(made: tuple[Scrollback, Descriptor]) -> None:
    kept, file = made
    whole = b""
    for number in range(40):
        show(kept, piece := bytes([65 + number % 26]) * (number * 37 + 1))
        whole, kept.seen = whole + piece, number
        kept, record = Scrollback.found(file.fd)
        assert (kept.end, kept.seen, record) == (len(whole), number, b"what it is")
    found = kept.read(len(whole) - 10_000)
    assert found is not None
    assert found.content == whole[-10_000:]


@pytest.mark.parametrize("content", [b"", b"some", b"\0 in \0 it", b"x" * 4096])
def test_what_came_when_its_daemon_died_is_found(made: tuple[Scrollback, Descriptor], content: bytes) -> None:
    kept, file = made
    show(kept, b"first" * 1000)
    show(kept, content)
    os.pwrite(file.fd, (5000).to_bytes(8, "little"), 8 * 3)  # it has died before it could write down how much came
    again, _ = Scrollback.found(file.fd)
    piece = again.read(5000)
    assert (b"" if piece is None else piece.content) == content


@pytest.mark.parametrize("damage", [lambda fd: os.truncate(fd, 5000), lambda fd: os.pwrite(fd, b"\xff" * 64, 0)])
def test_what_makes_no_sense_is_refused(made: tuple[Scrollback, Descriptor], damage: Callable[[int], object]) -> None:
    _, file = made
    damage(file.fd)
    with pytest.raises(Damaged):
        Scrollback.found(file.fd)
