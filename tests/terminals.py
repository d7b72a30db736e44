"""A client of the terminals' socket, for tests: frames in, frames out."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.conftest import ANSWER_SECONDS, Daemon

Frame = dict[str, Any]


class Screen:
    """One socket of the channel. shown: the bytes of all output frames so far; text: their text. cursor: the last."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.shown = b""
        self.text = ""
        self.cursor = 0

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_json({"type": kind, "id": "one", **fields})

    async def frame(self) -> Frame:
        async with asyncio.timeout(ANSWER_SECONDS):
            message = await self.socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            return {"type": "closed", "code": self.socket.close_code}
        frame: Frame = json.loads(message.data)
        if frame["type"] == "pty_output":
            self.shown += base64.b64decode(frame["data_base64"])
            self.text += frame["data"]
            self.cursor = frame["cursor"]
        return frame

    async def open(self, kind: str = "pty_start", **fields: Any) -> Frame:
        """The first frame that comes back."""
        await self.send(kind, **fields)
        return await self.frame()

    async def type(self, text: str) -> None:
        await self.send("pty_input", data=text)

    async def until(self, text: bytes) -> None:
        while text not in self.shown:
            frame = await self.frame()
            assert frame["type"] == "pty_output", (frame, self.shown)

    async def last(self) -> Frame:
        """The first frame that is no output."""
        while (frame := await self.frame())["type"] == "pty_output":
            pass
        return frame


def lives(pid: int) -> bool:
    """A zombie does not (proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@asynccontextmanager
async def screen(daemon: Daemon) -> AsyncIterator[Screen]:
    headers = {"Authorization": f"Bearer {daemon.token}"}
    async with aiohttp.ClientSession(daemon.url, headers=headers) as session:
        async with session.ws_connect("/v1/machines/m/ws?channel=pty") as socket:
            yield Screen(socket)
