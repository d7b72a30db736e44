"""The command that follows ``--``: an image's own, which the daemon runs in its place as the container's first process.

It is one of the daemon's processes like any other, as the default user, in the clean environment and the default
directory, but speaks to the daemon's own standard streams: none of its output is captured. Signals go to the command
itself, as they would if it had been started without the daemon; what it has started is ended with the daemon.
A terminal that controls the daemon, as in ``docker run -it``, is given to the command: who types ^C means that.
"""

import fcntl
import os
import signal
import termios
from collections.abc import Sequence
from contextlib import suppress

from agentd.linux.signals import on_signal
from agentd.processes.process import Process
from agentd.processes.registry import Processes
from agentd.processes.terms import Order, Wires

# Beside SIGTERM, SIGINT and SIGHUP, which say something to the daemon too.
FORWARDED = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
TAGS = {"agentd": "entrypoint"}
_KILLED = 128 + signal.SIGKILL


class Entrypoint:
    """process: to be found in `Processes` too, until it is forgotten there."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, processes: Processes, argv: Sequence[str]) -> "Entrypoint":
        """Raises what `Processes.start` raises. `FORWARDED` signals of the daemon are the command's from then on."""
        order = Order(tuple(argv), tags=TAGS)
        terminal = _gives_terminal_up()
        started = cls(await processes.start(order, wires=Wires(_streams(), {}, terminal=terminal)))
        for number in FORWARDED:
            on_signal(number, started.send, number)
        return started

    def send(self, number: int) -> None:
        """The signal, while it runs."""
        for pid in self.process.leaders:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    @property
    def status(self) -> int:
        """What a shell would say of its end; as of one that was killed where that cannot be told."""
        return _KILLED if self.process.ending is None else self.process.ending.code


def _gives_terminal_up() -> bool:
    """Whether the daemon had a terminal that controls it at its standard input and output; not any more (TIOCNOTTY)."""
    try:
        if os.getsid(0) != os.getpid() or not os.isatty(0) or os.fstat(0).st_rdev != os.fstat(1).st_rdev:
            return False
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a leader that does so sends to itself, too
        try:
            fcntl.ioctl(0, termios.TIOCNOTTY)
        finally:
            signal.signal(signal.SIGHUP, before)
    except OSError:  # no terminals, or none that controls
        return False
    return True


def _streams() -> dict[int, int]:
    """By number, copies of the daemon's own standard streams; /dev/null for one that is closed."""
    copies = {}
    for number in range(3):
        try:
            copies[number] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError:
            copies[number] = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    return copies
