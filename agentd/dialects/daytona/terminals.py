"""Terminals: described, sized and ended by requests, and spoken to by a socket.

A socket begins with a control message in text; what the terminal shows follows in binary. Whatever comes is typed.
"""

import asyncio
import json
from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agentd import errors
from agentd.dialects.failures import START_ERRORS
from agentd.dialects.values import rfc3339
from agentd.errors import AgentError, InvalidRequest, SessionEnded
from agentd.http.codec import encode
from agentd.http.endpoint import Call, Endpoint
from agentd.http.socket import Socket
from agentd.processes.pty import Opening, Terminal, Terminals

# What a client offers as subprotocols: variables, in base64 of JSON behind the name; and that it reads of the exit.
VARIABLES = "X-Daytona-Pty-Envs~"
EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"

_ERRORS = (errors.TerminalNotFound,)

Cells = Annotated[int, Meta(ge=1, le=1000)]


class CreateBody(Struct, rename="camel"):
    """lazy_start: a terminal starts at once here, and keeps what it shows until somebody connects."""

    id: str = ""
    cwd: str | None = None
    envs: dict[str, str] | None = None
    cols: Cells = 80
    rows: Cells = 24
    lazy_start: bool | None = None


class OpenParams(Struct):
    id: str = ""
    cwd: str = ""
    cols: Cells = 80
    rows: Cells = 24


class TerminalParams(Struct):
    session_id: str


class ResizeBody(Struct):
    cols: Cells
    rows: Cells


class Created(Struct, rename="camel"):
    session_id: str


class TerminalReport(Struct, rename="camel"):
    id: str
    cwd: str
    envs: dict[str, str]
    cols: int
    rows: int
    created_at: str
    active: bool
    lazy_start: bool = False


class TerminalList(Struct):
    sessions: list[TerminalReport]


class Ended(Struct):
    message: str


class Control(Struct, tag_field="type", tag="control", rename="camel", omit_defaults=True):
    status: str
    exit_code: int | None = None
    exit_reason: str = ""
    error: str = ""


class TerminalRows:
    def __init__(self, terminals: Terminals) -> None:
        self._terminals = terminals

    def endpoints(self) -> tuple[Endpoint, ...]:
        terminal = "/process/pty/{session_id}"
        return (
            Endpoint(
                *("POST", "/process/pty", "pty.create", self.create),
                body=CreateBody,
                status=201,
                result=Created,
                summary="Open a terminal with the user's shell",
                errors=(*START_ERRORS, errors.Conflict),
            ),
            Endpoint(
                *("GET", "/process/pty", "pty.list", self.all),
                result=TerminalList,
                summary="List the terminals that are open",
            ),
            Endpoint(
                *("GET", terminal, "pty.get", self.get),
                params=TerminalParams,
                result=TerminalReport,
                summary="Describe a terminal",
                errors=_ERRORS,
            ),
            Endpoint(
                *("DELETE", terminal, "pty.delete", self.delete),
                params=TerminalParams,
                result=Ended,
                summary="End a terminal and everything that was started in it",
                errors=_ERRORS,
            ),
            Endpoint(
                *("POST", terminal + "/resize", "pty.resize", self.resize),
                params=TerminalParams,
                body=ResizeBody,
                result=TerminalReport,
                summary="Give a terminal another size, in cells",
                errors=(*_ERRORS, SessionEnded),
            ),
            Endpoint(
                *("GET", terminal + "/connect", "pty.connect", self.connect),
                params=TerminalParams,
                socket=True,
                summary="Sit down at a terminal",
                errors=_ERRORS,
            ),
            Endpoint(
                *("GET", "/process/pty/create-connect", "pty.create_connect", self.create_and_connect),
                params=OpenParams,
                socket=True,
                summary="Open a terminal and sit down at it",
                errors=(*START_ERRORS, errors.Conflict),
            ),
        )

    async def create(self, call: Call) -> Created:
        body: CreateBody = call.data
        opening = Opening(body.cols, body.rows, cwd=body.cwd or None, env=body.envs or {}, ident=body.id)
        return Created((await self._terminals.open(opening)).id)

    async def all(self, call: Call) -> TerminalList:
        return TerminalList([_report(terminal) for terminal in self._terminals.list()])

    async def get(self, call: Call) -> TerminalReport:
        return _report(self._terminals.get(call.params.session_id))

    async def delete(self, call: Call) -> Ended:
        await self._terminals.get(call.params.session_id).kill()
        return Ended("PTY session deleted")

    async def resize(self, call: Call) -> TerminalReport:
        terminal = self._terminals.get(call.params.session_id)
        if terminal.ending is not None:
            raise SessionEnded(f"terminal {terminal.id!r} has ended", session_id=terminal.id)
        terminal.resize(call.data.cols, call.data.rows)
        return _report(terminal)

    async def connect(self, call: Call, socket: Socket) -> None:
        try:
            terminal = self._terminals.get(call.params.session_id)
        except AgentError as error:
            await _say(socket, Control("error", error=error.detail))
            raise
        await _converse(call, socket, terminal)

    async def create_and_connect(self, call: Call, socket: Socket) -> None:
        params: OpenParams = call.params
        try:
            env = _variables(call)
            opening = Opening(params.cols, params.rows, cwd=params.cwd or None, env=env, ident=params.id)
            terminal = await self._terminals.open(opening)
        except AgentError as error:
            await _say(socket, Control("error", error=error.detail))
            raise
        await _converse(call, socket, terminal)


async def _converse(call: Call, socket: Socket, terminal: Terminal) -> None:
    """Until the terminal has ended or the client leaves, which the terminal does not notice."""
    await _say(socket, Control("connected"))
    async with asyncio.TaskGroup() as group:
        typing = group.create_task(_type(socket, terminal))
        async for piece in terminal.output.follow(terminal.seen):
            await socket.send(piece.content)
            terminal.seen = max(terminal.seen, piece.next)
        typing.cancel()
    if (ending := terminal.ending) is not None:
        reason = "" if ending.signal_name is None else f"ended by {ending.signal_name}"
        if EXIT_CONTROL in _offered(call):
            await _say(socket, Control("exited", ending.code, reason))
        said = {"exitCode": ending.code} | ({"exitReason": reason} if reason else {})
        await socket.close(reason=json.dumps(said))


async def _type(socket: Socket, terminal: Terminal) -> None:
    while True:
        message = await socket.receive()
        await terminal.write(message if isinstance(message, bytes) else message.encode())


async def _say(socket: Socket, control: Control) -> None:
    await socket.send(encode(control).decode())


def _offered(call: Call) -> list[str]:
    return [one.strip() for one in call.headers.get("Sec-WebSocket-Protocol", "").split(",")]


def _variables(call: Call) -> dict[str, str]:
    for one in _offered(call):
        if one.startswith(VARIABLES):
            text = one.removeprefix(VARIABLES)
            try:
                return msgspec.json.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=dict[str, str])
            except (msgspec.DecodeError, NotBase64, ValueError):
                raise InvalidRequest("the variables are no JSON object of texts in base64") from None
    return {}


def _report(terminal: Terminal) -> TerminalReport:
    process = terminal.process
    return TerminalReport(
        id=terminal.id,
        cwd=process.cwd,
        envs=dict(process.order.env),
        cols=terminal.cols,
        rows=terminal.rows,
        created_at=rfc3339(terminal.opened),
        active=terminal.ending is None,
    )
