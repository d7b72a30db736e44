"""One running interpreter of a code context: its process, and what it says. Everything runs on the loop.

What it says is read whether or not anybody asks, so that its threads never wait for the daemon; only while code runs
whose output nobody takes is it left to wait. What comes while no code runs belongs to nobody and is dropped.
"""

import asyncio
import os
import select
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from agentd.core.eventlog import Stream
from agentd.errors import Conflict, NotSupported, ProgramNotFound, RequestTimeout, Unavailable
from agentd.linux.threads import in_thread
from agentd.processes.languages import SHELL_START, Language, request
from agentd.processes.packets import (
    EVENTS,
    MOST_PACKET,
    REQUESTS,
    SOURCE,
    Asked,
    Done,
    Failed,
    Packets,
    Printed,
    Ready,
    Shown,
)
from agentd.processes.process import Process
from agentd.processes.registry import Processes
from agentd.processes.terms import Ending, Order, Wires

MOST_WAITING = 1 << 20
PIECE = 64 << 10
TURN = 16
# With each packet all that is in the pipes is read: as much as they can hold (pipe(7), pipe-max-size).
MOST_PIPED = 1 << 20
PATIENCE = 1.0
# More than its socket can hold when it dies; what it started may go on writing.
LAST_TURNS = 300

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Died(msgspec.Struct, frozen=True):
    """The interpreter ended, and its state with it. wanted: we ended it."""

    ending: Ending
    wanted: bool


Event = Shown | Failed | Done | Printed | Died


class Ends(msgspec.Struct, frozen=True):
    """Both ends of what connects it: the child's by number, and ours."""

    child: Mapping[int, int]
    feed: int
    pipes: Mapping[Stream, int]
    events: socket.socket
    source: int

    @classmethod
    def made(cls, language: Language) -> "Ends":
        """Blocks. Unavailable where no file descriptor is left, NotSupported."""
        fds: list[int] = []
        try:
            fds.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            fds.append(language.open_source())
            for _ in range(3):
                fds += os.pipe2(os.O_CLOEXEC)
            kept = os.dup(fds[1])
            fds.append(kept)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except (OSError, NotSupported) as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, NotSupported):
                raise
            raise Unavailable("no file descriptor is left for the interpreter; end something and repeat") from error
        null, source, requests, feed, out, out_w, err, err_w, _ = fds
        for fd in (feed, out, err, ours.fileno()):
            os.set_blocking(fd, False)
        child = {0: null, 1: out_w, 2: err_w, REQUESTS: requests, EVENTS: theirs.detach(), SOURCE: source}
        if language.is_shell:
            child |= {0: requests, REQUESTS: null}
        return cls(child, feed, {Stream.STDOUT: out, Stream.STDERR: err}, ours, kept)


