"""This terminal as one of the sandbox: what is typed goes there, what is shown there appears here."""

import asyncio
import os
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress

import msgspec

from agentd.cli import connection, showing
from agentd.client import ApiError, Client, Opening
from agentd.client.terminal import Terminal
from agentd.linux.threads import in_thread

FD = 0
TYPED_BYTES = 64 << 10
FAREWELL_SECONDS = 3.0
INTERRUPT = b"\x03"  # Ctrl-C, in a terminal that makes no signal of it
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


async def sit_down(client: Client, opening: Opening) -> int:
    """Until the program there ends, whose exit status it returns; 128 + N where signal N comes first.

    The terminal is given back as it was, whatever happens. While there is no connection, Ctrl-C ends it.
    """
    if not (os.isatty(FD) and os.isatty(1)):
        raise connection.UsageError("--tty needs a terminal on standard input and output; leave it out in a script")
    async with client:
        cols, rows = _size()
        seat = _Seat(client.terminal(msgspec.structs.replace(opening, cols=cols, rows=rows)))
        with _raw():
            return await seat.sit()


class _Seat:
    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._signalled = 0
        self._typed = asyncio.Queue[bytes](maxsize=16)
        self._showing: asyncio.Task[None]

    async def sit(self) -> int:
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._end, number)
        try:
            async with asyncio.TaskGroup() as group:
                self._showing = group.create_task(self._show())
                typing = group.create_task(self._type())
                self._showing.add_done_callback(lambda _: typing.cancel())
                for number in (signal.SIGWINCH, signal.SIGCONT):
                    loop.add_signal_handler(number, lambda: group.create_task(self._fit()))
                loop.add_reader(FD, self._readable)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            loop.remove_reader(FD)
            for number in (*ENDING, signal.SIGWINCH, signal.SIGCONT):
                loop.remove_signal_handler(number)
        if self._signalled:
            with suppress(ApiError, OSError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._terminal.end()
            return 128 + self._signalled
        assert self._terminal.exit_code is not None
        return self._terminal.exit_code

    async def _show(self) -> None:
        async with aclosing(self._terminal.shown()) as pieces:
            async for piece in pieces:
                await in_thread(showing.write, 1, piece)

    async def _type(self) -> None:
        while True:
            piece = await self._typed.get()
            asyncio.get_running_loop().add_reader(FD, self._readable)
            await self._terminal.type(piece)

    async def _fit(self) -> None:
        """Whoever stops and goes on finds the terminal as another program left it."""
        tty.setraw(FD, termios.TCSANOW)
        await self._terminal.resize(*_size())

    def _readable(self) -> None:
        try:
            piece = os.read(FD, TYPED_BYTES)
        except OSError:  # EIO: the terminal is gone
            piece = b""
        if not piece:
            return self._end(signal.SIGHUP)
        connected = self._terminal.connected
        if not connected and INTERRUPT in piece:
            return self._end(signal.SIGINT)
        if not self._typed.full():
            self._typed.put_nowait(piece)
        if connected and self._typed.full():
            asyncio.get_running_loop().remove_reader(FD)
        return None

    def _end(self, number: signal.Signals) -> None:
        self._signalled = number
        asyncio.get_running_loop().remove_reader(FD)
        self._showing.cancel()


@contextmanager
def _raw() -> Iterator[None]:
    """For its extent every key is the other side's, Ctrl-C too."""
    before = termios.tcgetattr(FD)
    try:
        tty.setraw(FD, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(FD, termios.TCSANOW, before)


def _size() -> tuple[int, int]:
    """Columns and rows; a terminal that does not know has 80 and 24."""
    cols, rows = os.get_terminal_size(FD)
    return cols or 80, rows or 24
