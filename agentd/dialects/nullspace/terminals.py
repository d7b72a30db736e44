"""Terminals: section 3.4 of the wire contract; of our own are ``user``, ``login``, ``command``, ``cursor`` and
``skipped``.

A client that connects to a terminal gets what nobody has been sent yet, or names the ``cursor`` to go on from: each
``pty_output`` has that of what follows it.
"""

import asyncio
import codecs
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from agentd import errors
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.values import user_name
from agentd.errors import AgentError, InvalidRequest
from agentd.http.codec import encode
from agentd.http.endpoint import Call, Endpoint
from agentd.http.socket import Socket
from agentd.processes.pty import Opening, Terminal, Terminals

RESTART = 1012  # of the registry of close codes: the service ends and may come back
LINGER_SECONDS = 5.0  # that a client has to close its socket after the last frame
WAITING_BYTES = 1 << 20  # of input that are taken while the program does not read

START_ERRORS = (*PATH_ERRORS, errors.ExecFailed, errors.CapacityExceeded, errors.Unavailable)

Cells = Annotated[int, Meta(ge=1, le=65535)]
Cursor = Annotated[int, Meta(ge=0)]


class Start(Struct, tag_field="type", tag="pty_start"):
    """command: for the shell, in place of an interactive one. login: a login shell."""

    id: str
    cols: Cells = 120
    rows: Cells = 30
    cwd: str | None = None
    envs: dict[str, str] | None = None
    user: str | None = None
    command: str | None = None
    login: bool = False


class Connect(Struct, tag_field="type", tag="pty_connect"):
    """Exactly one of session_id and pid."""

    id: str
    session_id: str | None = None
    pid: int | None = None
    cursor: Cursor | None = None


class Input(Struct, tag_field="type", tag="pty_input"):
    """Exactly one of text and bytes."""

    data: str | None = None
    data_base64: bytes | None = None

    @property
    def content(self) -> bytes:
        if (self.data is None) == (self.data_base64 is None):
            raise InvalidRequest("invalid message: pty_input has exactly one of data and data_base64")
        return self.data.encode() if self.data is not None else self.data_base64 or b""


class Resize(Struct, tag_field="type", tag="pty_resize"):
    cols: Cells
    rows: Cells


class Kill(Struct, tag_field="type", tag="pty_kill"):
    pass


class Started(Struct, tag_field="type", tag="pty_started"):
    """cursor: of the output that comes first."""

    id: str
    session_id: str
    pid: int
    cols: int
    rows: int
    exec_id: str
    cursor: int


class Shown(Struct, tag_field="type", tag="pty_output", omit_defaults=True):
    """cursor: of what follows. skipped: bytes before this that are gone."""

    id: str
    session_id: str
    data: str
    data_base64: bytes
    cursor: int
    skipped: int = 0


class Exited(Struct, tag_field="type", tag="pty_exited"):
    id: str
    session_id: str
    exit_code: int


class Failed(Struct, tag_field="type", tag="error"):
    id: str
    message: str
    code: str


class TerminalParams(Struct):
    session_id: str


class ResizeBody(Struct):
    cols: Cells
    rows: Cells


class Entry(Struct):
    session_id: str
    pid: int
    cols: int
    rows: int
    exec_id: str


Frame = Start | Connect | Input | Resize | Kill
_frames: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