class Interpreter:
    """Made by `start`. alive: whether it takes code."""

    def __init__(self, language: Language, process: Process, ends: Ends, spawn: Spawn) -> None:
        self.process = process
        self.alive = True
        self._ready = self._interrupted = self._wanted = False
        self._spawn = spawn
        self._language = language
        self._pipes = dict(ends.pipes)
        self._events = ends.events
        self._source = ends.source
        self._packets = Packets()
        self._queue: deque[Event] = deque()
        self._waiting = 0
        self._busy = False
        self._token = 0
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._reading = False
        self._loop = asyncio.get_running_loop()
        self._read_on()
        spawn(self._watch())

    @classmethod
    async def start(cls, language: Language, processes: Processes, order: Order, spawn: Spawn) -> "Interpreter":
        """order: of which the directory, the user and the variables count. NotSupported where the sandbox has no
        program for the language; else as `Processes.start`."""
        for program in language.programs:
            ends = await in_thread(Ends.made, language)
            command = f"{language.name} (code context)"
            asked = Order(
                (program, *language.arguments), command, order.cwd, order.env, order.user, "pipe", tags=order.tags
            )
            try:
                process = await processes.start(asked, wires=Wires(ends.child, {}, ends.feed))
            except ProgramNotFound:
                _close(ends)
            except BaseException:
                _close(ends)
                raise
            else:
                made = cls(language, process, ends, spawn)
                if language.is_shell:
                    await process.write(SHELL_START)
                return made
        wanted = " or ".join(language.programs)
        raise NotSupported(f"code in {language.name} needs {wanted}, which the sandbox does not have; install it")

    async def begin(self, code: str, number: int, envs: Mapping[str, str]) -> None:
        """Has ``code`` executed; `next` tells what happens. Not before the code before it is done."""
        if not self.alive:
            return  # `next` tells
        self._token += 1
        self._queue.clear()
        self._waiting = 0
        self._busy = True
        if self._language.is_shell:
            # An fd of its own: the other is closed when the interpreter dies.
            source = os.dup(self._source)
            try:
                await in_thread(_replace, source, os.fsencode(code))
            finally:
                os.close(source)
        self._read_on()
        try:
            await self.process.write(request(self._language, code, number, envs, self._token))
        except Conflict:
            return  # it has died: `next` tells
        except RequestTimeout:
            await self.end()

    async def next(self) -> Event:
        """What happens next. After Done of this code, and after Died, nothing does."""
        while True:
            if self._queue:
                event = self._queue.popleft()
                self._waiting -= _size(event)
                if not self._reading and self.alive and self._waiting < MOST_WAITING // 2:
                    self._read_on()
                if isinstance(event, Done):
                    if event.token != self._token:
                        continue
                    self._busy = False
                return event
            self._news.clear()
            await self._news.wait()

    def interrupt(self) -> None:
        """SIGINT, as by ^C: to the interpreter and the programs that it runs. One that is only starting gets it when it
        can deal with it."""
        self._interrupted = not self._ready
        if self._ready:
            with suppress(Conflict):
                self.process.send(signal.SIGINT)

    async def end(self, grace: float = 0) -> None:
        """Ends it with everything that it started."""
        self._wanted = True
        await self.process.stop(grace)
        await self._over.wait()

    async def _watch(self) -> None:
        ending = await self.process.wait()
        assert ending is not None
        for _ in range(LAST_TURNS):
            if not self._take():
                break
        self.alive = False
        self._stop_reading()
        for fd in (*self._pipes.values(), self._source):
            os.close(fd)
        self._pipes.clear()
        self._events.close()
        self._tell(Died(ending, self._wanted))
        self._over.set()
        await self.process.stop(0)

    async def _silenced(self) -> None:
        """It cannot tell anything any more: mostly because it is dying."""
        if await self.process.wait(PATIENCE) is None:
            await self.end()

    def _read_on(self) -> None:
        if not self._reading and self.alive:
            self._reading = True
            for fd in (*self._pipes.values(), self._events.fileno()):
                self._loop.add_reader(fd, self._readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            for fd in (*self._pipes.values(), self._events.fileno()):
                self._loop.remove_reader(fd)

    def _readable(self) -> None:
        self._take()
        if self._waiting > MOST_WAITING:
            self._stop_reading()

    def _take(self) -> bool:
        """A turn's worth of what is there. Whether there was a packet.

        What programs write comes by pipes, beside the packets: what is in them when a packet has been taken was written
        before it, or by a program that runs at the same time.
        """
        self._take_pipes(PIECE)
        for _ in range(TURN):
            packet = self._packet()
            if packet is None:
                return False
            event = self._packets.read(packet)
            self._take_pipes(MOST_PIPED)
            if isinstance(event, Asked):
                with suppress(OSError):
                    self._events.send(b"K")
            elif isinstance(event, Ready):
                self._ready = True
                if self._interrupted:
                    self.interrupt()
            elif event is not None:
                self._tell(event)
            if self._waiting > MOST_WAITING:
                break
        return True

    def _packet(self) -> bytes | None:
        try:
            packet = self._events.recv(MOST_PACKET)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            packet = b""
        if not packet and self._reading and _is_closed(self._events):
            self._loop.remove_reader(self._events.fileno())
            self._spawn(self._silenced())
        return packet or None

    def _take_pipes(self, most: int) -> None:
        for stream, fd in list(self._pipes.items()):
            left = most
            while left > 0:
                try:
                    content = os.read(fd, min(left, PIECE))
                except BlockingIOError:
                    break
                if not content:
                    self._loop.remove_reader(fd)
                    os.close(self._pipes.pop(stream))
                    break
                left -= len(content)
                self._tell(Printed(stream, content))

    def _tell(self, event: Event) -> None:
        self._waiting += _size(event)
        if self._busy or isinstance(event, Died):
            self._queue.append(event)
            self._news.set()


def _is_closed(events: socket.socket) -> bool:
    """An empty packet reads like the end, which poll(2) tells apart."""
    polled = select.poll()
    polled.register(events, select.POLLRDHUP)
    return bool(polled.poll(0))


def _size(event: Event) -> int:
    if isinstance(event, Printed):
        return len(event.content) + 100
    return 1000


def _replace(fd: int, content: bytes) -> None:
    os.ftruncate(fd, 0)
    view = memoryview(content)
    while view:
        view = view[os.pwrite(fd, view, len(content) - len(view)) :]


def _close(ends: Ends) -> None:
    """Ours that the room does not close where a start fails."""
    for fd in (*ends.pipes.values(), ends.source):
        os.close(fd)
    ends.events.close()
