"""Commands over the WebSocket ``/ws?channel=exec``: section 3.3 of the wire contract.

Any number of commands on one socket, each told by frames that carry the client's ``id``. What the contract does not
ask for: ``user``, ``limits`` and ``tags`` of a start, ``exec_gap``, ``reason`` and ``usage`` of an exit, ``code`` of
errors.
"""

import asyncio
from contextlib import aclosing, suppress
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import asdict

from agentd.core.eventlog import Gap
from agentd.dialects.nullspace.commands import Wanted, exit_of
from agentd.dialects.telling import tell
from agentd.dialects.values import text_bytes
from agentd.errors import AgentError, InvalidRequest
from agentd.http.codec import decode_json, encode
from agentd.http.endpoint import Call
from agentd.http.socket import Socket
from agentd.processes.process import Process
from agentd.processes.registry import Processes

# After the last command's end, so long a client may start another one.
IDLE_SECONDS = 10.0
# RFC 6455 section 7.4.1 and the IANA registry: "service restart", which no client takes for a good end.
RESTART = 1012


class Message(Struct, kw_only=True, tag_field="type"):
    id: str = ""


class Start(Wanted, kw_only=True, tag_field="type", tag="exec_start"):
    id: str = ""


class Connect(Message, kw_only=True, tag="exec_connect"):
    pid: int


class Stdin(Message, kw_only=True, tag="exec_stdin"):
    pid: int
    data: str


class StdinClose(Message, kw_only=True, tag="exec_stdin_close"):
    pid: int


class Kill(Message, kw_only=True, tag="exec_kill"):
    pid: int


AnyMessage = Start | Connect | Stdin | StdinClose | Kill


class ExecChannel:
    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    async def converse(self, call: Call, socket: Socket) -> None:
        """Until the client leaves, or was told of its last command's end some time ago."""
        socket.farewell = RESTART
        conversation = _Conversation(self._processes, socket)
        async with asyncio.TaskGroup() as group:
            await conversation.hold(group)


class _Conversation:
    """One socket. told: how many commands are being told of."""

    def __init__(self, processes: Processes, socket: Socket) -> None:
        self._processes = processes
        self._socket = socket
        self._told = 0
        self._idle = asyncio.timeout(None)

    async def hold(self, group: asyncio.TaskGroup) -> None:
        with suppress(TimeoutError):
            async with self._idle:
                while True:
                    text = await self._socket.receive()
                    self._idle.reschedule(None)
                    await self._take(text, group)
                    self._rest()

    def _rest(self) -> None:
        """Where nothing is told, the client has some time left."""
        if not self._told:
            self._idle.reschedule(asyncio.get_running_loop().time() + IDLE_SECONDS)

    async def _take(self, text: str | bytes, group: asyncio.TaskGroup) -> None:
        ident = ""
        try:
            message, ident = _decoded(text)
            process = await self._answer(message)
            if process is not None:
                self._told += 1
                group.create_task(self._tell(ident, process))
        except AgentError as error:
            await self._send("error", id=ident, message=f"{error.code}: {error.detail}", code=error.code)

    async def _answer(self, message: AnyMessage) -> Process | None:
        """Does what the message asks for; a process that is to be told of."""
        match message:
            case Start():
                return await self._processes.start(message.order(self._processes.shell, "pipe", timed=True))
            case Connect():
                return self._processes.get(message.pid)
            case Stdin():
                await self._processes.get(message.pid).write(text_bytes(message.data))
            case StdinClose():
                await self._processes.get(message.pid).close_input()
            case Kill():
                await self._processes.get(message.pid).stop()
        return None

    async def _tell(self, ident: str, process: Process) -> None:
        about: dict[str, Any] = {"id": ident, "pid": process.pid}
        await self._send("exec_started", **about)
        async with aclosing(tell(process, 0, mend=True)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Gap):
                    await self._send("exec_gap", **about, bytes=piece.length)
                else:
                    await self._send(f"exec_{piece.stream.value}", **about, data=piece.text)
        ending = process.ending
        if ending is None:
            await self._send(
                "error", id=ident, message="the daemon ends; connect to the process later", code="draining"
            )
            # Not a good end: a client would take that for the command's.
            await asyncio.Event().wait()
            return
        if ending.reason == "timed_out":
            what = f"exec_timeout: the command was ended after {process.order.timeout:g} s"
            await self._send("error", id=ident, message=what, code="exec_timeout")
        await self._send("exec_exit", **about, **asdict(exit_of(ending)))
        self._told -= 1
        self._rest()

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._socket.send(encode({"type": kind, **fields}).decode())


def _decoded(text: str | bytes) -> tuple[AnyMessage, str]:
    """The message and its id. InvalidRequest, in the contract's words."""
    content = text.encode() if isinstance(text, str) else text
    try:
        message: AnyMessage = decode_json(content, cast("type[Struct]", AnyMessage))
    except InvalidRequest as error:
        raise InvalidRequest(f"invalid message: {error.detail}") from None
    return message, message.id
