"""What a process wrote, kept for any number of readers: in memory while it is little, then in a file without a name.

The pump takes what is in the pipes. It reads a little on the loop; of a process that writes much, a thread moves some
MiB at a time straight to the file. Readers ask, at any cursor and at any pace, and hold up neither the process nor
each other: what was overwritten meanwhile is a `Gap` to them. Only one who asks to set the `pace` is waited for, and
not for long where it takes nothing.
"""

import asyncio
import fcntl
import logging
import os
import struct
import sys
import termios
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import msgspec

from agentd.core.eventlog import EventLog, Gap, Span, Stream
from agentd.linux.threads import DISK, Pool, in_thread
from agentd.processes.journal import Journal
from agentd.processes.spill import PIECE, Memory, Spill, Take, into, move
from agentd.processes.survival import Kept

MEMORY = 256 << 10
AHEAD = 256 << 10  # of what one who follows reads at once
TURN = 8 << 20
PACE_SECONDS = 10.0
PUMP = Pool("pump", 4)

_log = logging.getLogger("agentd.processes")

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Chunk(msgspec.Struct, frozen=True):
    """Bytes of a stream. cursor: their place in the log, over both streams. offset: in their stream."""

    stream: Stream
    cursor: int
    offset: int
    content: bytes

    @property
    def next(self) -> int:
        """The cursor of what follows."""
        return self.cursor + len(self.content)

    def parts(self, limit: int) -> "Iterator[Chunk]":
        """Itself, in chunks of at most ``limit`` bytes."""
        for at in range(0, len(self.content), limit):
            yield Chunk(self.stream, self.cursor + at, self.offset + at, self.content[at : at + limit])


