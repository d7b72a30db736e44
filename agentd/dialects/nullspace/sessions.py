"""Shell sessions, which the wire contract has not: commands that find the directory, variables and functions of those
before them.

A session's own output, with what its background jobs write between commands, is that of the process ``pid``.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from agentd import errors
from agentd.core.eventlog import Stream
from agentd.core.text import whole
from agentd.dialects.failures import START_ERRORS
from agentd.dialects.nullspace.commands import LAST_EVENT, Seconds, events, given, last_cursor
from agentd.dialects.telling import Written, lossy, told
from agentd.dialects.values import REPEATS, idempotency_key, rfc3339, user_name
from agentd.errors import ExecTimeout, SessionEnded
from agentd.http.endpoint import Call, Endpoint, StreamResult
from agentd.http.events import NDJSON, SSE, Event, stream
from agentd.processes.session import Command, Input, Session
from agentd.processes.sessions import Opening, Sessions

BODY_LIMIT = 16 << 20  # bytes of JSON: a command of 2 MiB, however it is escaped
ANSWER_BYTES = 4 << 20  # of each stream, in one answer

_ERRORS = (errors.SessionNotFound,)
_COMMAND_ERRORS = (errors.SessionNotFound, errors.CommandNotFound)
_EXEC_ERRORS = (*_ERRORS, errors.SessionEnded, errors.ExecTimeout, errors.CapacityExceeded, errors.KeyReused)


class SessionBody(Struct, kw_only=True):
    """session_id: 1 to 128 letters, digits, dots, dashes and underscores. shell: bash where there is one."""

    session_id: str = ""
    shell: Literal["bash", "sh"] | None = None
    cwd: str | None = None
    envs: dict[str, str] = {}
    user: str | None = None


class RunBody(Struct, kw_only=True):
    """run_async: the answer comes at once, and input may follow. timeout_secs: from the command's start; the whole
    session is ended then; 0 or null for none. stdin: what the command reads; stdin_base64: the same, as bytes."""

    command: str
    run_async: bool = False
    timeout_secs: Seconds | None = None
    stdin: str | None = None
    stdin_base64: str | None = None


class FeedBody(Struct, kw_only=True):
    """close: that is all."""

    data: str | None = None
    data_base64: str | None = None
    close: bool = False


class SessionParams(Struct):
    session_id: str


class CommandParams(Struct):
    session_id: str
    command_id: str


class FollowParams(Struct):
    session_id: str
    command_id: str
    cursor: Annotated[int, Meta(ge=0, le=(1 << 62) - 1)] = 0


class CommandReport(Struct, kw_only=True):
    """state: ``waiting``, ``running``, ``ended``, or ``dropped`` where the session ended before it. command: its
    beginning."""

    command_id: str
    command: str
    state: str
    exit_code: int | None
    timed_out: bool
    asked_at: str
    started_at: str | None
    ended_at: str | None


class SessionReport(Struct, kw_only=True):
    """exit_code: of the shell, once it has ended."""

    session_id: str
    pid: int
    shell: str
    user: str
    opened_at: str
    running: bool
    exit_code: int | None
    commands: list[CommandReport]


class Ran(Written, kw_only=True):
    """exit_code: null while it runs. session_ended: there will be no other command."""

    command_id: str
    exit_code: int | None
    session_ended: bool


class SessionRows:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def endpoints(self) -> tuple[Endpoint, ...]:
        session = "/sessions/{session_id}"
        command = session + "/commands/{command_id}"
        return (
            Endpoint(
                *("POST", "/sessions", "sessions.open", self.open),
                body=SessionBody,
                result=SessionReport,
                status=201,
                summary="Open a session: a shell that keeps its state from one command to the next",
                errors=(*START_ERRORS, errors.Conflict),
            ),
            Endpoint(
                *("GET", "/sessions", "sessions.list", self.list),
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
                headers=REPEATS,
                summary="Run a command in a session, after those before it; with `run_async` the answer is its state",
                errors=_EXEC_ERRORS,
            ),
            Endpoint(
                *("GET", command, "sessions.command", self.command),
                params=CommandParams,
                result=CommandReport,
                summary="Describe a command of a session",
                errors=_COMMAND_ERRORS,
            ),
            Endpoint(
                *("GET", command + "/logs", "sessions.logs", self.logs),
                params=CommandParams,
                result=Ran,
                summary="Give the beginning of what a command of a session wrote",
                errors=_COMMAND_ERRORS,
            ),
            Endpoint(
                *("GET", command + "/stream", "sessions.stream", self.stream),
                params=FollowParams,
                sends=(NDJSON, SSE),
                headers=LAST_EVENT,
                summary="Tell what a command of a session writes, from a cursor on, as NDJSON or server-sent events",
                errors=_COMMAND_ERRORS,
            ),
            Endpoint(
                *("POST", command + "/stdin", "sessions.stdin", self.feed),
                params=CommandParams,
                body=FeedBody,
                status=204,
                summary="Feed the command that runs in a session, if it was started with `run_async`",
                errors=(*_COMMAND_ERRORS, errors.Conflict),
            ),
        )

    async def open(self, call: Call) -> SessionReport:
        body: SessionBody = call.data
        opening = Opening(body.session_id, body.shell, body.cwd, body.envs, user_name(body.user))
        return _session(await self._sessions.open(opening))

    async def list(self, call: Call) -> list[SessionReport]:
        return [_session(session) for session in self._sessions.list()]

    async def get(self, call: Call) -> SessionReport:
        return _session(self._sessions.get(call.params.session_id))

    async def delete(self, call: Call) -> None:
        await self._sessions.delete(call.params.session_id)

    async def run(self, call: Call) -> Ran | CommandReport:
        body: RunBody = call.data
        session = self._sessions.get(call.params.session_id)
        content = given(body.stdin, body.stdin_base64) or b""
        key = idempotency_key(call)
        command = session.run(
            body.command, Input(content, open=body.run_async), timeout=body.timeout_secs or None, key=key
        )
        if body.run_async:
            return _command(command)
        await command.wait()
        if command.exit_code is None:
            raise SessionEnded(f"session {session.id!r} ended before the command was run", session_id=session.id)
        ran = await _ran(session, command)
        if command.timed_out:
            facts = {"stdout": ran.stdout, "stderr": ran.stderr, "truncated": ran.truncated}
            what = f"the command, and its session, were ended after {command.timeout:g} s"
            raise ExecTimeout(what, command_id=command.id, exit_code=command.exit_code, **facts)
        return ran

    async def command(self, call: Call) -> CommandReport:
        return _command(self._found(call)[1])

    async def logs(self, call: Call) -> Ran:
        return await _ran(*self._found(call))

    async def stream(self, call: Call) -> StreamResult:
        return stream(call, _events(*self._found(call), last_cursor(call)), (NDJSON, SSE))

    async def feed(self, call: Call) -> None:
        session, command = self._found(call)
        await session.write(command, given(call.data.data, call.data.data_base64) or b"")
        if call.data.close:
            await session.close_input(command)

    def _found(self, call: Call) -> tuple[Session, Command]:
        session = self._sessions.get(call.params.session_id)
        return session, session.command(call.params.command_id)


async def _ran(session: Session, command: Command) -> Ran:
    """While it runs a character that is not whole yet is left for the next time."""
    text: dict[str, Any] = {}
    truncated = False
    for which in Stream:
        content, complete = await session.read(command, which, ANSWER_BYTES)
        if not complete or command.exit_code is None:
            content = content[: whole(content)]
        truncated = truncated or not complete
        text[which.value], exact = lossy(content)
        if exact is not None:
            text[f"{which.value}_base64"] = exact
    ended = session.ending is not None
    return Ran(command_id=command.id, exit_code=command.exit_code, session_ended=ended, truncated=truncated, **text)


async def _events(session: Session, command: Command, cursor: int) -> AsyncGenerator[Event, None]:
    def ended() -> dict[str, object] | None:
        over: dict[str, object] = {"exit_code": command.exit_code, "timed_out": command.timed_out}
        return None if command.ended is None else over

    await command.begun()
    at = max(cursor, command.first)
    async with aclosing(events({"command_id": command.id}, at, told(session.follow(command, at)), ended)) as happening:
        async for event in happening:
            yield event


def _session(session: Session) -> SessionReport:
    return SessionReport(
        session_id=session.id,
        pid=session.process.pid,
        shell=session.shell,
        user=session.process.identity.name,
        opened_at=rfc3339(session.opened),
        running=session.ending is None,
        exit_code=None if session.ending is None else session.ending.code,
        commands=[_command(command) for command in session.commands],
    )


def _command(command: Command) -> CommandReport:
    return CommandReport(
        command_id=command.id,
        command=command.text,
        state=command.state,
        exit_code=command.exit_code,
        timed_out=command.timed_out,
        asked_at=rfc3339(command.asked),
        started_at=None if command.started is None else rfc3339(command.started),
        ended_at=None if command.ended is None else rfc3339(command.ended),
    )
