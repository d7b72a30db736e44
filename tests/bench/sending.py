"""One client for all servers that are compared: plain sockets, bodies sent from the page cache by sendfile(2)."""

import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE = struct.pack("ll", 120, 0)  # seconds, microseconds
READ = 1 << 20
MiB = 1 << 20


class Source:
    """A file of ``size`` random bytes that is in the page cache."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        with path.open("wb") as file:
            for _ in range(size // MiB):
                file.write(os.urandom(MiB))
        self._path = path
        self.fd = os.open(path, os.O_RDONLY)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def sha256(self, offset: int, length: int) -> str:
        hashed = hashlib.sha256()
        for at in range(offset, offset + length, MiB):
            hashed.update(self.read(at, min(MiB, offset + length - at)))
        return hashed.hexdigest()

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True)
class Put:
    """A request whose body is a piece of the source, between ``before`` and ``after``."""

    path: str
    offset: int
    length: int
    headers: str = ""
    method: str = "PUT"
    before: bytes = b""
    after: bytes = b""


class Connection:
    """Kept alive; anything but 2xx is an error."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, PATIENCE)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def put(self, request: Put, source: Source) -> None:
        length = len(request.before) + request.length + len(request.after)
        head = (
            f"{request.method} {request.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{request.headers}\r\n"
        )
        self._socket.sendall(head.encode() + request.before)
        sent = 0
        while sent < request.length:
            moved = os.sendfile(self._socket.fileno(), source.fd, request.offset + sent, request.length - sent)
            if not moved:
                raise ValueError(f"the source has no {request.length} bytes at {request.offset}")
            sent += moved
        if request.after:
            self._socket.sendall(request.after)
        self._answer()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of the answer; None where it is empty."""
        sent = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
        self._socket.sendall(head.encode() + b"\r\n\r\n" + sent)
        answer = self._answer()
        return json.loads(answer) if answer else None

    def download(self, path: str) -> int:
        """GET; the number of bytes of the body, which the kernel drops (tcp(7), MSG_TRUNC)."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        length, first = self._head()
        left = length - len(first)
        buffer = bytearray(READ)
        while left:
            got = self._socket.recv_into(buffer, min(left, READ), socket.MSG_TRUNC)
            if not got:
                raise ConnectionError(f"{left} bytes are missing")
            left -= got
        return length

    def _answer(self) -> bytes:
        length, body = self._head()
        while len(body) < length:
            body += self._received()
        return body

    def _head(self) -> tuple[int, bytes]:
        """Content-Length, and what has come of the body."""
        text = b""
        while b"\r\n\r\n" not in text:
            text += self._received()
        head, _, body = text.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        if lines[0].split()[1][0] != "2":
            raise ConnectionError(f"{lines[0]}: {body!r}")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        return int(fields.get("content-length", 0)), body

    def _received(self) -> bytes:
        if piece := self._socket.recv(READ // 16):
            return piece
        raise ConnectionError("the server left before its answer")


def send(port: int, source: Source, requests: Iterable[Put], at_once: int = 1) -> None:
    """Sends all of them, over ``at_once`` connections; the first error of any is raised."""
    waiting = iter(list(requests))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with Connection(port) as connection:
                for request in waiting:
                    connection.put(request, source)
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            failures.append(error)

    with ExitStack() as stack:
        for _ in range(at_once - 1):
            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(thread.join)
        run()
    if failures:
        raise failures[0]
