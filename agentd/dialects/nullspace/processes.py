"""Processes over HTTP: sections 3.1 and 3.2 of the wire contract, and of our own streams, signals, wait and bytes."""

from collections.abc import AsyncGenerator
from contextlib import nullcontext
from typing import Annotated, Literal

from msgspec import Meta, Struct, to_builtins
from msgspec.structs import asdict

from agentd import errors
from agentd.core.eventlog import Gap, Stream
from agentd.core.text import whole
from agentd.dialects.failures import START_ERRORS
from agentd.dialects.nullspace.commands import LAST_EVENT, UsageReport, Wanted, events, exit_of, given, last_cursor
from agentd.dialects.telling import Written, tell, timed_out, written
from agentd.dialects.values import REPEATS, idempotency_key, rfc3339
from agentd.errors import InvalidRequest
from agentd.http.endpoint import RAW, Call, Endpoint, StreamResult
from agentd.http.events import NDJSON, SSE, Event, stream
from agentd.processes.output import Chunk
from agentd.processes.process import Process, signal_number
from agentd.processes.registry import Processes

PIECE = 1 << 20  # bytes of an answer that are sent at once
Stdin = Literal["pipe", "null"] | bytes
Offset = Annotated[int, Meta(ge=0, le=(1 << 62) - 1)]

_ERRORS = (errors.ProcessNotFound,)
_INPUT_ERRORS = (errors.ProcessNotFound, errors.Conflict, errors.RequestTimeout)


class ExecBody(Wanted, kw_only=True):
    """stdin: all of the input; stdin_base64: the same, as bytes. Without them there is none, unless it runs in the
    background: then it comes later, and ``timeout_secs``, which bounds an answer, does not count."""

    background: bool = False
    stdin: str | None = None
    stdin_base64: str | None = None


class StreamBody(Wanted, kw_only=True):
    """stdin: ``pipe`` is one that is fed and closed by further requests. paced: the command waits for this reader
    rather than that output is dropped, for 10 s at a time."""

    stdin: Literal["none", "pipe"] = "none"
    paced: bool = False


class Executed(Written, kw_only=True):
    """See `Exit`."""

    pid: int
    exit_code: int
    signal: str | None
    reason: str
    usage: UsageReport


class Started(Struct):
    pid: int


class ProcessParams(Struct):
    pid: int


class StreamParams(Struct):
    """paced: as in `StreamBody`."""

    pid: int
    cursor: Offset = 0
    paced: bool = False


class OutputParams(Struct):
    """paced: as in `StreamBody`, of one that follows."""

    pid: int
    stream: Literal["stdout", "stderr"] = "stdout"
    offset: Offset = 0
    follow: bool = False
    paced: bool = False


class ListParams(Struct):
    """tag: ``name=value``, several for those that carry all."""

    tag: list[str] = []


class Listed(Struct):
    pid: int
    command: str
    running: bool


class Detail(Struct, kw_only=True):
    """stdin_bytes: how much input was taken. stdout_bytes, stderr_bytes: how much was written; dropped_bytes: how much
    of it is gone."""

    pid: int
    command: str
    args: list[str]
    cwd: str
    user: str
    running: bool
    started_at: str
    ended_at: str | None
    tags: dict[str, str]
    stdin_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    dropped_bytes: int
    exit_code: int | None = None
    signal: str | None = None
    reason: str | None = None
    usage: UsageReport | None = None


class Logs(Written, kw_only=True):
    """output: both streams as they came, in text."""

    output: str
    exit_code: int | None


class StdinBody(Struct):
    """offset: where in all of the input the data begin; what was taken before is passed over. close: that is all."""

    data: str = ""
    data_base64: str | None = None
    offset: Offset | None = None
    close: bool = False


class SignalBody(Struct):
    """signal: a name or number. tree: to everything that the process started, not to its process group alone."""

    signal: str | int
    tree: bool = False


class KillBody(Struct):
    grace_secs: Annotated[float, Meta(ge=0, le=3600)] | None = None


class WaitBody(Struct):
    timeout_secs: Annotated[float, Meta(ge=0)] | None = 30


