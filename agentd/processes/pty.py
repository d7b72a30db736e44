"""Terminals: a program, its controlling terminal, and any number of people at it.

    terminal = await terminals.open(Opening(cols=120, rows=30, user="alice"))       # her shell
    await terminal.write(b"ls\\n")
    async for piece in terminal.output.follow(0): ...       # until the program has ended and that is all of it
    terminal.resize(80, 24); await terminal.kill()

Nobody who comes, goes or reads slowly is noticed by the program. A terminal is its two fds, what it showed and its
process, and needs none of those who started it. Everything runs on the loop.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agentd.errors import CapacityExceeded, Conflict, ProgramNotFound, TerminalNotFound
from agentd.linux.descriptor import Descriptor
from agentd.linux.places import Places
from agentd.linux.terminal import open_terminal, resize
from agentd.linux.threads import in_thread
from agentd.processes.feed import Feed
from agentd.processes.identifiers import identifier
from agentd.processes.process import Process
from agentd.processes.registry import Processes
from agentd.processes.scrollback import Scrollback
from agentd.processes.terms import Ending, Order, Wires

# Shells of those who are not meant to log in; a call of ours does not log in.
_NO_SHELLS = ("nologin", "false", "sync")
_SHELLS = ("/bin/bash", "/bin/sh")
# What a terminal may bring in one turn of the loop, and the seconds until its next: some 16 MB/s.
_TURN = 64 << 10
_PAUSE = 0.004
# What the kernel holds of a terminal whose program has ended is less.
_LAST_BYTES = 1 << 20
_HANG_UP_SECONDS = 1.0

# Used on the loop's thread alone, between one wait and the next.
_BUFFER = memoryview(bytearray(_TURN))

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class TerminalLimits(msgspec.Struct, frozen=True):
    """See the section ``terminals`` of the configuration, where each is described."""

    max_open: int = 64
    keep_ended: int = 64
    scrollback_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Opening:
    """What to open.

    cols, rows: in cells. argv: empty for the user's shell. login: that reads what a login shell reads, which may well
    set another PATH. cwd, env, user: as `terms.Order` has them. ident: see `identifiers`.
    """

    cols: int = 120
    rows: int = 30
    argv: tuple[str, ...] = ()
    login: bool = False
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    ident: str = ""


class Terminal:
    """Owned by `Terminals`.

    id: of the session. opened: Unix time. seen: the cursor up to which somebody has read. ending: set once the program
    has ended and its last output is in ``output``, which is closed then.
    """

    def __init__(
        self,
        ident: str,
        process: Process,
        ours: Descriptor,
        theirs: Descriptor,
        opening: Opening,
        kept: int,
        spawn: Spawn,
    ) -> None:
        self.id = ident
        self.process = process
        self.cols = opening.cols
        self.rows = opening.rows
        self.opened = time.time()
        self.output = Scrollback(kept)
        self.seen = 0
        self.ending: Ending | None = None
        self._ours = ours
        # Held, since reading a terminal that nobody has open fails, and a shell may open its own again.
        self._theirs = theirs
        self._spawn = spawn
        self._killing: asyncio.Task[None] | None = None
        self._feed = Feed(ours)
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(ours.fd, self._readable)

    async def write(self, content: bytes) -> None:
        """Types. Waits while the program does not read; what is typed after its end is dropped."""
        await self._feed.write(content)

    def resize(self, cols: int, rows: int) -> None:
        """In cells, 1 to 65535; the program in the foreground is told by SIGWINCH."""
        self.cols, self.rows = cols, rows
        if self._ours.fd >= 0:
            resize(self._ours.fd, cols, rows)

    async def kill(self) -> None:
        """Hangs up, as if the window were closed, and ends whatever does not go then. Again is harmless.

        It is done whoever waits for it still."""
        if self._killing is None or self._killing.done():
            self._killing = self._spawn(self._end())
        await asyncio.wait([self._killing])

    async def watch(self) -> None:
        """Ends with the program."""
        try:
            ending = await self.process.wait()
            taken = 0
            while taken < _LAST_BYTES and (count := self._take()):
                taken += count
            self.ending = ending
        finally:
            self._close()

    async def _end(self) -> None:
        if self.ending is None:
            await self.process.send_all(signal.SIGHUP)
            await self.process.wait(_HANG_UP_SECONDS)
        await self.process.stop()

    def _readable(self) -> None:
        if self._take() == _TURN:
            self._loop.remove_reader(self._ours.fd)
            self._pause = self._loop.call_later(_PAUSE, self._loop.add_reader, self._ours.fd, self._readable)

    def _take(self) -> int:
        """What there is, up to one turn; the kernel gives at most 4 KiB at once."""
        count = 0
        try:
            while count < _TURN and (more := os.readv(self._ours.fd, [_BUFFER[count:]])):
                count += more
        except BlockingIOError:
            pass
        except OSError:  # EIO: the program has hung it up (vhangup(2)), and may go on without it
            self._loop.remove_reader(self._ours.fd)
        if count:
            self.output.append(_BUFFER[:count])
        return count

    def _close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._ours.fd)
        self._feed.cut()
        self._theirs.close()
        self.output.close()


class Terminals:
    """All terminals. The ended ones are remembered for a while, so that who comes back learns how they ended."""

    def __init__(self, processes: Processes, places: Places, limits: TerminalLimits, spawn: Spawn) -> None:
        self._processes = processes
        self._places = places
        self._limits = limits
        self._spawn = spawn
        self._terminals: dict[str, Terminal] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._opening: set[str] = set()

    async def open(self, opening: Opening) -> Terminal:
        """Raises Conflict where one of that id is open, CapacityExceeded, and what `Processes.start` raises."""
        ident = identifier(opening.ident, "pty")
        if ident in self._opening or (ident in self._terminals and self._terminals[ident].ending is None):
            raise Conflict(f"there is a terminal {ident!r} already; end it, or choose another id", session_id=ident)
        if len(self._opening) + len(self.list()) >= self._limits.max_open:
            raise CapacityExceeded(f"{self._limits.max_open} terminals are open; end one of them first")
        self._opening.add(ident)
        try:
            *others, last = [opening.argv] if opening.argv else await self._shells(opening)
            for argv in others:
                with suppress(ProgramNotFound):
                    return await self._open(ident, opening, argv)
            return await self._open(ident, opening, last)
        finally:
            self._opening.discard(ident)

    def get(self, ident: str) -> Terminal:
        """TerminalNotFound where there is none, or it has been forgotten."""
        if ident not in self._terminals:
            raise TerminalNotFound(f"there is no terminal {ident!r}; it ended long ago, or never was", session_id=ident)
        return self._terminals[ident]

    def of(self, pid: int) -> Terminal:
        """The terminal whose program has, or had, this pid. TerminalNotFound."""
        found = [terminal for terminal in self._terminals.values() if terminal.process.pid == pid]
        if not found:
            raise TerminalNotFound(f"process {pid} has no terminal of ours; name the pid of its shell", pid=pid)
        return found[-1]

    def list(self) -> list[Terminal]:
        """Those that are open, the oldest first."""
        return [terminal for terminal in self._terminals.values() if terminal.ending is None]

    async def close(self) -> None:
        """The daemon ends. Whatever still runs in a terminal is hung up by the kernel."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _shells(self, opening: Opening) -> tuple[tuple[str, ...], ...]:
        place = await in_thread(self._places.find, "/", opening.user)
        shell = place.owner.shell
        own = () if os.path.basename(shell) in _NO_SHELLS else (shell,)
        flags = ("-l",) if opening.login else ()
        return tuple((name, *flags) for name in dict.fromkeys((*own, *_SHELLS)))

    async def _open(self, ident: str, opening: Opening, argv: tuple[str, ...]) -> Terminal:
        ours, theirs = await in_thread(open_terminal, opening.cols, opening.rows)
        with ours, theirs:
            order = Order(argv, cwd=opening.cwd, env=opening.env, user=opening.user)
            ends = dict.fromkeys(range(3), os.dup(theirs.fd))
            process = await self._processes.start(order, wires=Wires(ends, {}, terminal=True))
            taken = Descriptor(ours.detach()), Descriptor(theirs.detach())
            terminal = Terminal(ident, process, *taken, opening, self._limits.scrollback_bytes, self._spawn)
        self._terminals.pop(ident, None)
        self._terminals[ident] = terminal
        task = self._spawn(terminal.watch())
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        task.add_done_callback(lambda _: self._forget())
        return terminal

    def _forget(self) -> None:
        ended = [terminal.id for terminal in self._terminals.values() if terminal.ending is not None]
        for ident in ended[: max(0, len(ended) - self._limits.keep_ended)]:
            del self._terminals[ident]