class _Pacer:
    """A reader that is waited for. cursor: what it has read ends here."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.went_on = asyncio.Event()

    def go_on(self, cursor: int) -> None:
        if cursor > self.cursor:
            self.cursor = cursor
            self.went_on.set()


class Output:
    """The log of one process and the pipes it comes from.

    log: with its capacity, and what it has so far. directory: fd for the file. spawn: runs a job beside the requests.
    watch: called with the log's length whenever it has grown. kept: where it is to outlive the daemon. spill: the file,
    where there is one already.
    """

    def __init__(
        self,
        log: EventLog,
        directory: int,
        spawn: Spawn,
        watch: Callable[[int], None] = lambda _: None,
        *,
        kept: Kept | None = None,
        spill: Spill | None = None,
    ) -> None:
        self.log = log
        self.final: int | None = None
        self.hung_up = False
        self._kept = kept
        self._journal = journal = None if kept is None else kept.journal
        self._memory: Memory | Journal | None = Memory() if journal is None else journal
        if journal is not None and journal.spilled:
            self._memory = None
        self._most_memory = min(MEMORY, log.capacity) if journal is None else journal.memory
        self._turn = min(TURN, max(log.capacity // 8, 1))
        self._directory = directory
        self._spill = spill
        self._spawn = spawn
        self._watch = watch
        self._pipes: dict[Stream, int] = {}
        self._moving = self._closed = False
        self._catching = 0
        self._pacers: list[_Pacer] = []
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # -- the pump

    def open(self, pipes: Mapping[Stream, int]) -> None:
        """Reads from these fds, non-blocking ones, which it owns from here on."""
        self._pipes = dict(pipes)
        self._listen()

    async def catch_up(self) -> dict[Stream, int]:
        """Returns once all that is in the pipes now has been read: how long each stream is up to there."""
        self._catching += 1
        try:
            await self._moved()
            goals = {stream: self.log.lengths[stream] + _waiting(fd) for stream, fd in self._pipes.items()}
            before = -1
            while self.log.end > before and any(
                stream in self._pipes and self.log.lengths[stream] < goal for stream, goal in goals.items()
            ):
                before = self.log.end
                self._readable()
                await self._moved()
        finally:
            self._catching -= 1
            self._listen()
        return {stream: min(length, goals.get(stream, length)) for stream, length in self.log.lengths.items()}

    async def settle(self, patience: float = 0) -> None:
        """Returns once all that is in the pipes now has been read, and makes that the end for those who `follow`.

        patience: seconds for pipes to come to their end, since a terminal hands its last bytes over late.
        """
        await self.catch_up()
        if patience and self._pipes:
            try:
                async with asyncio.timeout(patience):
                    while self._pipes:
                        await self._change()
            except TimeoutError:
                pass
        self.final = self.log.end
        self._notify()

    def hang_up(self) -> None:
        """Ends those who `follow`, once they have what there is."""
        self.hung_up = True
        self._notify()

    @property
    def is_open(self) -> bool:
        """Whether somebody may still write."""
        return bool(self._pipes)

    async def ended(self) -> None:
        """Waits until nobody can write any more."""
        while self._pipes:
            await self._change()

    def unwatch(self) -> None:
        """``watch`` is called no more, and whoever it belongs to is let go."""
        self._watch = lambda _: None

    def close(self) -> None:
        """Reads no more. What was kept goes with this object."""
        self._closed = True
        self.unwatch()
        for pacer in self._pacers:
            pacer.go_on(sys.maxsize)
        self._pacers.clear()
        if not self._moving:
            self._end_all()
        self._notify()

    def _listen(self) -> None:
        if not (self._moving or self._catching):
            for fd in self._pipes.values():
                self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        if self._moving:
            return
        memory = self._memory
        if memory is None or len(memory) + PIECE * len(self._pipes) > self._most_memory or not self._taken_in(memory):
            self._moving = True
            for fd in self._pipes.values():
                self._loop.remove_reader(fd)
            self._spawn(self._move())
        else:
            self._notify()

    def _taken_in(self, memory: Memory | Journal) -> bool:
        """What is in the pipes, where the memory takes it."""
        for stream, fd in list(self._pipes.items()):
            count, failure = memory.take(stream, fd, PIECE)
            if failure is not None:
                return False
            if count == 0:
                self._end(stream)
            elif count:
                self.log.append(stream, count)
        return True

    async def _move(self) -> None:
        try:
            spill = await self._spilled()
            while self._pipes:
                await self._paced()
                start = self.log.end
                places = self.log.reserve(self._turn)
                moved = await in_thread(move, dict(self._pipes), self._take(spill), places, pool=PUMP)
                for stream, count in moved.counts:
                    self.log.append(stream, count)
                for stream in moved.ended:
                    self._end(stream)
                if spill is None or moved.failure is not None:
                    self._lose(start, moved.failure)
                self._notify()
                # One who catches up wants what is there now, and there may always be more.
                if moved.emptied or self._closed or self._catching:
                    break
        finally:
            self._moving = False
            if self._closed:
                self._end_all()
            self._listen()
            self._notify()

    async def _paced(self) -> None:
        """Waits for those who set the pace, while what comes would overwrite what they have not read."""
        while late := [one for one in self._pacers if self.log.would_lose(one.cursor, self._turn)]:
            for one in late:
                one.went_on.clear()
            try:
                async with asyncio.timeout(PACE_SECONDS):
                    await late[0].went_on.wait()
            except TimeoutError:
                self._pacers.remove(late[0])

    async def _spilled(self) -> Spill | None:
        """The file, with what was in memory in it; None where there can be none now: then output is lost."""
        if self._spill is None:
            try:
                spill = await in_thread(Spill.new, self._directory)
                if (memory := self._memory) is not None:
                    content, places = memory.read(0, len(memory)), list(self.log.place(0, len(memory)))
                    await in_thread(spill.write, content, places)
                if self._kept is not None:
                    await in_thread(self._kept.put_spill, spill)
                    self._kept.journal.spill(spill.fd, next(self.log.place(self.log.end, 1))[0])
                self._spill = spill
                for fd in self._pipes.values():
                    with suppress(OSError):  # no pipe, or too many of this size
                        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)
            except OSError as error:
                self._lose(0, error)
            self._memory = None
        return self._spill

    def _take(self, spill: Spill | None) -> Take:
        if self._journal is None:
            return into(spill)
        return self._journal.discard if spill is None else partial(self._journal.take_to, spill.fd)

    def _lose(self, start: int, error: OSError | None) -> None:
        self.log.lose(start)
        if self._journal is not None:
            self._journal.lose(*self.log.kept)
        if error is not None:
            _log.warning("output of a process is lost: %s", error.strerror)

    async def _moved(self) -> None:
        while self._moving:
            await self._change()

    def _end_all(self) -> None:
        """Not while a thread reads: it would read from whatever gets the numbers of the fds next."""
        for stream in list(self._pipes):
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        fd = self._pipes.pop(stream)
        if not self._moving:
            self._loop.remove_reader(fd)
        os.close(fd)

    # -- readers

    async def read(self, cursor: int, limit: int = PIECE) -> Chunk | Gap | None:
        """What the log has at ``cursor``, at most ``limit`` bytes; None where it ends."""
        return await self._taken(lambda: self.log.read(cursor, limit))

    async def read_stream(self, stream: Stream, offset: int, limit: int = PIECE) -> Chunk | Gap | None:
        """What a stream has at ``offset``, at most ``limit`` bytes; None where it ends. A Gap is in its offsets."""
        return await self._taken(lambda: self.log.read_stream(stream, offset, limit))

    async def first(self, stream: Stream, limit: int) -> bytes:
        """The beginning of a stream, at most ``limit`` bytes, ended by a gap: later calls give the same and more."""
        pieces: list[bytes] = []
        offset = 0
        while offset < limit:
            piece = await self.read_stream(stream, offset, min(limit - offset, TURN))
            if not isinstance(piece, Chunk):
                break
            pieces.append(piece.content)
            offset += len(piece.content)
        return b"".join(pieces)

    async def follow(
        self,
        cursor: int = 0,
        limit: int = PIECE,
        until: Callable[[], bool] = lambda: False,
        *,
        paced: bool = False,
    ) -> AsyncGenerator[Chunk | Gap, None]:
        """Everything from ``cursor`` on as it comes, until the process has ended and that is all of it, or `hang_up`.

        until: asked where the log ends, and after `wake`; True is an earlier end. paced: see `pace`."""
        with self.pace(cursor) if paced else nullcontext(None) as pacer:
            while True:
                piece = await self.read(cursor, max(limit, AHEAD))
                if piece is not None:
                    for part in (piece,) if isinstance(piece, Gap) else piece.parts(limit):
                        yield part
                    cursor = piece.next if isinstance(piece, Chunk) else piece.start + piece.length
                elif self.hung_up or (self.final is not None and cursor >= self.final) or until():
                    return
                else:
                    await self._change()
                if pacer is not None:
                    pacer.go_on(cursor)

    @contextmanager
    def pace(self, cursor: int) -> Iterator[_Pacer]:
        """For its extent the process has to wait before it overwrites what lies behind the pacer's cursor; at most
        `PACE_SECONDS` for each step of it."""
        pacer = _Pacer(cursor)
        self._pacers.append(pacer)
        try:
            yield pacer
        finally:
            pacer.go_on(sys.maxsize)
            with suppress(ValueError):
                self._pacers.remove(pacer)

    def wake(self) -> None:
        """Those who `follow` look again whether that is all."""
        self._notify()

    async def await_stream(
        self, stream: Stream, offset: int, limit: int, pacer: _Pacer | None = None
    ) -> Chunk | Gap | None:
        """As `read_stream`, once there is something; None only where the process has ended, or after `hang_up`."""
        while (piece := await self.read_stream(stream, offset, limit)) is None:
            if self.hung_up or self.final is not None:
                return None
            if pacer is not None:
                pacer.go_on(self.log.end)
            await self._change()
        return piece

    async def _taken(self, find: Callable[[], Span | Gap | None]) -> Chunk | Gap | None:
        while True:
            found = find()
            if not isinstance(found, Span):
                return found
            content = await self._content(found)
            if content is not None:
                return Chunk(found.stream, found.start, found.offset, content)

    async def _content(self, span: Span) -> bytes | None:
        """None where it was overwritten meanwhile."""
        if self._memory is not None:
            return self._memory.read(span.start, span.length)
        if (spill := self._spill) is None:
            return None
        content = await in_thread(spill.read, list(self.log.place(span.start, span.length)), pool=DISK)
        return content if self.log.is_kept(span) else None

    async def _change(self) -> None:
        await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._watch(self.log.end)


def _waiting(fd: int) -> int:
    """How many bytes can be read at once (ioctl(2), FIONREAD)."""
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return count