class ProcessRows:
    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def endpoints(self) -> tuple[Endpoint, ...]:
        process = "/processes/{pid}"
        return (
            Endpoint(
                *("POST", "/exec", "processes.exec", self.execute),
                body=ExecBody,
                result=Executed,
                also=((200, Started),),
                headers=REPEATS,
                example={"command": "echo hello", "shell": True},
                summary="Run a command; in the background the answer is its pid alone",
                errors=(*START_ERRORS, errors.ExecTimeout),
            ),
            Endpoint(
                *("POST", "/exec/stream", "processes.exec_stream", self.execute_stream),
                body=StreamBody,
                sends=(NDJSON, SSE),
                headers=REPEATS,
                example={"command": "ls", "args": ["-l"], "cwd": "/workspace"},
                summary="Run a command and tell what it writes, as NDJSON or server-sent events",
                errors=START_ERRORS,
            ),
            Endpoint(
                *("GET", "/processes", "processes.list", self.list),
                params=ListParams,
                result=list[Listed],
                summary="List what runs, and what ended a while ago",
            ),
            Endpoint(
                *("GET", process, "processes.get", self.get),
                params=ProcessParams,
                result=Detail,
                summary="Say everything about a process",
                errors=_ERRORS,
            ),
            Endpoint(
                *("GET", process + "/logs", "processes.logs", self.logs),
                params=ProcessParams,
                result=Logs,
                summary="Give the beginning of what a process wrote",
                errors=_ERRORS,
            ),
            Endpoint(
                *("GET", process + "/stream", "processes.stream", self.stream),
                params=StreamParams,
                sends=(NDJSON, SSE),
                headers=LAST_EVENT,
                summary="Tell what a process writes, from a cursor on, as NDJSON or server-sent events",
                errors=_ERRORS,
            ),
            Endpoint(
                *("GET", process + "/output", "processes.output", self.output),
                params=OutputParams,
                sends=(RAW,),
                summary="Send the bytes of a stream, from an offset on; with `follow` until the process ends",
                errors=(*_ERRORS, errors.Conflict),
            ),
            Endpoint(
                *("POST", process + "/kill", "processes.kill", self.kill),
                params=ProcessParams,
                body=KillBody,
                status=204,
                summary="End a process and everything it started: SIGTERM, grace, SIGKILL; repeating it is harmless",
                errors=_ERRORS,
            ),
            Endpoint(
                *("POST", process + "/signal", "processes.signal", self.signal),
                params=ProcessParams,
                body=SignalBody,
                status=204,
                summary="Send a signal",
                errors=(*_ERRORS, errors.Conflict),
            ),
            Endpoint(
                *("POST", process + "/wait", "processes.wait", self.wait),
                params=ProcessParams,
                body=WaitBody,
                result=Detail,
                summary="Wait for the end of a process, at most so long",
                errors=_ERRORS,
            ),
            Endpoint(
                *("POST", process + "/stdin", "processes.stdin", self.feed),
                params=ProcessParams,
                body=StdinBody,
                status=204,
                summary="Feed a process; with an offset, repeating it is harmless",
                errors=_INPUT_ERRORS,
            ),
            Endpoint(
                *("POST", process + "/stdin/close", "processes.stdin_close", self.close),
                params=ProcessParams,
                status=204,
                takes=(),
                summary="End the input of a process",
                errors=_INPUT_ERRORS,
            ),
        )

    async def execute(self, call: Call) -> Executed | Started:
        body: ExecBody = call.data
        content = given(body.stdin, body.stdin_base64)
        stdin: Stdin = "pipe" if body.background else "null"
        order = body.order(self._processes.shell, stdin if content is None else content, timed=not body.background)
        process = await self._processes.start(order, key=idempotency_key(call))
        if body.background:
            return Started(process.pid)
        ending = await process.wait()
        assert ending is not None
        limit = self._processes.limits.answer_bytes
        if ending.reason == "timed_out":
            raise await timed_out(process, ending, limit)
        return Executed(**asdict(await written(process, limit)), **asdict(exit_of(ending)), pid=process.pid)

    async def execute_stream(self, call: Call) -> StreamResult:
        body: StreamBody = call.data
        order = body.order(self._processes.shell, "pipe" if body.stdin == "pipe" else "null", timed=True)
        process = await self._processes.start(order, key=idempotency_key(call))
        return stream(call, _events(process, 0, body.paced), (NDJSON, SSE))

    async def list(self, call: Call) -> list[Listed]:
        pairs = [tag.partition("=") for tag in call.params.tag]
        found = self._processes.list({name: value for name, _, value in pairs})
        return [Listed(process.pid, process.command, process.running) for process in found]

    async def get(self, call: Call) -> Detail:
        return _detail(self._processes.get(call.params.pid))

    async def logs(self, call: Call) -> Logs:
        process = self._processes.get(call.params.pid)
        ending = process.ending
        limit = self._processes.limits.answer_bytes
        both = await _beginning(process, 2 * limit)
        code = None if ending is None else ending.code
        return Logs(**asdict(await written(process, limit)), output=both, exit_code=code)

    async def stream(self, call: Call) -> StreamResult:
        process = self._processes.get(call.params.pid)
        return stream(call, _events(process, last_cursor(call), call.params.paced), (NDJSON, SSE))

    async def output(self, call: Call) -> StreamResult:
        params: OutputParams = call.params
        process = self._processes.get(params.pid)
        which = Stream(params.stream)
        first = await process.output.read_stream(which, params.offset, 1)
        if isinstance(first, Gap):
            raise _not_kept(which, first)
        return StreamResult(_bytes(process, params), lasting=params.follow)

    async def kill(self, call: Call) -> None:
        await self._processes.get(call.params.pid).stop(call.data.grace_secs)

    async def signal(self, call: Call) -> None:
        process = self._processes.get(call.params.pid)
        try:
            number = signal_number(call.data.signal)
        except (ValueError, KeyError):
            raise InvalidRequest(f"{call.data.signal!r} is no signal; send a name such as TERM, or a number") from None
        if call.data.tree:
            await process.send_all(number)
        else:
            process.send(number)

    async def wait(self, call: Call) -> Detail:
        process = self._processes.get(call.params.pid)
        await process.wait(call.data.timeout_secs)
        return _detail(process)

    async def feed(self, call: Call) -> None:
        body: StdinBody = call.data
        process = self._processes.get(call.params.pid)
        content = given(None if body.data_base64 is not None else body.data, body.data_base64) or b""
        await process.write(content, body.offset)
        if body.close:
            await process.close_input()

    async def close(self, call: Call) -> None:
        await self._processes.get(call.params.pid).close_input()


