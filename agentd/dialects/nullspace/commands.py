"""How a command is asked for, and how what it writes is told: shapes that HTTP and the WebSocket share (section 3)."""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agentd import errors
from agentd.core.eventlog import Gap, Stream
from agentd.core.text import whole
from agentd.dialects.nullspace.wire import PATH_ERRORS, text_bytes, user_name
from agentd.errors import ExecTimeout, InvalidRequest
from agentd.http.endpoint import Call
from agentd.http.events import Event
from agentd.linux.spawn import Limits
from agentd.processes.output import Chunk
from agentd.processes.process import Process
from agentd.processes.terms import Ending, Order

START_ERRORS = (
    *PATH_ERRORS,
    errors.ExecFailed,
    errors.ProgramNotFound,
    errors.KeyReused,
    errors.CapacityExceeded,
    errors.Unavailable,
)

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


class Written(Struct, kw_only=True):
    """The beginning of both streams. The ``…_base64`` are there where the bytes are no UTF-8; truncated: there is more
    than one answer takes, and a stream has it."""

    stdout: str
    stderr: str
    truncated: bool
    stdout_base64: str | UnsetType = UNSET
    stderr_base64: str | UnsetType = UNSET


async def written(process: Process, limit: int) -> Written:
    """What its streams begin with. While it runs a character that is not whole yet is left for the next time."""
    text: dict[str, Any] = {}
    for stream in Stream:
        content = await process.output.first(stream, limit)
        if process.running or len(content) < process.output.log.lengths[stream]:
            content = content[: whole(content)]
        text[stream.value], exact = lossy(content)
        if exact is not None:
            text[f"{stream.value}_base64"] = exact
    lengths = process.output.log.lengths
    return Written(truncated=max(lengths.values()) > limit or bool(process.output.log.dropped), **text)


def lossy(content: bytes) -> tuple[str, str | None]:
    """As text, and in base64 where that says less than the bytes."""
    try:
        return content.decode(), None
    except UnicodeDecodeError:
        return content.decode(errors="replace"), b64encode(content).decode()


async def timed_out(process: Process, ending: Ending, limit: int) -> ExecTimeout:
    """The error, with everything that there is to say."""
    output = await written(process, limit)
    facts: dict[str, Any] = {"pid": process.pid, "exit_code": ending.code, "signal": ending.signal_name}
    facts |= {"stdout": output.stdout, "stderr": output.stderr, "truncated": output.truncated}
    return ExecTimeout(f"the command was ended after {process.order.timeout:g} s", **facts)


@dataclass(frozen=True, slots=True)
class Told:
    """A piece of a stream: its bytes as text, in base64 too where they are none. next: the cursor after it."""

    stream: Stream
    offset: int
    text: str
    exact: str | None
    next: int


def tell(process: Process, cursor: int, *, mend: bool = False, paced: bool = False) -> AsyncGenerator[Told | Gap, None]:
    """Everything from ``cursor`` on. No character is cut in two, unless the other stream comes in between.

    mend: not then either, for those who take text alone; their cursors may leave out a part of a character.
    paced: see `Output.pace`."""
    return told(process.output.follow(cursor, paced=paced), mend=mend)


async def told(pieces: AsyncGenerator[Chunk | Gap, None], *, mend: bool = False) -> AsyncGenerator[Told | Gap, None]:
    """As `tell`, of any chunks that follow each other."""
    cut: dict[Stream, Chunk] = {}
    async with aclosing(pieces) as chunks:
        async for chunk in chunks:
            for stream in [*cut]:
                if isinstance(chunk, Gap) or not (mend or stream is chunk.stream):
                    yield _told(cut.pop(stream))
            if isinstance(chunk, Gap):
                yield chunk
                continue
            if (before := cut.pop(chunk.stream, None)) is not None:
                start = chunk.cursor - len(before.content)
                chunk = Chunk(chunk.stream, start, before.offset, before.content + chunk.content)
            length = whole(chunk.content)
            if length < len(chunk.content):
                rest = Chunk(chunk.stream, chunk.cursor + length, chunk.offset + length, chunk.content[length:])
                cut[chunk.stream] = rest
            if length:
                yield _told(Chunk(chunk.stream, chunk.cursor, chunk.offset, chunk.content[:length]))
    for rest in cut.values():
        yield _told(rest)


def _told(chunk: Chunk) -> Told:
    return Told(chunk.stream, chunk.offset, *lossy(chunk.content), chunk.next)


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
