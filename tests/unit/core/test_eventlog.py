"""The account of output, compared with one that keeps everything."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.eventlog import EventLog, Gap, Span, Stream

OUT, ERR = Stream.STDOUT, Stream.STDERR
APPENDS = st.lists(st.tuples(st.sampled_from(Stream), st.integers(1, 9)), max_size=40)


def filled(appends: Iterable[tuple[Stream, int]], capacity: int, head: int, runs: int = 1000) -> EventLog:
    log = EventLog(capacity, head, runs)
    for stream, length in appends:
        log.append(stream, length)
    return log


def bytes_of(appends: Iterable[tuple[Stream, int]]) -> list[tuple[Stream, int]]:
    """By place in the log: the stream, and the offset in it."""
    offsets = dict.fromkeys(Stream, 0)
    found = []
    for stream, length in appends:
        for _ in range(length):
            found.append((stream, offsets[stream]))
            offsets[stream] += 1
    return found


@given(APPENDS, st.integers(1, 60), st.data())
def test_every_byte_is_told_of_once_as_what_it_is_or_as_gone(
    appends: list[tuple[Stream, int]], capacity: int, data: st.DataObject
) -> None:
    log = filled(appends, capacity, data.draw(st.integers(0, capacity - 1)), data.draw(st.sampled_from([4, 1000])))
    truth, cursor, gone = bytes_of(appends), 0, 0
    while (found := log.read(cursor, data.draw(st.integers(1, 20)))) is not None:
        assert found.start == cursor
        assert found.length > 0
        if isinstance(found, Span):
            told = [(found.stream, found.offset + i) for i in range(found.length)]
            assert truth[cursor : cursor + found.length] == told
            assert log.is_kept(found)
        else:
            gone += found.length
        cursor += found.length
    assert (cursor, gone) == (len(truth), log.dropped)


@given(APPENDS, st.integers(1, 60), st.data())
def test_a_stream_alone_is_told_of_in_its_own_offsets(
    appends: list[tuple[Stream, int]], capacity: int, data: st.DataObject
) -> None:
    log = filled(appends, capacity, data.draw(st.integers(0, capacity - 1)))
    for stream in Stream:
        places = [place for place, (of, _) in enumerate(bytes_of(appends)) if of is stream]
        offset = 0
        while (found := log.read_stream(stream, offset, data.draw(st.integers(1, 20)))) is not None:
            if isinstance(found, Span):
                assert places[offset : offset + found.length] == [*range(found.start, found.start + found.length)]
            offset += found.length
        assert offset == len(places)


@given(APPENDS, st.integers(1, 60), st.data())
def test_what_is_kept_is_never_overwritten(
    appends: list[tuple[Stream, int]], capacity: int, data: st.DataObject
) -> None:
    log = EventLog(capacity, data.draw(st.integers(0, capacity - 1)))
    file: dict[int, int] = {}
    for stream, length in appends:
        places = log.reserve(length) if data.draw(st.booleans()) else list(log.place(log.end, length))
        positions = [position + i for position, size in places for i in range(size)]
        file |= dict(zip(positions, range(log.end, log.end + length), strict=True))
        log.append(stream, length)
    assert all(0 <= position < capacity for position in file)
    cursor = 0
    while (found := log.read(cursor, 7)) is not None:
        if isinstance(found, Span):
            places = log.place(found.start, found.length)
            held = [file[position + i] for position, size in places for i in range(size)]
            assert held == [*range(found.start, found.start + found.length)]
        cursor += found.length


def test_of_a_long_log_the_beginning_and_the_end_stay() -> None:
    log = filled([(OUT, 100)], capacity=30, head=10)
    assert log.read(0, 99) == Span(OUT, 0, 0, 10)
    assert log.read(10, 99) == Gap(10, 70)
    assert log.read(80, 99) == Span(OUT, 80, 80, 20)


def test_what_could_not_be_kept_is_a_gap() -> None:
    log = filled([(OUT, 5), (ERR, 5)], capacity=30, head=10)
    log.lose(3)
    log.append(OUT, 4)
    assert log.read(3, 99) == Gap(3, 7)
    assert log.read(10, 99) == Span(OUT, 10, 5, 4)
    assert log.dropped == 7


@pytest.mark.parametrize("head", [0, 1000, 99_999])
def test_a_log_of_many_tiny_changes_stays_small(head: int) -> None:
    log = filled([(OUT, 1), (ERR, 1)] * 5000, capacity=100_000, head=head, runs=100)
    assert sum(len(runs) for runs in log._runs.values()) <= 101
    assert log.dropped > 9_000


def test_a_span_that_is_overwritten_while_it_is_read_is_known_for_it() -> None:
    log = filled([(OUT, 30)], capacity=30, head=10)
    span = log.read(10, 5)
    assert isinstance(span, Span)
    assert log.is_kept(span)
    log.reserve(1)
    assert not log.is_kept(span)


@given(APPENDS, st.integers(1, 60), st.integers(0, 80), st.data())
def test_one_who_is_waited_for_loses_nothing(
    appends: list[tuple[Stream, int]], capacity: int, cursor: int, data: st.DataObject
) -> None:
    log = filled(appends, capacity, data.draw(st.integers(0, capacity - 1)))
    length = data.draw(st.integers(1, capacity))
    unread = sum(f.length for f in everything(log, cursor) if isinstance(f, Span))
    lost = log.would_lose(cursor, length)
    log.reserve(length)
    assert lost == (sum(f.length for f in everything(log, cursor) if isinstance(f, Span)) < unread)


def everything(log: EventLog, cursor: int) -> list[Span | Gap]:
    found = []
    while (piece := log.read(cursor, 1000)) is not None:
        found.append(piece)
        cursor += piece.length
    return found
