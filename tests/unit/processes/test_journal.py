"""The account of output outlives whoever keeps it, whenever that dies."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.eventlog import EventLog, Span, Stream
from agentd.linux.descriptor import Descriptor
from agentd.processes.journal import Damaged, Journal

CAPACITY, HEAD, MEMORY = 4000, 1000, 2000
# The words of the account: where it ends, and behind that how many runs there are.
END = 8 * 6
TAKES = st.lists(st.tuples(st.sampled_from(Stream), st.integers(1, 700), st.integers(0, 2), st.booleans()), max_size=25)


class Life:
    """A journal with the output of two streams, and what it should have. It may die with any take."""

    def __init__(self) -> None:
        self.journal = Journal.new(CAPACITY, HEAD, MEMORY, b"record")
        self.log = EventLog(CAPACITY, HEAD)
        self.spill: int | None = None
        self.truth = b""
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[0], False)

    def take(self, stream: Stream, length: int, dies: int = 0) -> None:
        """dies: after the bytes have left the pipe, before (2) or while (1) that is written down."""
        content = bytes((len(self.truth) + at) % 251 for at in range(length))
        os.write(self._pipe[1], content)
        if self.spill is None and len(self.journal) + length > MEMORY:
            self._spill()
        before = os.pread(self.journal.fd, 16, END)
        while length:
            count = self._taken(stream, length)
            if count < length:
                before = os.pread(self.journal.fd, 16, END)
            length -= count
        self.truth += content
        if dies:
            os.pwrite(self.journal.fd, before[: 8 * dies], END)
            self.revive()

    def revive(self) -> None:
        self.journal = Journal.found(Descriptor(os.dup(self.journal.fd)))
        self.log = self.journal.resume(self.spill)

    def _taken(self, stream: Stream, length: int) -> int:
        if self.spill is None:
            count, failure = self.journal.take(stream, self._pipe[0], length)
        else:
            position, room = self.log.reserve(length)[0]
            count, failure = self.journal.take_to(self.spill, stream, self._pipe[0], position, min(room, length))
        assert failure is None
        assert count
        self.log.append(stream, count)
        return count

    def _spill(self) -> None:
        self.spill = os.memfd_create("spill")
        os.pwrite(self.spill, self.journal.read(0, len(self.journal)), 0)
        self.journal.spill(self.spill, next(self.log.place(self.log.end, 1))[0])

    def content(self, span: Span) -> bytes:
        if self.spill is None:
            return self.journal.read(span.start, span.length)
        return b"".join(os.pread(self.spill, size, at) for at, size in self.log.place(span.start, span.length))

    def close(self) -> None:
        for fd in (*self._pipe, *([self.spill] if self.spill is not None else [])):
            os.close(fd)


@settings(deadline=None)
@given(TAKES)
def test_every_byte_is_told_of_once_as_what_it_is_or_as_gone(takes: list[tuple[Stream, int, int, bool]]) -> None:
    life, lengths = Life(), dict.fromkeys(Stream, 0)
    for stream, length, dies, revives in takes:
        life.take(stream, length, dies)
        lengths[stream] += length
        if revives:
            life.revive()
    life.revive()
    assert (life.log.end, life.log.lengths, life.journal.record) == (len(life.truth), lengths, b"record")
    cursor = 0
    while (found := life.log.read(cursor, 99)) is not None:
        if isinstance(found, Span):
            assert life.content(found) == life.truth[cursor : cursor + found.length]
        cursor += found.length
    assert cursor == len(life.truth)
    life.close()


@pytest.fixture
def life() -> Iterator[Life]:
    life = Life()
    yield life
    life.close()


def test_streams_keep_their_order(life: Life) -> None:
    for number in range(100):
        life.take(list(Stream)[number % 2], 7, number % 3)
    found = [life.log.read(cursor, 99) for cursor in range(0, 700, 7)]
    assert found == [Span(list(Stream)[n % 2], 7 * n, 7 * (n // 2), 7) for n in range(100)]


def test_what_is_lost_stays_lost(life: Life) -> None:
    life.take(Stream.STDOUT, 100)
    life.log.lose(40)
    life.journal.lose(*life.log.kept)
    life.take(Stream.STDOUT, 10)
    life.revive()
    assert (life.log.dropped, life.log.read(100, 99)) == (60, Span(Stream.STDOUT, 100, 100, 10))


def test_without_its_file_all_that_was_in_it_is_gone(life: Life) -> None:
    life.take(Stream.STDERR, 3000)
    life.journal = Journal.found(Descriptor(os.dup(life.journal.fd)))
    log = life.journal.resume(None)
    assert (log.end, log.dropped, log.lengths[Stream.STDERR]) == (3000, 3000, 3000)


def test_the_end_of_a_pipe_and_an_empty_one_are_told_apart(life: Life) -> None:
    ours, theirs = os.pipe()
    assert life.journal.take(Stream.STDOUT, ours, 10) == (None, None)
    os.close(theirs)
    assert life.journal.take(Stream.STDOUT, ours, 10) == (0, None)
    os.close(ours)


def test_a_file_that_cannot_be_spliced_to_is_written_to(life: Life, tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb", 0), open(theirs, "wb", 0) as pipe, (tmp_path / "f").open("ab", 0) as appended:
        pipe.write(b"content")
        assert life.journal.take_to(appended.fileno(), Stream.STDOUT, ours, 0, 100) == (7, None)
    assert (tmp_path / "f").read_bytes() == b"content"
    life.revive()
    assert life.log.end == 7


def test_what_a_file_does_not_take_is_counted_and_gone(life: Life) -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb", 0), open(theirs, "wb", 0) as pipe, open("/dev/null", "rb") as full:
        pipe.write(b"content")
        count, failure = life.journal.take_to(full.fileno(), Stream.STDOUT, ours, 0, 100)
    assert count == 7
    assert isinstance(failure, OSError)
    assert len(life.journal) == 7


@pytest.mark.parametrize("size", [0, 100, 1 << 20])
def test_a_journal_that_was_cut_is_refused(life: Life, size: int) -> None:
    os.truncate(life.journal.fd, size)
    with pytest.raises(Damaged):
        Journal.found(Descriptor(os.dup(life.journal.fd)))


@pytest.mark.parametrize("word", range(7))
def test_nonsense_in_it_is_refused(life: Life, word: int) -> None:
    life.take(Stream.STDOUT, 10)
    os.pwrite(life.journal.fd, b"\xff" * 8, 8 * word)
    with pytest.raises(Damaged):
        Journal.found(Descriptor(os.dup(life.journal.fd))).resume(None)
