"""Daytona's toolbox: terminals, and the sockets of terminals and of a session's logs."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import ANSWER_SECONDS, Daemon
from tests.toolbox import Toolbox

EXIT_CONTROL = "X-Daytona-Pty-Exit-Control"


@pytest.fixture
def toolbox(shared: Daemon, home: Path) -> Toolbox:
    return Toolbox(shared, home)


class Line:
    """A socket. text: its messages in text, as JSON; shown: the bytes of the binary ones; closed: code and reason."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.text: list[Any] = []
        self.shown = b""
        self.closed: tuple[int, str] | None = None

    async def take(self) -> bool:
        async with asyncio.timeout(ANSWER_SECONDS):
            message = await self.socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            self.text.append(json.loads(message.data))
        elif message.type is aiohttp.WSMsgType.BINARY:
            self.shown += message.data
        else:
            self.closed = self.socket.close_code or 0, message.extra or ""
        return self.closed is None

    async def until(self, shown: bytes) -> None:
        while shown not in self.shown:
            assert await self.take(), (self.shown, self.text, self.closed)

    async def end(self) -> None:
        while await self.take():
            pass


@asynccontextmanager
async def line(toolbox: Toolbox, path: str, *offered: str) -> AsyncIterator[Line]:
    headers = {"Authorization": f"Bearer {toolbox.daemon.token}"}
    async with aiohttp.ClientSession(toolbox.daemon.url, headers=headers) as session:
        async with session.ws_connect(toolbox.mount + path, protocols=offered, autoclose=False) as socket:
            yield Line(socket)


async def test_a_terminal_is_opened_typed_at_and_ends_with_its_exit_code(toolbox: Toolbox, tmp_path: Path) -> None:
    path = f"/process/pty/create-connect?id={tmp_path.name}&cols=90&rows=20&cwd={toolbox.path()}"
    envs = base64.urlsafe_b64encode(json.dumps({"NAME": "value"}).encode()).decode().rstrip("=")
    async with line(toolbox, path, EXIT_CONTROL, f"X-Daytona-Pty-Envs~{envs}") as terminal:
        await terminal.socket.send_bytes(b"echo =$NAME=$(stty size)=${PWD##*/}=; exit 3\n")
        await terminal.until(f"=value=20 90={toolbox.home.name}=".encode())
        await terminal.end()
    exited = {"type": "control", "status": "exited", "exitCode": 3}
    assert terminal.text == [{"type": "control", "status": "connected"}, exited]
    assert terminal.closed is not None
    assert (terminal.closed[0], json.loads(terminal.closed[1])) == (1000, {"exitCode": 3})


async def test_a_terminal_goes_on_without_its_client(toolbox: Toolbox, tmp_path: Path) -> None:
    created = toolbox("POST", "/process/pty", {"id": tmp_path.name, "envs": {"A": "1"}, "cwd": toolbox.path()})
    where = f"/process/pty/{tmp_path.name}"
    assert (created.status, created.json()) == (201, {"sessionId": tmp_path.name})
    for word in ("first", "second"):
        async with line(toolbox, f"{where}/connect") as terminal:
            await terminal.socket.send_str(f"echo {word}-$A\n")
            await terminal.until(f"{word}-1".encode())
    assert b"first-1" not in terminal.shown
    assert toolbox("DELETE", where).status == 200
    assert toolbox("GET", where).json()["active"] is False


def test_a_terminal_is_described_sized_and_ended(toolbox: Toolbox, tmp_path: Path) -> None:
    body = {"id": tmp_path.name, "envs": {"A": "1"}, "cwd": toolbox.path()}
    toolbox("POST", "/process/pty", body)
    where = f"/process/pty/{tmp_path.name}"
    sized = toolbox("POST", f"{where}/resize", {"cols": 100, "rows": 30}).json()
    assert sized.pop("createdAt").endswith("Z")
    assert sized == {**body, "cols": 100, "rows": 30, "active": True, "lazyStart": False}
    assert tmp_path.name in [one["id"] for one in toolbox("GET", "/process/pty").json()["sessions"]]
    assert toolbox("POST", "/process/pty", body).status == 409
    toolbox("DELETE", where)
    dead = toolbox("POST", f"{where}/resize", {"cols": 100, "rows": 30})
    assert (dead.status, dead.json()["code"]) == (410, "SESSION_ENDED")


async def test_an_unknown_terminal_is_told_of(toolbox: Toolbox) -> None:
    async with line(toolbox, "/process/pty/nobody/connect") as terminal:
        await terminal.end()
    assert terminal.text[0]["status"] == "error"
    assert "nobody" in terminal.text[0]["error"]
    assert toolbox("DELETE", "/process/pty/nobody").status == 404


@pytest.mark.parametrize("body", [{"cols": 0}, {"cols": 1001}, {"id": "a/b"}])
def test_a_terminal_that_cannot_be_is_refused(toolbox: Toolbox, body: dict[str, Any]) -> None:
    answer = toolbox("POST", "/process/pty", body)
    assert (answer.status, answer.json()["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("follow", ["true", "false"])
async def test_logs_come_marked_with_their_stream(toolbox: Toolbox, tmp_path: Path, follow: str) -> None:
    where = f"/process/session/{tmp_path.name}"
    toolbox("POST", "/process/session", {"sessionId": tmp_path.name})
    command = "echo out; sleep 0.2; echo err >&2"
    ran = toolbox("POST", f"{where}/exec", {"command": command, "runAsync": follow == "true"}).json()
    async with line(toolbox, f"{where}/command/{ran['cmdId']}/logs?follow={follow}") as logs:
        await logs.end()
    toolbox("DELETE", where)
    assert (logs.shown, logs.closed and logs.closed[0]) == (b"\x01\x01\x01out\n\x02\x02\x02err\n", 1000)
