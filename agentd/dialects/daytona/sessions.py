"""Shell sessions: commands that find the directory and the variables of those before them."""

from contextlib import aclosing
from http import HTTPStatus

from msgspec import UNSET, Struct, UnsetType, field

from agentd import errors
from agentd.core.eventlog import Gap, Stream
from agentd.core.text import whole
from agentd.dialects.daytona.wire import answer, empty
from agentd.dialects.failures import START_ERRORS
from agentd.dialects.telling import told
from agentd.dialects.values import idempotency_key, text_bytes
from agentd.errors import CommandEnded, SessionEnded
from agentd.http.endpoint import Call, Endpoint, TextResult
from agentd.http.socket import Socket
from agentd.processes.output import Chunk
from agentd.processes.session import Command, Input, Session
from agentd.processes.sessions import Opening, Sessions

BODY_LIMIT = 16 << 20  # bytes of JSON: a command of 2 MiB, however it is escaped
ANSWER_BYTES = 4 << 20  # of each stream, in one answer
MESSAGE_BYTES = 256 << 10
# What a message of a log's socket begins with.
MARKS = {Stream.STDOUT: b"\x01\x01\x01", Stream.STDERR: b"\x02\x02\x02"}

_ERRORS = (errors.SessionNotFound,)
_COMMAND_ERRORS = (errors.SessionNotFound, errors.CommandNotFound)


class SessionBody(Struct, rename="camel"):
    session_id: str = ""


class RunBody(Struct, rename="camel"):
    """run_async, or by its old name async: the answer comes at once, and input may follow. suppress_input_echo: input
    is never echoed here."""

    command: str
    run_async: bool | None = None
    is_async: bool | None = field(default=None, name="async")
    suppress_input_echo: bool | None = None


class InputBody(Struct):
    data: str


class SessionParams(Struct):
    session_id: str


class CommandParams(Struct):
    session_id: str
    command_id: str


class LogParams(Struct):
    """follow: of a socket, until the command has ended."""

    session_id: str
    command_id: str
    follow: bool = False


class CommandReport(Struct, rename="camel"):
    """exit_code: once it has ended."""

    id: str
    command: str
    exit_code: int | UnsetType = UNSET


class SessionReport(Struct, rename="camel"):
    session_id: str
    commands: list[CommandReport]


class Logs(Struct):
    """output: both streams as they came."""

    output: str
    stdout: str
    stderr: str


class Ran(Struct, rename="camel"):
    cmd_id: str
    output: str
    stdout: str
    stderr: str
    exit_code: int


class Begun(Struct, rename="camel"):
    cmd_id: str