class TerminalRows:
    def __init__(self, terminals: Terminals) -> None:
        self._terminals = terminals

    def endpoints(self) -> tuple[Endpoint, ...]:
        terminal = "/pty/{session_id}"
        return (
            Endpoint(
                *("GET", "/pty", "pty.list", self.list),
                result=list[Entry],
                summary="List the terminals that are open",
            ),
            Endpoint(
                *("GET", terminal, "pty.get", self.get),
                params=TerminalParams,
                result=Entry,
                summary="Describe a terminal",
                errors=(errors.TerminalNotFound,),
            ),
            Endpoint(
                *("DELETE", terminal, "pty.kill", self.kill),
                params=TerminalParams,
                status=204,
                summary="End a terminal and everything that was started in it; repeating it is harmless",
                errors=(errors.TerminalNotFound,),
            ),
            Endpoint(
                *("POST", terminal + "/resize", "pty.resize", self.resize),
                params=TerminalParams,
                body=ResizeBody,
                status=204,
                summary="Give a terminal another size, in cells",
                errors=(errors.TerminalNotFound,),
            ),
        )

    async def list(self, call: Call) -> Any:
        return [_entry(terminal) for terminal in self._terminals.list()]

    async def get(self, call: Call) -> Entry:
        return _entry(self._terminals.get(call.params.session_id))

    async def kill(self, call: Call) -> None:
        await self._terminals.get(call.params.session_id).kill()

    async def resize(self, call: Call) -> None:
        self._terminals.get(call.params.session_id).resize(call.data.cols, call.data.rows)

    async def converse(self, call: Call, socket: Socket) -> None:
        """The socket's channel ``pty``: one terminal, started or found, until it ends or the client leaves."""
        socket.farewell = RESTART
        while True:
            frame = await _next(socket, "")
            try:
                terminal, cursor = await self._found(frame)
            except AgentError as error:
                await _tell(socket, _ident(frame), error)
                continue
            await _Conversation(socket, _ident(frame), terminal).run(cursor)
            return

    async def _found(self, frame: Frame) -> tuple[Terminal, int]:
        """The terminal, and the cursor that its output is wanted from."""
        match frame:
            case Start():
                argv = ("/bin/sh", "-c", frame.command) if frame.command is not None else ()
                opening = Opening(
                    frame.cols, frame.rows, argv, frame.login, frame.cwd, frame.envs or {}, user_name(frame.user)
                )
                return await self._terminals.open(opening), 0
            case Connect(session_id=str(ident), pid=None):
                terminal = self._terminals.get(ident)
            case Connect(session_id=None, pid=int(pid)):
                terminal = self._terminals.of(pid)
            case Connect():
                raise InvalidRequest("invalid message: pty_connect has exactly one of session_id and pid")
            case _:
                raise InvalidRequest("invalid message: the first is pty_start or pty_connect")
        return terminal, terminal.seen if frame.cursor is None else frame.cursor


class _Conversation:
    """One client at a terminal. The terminal goes on when it leaves."""

    def __init__(self, socket: Socket, ident: str, terminal: Terminal) -> None:
        self._socket = socket
        self._ident = ident
        self._terminal = terminal
        self._typed = bytearray()
        self._more = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self, cursor: int) -> None:
        await self._send(Started(self._ident, **msgspec.structs.asdict(_entry(self._terminal)), cursor=cursor))
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen())
            typing = group.create_task(self._type())
            await self._show(cursor)
            await asyncio.wait([listening], timeout=LINGER_SECONDS)
            listening.cancel()
            typing.cancel()

    async def _show(self, cursor: int) -> None:
        """All output, and the end."""
        terminal = self._terminal
        text = codecs.getincrementaldecoder("utf-8")("replace")
        async for piece in terminal.output.follow(cursor):
            if piece.skipped:
                text.reset()
            await self._send(self._shown(text.decode(piece.content), piece.content, piece.next, piece.skipped))
            cursor = piece.next
            terminal.seen = max(terminal.seen, cursor)
        if terminal.ending is not None:
            if rest := text.decode(b"", True):
                await self._send(self._shown(rest, b"", cursor, 0))
            await self._send(Exited(self._ident, terminal.id, terminal.ending.code))

    def _shown(self, text: str, content: bytes, cursor: int, skipped: int) -> Shown:
        return Shown(self._ident, self._terminal.id, text, content, cursor, skipped)

    async def _listen(self) -> None:
        while True:
            frame = await _next(self._socket, self._ident)
            try:
                await self._obey(frame)
            except AgentError as error:
                await _tell(self._socket, self._ident, error)

    async def _obey(self, frame: Frame) -> None:
        match frame:
            case Input():
                await self._take(frame.content)
            case Resize():
                self._terminal.resize(frame.cols, frame.rows)
            case Kill():
                await self._terminal.kill()
            case _:
                raise InvalidRequest("invalid message: this socket has its terminal; open another for another")

    async def _take(self, content: bytes) -> None:
        """Input, which is typed beside this: a program that reads nothing can be resized and killed all the same."""
        while len(self._typed) >= WAITING_BYTES:
            self._room.clear()
            await self._room.wait()
        self._typed += content
        self._more.set()

    async def _type(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            content, self._typed = bytes(self._typed), bytearray()
            self._room.set()
            await self._terminal.write(content)

    async def _send(self, frame: Struct) -> None:
        await self._socket.send(encode(frame).decode())


async def _next(socket: Socket, ident: str) -> Frame:
    """The next frame that can be understood."""
    while True:
        message = await socket.receive()
        try:
            return _frames.decode(message)
        except (msgspec.DecodeError, UnicodeError) as error:
            await _tell(socket, ident, InvalidRequest(f"invalid message: {error}"))


async def _tell(socket: Socket, ident: str, error: AgentError) -> None:
    await socket.send(encode(Failed(ident, error.detail, error.code)).decode())


def _ident(frame: Frame) -> str:
    return frame.id if isinstance(frame, Start | Connect) else ""


def _entry(terminal: Terminal) -> Entry:
    pid = terminal.process.pid
    return Entry(terminal.id, pid, terminal.cols, terminal.rows, f"exec_{pid}")
