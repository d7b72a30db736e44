"""One session: a shell, the commands it is given one after the other, and what each of them wrote.

Everything runs on the loop.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any

import msgspec

from agentd.core.eventlog import Gap, Stream
from agentd.errors import CapacityExceeded, CommandNotFound, Conflict, InvalidRequest, KeyReused, SessionEnded
from agentd.linux.descendants import STOP, find
from agentd.linux.threads import in_thread
from agentd.processes.feed import Feed
from agentd.processes.output import Chunk, Output
from agentd.processes.process import Process
from agentd.processes.shell import Kind, Line
from agentd.processes.terms import Ending

REMEMBERED = 4096  # characters of a command's text
_END_SECONDS = 1.0  # from the end of a shell's reports to its own

_log = logging.getLogger("agentd.processes")

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class SessionLimits(msgspec.Struct, frozen=True):
    """See the section ``sessions`` of the configuration, where each is described."""

    max_open: int = 64
    keep_ended: int = 64
    keep_commands: int = 256
    max_waiting: int = 16
    command_bytes: int = 2 << 20
    idle_timeout: float = 3600


class Input(msgspec.Struct, frozen=True):
    """content: what the command reads first. open: more may follow, until `Session.close_input`."""

    content: bytes = b""
    open: bool = False


NO_INPUT = Input()


class Command:
    """One command of a session. text: once it runs, its beginning.

    asked, started, ended: Unix time, None while that is yet to be; ``started`` for good where the session ended first.
    exit_code: once it has ended. begin, end: of its output in each stream; first, last: cursors of the session's output
    between which that is. timed_out: we ended it, and the session with it.
    """

    def __init__(self, number: int, text: str, given: Input, timeout: float | None, key: str | None) -> None:
        self.key = key
        self.id = f"cmd_{number}"
        self.number = number
        self.text = text
        self.input = given
        self.timeout = timeout
        self.asked = time.time()
        self.started: float | None = None
        self.ended: float | None = None
        self.exit_code: int | None = None
        self.begin: Mapping[Stream, int] = dict.fromkeys(Stream, 0)
        self.end: Mapping[Stream, int] | None = None
        self.first = 0
        self.last: int | None = None
        self.timed_out = False
        self._begun = asyncio.Event()
        self._done = asyncio.Event()

    @property
    def state(self) -> str:
        """waiting, running, ended; dropped: the session ended before it was run."""
        if self.started is None:
            return "waiting" if self.ended is None else "dropped"
        return "running" if self.ended is None else "ended"

    async def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, after so long at most (None: any time)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._done.wait()
        return self._done.is_set()

    async def begun(self) -> None:
        """Waits until it runs, or never will."""
        await self._begun.wait()

    def begin_at(self, output: Output) -> None:
        self.begin, self.first, self.started = dict(output.log.lengths), output.log.end, time.time()
        self._begun.set()

    def finish(self, code: int | None, end: Mapping[Stream, int], last: int) -> None:
        self.exit_code, self.end, self.last, self.ended = code, end, last, time.time()
        self._begun.set()
        self._done.set()

    def own(self, piece: Chunk) -> Chunk | None:
        """What of ``piece`` is output of this command."""
        skip = max(0, self.begin[piece.stream] - piece.offset)
        room = len(piece.content) if self.end is None else self.end[piece.stream] - piece.offset
        content = piece.content[skip : max(0, room)]
        return Chunk(piece.stream, piece.cursor + skip, piece.offset + skip, content) if content else None


class Session:
    """Owned by `Sessions`. opened: Unix time. ending: how the shell ended; None while it runs."""

    def __init__(
        self, ident: str, kind: Kind, line: Line, process: Process, limits: SessionLimits, spawn: Spawn
    ) -> None:
        self.id = ident
        self.shell = kind
        self.process = process
        self.opened = time.time()
        self.ending: Ending | None = None
        self.running: Command | None = None
        self._commands: dict[str, Command] = {}
        self._waiting: deque[Command] = deque()
        self._line = line
        self._feed: Feed | None = None
        self._limits = limits
        self._spawn = spawn
        self._count = 0
        self._status = 0
        self._heard: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._leaving = False
        self._stopping: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(line.status.fd, self._reported)
        self._set_timer(limits.idle_timeout, self._idle)

    @property
    def output(self) -> Output:
        return self.process.output

    @property
    def commands(self) -> list[Command]:
        """Those that are remembered, the oldest first."""
        return [*self._commands.values()]

    def command(self, ident: str) -> Command:
        """CommandNotFound where it never was, or is forgotten."""
        if ident not in self._commands:
            raise CommandNotFound(f"session {self.id!r} knows no command {ident!r}; it may be forgotten", command=ident)
        return self._commands[ident]

    def run(
        self, text: str, given: Input = NO_INPUT, *, timeout: float | None = None, key: str | None = None
    ) -> Command:
        """Has the shell run ``text`` after what was asked for before; or the command that came with this ``key``.

        timeout: seconds from its start, after which the session is ended. Raises SessionEnded, CapacityExceeded,
        InvalidRequest, KeyReused."""
        for known in self._commands.values():
            if key is not None and known.key == key:
                if known.text[:REMEMBERED] != text[:REMEMBERED]:
                    raise KeyReused("this idempotency key came with another command before; use a new one")
                return known
        if self._leaving or self.ending is not None:
            what = "is being ended" if self.ending is None else f"has ended with {self.ending.code}"
            raise SessionEnded(f"session {self.id!r} {what}; open another", session_id=self.id)
        if len(self._waiting) >= self._limits.max_waiting:
            raise CapacityExceeded(f"{len(self._waiting)} commands wait in session {self.id!r}; let some end first")
        self._check(text)
        self._count += 1
        command = Command(self._count, text, given, timeout, key)
        self._commands[command.id] = command
        self._waiting.append(command)
        self._forget()
        if self.running is None and len(self._waiting) == 1:
            self._spawn(self._next())
        return command

    async def write(self, command: Command, content: bytes) -> None:
        """More input for the command that runs; waits while it does not read. Conflict where it takes none."""
        if not await self._feed_of(command).write(content):
            raise Conflict(f"command {command.id!r} did not read all of this before it ended", command=command.id)

    async def close_input(self, command: Command) -> None:
        """The end of its input, after what is being written. Conflict where that has come already."""
        await self._feed_of(command).close()

    async def follow(
        self, command: Command, cursor: int = 0, *, wait: bool = True
    ) -> AsyncGenerator[Chunk | Gap, None]:
        """The command's output from a cursor on, as it comes, until that is all of it. wait: False for what there is
        so far."""
        if wait:
            await command.begun()
        elif command.started is None:
            return
        start = max(cursor, command.first)
        async with aclosing(self.output.follow(start, until=lambda: not wait or command.last is not None)) as pieces:
            async for piece in pieces:
                at = piece.start if isinstance(piece, Gap) else piece.cursor
                if command.last is not None and at >= command.last:
                    return
                own = piece if isinstance(piece, Gap) else command.own(piece)
                if own is not None:
                    yield own

    async def read(self, command: Command, stream: Stream, limit: int) -> tuple[bytes, bool]:
        """The beginning of what the command has written so far, and whether that is all of it."""
        end = self.output.log.lengths if command.end is None else command.end
        offset = command.begin[stream]
        until = max(offset, end[stream]) if command.started is not None else offset
        pieces: list[bytes] = []
        while offset < until and limit > 0:
            piece = await self.output.read_stream(stream, offset, min(until - offset, limit))
            if not isinstance(piece, Chunk):
                break
            pieces.append(piece.content)
            offset, limit = offset + len(piece.content), limit - len(piece.content)
        return b"".join(pieces), offset == until

    async def stop(self) -> None:
        """Ends the shell and everything it started. Again is harmless. It is done whoever waits for it still."""
        if self._stopping is None or self._stopping.done():
            self._stopping = self._spawn(self._leave())
        await asyncio.wait([self._stopping])

    async def watch(self) -> None:
        """Ends with the shell."""
        try:
            ending = await self.process.wait()
            assert ending is not None
            self._reported()
            self.ending = ending
            if self.running is not None:
                status = ending.code if self._heard is None else self._heard
                self._finish(self.running, status, dict(self.output.log.lengths))
        finally:
            self._loop.remove_reader(self._line.status.fd)
            self._line.close()
            for command in self._waiting:
                command.finish(None, command.begin, 0)
            self._waiting.clear()
            self._set_timer(None)

    def _check(self, text: str) -> bytes:
        try:
            content = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise InvalidRequest("the command has characters that cannot be passed on; send UTF-8") from None
        if b"\0" in content:
            raise InvalidRequest("the command has a NUL byte in it, which no shell takes; write it as \\0 for printf")
        if len(content) > self._limits.command_bytes:
            what = f"the command has {len(content)} bytes, at most {self._limits.command_bytes} are taken"
            raise InvalidRequest(f"{what}; upload a script and run that")
        return content

    async def _next(self) -> None:
        """Has the shell run what waits, if it is idle."""
        async with self._turn:
            if self.running is not None:
                return
            await self.output.catch_up()
            if not self._waiting or self._leaving:
                return
            command = self._waiting.popleft()
            self.running = command
            self._set_timer(command.timeout, self._late)
            given, command.input = command.input, NO_INPUT
            content, command.text = self._check(command.text), command.text[:REMEMBERED]
            try:
                if given.content or given.open:
                    self._feed = Feed(self._line.open_input())
                    self._spawn(self._give(self._feed, given))  # before whoever waits for the begin writes more
                command.begin_at(self.output)
                self._line.tell(command.number, content, self._status)
            except BrokenPipeError:
                pass  # the shell has ended, and the watch tells of it
            except OSError:
                _log.exception("a session cannot go on")
                await self._lose()

    async def _give(self, feed: Feed, given: Input) -> None:
        await feed.write(given.content)
        if not given.open:
            await feed.close()

    def _feed_of(self, command: Command) -> Feed:
        if command is not self.running or self._feed is None or self._feed.closed:
            what = f"command {command.id!r} takes no input: it does not run, was given none, or its input was closed"
            raise Conflict(what, command=command.id)
        return self._feed

    def _reported(self) -> None:
        reports = self._line.reports()
        if reports is None:
            self._loop.remove_reader(self._line.status.fd)
            self._spawn(self._lose())
        for number, status in reports or ():
            if self.running is not None and self.running.number == number:
                self._heard = status
                self._spawn(self._conclude(self.running, status))

    async def _conclude(self, command: Command, status: int) -> None:
        self._finish(command, status, await self.output.catch_up())

    def _finish(self, command: Command, code: int, end: Mapping[Stream, int]) -> None:
        """Once; then the next one's turn is."""
        if self.running is not command:
            return
        self.running, self._heard = None, None
        self._status = code
        if self._feed is not None:
            self._feed.cut()
            self._feed = None
            self._line.empty_input()
        command.finish(code, end, self.output.log.end)
        self.output.wake()
        self._set_timer(self._limits.idle_timeout, self._idle)
        self._spawn(self._next())

    async def _leave(self) -> None:
        self._leaving = True
        await self.process.stop()

    async def _lose(self) -> None:
        """The shell cannot report any more. One that does not end now would let its caller wait for ever."""
        if await self.process.wait(_END_SECONDS) is None:
            await self._leave()

    async def _late(self) -> None:
        if self.running is not None:
            self.running.timed_out = True
        await self._leave()

    async def _idle(self) -> None:
        """Ends a shell that has done nothing for long, unless something that it started still runs."""
        found = await in_thread(find, [self.process.mark], self.process.leaders, pool=STOP)
        if self.running is None and not self._waiting and self.ending is None:
            if len(found) > 1:
                self._set_timer(self._limits.idle_timeout, self._idle)
            else:
                await self._leave()

    def _set_timer(self, seconds: float | None, job: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """The one there was is off."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None and job is not None:
            self._timer = self._loop.call_later(seconds, lambda: self._spawn(job()))

    def _forget(self) -> None:
        ended = [command.id for command in self._commands.values() if command.ended is not None]
        for ident in ended[: max(0, len(self._commands) - self._limits.keep_commands)]:
            del self._commands[ident]