def _events(process: Process, cursor: int, paced: bool = False) -> AsyncGenerator[Event, None]:
    def ended() -> dict[str, object] | None:
        return None if process.ending is None else to_builtins(exit_of(process.ending))

    return events({"pid": process.pid}, cursor, tell(process, cursor, paced=paced), ended)


async def _bytes(process: Process, params: OutputParams) -> AsyncGenerator[bytes, None]:
    """A gap on the way, of one who reads too slowly, is a failure: what follows it has another offset."""
    output, which, offset = process.output, Stream(params.stream), params.offset
    end = None if params.follow else output.log.lengths[which]
    with output.pace(0) if params.follow and params.paced else nullcontext(None) as pacer:
        while end is None or offset < end:
            limit = PIECE if end is None else min(PIECE, end - offset)
            piece = await output.await_stream(which, offset, limit, pacer)
            if piece is None:
                return
            if isinstance(piece, Gap):
                raise _not_kept(which, piece)
            yield piece.content
            offset += len(piece.content)
            if pacer is not None:
                pacer.go_on(piece.next)


def _not_kept(which: Stream, gap: Gap) -> errors.Conflict:
    kept = gap.start + gap.length
    return errors.Conflict(
        f"{which.value} is not kept from byte {gap.start} on; from byte {kept} on it is", offset=kept
    )


async def _beginning(process: Process, limit: int) -> str:
    """Of both streams together, as text. A character that is not whole yet is left for the next time."""
    pieces: list[str] = []
    cut = dict.fromkeys(Stream, b"")
    cursor, ended = 0, not process.running
    while cursor < limit and isinstance(chunk := await process.output.read(cursor, limit - cursor), Chunk):
        content = cut[chunk.stream] + chunk.content
        length = whole(content)
        pieces.append(content[:length].decode(errors="replace"))
        cut[chunk.stream] = content[length:]
        cursor = chunk.next
    if ended:
        pieces += (content.decode(errors="replace") for content in cut.values())
    return "".join(pieces)


def _detail(process: Process) -> Detail:
    log, ending = process.output.log, process.ending
    return Detail(
        pid=process.pid,
        command=process.command,
        args=list(process.order.argv),
        cwd=process.cwd,
        user=process.identity.name,
        running=process.running,
        started_at=rfc3339(process.started),
        ended_at=None if process.ended is None else rfc3339(process.ended),
        tags=dict(process.order.tags),
        stdin_bytes=process.input_bytes,
        stdout_bytes=log.lengths[Stream.STDOUT],
        stderr_bytes=log.lengths[Stream.STDERR],
        dropped_bytes=log.dropped,
        **({} if ending is None else asdict(exit_of(ending))),
    )
