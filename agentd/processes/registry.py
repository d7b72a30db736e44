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
import os
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from agentd.core.eventlog import Stream
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
from agentd.linux.descendants import STOP, end_all
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity
from agentd.linux.places import Places
from agentd.linux.root import Root
from agentd.linux.spawn import SPAWN, Child, Limits, Settings, spawn
from agentd.linux.threads import in_thread
from agentd.processes.output import Output
from agentd.processes.process import Process
from agentd.processes.surroundings import Surroundings
from agentd.processes.terms import Ending, Order, ProcessLimits, Wires

Spawn = Callable[[Coroutine[Any, Any, None]], object]
LEAST_HEAD = 4
LONGEST_STRING = (128 << 10) - 2  # MAX_ARG_STRLEN of execve(2), less '=' and NUL


@dataclass(frozen=True, slots=True)
class Finished:
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
        self._keys: dict[str, tuple[Order, asyncio.Future[Process]]] = {}
        self._starts: set[asyncio.Future[Process]] = set()
        self._closing = False
        self._null = Descriptor(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        first = secrets.randbits(28) << 32
        self._marks = range(first + 1, first + (1 << 32))

    async def start(self, order: Order, *, wires: Wires | None = None, key: str | None = None) -> Process:
        """A new process, or the one that was started with this ``key`` before; it stays, whoever is cancelled.

        Raises KeyReused where that one was another order; ProgramNotFound, ExecFailed, PermissionDenied, NotFound,
        NotADirectory, PathReserved, UnknownUser, CapacityExceeded, Unavailable.
        """
        known = self._keys.get(key) if key is not None else None
        if known is not None:
            earlier, started = known
            if earlier != order:
                raise KeyReused("this idempotency key came with another command before; use a new one")
        else:
            try:
                self._check(order)
            except AgentError:
                self._discard(wires)
                raise
            started = asyncio.get_running_loop().create_future()
            if key is not None:
                self._keys[key] = order, started
            self._starts.add(started)
            self._spawn(self._start(order, wires, started))
        try:
            return await asyncio.shield(started)
        except AgentError:
            if key is not None and self._keys.get(key) == (order, started):
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
        self._surroundings = replace(self._surroundings, variables={**kept, **changed})

    @property
    def running(self) -> int:
        """How many run, or are being started."""
        return len(self._starts) + sum(process.running for process in self._processes.values())

    def hang_up(self) -> None:
        """Ends all that follow output, once they have what there is: the daemon ends."""
        for process in self._processes.values():
            process.output.hang_up()

    async def close(self, *, keep: bool = False) -> None:
        """No more are started; all end with whatever any left running: SIGTERM, grace, SIGKILL. keep: they go on."""
        self._closing = True
        await asyncio.gather(*self._starts, return_exceptions=True)
        processes = [*self._processes.values()]
        if not keep:
            leaders = [pid for process in processes for pid in process.leaders]
            cgroups = self._settings.cgroups
            leaves = [] if cgroups is None else await in_thread(cgroups.leaves)
            await in_thread(end_all, self._marks, leaders, self.limits.grace, leaves, pool=STOP)
            for process in processes:
                await process.wait(1.0)
            if cgroups is not None:
                await in_thread(cgroups.sweep)
        for process in (*processes, *self._left):
            process.close()
        self._null.close()

    def _check(self, order: Order) -> None:
        if self._closing:
            raise Unavailable("the daemon is ending and starts nothing more")
        size = sum(len(text) + 1 for text in (*order.argv, *order.env, *order.env.values()))
        if size > self.limits.argument_bytes:
            what = f"arguments and variables have {size} bytes, at most {self.limits.argument_bytes} are taken"
            raise ExecFailed(f"{what}; pass a file")
        if self.running >= self.limits.max_running:
            raise CapacityExceeded(f"{self.limits.max_running} processes run already; end one first")

    async def _start(self, order: Order, wires: Wires | None, started: asyncio.Future[Process]) -> None:
        """Starts it whoever waits for it still."""
        try:
            process = self._register(order, *await in_thread(self._started, order, wires, pool=SPAWN))
        except Exception as error:  # noqa: BLE001 - it is handed to whoever awaits the start
            started.set_exception(error)
            started.exception()
        else:
            started.set_result(process)
        finally:
            self._starts.discard(started)

    def _started(self, order: Order, wires: Wires | None) -> tuple[Wires, Child, Identity, str]:
        """Blocks."""
        where = absolute(order.cwd or ".", cwd=self._surroundings.cwd, home=None, workspace=self._surroundings.cwd)
        try:
            place = self._places.find(where, order.user)
            wires = wires or self._pipes(order, place.owner)
            top = os.readlink(f"/proc/self/fd/{self._root.fd}").rstrip("/")
            around = self._surroundings.environment(place.owner, top, terminal=wires.terminal)
            with self._root.open(place.path, os.O_PATH | os.O_DIRECTORY, rights=place.rights) as directory:
                directory.check_enterable()
                child = spawn(
                    order.argv,
                    identity=place.owner,
                    cwd=directory.fd,
                    env={**around, **order.env},
                    fds=wires.child,
                    settings=self._settings,
                    limits=order.limits.within(self._most),
                    terminal=wires.terminal,
                    mark=secrets.choice(self._marks),
                )
                cwd = directory.path
        except BaseException:
            self._discard(wires)
            raise
        for fd in {*wires.child.values()} - {self._null.fd}:
            os.close(fd)
        return wires, child, place.owner, cwd

    def _register(self, order: Order, wires: Wires, child: Child, identity: Identity, cwd: str) -> Process:
        limits = self.limits
        head = min(limits.answer_bytes, limits.output_bytes // LEAST_HEAD)
        output = Output(
            limits.output_bytes, head, self._directory, self._spawn, lambda length: process.check_output(length)
        )
        process = Process(
            *(order, identity, child, wires, output),
            cwd=cwd,
            grace=limits.grace,
            spawn=self._spawn,
            ended=self._ended,
        )
        if (former := self._processes.pop(process.pid, None)) is not None:
            self._forget(former)
        self._processes[process.pid] = process
        return process

    def _ended(self, process: Process) -> None:
        """Of those that ended only so many are kept, and each only so long."""
        ended = [one for one in self._processes.values() if not one.running]
        for old in ended[: max(0, len(ended) - self.limits.keep_finished)]:
            self._forget(old)
        if process in self._processes.values():
            loop = asyncio.get_running_loop()
            self._timers[process] = loop.call_later(self.limits.retention, self._forget, process)

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

    async def _let_go(self, process: Process) -> None:
        """Of what it left running nobody writes any more."""
        await process.output.ended()
        self._left.discard(process)

    def _pipes(self, order: Order, owner: Identity) -> Wires:
        """They are the owner's, who may open them again as /dev/stdout and its like."""
        fds: list[int] = []
        try:
            for _ in range(2 if order.stdin == "null" else 3):
                fds += os.pipe2(os.O_CLOEXEC)
                with suppress(PermissionError):  # then the start is refused, or they do without
                    os.fchown(fds[-1], owner.uid, owner.gid)
        except OSError:
            for fd in fds:
                os.close(fd)
            raise Unavailable("no file descriptor is left for the process; end something and repeat") from None
        (out, out_w, err, err_w), rest = fds[:4], fds[4:]
        stdin, feed = rest or (self._null.fd, -1)
        for fd in (out, err, *rest[1:]):
            os.set_blocking(fd, False)
        return Wires({0: stdin, 1: out_w, 2: err_w}, {Stream.STDOUT: out, Stream.STDERR: err}, feed)

    def _discard(self, wires: Wires | None) -> None:
        """All of its fds, which are ours where the start failed."""
        if wires is not None:
            for fd in {*wires.child.values(), *wires.outputs.values(), wires.input} - {-1, self._null.fd}:
                os.close(fd)


def _can_be_passed(text: str) -> bool:
    """Whether execve(2) takes it as one string."""
    try:
        content = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return b"\0" not in content and len(content) < LONGEST_STRING
