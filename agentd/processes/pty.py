"""Terminals: a program, its controlling terminal, and any number of people at it.

    terminal = await terminals.open(Opening(cols=120, rows=30, user="alice"))       # her shell
    await terminal.write(b"ls\\n")
    async for piece in terminal.output.follow(0): ...       # until the program has ended and that is all of it
    terminal.resize(80, 24); await terminal.kill()

Nobody who comes, goes or reads slowly is noticed by the program. A terminal is its two fds, what it showed and its
process, and needs none of those who started it. Everything runs on the loop.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from agentd.errors import CapacityExceeded, Conflict, ProgramNotFound, TerminalNotFound
from agentd.linux.descriptor import Descriptor
from agentd.linux.notify import STORE, FdStore
from agentd.linux.places import Places
from agentd.linux.terminal import open_terminal, resize, size_of
from agentd.linux.threads import in_thread
from agentd.processes.feed import Feed
from agentd.processes.identifiers import identifier
from agentd.processes.journal import Damaged
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

# In the store: what it showed, and its two ends.
_KIND = "t"
_OURS, _THEIRS = "-o", "-t"

_log = logging.getLogger("agentd.processes")

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class TerminalLimits(msgspec.Struct, frozen=True):
    """See the section ``terminals`` of the configuration, where each is described."""

    max_open: int = 64
    keep_ended: int = 64
    scrollback_bytes: int = 1 << 20


class Opening(msgspec.Struct, frozen=True):
    """What to open.

    cols, rows: in cells. argv: empty for the user's shell. login: that reads what a login shell reads, which may well
    set another PATH. cwd, env, user: as `terms.Order` has them. ident: see `identifiers`.
    """

    cols: int = 120
    rows: int = 30
    argv: tuple[str, ...] = ()
    login: bool = False
    cwd: str | None = None
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    user: str | None = None
    ident: str = ""


class _Record(msgspec.Struct, frozen=True):
    """What a terminal is. process: the name of its process in the store."""

    id: str
    process: str
    opened: float


_records = msgspec.json.Decoder(_Record)


class Terminal:
    """Owned by `Terminals`.

    id: of the session. opened: Unix time. ending: set once the program has ended and its last output is in ``output``,
    which is closed then. kept: its name in the store, where it outlives the daemon.
    """

    def __init__(
        self,
        ident: str,
        process: Process,
        ours: Descriptor,
        theirs: Descriptor,
        output: Scrollback,
        spawn: Spawn,
        *,
        opened: float,
        size: tuple[int, int],
        kept: str | None = None,
    ) -> None:
        self.id = ident
        self.process = process
        self.cols, self.rows = size
        self.opened = opened
        self.output = output
        self.kept = kept
        self.ending: Ending | None = None
        self._ours = ours
        # Held, since reading a terminal that nobody has open fails, and a shell may open its own again.
        self._theirs = theirs
        self._spawn = spawn
        self._killing: asyncio.Task[None] | None = None
        self._feed = Feed(ours)
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        if ours.fd >= 0:
            self._loop.add_reader(ours.fd, self._readable)

    @property
    def seen(self) -> int:
        """The cursor up to which somebody has read."""
        return self.output.seen

    @seen.setter
    def seen(self, cursor: int) -> None:
        self.output.seen = cursor

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
            while self._ours.fd >= 0 and count < _TURN and (more := self.output.take(self._ours.fd)):
                count += more
        except BlockingIOError:
            pass
        except OSError:  # EIO: the program has hung it up (vhangup(2)), and may go on without it
            self._loop.remove_reader(self._ours.fd)
        if count:
            self.output.tell()
        return count

    def _close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        if self._ours.fd >= 0:
            self._loop.remove_reader(self._ours.fd)
        self._feed.cut()
        self._theirs.close()
        self.output.close()


class Terminals:
    """All terminals. The ended ones are remembered for a while, so that who comes back learns how they ended."""

    def __init__(
        self,
        processes: Processes,
        places: Places,
        limits: TerminalLimits,
        spawn: Spawn,
        store: FdStore | None = None,
    ) -> None:
        self._store = store or FdStore(None)
        self._processes = processes
        self._places = places
        self._limits = limits
        self._spawn = spawn
        self._terminals: dict[str, Terminal] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._opening: set[str] = set()

    async def recover(self) -> None:
        """Goes on with those that an earlier daemon has left in the store, once their processes are found."""
        for name in self._store.names(_KIND):
            if not name.endswith((_OURS, _THEIRS)):
                ends = [(self._store.claim(name + end) or [Descriptor(-1)])[0] for end in (_OURS, _THEIRS)]
                try:
                    self._resume(name, self._store.claim(name), *ends)
                except (ValueError, OSError, msgspec.DecodeError) as error:
                    _log.warning("a terminal of an earlier daemon is lost: %s", error)
                    await self._remove(name)
        for name in self._store.names(_KIND):
            self._store.claim(name)
            await in_thread(self._store.remove, name, pool=STORE)

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

    async def close(self, patience: float = 0, *, keep: bool = False) -> None:
        """The daemon ends. Whatever still runs in a terminal is hung up by the kernel; keep: unless the store has it.
        patience: seconds in which those whose program has ended tell so."""
        if self._watching:
            await asyncio.wait(self._watching, timeout=patience)
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for terminal in [] if keep else self._terminals.values():
            if terminal.kept is not None:
                await self._remove(terminal.kept)

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
            wires = Wires(ends, {}, terminal=True)
            process = await self._processes.start(order, wires=wires, lasting=True)
            opened = time.time()
            output = kept = None
            if process.kept is not None:
                kept, record = FdStore.name(_KIND), _Record(ident, process.kept.name, opened)
                try:
                    output = await in_thread(self._keep, kept, record, ours, theirs, pool=STORE)
                except BaseException as error:
                    self._spawn(self._remove(kept))
                    if not isinstance(error, OSError):
                        raise
                    kept = None
            output = output or Scrollback(self._limits.scrollback_bytes)
            self._add(
                Terminal(
                    *(ident, process, Descriptor(ours.detach()), Descriptor(theirs.detach()), output, self._spawn),
                    opened=opened,
                    size=(opening.cols, opening.rows),
                    kept=kept,
                )
            )
        return self._terminals[ident]

    def _keep(self, name: str, record: _Record, ours: Descriptor, theirs: Descriptor) -> Scrollback:
        """Puts it into the store. Blocks. OSError."""
        output, file = Scrollback.new(self._limits.scrollback_bytes, msgspec.json.encode(record))
        with file:
            for ending, fd in ((_OURS, ours.fd), (_THEIRS, theirs.fd), ("", file.fd)):
                self._store.put(name + ending, [fd])
        return output

    def _resume(self, name: str, files: Sequence[Descriptor], ours: Descriptor, theirs: Descriptor) -> None:
        if not files:
            raise Damaged("nothing says what it is")
        output, content = Scrollback.found(files[0].fd)
        record = _records.decode(content)
        process = self._processes.kept_as(record.process)
        if process is None or (process.running and ours.fd < 0):
            raise Damaged("its process, or its end that is ours, is not there")
        size = size_of(ours.fd) if ours.fd >= 0 else (0, 0)
        parts = (record.id, process, ours, theirs, output, self._spawn)
        self._add(Terminal(*parts, opened=record.opened, size=size, kept=name))

    def _add(self, terminal: Terminal) -> None:
        former = self._terminals.pop(terminal.id, None)
        if former is not None and former.kept is not None:
            self._spawn(self._remove(former.kept))
        self._terminals[terminal.id] = terminal
        task = self._spawn(self._watch(terminal))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _watch(self, terminal: Terminal) -> None:
        await terminal.watch()
        if terminal.kept is not None:
            # Its programs are hung up by that: the store has its ends too.
            await in_thread(self._store.remove, terminal.kept + _OURS, terminal.kept + _THEIRS, pool=STORE)
        ended = [one for one in self._terminals.values() if one.ending is not None]
        for one in ended[: max(0, len(ended) - self._limits.keep_ended)]:
            del self._terminals[one.id]
            if one.kept is not None:
                await self._remove(one.kept)

    async def _remove(self, name: str) -> None:
        await in_thread(self._store.remove, name, name + _OURS, name + _THEIRS, pool=STORE)
