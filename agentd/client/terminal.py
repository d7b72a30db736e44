"""A terminal in the sandbox, over the WebSocket of channel ``pty`` (wire contract, section 3.4)."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import msgspec

from agentd.client.calls import REPEATED_STATUS, ApiError, Broken, Calls, Unreachable, decoded

HEARTBEAT_SECONDS = 30.0


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """command: a line for the shell, None for an interactive one. cols, rows: in cells."""

    cols: int
    rows: int
    command: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = {}
    user: str | None = None


class _Started(msgspec.Struct, tag_field="type", tag="pty_started"):
    session_id: str


class _Shown(msgspec.Struct, tag_field="type", tag="pty_output"):
    data_base64: str
    cursor: int


class _Exited(msgspec.Struct, tag_field="type", tag="pty_exited"):
    exit_code: int


class _Failed(msgspec.Struct, tag_field="type", tag="error"):
    message: str
    code: str


_Frame = _Started | _Shown | _Exited | _Failed
_FRAME = cast("type[_Frame]", _Frame)


class Terminal:
    """One terminal, and one person at it. exit_code: set at the end of `shown`. connected: whether what is typed
    arrives now."""

    def __init__(self, calls: "Terminals", opening: Opening) -> None:
        self._calls = calls
        self._opening = opening
        self._size = opening.cols, opening.rows
        self._session: str | None = None
        self._asked = False
        self._cursor = 0
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._connected = asyncio.Event()
        self.exit_code: int | None = None

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def shown(self) -> AsyncGenerator[bytes, None]:
        """Opens it, and gives all that it shows until its program ends; over lost connections. ApiError; Unreachable.

        A start whose answer is lost is not repeated.
        """
        async with aclosing(self._calls._unbroken(self._conversation)) as pieces:
            async for piece in pieces:
                yield piece

    async def type(self, content: bytes) -> None:
        """Once there is a connection; what is on its way when that breaks may be lost."""
        await self._connected.wait()
        await self._send({"type": "pty_input", "data_base64": b64encode(content).decode()})

    async def resize(self, cols: int, rows: int) -> None:
        self._size = cols, rows
        await self._send({"type": "pty_resize", "cols": cols, "rows": rows})

    async def end(self) -> None:
        """Ends it with everything that was started in it; again is harmless. ApiError; Unreachable."""
        if self._session is not None:
            await self._calls._call("DELETE", f"/pty/{quote(self._session)}")

    async def _send(self, frame: dict[str, Any]) -> None:
        if self._socket is not None:
            # What breaks is seen, and mended, by who reads.
            with suppress(aiohttp.ClientError, ConnectionError):
                await self._socket.send_str(msgspec.json.encode(frame).decode())

    async def _conversation(self) -> AsyncGenerator[bytes, None]:
        async with await self._calls._channel("pty") as socket:
            await socket.send_str(msgspec.json.encode(self._first()).decode())
            self._asked = True
            try:
                while True:
                    message = await socket.receive()
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        raise Broken("the connection to the terminal broke")
                    match decoded(message.data.encode(), _FRAME):
                        case _Started(session_id=session):
                            self._session, self._socket = session, socket
                            await self.resize(*self._size)
                            self._connected.set()
                        case _Shown(data_base64=content, cursor=cursor):
                            self._cursor = cursor
                            yield b64decode(content)
                        case _Exited(exit_code=code):
                            self.exit_code = code
                            return
                        case _Failed(message=text, code=code_name):
                            status = 404 if code_name.endswith("not_found") else 400
                            raise ApiError(status, code_name, text)
            finally:
                self._socket = None
                self._connected.clear()

    def _first(self) -> dict[str, Any]:
        if self._session is not None:
            return {"type": "pty_connect", "id": "", "session_id": self._session, "cursor": self._cursor}
        if self._asked:
            raise Unreachable("the connection broke while the terminal was being opened; open another")
        cols, rows = self._size
        opening = self._opening
        told = {"command": opening.command, "cwd": opening.cwd, "envs": dict(opening.env), "user": opening.user}
        return {"type": "pty_start", "id": "", "cols": cols, "rows": rows, **told}


class Terminals(Calls):
    def terminal(self, opening: Opening) -> Terminal:
        """One that is opened by `Terminal.shown`."""
        return Terminal(self, opening)

    async def _channel(self, channel: str) -> aiohttp.ClientWebSocketResponse:
        """An open WebSocket; ApiError where it is refused for good."""
        try:
            socket = await self._http.ws_connect(f"{self._mount}/ws?channel={channel}", heartbeat=HEARTBEAT_SECONDS)
        except aiohttp.WSServerHandshakeError as error:
            if error.status in REPEATED_STATUS:
                raise
            raise ApiError(error.status, "refused", f"no terminal: {error.message}") from error
        self._answered = True
        return socket
