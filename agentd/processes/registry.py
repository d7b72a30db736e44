"""The owner of all processes: `Processes`. What dialects, terminals, sessions and git build on.

    process = await processes.start(Order(("sh", "-c", "make"), cwd="src", user="alice", stdin="pipe", timeout=60))
    await process.write(b"yes\\n"); await process.close_input()
    ending = await process.wait()                  # the leader ended, and what it wrote is in the log
    text = await process.output.read(Stream.STDOUT, 0, 65536)      # bytes at an offset of a stream
    async for event in process.output.follow(0):   # Chunk | Gap, from a cursor on, until the process has ended
        ...
    process.send(signal.SIGINT)                    # to its process group
    await process.stop()                           # TERM to the whole tree, grace, KILL; returns when it is gone
    done = await processes.run(order, limit=1 << 20)   # Finished(ending, stdout, stderr, truncated), for git

Everything is called on the loop. A caller that is cancelled leaves the process running; only ``timeout``, `stop`,
`signal` and the daemon's end end it. A terminal brings its own `Wires`; a session does with the fds of its shell.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import msgspec

from agentd.core.eventlog import EventLog, Stream
from agentd.core.paths import absolute
from agentd.errors import (
    AgentError,
    CapacityExceeded,
    ExecFailed,
    InvalidRequest,
    KeyReused,
    ProcessNotFound,
    Unavailable,
)
from agentd.linux.descendants import STOP, end_all, find
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity
from agentd.linux.notify import FdStore
from agentd.linux.places import Places
from agentd.linux.root import Root
from agentd.linux.spawn import SPAWN, Child, Limits, Settings, spawn
from agentd.linux.steps import Steps, in_steps
from agentd.linux.threads import in_thread
from agentd.processes import marks
from agentd.processes.marks import Marks
from agentd.processes.output import MEMORY, Output
from agentd.processes.process import Process
from agentd.processes.surroundings import Surroundings
from agentd.processes.survival import Kept, Survivor, fingerprint, keep, survivors
from agentd.processes.terms import Ending, Order, ProcessLimits, Wires
from agentd.processes.wiring import discard, pipes
from agentd.telemetry import fields

Spawn = Callable[[Coroutine[Any, Any, None]], object]
LEAST_HEAD = 4
LONGEST_STRING = (128 << 10) - 2  # MAX_ARG_STRLEN of execve(2), less '=' and NUL

_log = logging.getLogger("agentd.processes")


class Finished(msgspec.Struct, frozen=True):
    """What `Processes.run` gives. truncated: there was more output than ``limit``."""

    ending: Ending
    stdout: bytes
    stderr: bytes
    truncated: bool


class Processes:
    """most: limits that no process may exceed. directory: fd of the daemon's own, for output that memory is too small
    for. spawn: runs a job beside the requests. shell: the path of the shell that is to be used for commands."""

    def __init__(
        self,
        root: Root,
        places: Places,
        limits: ProcessLimits,
        settings: Settings,
        surroundings: Surroundings,
        *,
        most: Limits,
        directory: int,
        spawn: Spawn,
        first: int | None = None,
        store: FdStore | None = None,
    ) -> None:
        self.shell = surroundings.shell
        self.limits = limits
        self._root = root
        self._places = places
        self._settings = settings
        self._surroundings = surroundings
        self._most = most
        self._directory = directory
        self._spawn = spawn
        self._processes: dict[int, Process] = {}
        self._left: set[Process] = set()
        self._timers: dict[Process, asyncio.TimerHandle] = {}
        self._keys: dict[str, tuple[str, asyncio.Future[Process]]] = {}
        self._starts: set[asyncio.Future[Process]] = set()
        self._closing = False
        self._null = Descriptor(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        self._store = store or FdStore(None)
        self._first = marks.new_first() if first is None else first
        self._marks = Marks([self._first])
        self._recovered = False
        # With those beside it (`beside`).
        self._all = WeakSet([self])

    def beside(self, places: Places, cwd: str | None, first: int) -> "Processes":
        """Others on the same machine, which know nothing of these: of all together so many may run. cwd: where they
        start, None for as these. first: what their marks are counted from."""
        around, cgroups = self._surroundings, self._settings.cgroups
        made = Processes(
            *(self._root, places, self.limits),
            msgspec.structs.replace(self._settings, cgroups=None if cgroups is None else cgroups.part()),
            msgspec.structs.replace(around, cwd=around.cwd if cwd is None else cwd),
            most=self._most,
            directory=self._directory,
            spawn=self._spawn,
            first=first,
        )
        self._all.add(made)
        made._all = self._all
        return made

    async def recover(self, *, keep: bool) -> None:
        """Goes on with what an earlier daemon has left in the store, before anything is started; and ends whatever else
        is left of one that died, unless that is to be kept."""
        earlier, found = await in_thread(self._found)
        for survivor in found:
            self._resume(survivor)
        mine = [process.mark for process in self._processes.values() if process.mark]
        self._marks = Marks([self._first, *map(marks.first_of, mine)])
        self._recovered = True
        left = frozenset() if keep else earlier
        await self._note(self._marks.firsts | left)
        if left:
            self._spawn(self._clean(Marks(left, mine)))

    def kept_as(self, name: str) -> Process | None:
        """The process of that name in the store."""
        return next((one for one in self._processes.values() if one.kept is not None and one.kept.name == name), None)

    async def start(
        self, order: Order, *, wires: Wires | None = None, key: str | None = None, lasting: bool | None = None
    ) -> Process:
        """A new process, or the one that was started with this ``key`` before; it stays, whoever is cancelled.

        lasting: whether it outlives the daemon where there is a store; None: if it brings no wires. Raises
        KeyReused where that one was another order; ProgramNotFound, ExecFailed, PermissionDenied, NotFound,
        NotADirectory, PathReserved, UnknownUser, CapacityExceeded, Unavailable.
        """
        wanted = fingerprint(order) if key is not None else ""
        known = self._keys.get(key) if key is not None else None
        if known is not None:
            earlier, started = known
            if earlier != wanted:
                raise KeyReused("this idempotency key came with another command before; use a new one")
        else:
            try:
                self._check(order)
            except AgentError:
                discard(wires, self._null.fd)
                raise
            started = asyncio.get_running_loop().create_future()
            if key is not None:
                self._keys[key] = wanted, started
            self._starts.add(started)
            lasting = wires is None if lasting is None else lasting
            facts = {"key": key, "fingerprint": wanted} if lasting and self._store.is_there else None
            self._spawn(self._start(order, wires, started, facts))
        try:
            return await asyncio.shield(started)
        except AgentError:
            if key is not None and self._keys.get(key) == (wanted, started):
                del self._keys[key]
            raise

    async def run(self, order: Order, limit: int | None = None) -> Finished:
        """Starts it and waits for its end. limit: bytes that are taken of each stream, the first ones."""
        process = await self.start(order)
        ending = await process.wait()
        assert ending is not None
        limit = self.limits.answer_bytes if limit is None else limit
        stdout, stderr = [await process.output.first(stream, limit) for stream in Stream]
        truncated = len(stdout) + len(stderr) < process.output.log.end
        return Finished(ending, stdout, stderr, truncated)

    def forget(self, process: Process) -> None:
        """Before its time, once it has ended: one that the room's users never asked for."""
        self._forget(process)

    def get(self, pid: int) -> Process:
        """Running, or ended and not forgotten yet. ProcessNotFound."""
        try:
            return self._processes[pid]
        except KeyError:
            raise ProcessNotFound(f"there is no process {pid}, or it ended long ago", pid=pid) from None

    def list(self, tags: Mapping[str, str] | None = None) -> list[Process]:
        """Those that carry all of ``tags``, oldest first."""
        wanted = (tags or {}).items()
        return [process for process in self._processes.values() if wanted <= process.order.tags.items()]

    def change_variables(self, changed: Mapping[str, str], removed: Iterable[str], prefix: str = "") -> None:
        """Of processes that are started from now on, beneath those of their orders. removed: names that are left out,
        as are those whose value begins with ``prefix``, unless they are ``changed``. InvalidRequest for no name."""
        for name, value in changed.items():
            if not name or "=" in name or not _can_be_passed(name + value):
                what = "no '=' in the name, no NUL, UTF-8, and less than 128 KiB in all"
                raise InvalidRequest(f"the variable {name[:80]!r} cannot be set: {what}")
        gone = set(removed)
        old = self._surroundings.variables.items()
        kept = {name: value for name, value in old if name not in gone and not (prefix and value.startswith(prefix))}
        self._surroundings = msgspec.structs.replace(self._surroundings, variables={**kept, **changed})

    @property
    def running(self) -> int:
        """How many run, or are being started, with those beside them."""
        return sum(len(one._starts) + sum(process.running for process in one._processes.values()) for one in self._all)

    def hang_up(self) -> None:
        """Ends all that follow output, once they have what there is: the daemon ends."""
        for process in self._processes.values():
            process.output.hang_up()

    async def end(self, grace: float | None = None) -> None:
        """No more are started; all end with whatever any left running: SIGTERM, ``grace`` seconds (None: the configured
        ones), SIGKILL."""
        self._closing = True
        await asyncio.gather(*self._starts, return_exceptions=True)
        processes = [*self._processes.values()]
        leaders = [pid for process in processes for pid in process.leaders]
        cgroups = self._settings.cgroups
        leaves = [] if cgroups is None else await in_thread(cgroups.leaves)
        grace = self.limits.grace if grace is None else grace
        await in_thread(end_all, self._marks, leaders, grace, leaves, pool=STOP)
        for process in processes:
            await process.wait(1.0)
        if cgroups is not None:
            await in_thread(cgroups.sweep)

    async def close(self, *, keep: bool = False) -> None:
        """As `end`, and gives everything back. keep: they go on."""
        self._closing = True
        await asyncio.gather(*self._starts, return_exceptions=True)
        if not keep:
            await self.end()
        for process in (*self._processes.values(), *self._left):
            if process.kept is not None:
                (process.kept.leave if keep else process.kept.remove)()
            process.close()
        if self._recovered and not (keep and self._store.is_there):
            await in_thread(marks.remove, self._directory)
        for timer in self._timers.values():
            timer.cancel()
        # What leads from them back here is all that holds them: their output, which may be a file, goes at once.
        for held in (self._processes, self._left, self._timers, self._keys):
            held.clear()
        self._all.discard(self)
        self._null.close()

    def _check_open(self) -> None:
        if self._closing:
            raise Unavailable("what runs here is being ended, and nothing more is started")

    def _check(self, order: Order) -> None:
        self._check_open()
        size = sum(len(text) + 1 for text in (*order.argv, *order.env, *order.env.values()))
        if size > self.limits.argument_bytes:
            what = f"arguments and variables have {size} bytes, at most {self.limits.argument_bytes} are taken"
            raise ExecFailed(f"{what}; pass a file")
        if self.running >= self.limits.max_running:
            raise CapacityExceeded(f"{self.limits.max_running} processes run already; end one first")

    async def _start(
        self, order: Order, wires: Wires | None, started: asyncio.Future[Process], facts: Mapping[str, Any] | None
    ) -> None:
        """Starts it whoever waits for it still."""
        try:
            steps = self._started(order, wires, facts)
            process = self._register(order, *await in_steps(steps, SPAWN, self._check_open))
        except Exception as error:  # noqa: BLE001 - it is handed to whoever awaits the start
            started.set_exception(error)
            started.exception()
        else:
            started.set_result(process)
        finally:
            self._starts.discard(started)

    def _started(
        self, order: Order, wires: Wires | None, facts: Mapping[str, Any] | None
    ) -> Steps[tuple[Wires, Child, Identity, str, float, Kept | None]]:
        """facts: for what outlives the daemon, None for what does not. Blocks."""
        where = absolute(order.cwd or ".", cwd=self._surroundings.cwd, home=None, workspace=self._surroundings.cwd)
        try:
            place = self._places.find(where, order.user)
            wires = wires or pipes(place.owner, self._null.fd, fed=order.stdin != "null")
            top = os.readlink(f"/proc/self/fd/{self._root.fd}").rstrip("/")
            around = self._surroundings.environment(place.owner, top, terminal=wires.terminal)
            with self._root.open(place.path, os.O_PATH | os.O_DIRECTORY, rights=place.rights) as directory:
                directory.check_enterable()
                child = yield from spawn(
                    order.argv,
                    identity=place.owner,
                    cwd=directory.fd,
                    env={**around, **order.env},
                    fds=wires.child,
                    settings=self._settings,
                    limits=order.limits.within(self._most),
                    terminal=wires.terminal,
                    mark=marks.new_mark(self._first),
                )
                cwd, started, kept = directory.path, time.time(), None
        except BaseException:
            discard(wires, self._null.fd)
            raise
        for fd in {*wires.child.values()} - {self._null.fd}:
            os.close(fd)
        if facts is not None:
            sizes = (*self._sizes, min(MEMORY, self.limits.output_bytes))
            more = {**facts, "started": started, "identity": place.owner, "cwd": cwd}
            kept = keep(self._store, self._spawn, order, child, wires, sizes=sizes, **more)
        return wires, child, place.owner, cwd, started, kept

    @property
    def _sizes(self) -> tuple[int, int]:
        """How much output is kept, and how much of its beginning."""
        limits = self.limits
        return limits.output_bytes, min(limits.answer_bytes, limits.output_bytes // LEAST_HEAD)

    def _register(
        self,
        order: Order,
        wires: Wires,
        child: Child,
        identity: Identity,
        cwd: str,
        started: float,
        kept: Kept | None,
        found: Survivor | None = None,
    ) -> Process:
        output = Output(
            *(EventLog(*self._sizes) if found is None else found.log, self._directory, self._spawn),
            watch=lambda length: process.check_output(length),
            kept=kept,
            spill=None if found is None else found.spill,
        )
        process = Process(
            *(order, identity, child, wires, output),
            cwd=cwd,
            started=started,
            grace=self.limits.grace,
            spawn=self._spawn,
            ended=self._ended,
            kept=kept,
        )
        if (former := self._processes.pop(process.pid, None)) is not None:
            self._forget(former)
        self._processes[process.pid] = process
        return process

    def _found(self) -> tuple[frozenset[int], Sequence[Survivor]]:
        """Of earlier daemons: where the marks of those count from that died, and what is in the store. Blocks."""
        return marks.written(self._directory), survivors(self._store, self._spawn, self._settings.cgroups)

    def _resume(self, found: Survivor) -> None:
        record = found.record
        more = (record.identity, record.cwd, record.started, found.kept)
        process = self._register(record.order, found.wires, found.child, *more, found)
        process.resume(found)
        if record.key is not None:
            started = asyncio.get_running_loop().create_future()
            started.set_result(process)
            self._keys[record.key] = record.fingerprint, started
        if process.ended is not None:
            self._ended(process)

    async def _clean(self, left: Marks) -> None:
        if found := await in_thread(find, left, (), pool=STOP):
            _log.warning("processes of a daemon that died are ended", extra=fields(processes=len(found)))
            await in_thread(end_all, left, (), self.limits.grace, pool=STOP)
        if not self._closing:
            await self._note(self._marks.firsts)

    async def _note(self, firsts: frozenset[int]) -> None:
        """Where the marks of those count from that the next daemon has to end if this one dies."""
        try:
            await in_thread(marks.write, self._directory, firsts)
        except OSError as error:
            _log.warning("what this daemon leaves running if it dies will not be ended: %s", error.strerror)

    def _ended(self, process: Process) -> None:
        """Of those that ended only so many are kept, and each only so long."""
        ended = [one for one in self._processes.values() if not one.running]
        for old in ended[: max(0, len(ended) - self.limits.keep_finished)]:
            self._forget(old)
        if process in self._processes.values():
            loop = asyncio.get_running_loop()
            age = time.time() - (process.ended or 0)
            self._timers[process] = loop.call_later(self.limits.retention - age, self._forget, process)

    def _forget(self, process: Process) -> None:
        if self._processes.get(process.pid) is process:
            del self._processes[process.pid]
        if (timer := self._timers.pop(process, None)) is not None:
            timer.cancel()
        for key, (_, started) in list(self._keys.items()):
            if started.done() and not started.exception() and started.result() is process:
                del self._keys[key]
        process.forget()
        if process.output.is_open:
            self._left.add(process)
            self._spawn(self._let_go(process))
        elif process.kept is not None:
            process.kept.remove()

    async def _let_go(self, process: Process) -> None:
        """Of what it left running nobody writes any more."""
        await process.output.ended()
        self._left.discard(process)
        if process.kept is not None:
            process.kept.remove()


def _can_be_passed(text: str) -> bool:
    """Whether execve(2) takes it as one string."""
    try:
        content = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return b"\0" not in content and len(content) < LONGEST_STRING
