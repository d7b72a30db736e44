"""A shell that is told one command after the other, and says when each is done: what is sent to it, and on which fds.

    control: a pipe, the script that the shell runs. It never ends; each command is two lines of it.
    text:    a file in memory that holds the command, which the shell sources, so that it may be anything, span lines,
             fail to parse, `return`, change the shell.
    status:  a pipe to us: ``NUMBER STATUS`` when a command is done. What it wrote until then is in the pipes of its
             output already.

The shell's variables, functions, options and directory are touched by nobody but the commands. These fds are closed
while a command runs (POSIX.1-2024, Shell, 2.7: redirections of a group end with it), so neither it nor what it leaves
behind can hold or take them; a command's own use of these numbers ends with it. Standard input is a pipe without a
writer, at its end from the start, unless a command was given input.
"""

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Literal

import msgspec

from agentd.core.eventlog import Stream
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity
from agentd.linux.memory import memory_file
from agentd.processes.terms import Offer, Wires

Kind = Literal["bash", "sh"]
REPORT = re.compile(rb"(\d{1,12}) (\d{1,3})\n")
_LONGEST_REPORT = 64


class _Way(msgspec.Struct, frozen=True):
    """How a shell is spoken to. source: as a plain builtin, not one of those whose failure ends a shell (2.15)."""

    argv: tuple[str, ...]
    control: int
    text: int
    status: int
    source: str


# POSIX promises ten fds, and dash has no more. Bash has numbers that nobody uses, below any limit of open files.
_WAYS: Mapping[Kind, _Way] = {
    "bash": _Way(("bash", "--noprofile", "--norc"), 63, 62, 61, "."),
    "sh": _Way(("sh",), 9, 8, 7, "command ."),
}


class Line:
    """Our ends. They are closed with this, or when it is dropped."""

    def __init__(self, kind: Kind, control: int, text: int, status: int, stdin: int) -> None:
        self._way = _WAYS[kind]
        self._control = Descriptor(control)
        self._text = Descriptor(text)
        self.status = Descriptor(status)
        # A reader of standard input, by which it stays open, can be opened for writing, and is emptied.
        self._stdin = Descriptor(stdin)
        self._report = b""
        self._send(f"exec {self._way.control}<&-\n")

    @property
    def argv(self) -> tuple[str, ...]:
        return (*self._way.argv, f"/proc/self/fd/{self._way.control}")

    def tell(self, number: int, command: bytes, before: int) -> None:
        """Has the shell run a command. before: what ``$?`` is to it. OSError (EPIPE) where the shell is gone."""
        os.ftruncate(self._text.fd, 0)
        written = 0
        while written < len(command):
            written += os.pwrite(self._text.fd, command[written:], written)
        way = self._way
        status = f"(exit {before}) || " if before else ""
        closed = f"{way.control}<&{way.text} {way.text}<&- {way.status}>&-"
        self._send(
            f"{status}{{ {way.source} /proc/self/fd/{way.control}; }} {closed}\n"
            f"command printf '%s %s\\n' {number} \"$?\" >&{way.status}\n"
        )

    def reports(self) -> list[tuple[int, int]] | None:
        """(number, status) of the commands that were done since, in their order; None at the end. Anything else that
        was written there is passed over."""
        try:
            more = os.read(self.status.fd, 4096)
        except BlockingIOError:
            return []
        if not more:
            return None
        self._report += more
        found = [(int(number), int(status)) for number, status in REPORT.findall(self._report)]
        self._report = self._report.rpartition(b"\n")[2][-_LONGEST_REPORT:]
        return found

    def open_input(self) -> Descriptor:
        """For a command's input, non-blocking. It ends when this is closed."""
        return Descriptor(os.open(f"/proc/self/fd/{self._stdin.fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def empty_input(self) -> None:
        """Drops what no command has read, at most what a pipe holds."""
        with suppress(BlockingIOError):
            os.read(self._stdin.fd, 1 << 20)

    def close(self) -> None:
        for one in (self._control, self._text, self.status, self._stdin):
            one.close()

    def _send(self, lines: str) -> None:
        """Shorter than PIPE_BUF, and the pipe is empty: never in parts."""
        os.write(self._control.fd, lines.encode())


def connect(kind: Kind, owner: Identity) -> tuple[Line, Offer]:
    """What a shell of ``owner`` is to be started with; everything is the owner's, who may open it again. Blocks.
    NotSupported."""
    way = _WAYS[kind]
    with ExitStack() as closing:

        def pipe() -> tuple[Descriptor, Descriptor]:
            ends = [closing.enter_context(Descriptor(fd)) for fd in os.pipe2(os.O_CLOEXEC)]
            with suppress(PermissionError):  # then the start is refused, or the shell does without
                os.fchown(ends[0].fd, owner.uid, owner.gid)
            return ends[0], ends[1]

        (script, control), (status, say), (stdin, _) = pipe(), pipe(), pipe()
        (stdout, out), (stderr, err) = pipe(), pipe()
        text = closing.enter_context(Descriptor(memory_file("command")))
        os.fchmod(text.fd, 0o444)
        source = closing.enter_context(Descriptor(os.open(f"/proc/self/fd/{text.fd}", os.O_RDONLY | os.O_CLOEXEC)))
        again = os.open(f"/proc/self/fd/{stdin.fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        for fd in (status.fd, stdout.fd, stderr.fd):
            os.set_blocking(fd, False)
        line = Line(kind, control.detach(), text.detach(), status.detach(), again)
        child = {0: stdin, 1: out, 2: err, way.control: script, way.text: source, way.status: say}
        wires = Wires(
            {number: end.detach() for number, end in child.items()},
            {Stream.STDOUT: stdout.detach(), Stream.STDERR: stderr.detach()},
        )
        return line, Offer(wires)
