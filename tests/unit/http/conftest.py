"""A server in the test's own loop, for handlers that no dialect has."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from agentd.http.access import Access, Brake
from agentd.http.endpoint import Dialect, Endpoint
from agentd.http.origin import Origins
from agentd.http.server import Limits, Server
from agentd.telemetry import Metrics
from tests.conftest import UNIT


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Bodies lean on what a loop does with sockets: both loops for them, the daemon's own for the rest."""
    both = item.path.stem in ("test_body", "test_ingest", "test_multipart")
    return {"uvloop": uvloop.new_event_loop, **({"asyncio": asyncio.new_event_loop} if both else {})}


class Peer:
    """One connection, spoken by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, head: str, body: bytes = b"", *headers: str) -> None:
        """head: ``PUT /x``; a Content-Length is added unless the headers frame the body."""
        framed = any(one.lower().startswith(("content-length", "transfer-encoding")) for one in headers)
        lines = [f"{head} HTTP/1.1", "Host: x", *headers, *([] if framed else [f"Content-Length: {len(body)}"])]
        await self.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def write(self, piece: bytes) -> None:
        self._writer.write(piece)
        await self._writer.drain()

    async def line(self) -> str:
        return (await self._reader.readline()).decode().strip()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        return int(head[0].split()[1]), headers, await self._reader.readexactly(int(headers.get("content-length", 0)))

    async def json(self) -> Any:
        return json.loads((await self.answer())[2])

    async def everything(self) -> str:
        """All that comes until the server closes the connection."""
        return (await self._reader.read()).decode()

    async def ended(self) -> bool:
        """Whether the server has closed the connection, once it sends nothing more."""
        try:
            return await self._reader.read() == b""
        except ConnectionResetError:
            return True

    def finish(self) -> None:
        """Sends nothing more, but still listens."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Leaves without a goodbye: RST."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


class Door:
    def __init__(self, server: Server, metrics: Metrics, port: int) -> None:
        self.server = server
        self.metrics = metrics
        self.port = port
        self.peers: list[Peer] = []

    async def connect(self) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self.peers.append(peer)
        return peer

    async def ask(self, head: str, body: bytes = b"", *headers: str) -> tuple[int, dict[str, str], bytes]:
        peer = await self.connect()
        await peer.send(head, body, *headers)
        return await peer.answer()


async def until(true: Callable[[], bool]) -> None:
    """For what only the numbers of the server tell."""
    async with asyncio.timeout(20 * UNIT):
        while not true():
            await asyncio.sleep(0.01)


OpenDoor = Callable[..., Awaitable[Door]]


@pytest.fixture
async def open_door() -> AsyncIterator[OpenDoor]:
    """``open_door(Endpoint(...), ..., render=..., tokens=..., body_stall_timeout=1)``: a server of these rows."""
    doors: list[Door] = []

    async def opened(
        *rows: Endpoint,
        render: Any = None,
        receivers: int = 16,
        tokens: tuple[bytes, ...] | None = None,
        origins: Origins | None = None,
        **limits: Any,
    ) -> Door:
        metrics = Metrics()
        access = Access(lambda: tokens, Brake(1, time.monotonic))
        dialect = Dialect("test", ("/in/{mount}", ""), rows, render)
        server = Server(
            [dialect],
            access=access,
            writable=lambda: True,
            metrics=metrics,
            limits=Limits(**limits),
            origins=origins,
            receivers=receivers,
        )
        bound = socket.create_server(("127.0.0.1", 0))
        doors.append(Door(server, metrics, bound.getsockname()[1]))
        await server.start([bound])
        return doors[-1]

    yield opened
    for door in doors:
        for peer in door.peers:
            await peer.close()
        await door.server.drain(0, 1)