class SessionRows:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def endpoints(self) -> tuple[Endpoint, ...]:
        session = "/process/session/{session_id}"
        command = session + "/command/{command_id}"
        logs = command + "/logs"
        return (
            Endpoint(
                *("POST", "/process/session", "sessions.create", self.create),
                body=SessionBody,
                status=201,
                summary="Open a session: a shell that keeps its state from one command to the next",
                errors=(*START_ERRORS, errors.Conflict),
            ),
            Endpoint(
                *("GET", "/process/session", "sessions.list", self.all),
                result=list[SessionReport],
                summary="List the sessions, those that ended too",
            ),
            Endpoint(
                *("GET", session, "sessions.get", self.get),
                params=SessionParams,
                result=SessionReport,
                summary="Describe a session and its commands",
                errors=_ERRORS,
            ),
            Endpoint(
                *("DELETE", session, "sessions.delete", self.delete),
                params=SessionParams,
                status=204,
                summary="End a session and everything that was started in it",
                errors=_ERRORS,
            ),
            Endpoint(
                *("POST", session + "/exec", "sessions.exec", self.run),
                params=SessionParams,
                body=RunBody,
                body_limit=BODY_LIMIT,
                result=Ran,
                also=((202, Begun),),
                summary="Run a command in a session, after those before it; with `runAsync` 202 and its id",
                errors=(
                    *_ERRORS,
                    errors.InvalidRequest,
                    errors.SessionEnded,
                    errors.CapacityExceeded,
                    errors.KeyReused,
                ),
            ),
            Endpoint(
                *("GET", command, "sessions.command", self.command),
                params=CommandParams,
                result=CommandReport,
                summary="Describe a command of a session",
                errors=_COMMAND_ERRORS,
            ),
            Endpoint(
                *("GET", logs, "sessions.logs", self.logs),
                params=LogParams,
                result=Logs,
                summary="Give the beginning of what a command of a session has written so far",
                errors=_COMMAND_ERRORS,
            ),
            Endpoint(
                *("GET", logs, "sessions.follow", self.follow),
                params=LogParams,
                socket=True,
                summary="Tell what a command of a session writes: each message is marked with its stream",
                errors=_COMMAND_ERRORS,
            ),
            Endpoint(
                *("POST", command + "/input", "sessions.input", self.feed),
                params=CommandParams,
                body=InputBody,
                status=204,
                summary="Feed the command that runs in a session, if it was started with `runAsync`",
                errors=(*_COMMAND_ERRORS, errors.Conflict, errors.CommandEnded),
            ),
        )

    async def create(self, call: Call) -> TextResult:
        await self._sessions.open(Opening(call.data.session_id))
        return empty(HTTPStatus.CREATED)

    async def all(self, call: Call) -> list[SessionReport]:
        return [_session(session) for session in self._sessions.list()]

    async def get(self, call: Call) -> SessionReport:
        return _session(self._sessions.get(call.params.session_id))

    async def delete(self, call: Call) -> None:
        await self._sessions.delete(call.params.session_id)

    async def run(self, call: Call) -> Ran | TextResult:
        body: RunBody = call.data
        session = self._sessions.get(call.params.session_id)
        in_background = bool(body.run_async or body.is_async)
        command = session.run(body.command, Input(open=in_background), key=idempotency_key(call))
        if in_background:
            return answer(Begun(command.id), HTTPStatus.ACCEPTED)
        await command.wait()
        if command.exit_code is None:
            raise SessionEnded(f"session {session.id!r} ended before the command was run", session_id=session.id)
        logs = await _logs(session, command)
        return Ran(command.id, logs.output, logs.stdout, logs.stderr, command.exit_code)

    async def command(self, call: Call) -> CommandReport:
        return _command(self._found(call)[1])

    async def logs(self, call: Call) -> Logs:
        return await _logs(*self._found(call))

    async def follow(self, call: Call, socket: Socket) -> None:
        session, command = self._found(call)
        if not call.params.follow:
            for stream in Stream:
                content, _ = await session.read(command, stream, ANSWER_BYTES)
                await _send(socket, stream, content)
            return
        async with aclosing(session.follow(command)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Chunk):
                    await _send(socket, piece.stream, piece.content)

    async def feed(self, call: Call) -> None:
        session, command = self._found(call)
        if command.ended is not None:
            raise CommandEnded(f"command {command.id!r} has ended and takes no input", command=command.id)
        await session.write(command, text_bytes(call.data.data))

    def _found(self, call: Call) -> tuple[Session, Command]:
        session = self._sessions.get(call.params.session_id)
        return session, session.command(call.params.command_id)


async def _send(socket: Socket, stream: Stream, content: bytes) -> None:
    for at in range(0, len(content), MESSAGE_BYTES):
        await socket.send(MARKS[stream] + content[at : at + MESSAGE_BYTES])


async def _logs(session: Session, command: Command) -> Logs:
    """While it runs a character that is not whole yet is left for the next time."""
    text: dict[Stream, str] = {}
    for stream in Stream:
        content, complete = await session.read(command, stream, ANSWER_BYTES)
        if not complete or command.exit_code is None:
            content = content[: whole(content)]
        text[stream] = content.decode(errors="replace")
    return Logs(await _both(session, command), text[Stream.STDOUT], text[Stream.STDERR])


async def _both(session: Session, command: Command) -> str:
    """What there is of both streams, as they came."""
    pieces: list[str] = []
    size = 0
    async with aclosing(told(session.follow(command, wait=False), mend=True)) as telling:
        async for piece in telling:
            if isinstance(piece, Gap) or size > ANSWER_BYTES:
                break
            pieces.append(piece.text)
            size += len(piece.text)
    return "".join(pieces)


def _session(session: Session) -> SessionReport:
    return SessionReport(session.id, [_command(command) for command in session.commands])


def _command(command: Command) -> CommandReport:
    return CommandReport(command.id, command.text, UNSET if command.exit_code is None else command.exit_code)
