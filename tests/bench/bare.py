"""What agentd is measured against: the least that can receive a body, and the way that aiohttp offers.

``python -m tests.bench.bare WAY DIRECTORY`` prints its port and serves ``PUT /name/offset`` until it is killed: the
body goes to the existing file at the offset. WAY is ``loop`` or ``stream`` (aiohttp); with ``+xxh3`` it also hashes.
"""

import asyncio
import os
import re
import socket
import sys
from collections.abc import Callable

import uvloop
import xxhash
from aiohttp import web

BUFFER = 256 << 10
HEAD = re.compile(rb"PUT /([^/]+)/(\d+) .*\r\nContent-Length: (\d+)\r\n", re.DOTALL)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Hash:
    """Digests nothing."""

    def update(self, piece: memoryview | bytes) -> None:
        pass

    def digest(self) -> bytes:
        return b""


Hasher = Callable[[], Hash | xxhash.xxh3_128]


def loop(directory: str, hasher: Hasher) -> None:
    """One connection at a time, one thread, one buffer."""
    buffer = memoryview(bytearray(BUFFER))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            while _take(connection, buffer, directory, hasher()):
                connection.sendall(ANSWER)


def _take(connection: socket.socket, buffer: memoryview, directory: str, hashed: Hash | xxhash.xxh3_128) -> bool:
    """One request; False when the client has left."""
    got = connection.recv_into(buffer)
    if not got:
        return False
    end = bytes(buffer[:got]).index(b"\r\n\r\n") + 4
    head = HEAD.match(bytes(buffer[:end]))
    assert head is not None
    fd = os.open(f"{directory}/{head[1].decode()}", os.O_WRONLY)
    offset, left = int(head[2]), int(head[3])
    piece = buffer[end:got]
    while True:
        hashed.update(piece)
        offset += os.pwrite(fd, piece, offset)
        left -= len(piece)
        if not left:
            break
        piece = buffer[: connection.recv_into(buffer, min(left, BUFFER))]
        if not piece:
            break
    hashed.digest()
    os.close(fd)
    return not left


async def stream(directory: str, hasher: Hasher) -> None:
    async def put(request: web.Request) -> web.Response:
        hashed = hasher()
        fd = os.open(f"{directory}/{request.match_info['name']}", os.O_WRONLY)
        offset = int(request.match_info["offset"])
        async for piece in request.content.iter_any():
            hashed.update(piece)
            offset += os.pwrite(fd, piece, offset)
        hashed.digest()
        os.close(fd)
        return web.Response()

    app = web.Application()
    app.add_routes([web.put("/{name}/{offset}", put)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    print(listener.getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main(way: str, directory: str) -> None:
    name, _, hashing = way.partition("+")
    hasher: Hasher = xxhash.xxh3_128 if hashing else Hash
    if name == "loop":
        loop(directory, hasher)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(stream(directory, hasher))


if __name__ == "__main__":
    main(*sys.argv[1:])
