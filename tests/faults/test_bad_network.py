"""A whole upload through a network that delays, cuts up and resets whatever it carries."""

import random
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import pytest

from tests.conftest import Answer, Daemon, StartDaemon
from tests.uploading import Client, content_of, piece, sha256

PART = 20_000
TRIES = 200


class Proxy:
    """Carries bytes to ``port``: in small pieces, late, and now and then not at all. ``seed`` decides which."""

    def __init__(self, port: int, seed: int) -> None:
        self._target = port
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pause = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.resets = 0

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop(0).join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._connection, args=(near,)))
                self._threads[-1].start()

    def _connection(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._target)) as far:
            left = self._random.randrange(60_000)
            back = threading.Thread(target=self._carry, args=(far, near, left))
            back.start()
            self._carry(near, far, left)
            back.join()

    def _carry(self, source: socket.socket, sink: socket.socket, left: int) -> None:
        with suppress(OSError):
            while data := source.recv(self._random.choice((1, 100, 1400, 9000))):
                left -= len(data)
                if left < 0:
                    self.resets += 1
                    for one in (source, sink):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        one.shutdown(socket.SHUT_RDWR)
                    return
                if self._random.random() < 0.02:
                    self._pause.wait(0.01)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Stubborn(Client):
    """Repeats a call until an answer comes through ``proxy``."""

    def __init__(self, daemon: Daemon, proxy: Proxy) -> None:
        super().__init__(daemon)
        self._proxy = proxy

    def call(self, *asked: Any) -> Answer:
        for _ in range(TRIES):
            with suppress(OSError, HTTPException):
                answer = _Through(self.daemon, self._proxy.port).call(asked[0], self.prefix + asked[1], *asked[2:])
                if "content-length" in answer.headers:  # http.client takes headers that are cut short for all of them
                    return answer
        raise AssertionError(f"no answer in {TRIES} tries")


class _Through(Daemon):
    """The same daemon, behind another port."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self.root = daemon.root
        self.url = f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("seed", [1, 2])
def test_an_upload_through_a_bad_network_ends_intact(start_daemon: StartDaemon, seed: int) -> None:
    daemon = start_daemon("--uploads-part-size", str(PART))
    proxy = Proxy(daemon.port, seed)
    client, content = Stubborn(daemon, proxy), content_of(30 * PART + 7)
    try:
        session = client.begin("target", len(content), key="one")
        with ThreadPoolExecutor(session["max_concurrency"]) as pool:
            send = lambda number: client.part(session, number, piece(session, content, number)).status  # noqa: E731
            assert set(pool.map(send, range(31))) == {200}
        answers = [client.complete(session, sha256(content)) for _ in range(2)]
        assert [(one.status, one.body) for one in answers] == [(200, answers[0].body)] * 2
    finally:
        proxy.close()
    assert proxy.resets > 0  # how many it were is chance
    assert (daemon.root / "workspace/target").read_bytes() == content
    assert len(Client(daemon).call("GET", "/uploads").json()["items"]) == 1
