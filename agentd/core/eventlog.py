"""What a process wrote, as an account of bytes: which stream each belongs to, and which are kept. It holds none itself.

Every byte has two numbers: its place in the log, counted over both streams in the order of their arrival, which is what
cursors are, and its offset in its stream. Of a long log the first ``head`` bytes and the newest are kept, ``capacity``
in all; readers who ask for what lies between are told how much is gone. `place` says where kept bytes lie in a file
that never grows beyond ``capacity``.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import Enum

import msgspec


class Stream(Enum):
    STDOUT = "stdout"
    STDERR = "stderr"


class Span(msgspec.Struct, frozen=True):
    """Bytes of one stream that follow each other. start: in the log. offset: in the stream."""

    stream: Stream
    start: int
    offset: int
    length: int


class Gap(msgspec.Struct, frozen=True):
    """Bytes that are gone. start, length: in the log, or in the stream where a stream was asked for."""

    start: int
    length: int


class _Run(msgspec.Struct):
    start: int
    offset: int
    length: int


class EventLog:
    """head: less than ``capacity``. runs: how many changes between the streams are remembered."""

    def __init__(self, capacity: int, head: int, runs: int = 1 << 16) -> None:
        assert 0 <= head < capacity
        self.capacity = capacity
        self.end = 0
        self.lengths = dict.fromkeys(Stream, 0)
        self._head = self._place_of_ring = head
        self._floor = head
        self._ring = capacity - head
        self._most_runs = runs
        self._runs: dict[Stream, list[_Run]] = {stream: [] for stream in Stream}
        self._last: Stream | None = None

    @classmethod
    def resumed(
        cls,
        capacity: int,
        head: int,
        end: int,
        runs: Sequence[tuple[Stream, int, int]],
        kept: tuple[int, int] | None = None,
    ) -> "EventLog":
        """That of an earlier account, up to ``end``. runs: those that are known still: stream, start and offset. kept:
        as it was told after the last `lose`; None where there was none."""
        log = cls(capacity, head)
        for (stream, start, offset), until in zip(runs, [*(start for _, start, _ in runs[1:]), end], strict=False):
            log._runs[stream].append(_Run(start, offset, until - start))
            log.lengths[stream] = offset + until - start
            log._last = stream
        log.end = end
        log._head, log._floor = kept or (head, head)
        if runs and runs[0][1] > 0:
            log._head, log._floor = 0, max(runs[0][1], kept[1] if kept else 0)
        log._floor = max(log._floor, end - log._ring)
        return log

    @property
    def kept(self) -> tuple[int, int]:
        """Where the beginning ends that is kept for good, and where the newest begin."""
        return self._head, self._floor

    @property
    def dropped(self) -> int:
        """How many bytes are gone."""
        return max(0, min(self._floor, self.end) - self._head)

    def reserve(self, length: int) -> list[tuple[int, int]]:
        """Gives up what the next ``length`` bytes overwrite; where they go, as (position in the file, length)."""
        self._floor = max(self._floor, self.end + length - self._ring)
        return list(self.place(self.end, length))

    def would_lose(self, cursor: int, length: int) -> bool:
        """Whether ``length`` bytes more overwrite what one who reads from ``cursor`` on has not read."""
        unread = max(cursor, self._head)
        return unread < min(self.end, self.end + length - self._ring)

    def append(self, stream: Stream, length: int) -> None:
        """``length`` bytes of ``stream`` have come."""
        if length == 0:
            return
        self._floor = max(self._floor, self.end + length - self._ring)
        runs = self._runs[stream]
        if stream is self._last:
            runs[-1].length += length
        else:
            runs.append(_Run(self.end, self.lengths[stream], length))
        self._last = stream
        self.end += length
        self.lengths[stream] += length
        self._trim()

    def lose(self, start: int) -> None:
        """The bytes from ``start`` on could not be kept."""
        self._head = min(self._head, start)
        self._floor = self.end

    def read(self, cursor: int, limit: int) -> Span | Gap | None:
        """What the log has at ``cursor``, at most ``limit`` bytes of one stream; None at its end."""
        if cursor >= self.end:
            return None
        if self._head <= cursor < self._floor:
            return Gap(cursor, min(self._floor, self.end) - cursor)
        for stream, runs in self._runs.items():
            at = bisect_right(runs, cursor, key=lambda run: run.start) - 1
            if at >= 0 and cursor < runs[at].start + runs[at].length:
                return self._span(stream, runs[at], cursor - runs[at].start, limit)
        raise AssertionError("a byte that is kept belongs to no stream")

    def read_stream(self, stream: Stream, offset: int, limit: int) -> Span | Gap | None:
        """What a stream has at ``offset``, at most ``limit`` bytes; None at its end."""
        if offset >= self.lengths[stream]:
            return None
        runs = self._runs[stream]
        at = bisect_right(runs, offset, key=lambda run: run.offset) - 1
        if at >= 0 and offset < runs[at].offset + runs[at].length:
            skip = offset - runs[at].offset
            place = runs[at].start + skip
            if not self._head <= place < self._floor:
                return self._span(stream, runs[at], skip, limit)
        return Gap(offset, self._next_kept(runs, at, self.lengths[stream]) - offset)

    def place(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Where in the file the bytes of the log from ``start`` lie: (position, length), in order."""
        while length > 0:
            if start < self._place_of_ring:
                position, room = start, self._place_of_ring - start
            else:
                turned = (start - self._place_of_ring) % self._ring
                position, room = self._place_of_ring + turned, self._ring - turned
            yield position, min(room, length)
            start, length = start + room, length - room

    def is_kept(self, span: Span) -> bool:
        """Whether all of it is still there."""
        return self._floor <= self._head or span.start + span.length <= self._head or span.start >= self._floor

    def _span(self, stream: Stream, run: _Run, skip: int, limit: int) -> Span:
        start = run.start + skip
        room = run.length - skip
        if start < self._head and self._floor > self._head:
            room = min(room, self._head - start)
        return Span(stream, start, run.offset + skip, min(room, limit))

    def _next_kept(self, runs: list[_Run], at: int, end: int) -> int:
        """The offset at which the stream goes on behind the gap; ``end`` where it does not."""
        for run in runs[max(at, 0) :]:
            if run.start + run.length > self._floor:
                return run.offset + max(0, self._floor - run.start)
        return end

    def _trim(self) -> None:
        """Forgets the runs that are gone; and so many of the oldest that there are not too many."""
        count = sum(map(len, self._runs.values()))
        if count > self._most_runs // 2 and self.end <= self._head:
            self._head = self._floor = self.end
        if count > self._most_runs:
            kept = sorted(run.start for runs in self._runs.values() for run in runs if run.start >= self._head)
            self._floor = max(self._floor, kept[len(kept) // 2])
        for runs in self._runs.values():
            first = bisect_right(runs, self._head - 1, key=lambda run: run.start)
            last = first
            while last < len(runs) and runs[last].start + runs[last].length <= self._floor:
                last += 1
            # The last run of a stream goes on.
            last = min(last, len(runs) - 1)
            if last > first:
                del runs[first:last]
