"""One process: its output, its input, how it ended, and how it is made to end. Everything runs on the loop."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from agentd.errors import Conflict, RequestTimeout
from agentd.linux.cgroups import Cgroup
from agentd.linux.descendants import STOP, end_in_steps, signal_all
from agentd.linux.identity import Identity
from agentd.linux.pidfd import exit_status, has_ended
from agentd.linux.reaping import Found, reap, reaped
from agentd.linux.spawn import Child
from agentd.linux.steps import in_steps
from agentd.linux.threads import in_thread
from agentd.processes.output import Output
from agentd.processes.survival import Ended, Kept, Survivor
from agentd.processes.terms import Ending, Order, Reason, Usage, Wires

# A terminal hands over its last bytes by way of a kernel thread.
TERMINAL_PATIENCE = 0.1
# What is killed ends at once, unless it sleeps in the kernel.
END_PATIENCE = 5.0
UNKNOWN = 255  # the code where nobody knows
# Until whoever became the parent of what an earlier daemon started, or whoever traces it, has reaped it.
REAP_PATIENCE = 3.0

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Process:
    """Owned by `registry.Processes`, and made when the program runs already.

    pid: of the leader, which is also its session and process group. started, ended: Unix time; ended is None while it
    runs. ending: set once the leader ended and all that was in its pipes then is in ``output``. input_bytes: how many
    bytes of input were taken so far. kept: its part of the store, where it outlives the daemon.
    """

    def __init__(
        self,
        order: Order,
        identity: Identity,
        child: Child,
        wires: Wires,
        output: Output,
        *,
        cwd: str,
        started: float,
        grace: float,
        spawn: Spawn,
        ended: Callable[["Process"], None],
        kept: Kept | None = None,
    ) -> None:
        self.order = order
        self.identity = identity
        self.pid = child.pid
        self.cwd = cwd
        self.output = output
        self.started = started
        self.ended: float | None = None
        self.ending: Ending | None = None
        self.input_bytes = 0
        self._child = child
        self._terminal = wires.terminal
        self._grace = grace
        self._spawn = spawn
        self._on_end = ended
        self._reason: Reason | None = None
        self._cutting: asyncio.Event | None = None
        self._reaped = self._forgotten = False
        self._done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._input = wires.input
        self._feeding = asyncio.Lock()
        self._free = asyncio.Event()
        self.kept = kept
        self._uncertain = False
        self._timer: asyncio.TimerHandle | None = None
        if order.timeout:
            patience = child.since + order.timeout - time.monotonic()
            self._timer = self._loop.call_later(patience, self._end, "timed_out")
        output.open(wires.outputs)
        self._loop.add_reader(child.fd, self._exited)
        if isinstance(order.stdin, bytes):
            spawn(self._feed(order.stdin))

    def resume(self, found: Survivor) -> None:
        """Goes on from where an earlier daemon was, right after it was made."""
        self.input_bytes = found.kept.journal.input_bytes
        self._uncertain = found.uncertain
        if found.ended is not None:
            self._loop.remove_reader(self._child.fd)
            self._reaped = True
            self._child.close()
            if self._timer is not None:
                self._timer.cancel()
            self.ended, self.ending = found.ended.at, found.ended.ending
            self.output.final = found.ended.final
            self._done.set()
            self._shut_input()
        elif found.uncertain and found.record.stdin == "fed":
            # What it has not been given is gone with the daemon; it must not take that for the end of its input.
            self._end("lost")

    @property
    def mark(self) -> int:
        return self._child.mark

    @property
    def command(self) -> str:
        return self.order.command or " ".join(self.order.argv)

    @property
    def running(self) -> bool:
        return self.ending is None

    @property
    def is_found(self) -> bool:
        """Whether an earlier daemon started it."""
        return self.kept is not None and self.kept.found

    @property
    def leaders(self) -> tuple[int, ...]:
        """Its pid, while that cannot be anybody else's: somebody else reaps what an earlier daemon has started."""
        gone = self._reaped or (self.is_found and has_ended(self._child.fd))
        return () if gone else (self.pid,)

    async def wait(self, seconds: float | None = None) -> Ending | None:
        """How it ended; None where it still runs after so long (None: any time)."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._done.wait()
        return self.ending

    def send(self, number: int) -> None:
        """The signal, to its process group. Conflict where it has ended."""
        if not self.leaders:
            raise Conflict(f"process {self.pid} has ended", pid=self.pid)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def send_all(self, number: int) -> None:
        """The signal, to everything that it started and that still runs."""
        await in_thread(signal_all, [self.mark], self.leaders, number, pool=STOP)

    async def stop(self, grace: float | None = None, reason: Reason | None = None) -> None:
        """SIGTERM to everything that it started, ``grace`` seconds (None: the configured ones), SIGKILL.

        Returns when nothing of it is left. What it wrote is kept. Also after its end: for what it left running.
        """
        if self.running and reason is not None:
            self._reason = self._reason or reason
        await self._end_tree(self._grace if grace is None else grace)
        await self.wait(END_PATIENCE)
        await self._remove_cgroup()

    async def _end_tree(self, grace: float) -> None:
        steps = end_in_steps([self.mark], self.leaders, grace, self._cgroups)
        await in_steps(steps, STOP, to_its_end=True)

    @property
    def _cgroups(self) -> list[Cgroup]:
        return [] if self._child.cgroup is None else [self._child.cgroup]

    async def _remove_cgroup(self) -> None:
        for cgroup in self._cgroups:
            await in_thread(cgroup.remove, pool=STOP)

    async def write(self, content: bytes, offset: int | None = None, patience: float | None = 30) -> int:
        """Feeds its input; returns `input_bytes` once all is taken.

        offset: where in the input ``content`` begins; what was taken before is not taken again. Conflict where bytes
        would be left out, or where nothing is taken any more; RequestTimeout where nothing is for ``patience`` seconds.
        """
        async with self._feeding:
            if offset is not None:
                if self._uncertain:
                    what = "nobody knows how much of it was taken when an earlier daemon died; go on without an offset"
                    raise Conflict(f"the input has some {self.input_bytes} bytes: {what}", offset=self.input_bytes)
                if offset > self.input_bytes:
                    what = f"the input has {self.input_bytes} bytes so far: send those before {offset} first"
                    raise Conflict(what, offset=self.input_bytes)
                content = content[self.input_bytes - offset :]
            rest = memoryview(content)
            while rest:
                self._check_input()
                try:
                    count = self._given(rest)
                except BlockingIOError:
                    await self._writable(patience)
                    continue
                except OSError:
                    self._shut_input()
                    continue
                rest = rest[count:]
        return self.input_bytes

    def _given(self, content: memoryview) -> int:
        """How much of it was taken."""
        if self.kept is None or isinstance(self.order.stdin, bytes):
            count = os.write(self._input, content)
            self.input_bytes += count
            return count
        journal = self.kept.journal
        journal.feeding = True
        try:
            count = os.write(self._input, content)
            self.input_bytes += count
            journal.input_bytes = self.input_bytes
            return count
        finally:
            journal.feeding = self._uncertain

    async def close_input(self) -> None:
        """The end of its input, after what is being written. Again is harmless."""
        async with self._feeding:
            self._shut_input()

    async def _feed(self, content: bytes) -> None:
        with suppress(Conflict):
            await self.write(content, patience=None)
        if self.kept is not None and not self._forgotten:
            self.kept.journal.feeding = False
        await self.close_input()

    def _check_input(self) -> None:
        if self._input < 0 or not self.running or self._forgotten:
            what = f"process {self.pid} takes no input: it has none, closed it or has ended"
            raise Conflict(what, pid=self.pid, offset=self.input_bytes)

    async def _writable(self, patience: float | None) -> None:
        self._free.clear()
        self._loop.add_writer(self._input, self._free.set)
        try:
            async with asyncio.timeout(patience):
                await self._free.wait()
        except TimeoutError:
            what = f"process {self.pid} took {self.input_bytes} bytes of input and no more; send the rest later"
            raise RequestTimeout(what, offset=self.input_bytes) from None
        finally:
            self._loop.remove_writer(self._input)

    def _shut_input(self) -> None:
        """Only by who holds ``_feeding``, or where nobody does."""
        if self._input >= 0:
            fd, self._input = self._input, -1
            os.close(fd)
            if self.kept is not None:
                self.kept.end_input()

    def _end(self, reason: Reason) -> None:
        """It is ended for a reason of ours. Once."""
        if self._reason is None and self.running:
            self._reason = reason
            self._cutting = asyncio.Event()
            self._spawn(self._cut(self._cutting))

    async def _cut(self, done: asyncio.Event) -> None:
        """How it ended is told when nothing of it is left."""
        try:
            await self._end_tree(self._grace)
        finally:
            done.set()

    def check_output(self, length: int) -> None:
        """``length``: of its output so far."""
        if self.order.output_limit is not None and length > self.order.output_limit:
            self._end("output_limit")

    def _exited(self) -> None:
        """The leader ended. Its status is fetched at once, which frees its pid."""
        self._loop.remove_reader(self._child.fd)
        seconds = time.monotonic() - self._child.since
        try:
            if self.is_found:
                raise ChildProcessError  # though by now a child of ours may have got its pid
            found = reaped(self.pid)
        except ChildProcessError:
            self._leave_reaped()
            self._spawn(self._ask(seconds))
            return
        self._leave_reaped()
        self._child.close()
        self._spawn(self._outlast(seconds) if found is None else self._finish(self._told(found, seconds)))

    async def _outlast(self, seconds: float) -> None:
        """Whoever traces it has its end first, and may keep it from everybody else."""
        found = await in_thread(reap, self.pid, REAP_PATIENCE, pool=STOP)
        lost = Ending(UNKNOWN, 0, self._reason or "lost", Usage(seconds))
        await self._finish(lost if found is None else self._told(found, seconds))

    def _told(self, found: Found, seconds: float) -> Ending:
        status, usage = found
        more = usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory = usage.ru_maxrss << 10 if more else None
        used = Usage(seconds, usage.ru_utime, usage.ru_stime, memory)
        return self._ending(os.waitstatus_to_exitcode(status), used)

    def _leave_reaped(self) -> None:
        self._reaped = True
        if self._timer is not None:
            self._timer.cancel()

    async def _ask(self, seconds: float) -> None:
        """Of what is not our child, or not any more, the kernel may tell how it ended."""
        status = await in_thread(exit_status, self._child.fd, REAP_PATIENCE, pool=STOP)
        self._child.close()
        used = Usage(seconds)
        if status is None:
            await self._finish(Ending(UNKNOWN, 0, self._reason or "lost", used))
        else:
            await self._finish(self._ending(os.waitstatus_to_exitcode(status), used))

    def _ending(self, code: int, used: Usage) -> Ending:
        number = max(0, -code)
        reason = self._reason or ("signalled" if number else "exited")
        return Ending(128 + number if number else code, number, reason, used)

    async def _finish(self, ending: Ending) -> None:
        try:
            if self._cutting is not None:
                await self._cutting.wait()
            await self.output.settle(TERMINAL_PATIENCE if self._terminal else 0)
        finally:
            self.ended = time.time()
            self.ending = ending
            if self.kept is not None:
                self.kept.end(Ended(self.ended, self.output.final or 0, ending))
            self._done.set()
            self._on_end(self)
            self._free.set()
            await self.close_input()
            await self._remove_cgroup()

    def forget(self) -> None:
        """Nobody asks for it any more. What it left running may write on."""
        self._forgotten = True
        self.output.unwatch()
        self._free.set()
        if not self._feeding.locked():
            self._shut_input()

    def close(self) -> None:
        """Gives everything back."""
        self.forget()
        self.output.close()


def signal_number(name: str | int) -> int:
    """``9``, ``"KILL"`` or ``"SIGKILL"`` as a number; ValueError for what is none."""
    if isinstance(name, str) and not name.isdigit():
        name = name.upper()
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    return signal.Signals(int(name)).value
