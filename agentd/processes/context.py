"""One code context: an interpreter whose state stays from one piece of code to the next. Everything runs on the loop.

One piece of code is executed at a time; the others wait in line. An interpreter that died, or was ended, is replaced by
a new one for the code that comes next.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

import msgspec

from agentd.errors import AgentError, CapacityExceeded, ContextNotFound
from agentd.processes.interpreter import Died, Interpreter, Spawn
from agentd.processes.languages import Language, request
from agentd.processes.packets import Done, Failed, Printed, Shown
from agentd.processes.registry import Processes
from agentd.processes.terms import Order


class Code(msgspec.Struct, frozen=True):
    """envs: variables for this code alone. timeout: seconds, after which it is interrupted; None for any time."""

    text: str
    envs: Mapping[str, str]
    timeout: float | None = None


class Begun(msgspec.Struct, frozen=True):
    """number: how many pieces of code this interpreter has been given, this one included."""

    number: int


Happening = Begun | Printed | Shown | Failed


class Context:
    """Owned by `contexts.Contexts`. cwd: the interpreter's directory at its start, in sandbox terms, resolved. opened:
    Unix time. is_default: of code that names no context.

    grace: seconds that code has to end after an interrupt. queue: how much may wait.
    """

    def __init__(
        self, id_: str, language: Language, order: Order, processes: Processes, spawn: Spawn, grace: float, queue: int
    ) -> None:
        self.id = id_
        self.language = language
        self.cwd = ""
        self.opened = time.time()
        self.is_default = False
        self._order = order
        self._processes = processes
        self._spawn = spawn
        self._grace = grace
        self._queue = queue
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._interpreter: Interpreter | None = None
        self._starting: asyncio.Future[Interpreter] | None = None
        self._number = 0
        self._closed = False

    @property
    def busy(self) -> bool:
        return self._turn.locked()

    async def ready(self, code: Code | None = None) -> None:
        """Starts the interpreter where none runs. What can be refused of ``code`` is refused here.

        Raises CapacityExceeded where too much waits already, InvalidRequest, and what `Interpreter.start` does.
        """
        if code is not None:
            request(self.language, code.text, 0, code.envs, 0)
            if self._waiting >= self._queue:
                raise CapacityExceeded(f"{self._waiting} pieces of code wait in this context; repeat when some end")
        await self._running()

    async def execute(self, code: Code) -> AsyncGenerator[Happening, None]:
        """Executes it in its turn. Whoever leaves before its end has it interrupted."""
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        begun: Interpreter | None = None
        try:
            try:
                interpreter = await self._running()
            except AgentError as error:
                yield Failed(type(error).__name__, error.detail)
                return
            self._number += 1
            yield Begun(self._number)
            begun = interpreter
            await interpreter.begin(code.text, self._number, code.envs)
            async with aclosing(self._followed(interpreter, code.timeout)) as followed:
                async for happening in followed:
                    yield happening
            begun = None
        finally:
            if begun is None:
                self._turn.release()
            else:
                self._spawn(self._settle(begun))

    def interrupt(self) -> None:
        """As ^C: the code that runs ends with an error, as far as its language can."""
        if self.busy and self._interpreter is not None and self._interpreter.alive:
            self._interpreter.interrupt()

    async def restart(self) -> None:
        """Ends the interpreter and its programs, and begins anew; code that runs ends with an error."""
        await self.end()
        await self._running()

    async def close(self) -> None:
        """Ends it for good: what waits in line ends with an error."""
        self._closed = True
        await self.end()

    async def end(self) -> None:
        """Ends the interpreter and its programs."""
        if self._starting is not None:
            with suppress(Exception):
                await asyncio.shield(self._starting)
        if self._interpreter is not None:
            await self._interpreter.end()

    async def _running(self) -> Interpreter:
        if self._closed:
            raise ContextNotFound(f"the code context {self.id!r} was deleted meanwhile; create another")
        if self._interpreter is not None and self._interpreter.alive:
            return self._interpreter
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_future()
            self._spawn(self._start(self._starting))
        return await asyncio.shield(self._starting)

    async def _start(self, starting: asyncio.Future[Interpreter]) -> None:
        """Whoever waits for it still."""
        try:
            started = await Interpreter.start(self.language, self._processes, self._order, self._spawn)
        except Exception as error:  # noqa: BLE001 - it is handed to whoever awaits the start
            starting.set_exception(error)
            starting.exception()
        else:
            self._interpreter, self._number, self.cwd = started, 0, started.process.cwd
            starting.set_result(started)
        finally:
            self._starting = None

    async def _followed(
        self, interpreter: Interpreter, timeout: float | None
    ) -> AsyncGenerator[Printed | Shown | Failed, None]:
        """What happens until the code is done; a timeout that passes interrupts it, and gives it ``grace`` to end."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        overdue = False
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await interpreter.next()
            except TimeoutError:
                if overdue:
                    await interpreter.end()
                    deadline = None
                    continue
                overdue, deadline = True, loop.time() + self._grace
                interpreter.interrupt()
                continue
            match event:
                case Done():
                    if overdue:
                        yield Failed("TimeoutError", f"the code ran longer than {timeout:g} s and was interrupted")
                    elif event.status:
                        yield Failed("ExitStatus", str(event.status))
                    return
                case Died():
                    what = f"the code ran longer than {timeout:g} s and did not heed the interrupt: " if overdue else ""
                    yield Failed("TimeoutError" if overdue else "InterpreterDied", what + _told(event))
                    return
                case Failed() if overdue:
                    pass  # what the interrupt raised
                case _:
                    yield event

    async def _settle(self, interpreter: Interpreter) -> None:
        """Nobody waits for this code any more: it is interrupted, else its interpreter is ended."""
        try:
            interpreter.interrupt()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    while not isinstance(await interpreter.next(), Done | Died):
                        pass
                    return
            await interpreter.end()
        finally:
            self._turn.release()


def _told(death: Died) -> str:
    """What became of an interpreter."""
    ending = death.ending
    lost = "its variables are lost, and a new one takes the code that comes next"
    if death.wanted:
        return f"the interpreter was ended; {lost}"
    if ending.signal_name is None:
        return f"the interpreter ended with exit status {ending.code}; {lost}"
    why = " (perhaps because memory ran out)" if ending.signal_name == "SIGKILL" else ""
    return f"the interpreter was ended by {ending.signal_name}{why}; {lost}"
