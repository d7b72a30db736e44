"""A real daemon for tests: ``agentd serve`` as a process of its own, on a directory of the test's.

Every wait is a multiple of one time unit, which AGENTD_TEST_TIME_UNIT scales on slow machines.
"""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

UNIT = float(os.environ.get("AGENTD_TEST_TIME_UNIT", "1"))
START_SECONDS = 20 * UNIT
STOP_SECONDS = 20 * UNIT
ANSWER_SECONDS = 20 * UNIT


@dataclass(frozen=True)
class Answer:
    """headers: by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Daemon:
    """``agentd serve --root ROOT --listen 127.0.0.1:0 ...``; ready when the constructor returns.

    url: of its first listener. ready: its lines on stdout. root: the directory that is the sandbox's ``/``.
    prefix: what it is run by, such as ``unshare``.
    """

    prefix: tuple[str, ...] = ()

    def __init__(self, root: Path, log: Path, flags: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.root = root
        self._log = log
        self._flags = flags
        self._environment = environment
        self._start()

    def _start(self) -> None:
        listen = () if "--listen" in self._flags else ("--listen", "127.0.0.1:0")
        notice = () if "--drain-notice" in self._flags else ("--drain-notice", "0")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*self.prefix, sys.executable, "-m", "agentd", "serve"),
                    *("--root", str(self.root), *listen, *notice, *self._flags),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._environment},
            )
        listeners = max(self._flags.count("--listen"), 1)
        try:
            self.ready = self._lines(listeners)
        except BaseException:
            self.kill9()
            raise
        self.url = self.ready[0].removeprefix("agentd ready on ")

    def _lines(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        text = b""
        while text.count(b"\n") < count:
            if not select.select([self.process.stdout], [], [], START_SECONDS)[0]:
                raise TimeoutError(f"no ready line: {text!r}, {self._log.read_text()}")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise RuntimeError(f"the daemon ended with {self.process.wait()}: {self._log.read_text()}")
            text += piece
        return text.decode().splitlines()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def token(self) -> str:
        return (self.root / "workspace/.nullspace/token").read_text().strip()

    def log(self) -> list[dict[str, Any]]:
        """The lines on stderr so far, of all starts."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = "",
    ) -> Answer:
        """One request on a connection of its own. token: "" is the daemon's, None sends none."""
        sent = {} if token is None else {"Authorization": f"Bearer {token or self.token}"}
        if isinstance(body, Mapping):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A raw connection, for what no client would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS)

    def kill9(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def term(self) -> int:
        """Asks it to end, and waits until it has; its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status, once it has ended; it is killed when that takes too long."""
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def restart(self, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts it again on the same root, after `kill9` or `term`; with other flags or variables where given."""
        self.kill9()
        self._flags = flags or self._flags
        self._environment = self._environment if environment is None else environment
        self._start()


StartDaemon = Callable[..., Daemon]


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """``start_daemon("--flag", "value", root=..., environment={...})``: a running daemon, ended after the test."""
    started: list[Daemon] = []

    def start(*flags: str, root: Path | None = None, environment: Mapping[str, str] | None = None) -> Daemon:
        place = root or tmp_path / "root"
        place.mkdir(exist_ok=True)
        daemon = Daemon(place, tmp_path / f"stderr-{len(started)}", flags, environment or {})
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        # A paused process cannot be ended otherwise, and one that ends by itself writes down what it covered.
        daemon.signal(signal.SIGCONT)
        daemon.signal(signal.SIGTERM)
        daemon.wait()


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon()
