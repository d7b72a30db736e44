"""How a command is asked for, and how what it writes is told: shapes that HTTP and the WebSocket share (section 3)."""

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Literal

from msgspec import Meta, Struct

from agentd.core.eventlog import Gap
from agentd.dialects.telling import Told
from agentd.dialects.values import text_bytes, user_name
from agentd.errors import InvalidRequest
from agentd.http.endpoint import Call
from agentd.http.events import Event
from agentd.linux.spawn import Limits
from agentd.processes.terms import Ending, Order

LAST_EVENT = {"Last-Event-ID": "the id of the last event that came, to go on behind it; before `cursor`"}

Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=(1 << 62) - 1)]


class RunLimits(Struct, frozen=True):
    """The server's own limits hold too. wall_secs: until everything is ended. output_bytes: of both streams."""

    wall_secs: Seconds | None = None
    cpu_secs: Count | None = None
    memory_bytes: Count | None = None
    processes: Count | None = None
    open_files: Count | None = None
    file_bytes: Count | None = None
    output_bytes: Count | None = None


class Wanted(Struct, kw_only=True):
    """A program with ``args``, or with ``shell`` a line for the shell. timeout_secs: 0 or null for none."""

    command: str
    args: list[str] = []
    timeout_secs: Seconds | None = 30
    cwd: str | None = None
    envs: dict[str, str] = {}
    shell: bool = False
    user: str | None = None
    limits: RunLimits = RunLimits()
    tags: dict[str, str] = {}

    def order(self, shell: str, stdin: Literal["pipe", "null"] | bytes, *, timed: bool) -> Order:
        """shell: the path of one. stdin: as `Order` has it. timed: ``timeout_secs`` counts."""
        if self.shell and self.args:
            raise InvalidRequest("with shell, command is all there is: put the args into it, or leave shell out")
        times = [self.limits.wall_secs, self.timeout_secs if timed else None]
        return Order(
            argv=(shell, "-c", self.command) if self.shell else (self.command, *self.args),
            command=" ".join((self.command, *self.args)),
            cwd=self.cwd,
            env=self.envs,
            user=user_name(self.user),
            stdin=stdin,
            timeout=min((seconds for seconds in times if seconds), default=None),
            output_limit=self.limits.output_bytes,
            limits=Limits(
                cpu_seconds=self.limits.cpu_secs,
                memory_bytes=self.limits.memory_bytes,
                processes=self.limits.processes,
                open_files=self.limits.open_files,
                file_bytes=self.limits.file_bytes,
            ),
            tags=self.tags,
        )


class UsageReport(Struct):
    """memory_bytes: null where it stayed below what can be told."""

    seconds: float
    user_seconds: float
    system_seconds: float
    memory_bytes: int | None


class Exit(Struct, kw_only=True):
    """exit_code: 128 + the signal's number where one ended it. reason: ``exited``, ``signalled``, ``timed_out``,
    ``output_limit``, or ``lost`` where nobody knows."""

    exit_code: int
    signal: str | None
    reason: str
    usage: UsageReport


def exit_of(ending: Ending) -> Exit:
    used = ending.usage
    usage = UsageReport(used.seconds, used.user_seconds, used.system_seconds, used.memory_bytes)
    return Exit(exit_code=ending.code, signal=ending.signal_name, reason=ending.reason, usage=usage)


async def events(
    about: dict[str, object],
    cursor: int,
    pieces: AsyncGenerator[Told | Gap, None],
    ended: Callable[[], dict[str, object] | None],
) -> AsyncGenerator[Event, None]:
    """What happens, each with the cursor to go on from after it. about: of the start. ended: what there is to say of
    the end once ``pieces`` are over; None where the daemon ends first."""
    at = cursor
    yield Event({"type": "started", **about, "cursor": at}, "started", str(at))
    async with aclosing(pieces) as telling:
        async for piece in telling:
            if isinstance(piece, Gap):
                at = piece.start + piece.length
                yield Event({"type": "gap", "bytes": piece.length, "cursor": at}, "gap", str(at))
                continue
            at, kind = piece.next, piece.stream.value
            value: dict[str, object] = {"type": kind, "data": piece.text, "offset": piece.offset, "cursor": at}
            if piece.exact is not None:
                value["data_base64"] = piece.exact
            yield Event(value, kind, str(at))
    end = ended()
    if end is None:
        yield Event({"type": "draining", "cursor": at}, "draining", str(at))
    else:
        yield Event({"type": "exit", **end, "cursor": at}, "exit", str(at))


def last_cursor(call: Call) -> int:
    """Where a stream is to go on: the id of the last event that a browser got, else the row's ``cursor``."""
    last = call.headers.get("Last-Event-ID", "")
    return int(last) if last.isdecimal() else call.params.cursor


def given(text: str | None, encoded: str | None) -> bytes | None:
    """Input that is given as text, in base64, or not at all."""
    if text is not None and encoded is not None:
        raise InvalidRequest("input is given twice: as text, or in base64")
    if encoded is None:
        return None if text is None else text_bytes(text)
    try:
        return b64decode(encoded, validate=True)
    except (NotBase64, ValueError):
        raise InvalidRequest("the input is not in base64") from None
