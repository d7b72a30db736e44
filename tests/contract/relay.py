"""A stretch of network between a client and the daemon, on loopback, that breaks where a test wants it to."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.conftest import UNIT

PIECE = 1 << 16
RESET = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: closing resets the connection


class Broken(Exception):
    """The connection is to be reset."""


@dataclass(frozen=True)
class Fault:
    """For one request whose path ends with ``marker``. after: its bytes that get through; None: all of them, and the
    answer is lost."""

    marker: str
    after: int | None


class Relay:
    """requests: the first lines of those that came by, without the version. `url` is for the client."""

    def __init__(self, port: int) -> None:
        self.requests: list[str] = []
        self._port = port
        self._faults: list[Fault] = []
        self._seen = threading.Condition()
        self._ready = threading.Event()

    def cut_request(self, marker: str, after: int) -> None:
        """The next request that has a path that ends with ``marker`` is cut after so many bytes, headers counted."""
        self._faults.append(Fault(marker, after))

    def drop_answer(self, marker: str) -> None:
        """The next such request arrives whole, and its client never hears of it."""
        self._faults.append(Fault(marker, None))

    def wait_for(self, marker: str) -> None:
        """Returns when such a request comes by."""
        with self._seen:
            came = self._seen.wait_for(lambda: any(marker in line for line in self.requests), 20 * UNIT)
        assert came, f"no request with {marker} came by: {self.requests}"

    def sent(self, method: str) -> list[str]:
        """The last component of the requests with that method."""
        return [line.rpartition("/")[2] for line in self.requests if line.startswith(method)]

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._end.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        losing = asyncio.Event()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            ends.append(far_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._there(reader, far_writer, losing))
                both.create_task(self._back(far_reader, writer, losing))
        except* (OSError, Broken):
            for end in ends:
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        finally:
            for end in ends:
                end.transport.abort()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        left: int | None = None
        while piece := await reader.read(PIECE):
            if (fault := self._next(piece)) is not None:
                left = fault.after
                if left is None:
                    losing.set()
            writer.write(piece[:left])
            await writer.drain()
            if left is not None and (left := left - len(piece)) <= 0:
                raise Broken
        writer.write_eof()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while piece := await reader.read(PIECE):
            if losing.is_set():
                raise Broken
            writer.write(piece)
            await writer.drain()
        raise Broken

    def _next(self, piece: bytes) -> Fault | None:
        """Notes the request that begins with ``piece``, if one does, and gives what is to become of it."""
        line, version, _ = piece.partition(b" HTTP/1.1\r\n")
        if not version or b"\r\n" in line:
            return None
        with self._seen:
            self.requests.append(line.decode())
            self._seen.notify_all()
        fault = next((fault for fault in self._faults if line.decode().endswith(fault.marker)), None)
        if fault is not None:
            self._faults.remove(fault)
        return fault


@contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    """A relay to a port of this machine; while nobody listens there, it resets what comes."""
    relay = Relay(port)
    thread = threading.Thread(target=lambda: asyncio.run(relay._serve()))
    thread.start()
    try:
        assert relay._ready.wait(20 * UNIT)
        yield relay
    finally:
        with suppress(RuntimeError):
            relay._loop.call_soon_threadsafe(relay._end.set)
        thread.join()
