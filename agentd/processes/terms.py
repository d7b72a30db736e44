"""What is asked of the processes room, and what it says of a process that ended. Sizes in bytes, times in seconds."""

import os
import signal
from collections.abc import Mapping
from typing import Literal

import msgspec

from agentd.core.eventlog import Stream
from agentd.linux.spawn import Limits

Reason = Literal["exited", "signalled", "timed_out", "output_limit", "lost"]


class ProcessLimits(msgspec.Struct, frozen=True):
    """See the section ``processes`` of the configuration, where each is described."""

    max_running: int = 256
    keep_finished: int = 256
    retention: float = 3600
    output_bytes: int = 64 << 20
    answer_bytes: int = 4 << 20
    argument_bytes: int = 1 << 20
    grace: float = 5


class Order(msgspec.Struct, frozen=True):
    """One program to run.

    argv: the first is looked for in PATH. command: what to call it in a list; empty: argv. cwd: in sandbox terms, also
    relative to the default one, None is that. env: on top of the clean base. user: a name or number, None is the
    daemon's default. stdin: "pipe" is one that `Process.write` feeds, "null" has ended, bytes are all of it.
    timeout: after which the whole tree is ended; None never. output_limit: bytes of output after which it is; None
    never. limits: at most those of the configuration.
    tags: the caller's, by which `Processes.list` can choose.
    """

    argv: tuple[str, ...]
    command: str = ""
    cwd: str | None = None
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    user: str | None = None
    stdin: Literal["pipe", "null"] | bytes = "null"
    timeout: float | None = None
    output_limit: int | None = None
    limits: Limits = msgspec.field(default_factory=Limits)
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)


class Wires(msgspec.Struct, frozen=True):
    """What connects a process and the daemon; by default two or three pipes. All fds are given away: the room closes
    the child's after the start, ours when they are at their end, and all of them where the start fails.

    child: by fd number in the child, 0 to 2 at least (one of ours may stand there several times). outputs: ours, by the
    stream that they carry, non-blocking. input: ours, non-blocking, for `Process.write`; -1 for none. terminal: the
    child's 0 is a terminal, which is to control it.
    """

    child: Mapping[int, int]
    outputs: Mapping[Stream, int]
    input: int = -1
    terminal: bool = False


class Offer:
    """Wires until somebody takes them. Closed when dropped, as what a thread made for a cancelled caller is."""

    def __init__(self, wires: Wires) -> None:
        self._wires: Wires | None = wires

    def take(self) -> Wires:
        """Once."""
        wires, self._wires = self._wires, None
        assert wires is not None
        return wires

    def __del__(self) -> None:
        if self._wires is not None:
            for fd in {*self._wires.child.values(), *self._wires.outputs.values(), self._wires.input} - {-1}:
                os.close(fd)


class Usage(msgspec.Struct, frozen=True):
    """getrusage(2) of the process and those of its children that it waited for.

    memory_bytes: the largest resident set; None where it stayed below the daemon's own, which a child begins with.
    """

    seconds: float
    user_seconds: float = 0
    system_seconds: float = 0
    memory_bytes: int | None = None


class Ending(msgspec.Struct, frozen=True):
    """How a process ended.

    code: exit status, or 128 + the signal's number as a shell has it. signal: its number, 0 where it exited. reason:
    "timed_out" and "output_limit" tell why we ended it, whatever it then ended with; "lost": nobody knows.
    """

    code: int
    signal: int
    reason: Reason
    usage: Usage

    @property
    def signal_name(self) -> str | None:
        """Such as "SIGKILL"; None where it exited by itself."""
        if not self.signal:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"SIG{self.signal}"
