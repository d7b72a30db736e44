"""Clients that leave at any moment of a request leave no file descriptor behind."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.conftest import ANSWER_SECONDS, Daemon
from tests.uploading import reset

TIMES = 60
QUIET = 40  # fds of a daemon that does nothing, and some more
# What the client waits before it leaves, seconds: before, while and after the daemon opens what it needs.
MOMENTS = (0, 0.0005, 0.001, 0.002, 0.004)
AUTH = {"kind": "https", "username": "a", "password": "b"}
ROWS = {
    "sessions": ("/sessions", {"shell": "sh"}),
    "contexts": ("/code/contexts", {"language": "bash"}),
    "exec": ("/exec", {"command": "true"}),
    "exec stream": ("/exec/stream", {"command": "true"}),
    "git": ("/git/clone", {"url": "https://127.0.0.1:1/x", "path": "cloned", "auth": AUTH}),
    "usage": ("/files/usage", {"path": "/"}),
    "checksum": ("/files/checksum", {"path": "/file"}),
    "find": ("/files/find", {"path": "/", "pattern": "absent"}),
    "copy": ("/files/copy", {"source": "/file", "target": "/copy"}),
    "archive": ("/archive?path=/&format=tar", None),
    "watch": ("/watch?path=/&recursive=true", None),
    "file": ("/file?path=/file", None),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("cut")
    (place / "root").mkdir()
    (place / "root/file").write_bytes(bytes(1 << 20))
    made = Daemon(place / "root", place / "stderr", ("--processes-grace", "0"), {})
    assert made.call("POST", "/v1/exec", {"command": "true"}).status == 200  # what is opened once for all, is
    yield made
    assert made.term() == 0


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def cut(daemon: Daemon, path: str, body: Any, seconds: float) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} /v1{path} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}"]
    lines += [f"Authorization: Bearer {daemon.token}", "Content-Type: application/json", "", ""]
    connection = daemon.connect()
    connection.sendall("\r\n".join(lines).encode() + content)
    _pause(seconds)
    reset(connection)


def end_all(daemon: Daemon) -> None:
    for kind, key in (("sessions", "session_id"), ("code/contexts", "id")):
        for one in daemon.call("GET", f"/v1/{kind}").json():
            daemon.call("DELETE", f"/v1/{kind}/{one[key]}")


def settled(daemon: Daemon, most: int) -> list[str]:
    """What is open, once it is no more than ``most``, or after a while."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        end_all(daemon)
        _pause(0.05)  # for the daemon to see that those connections are closed
        held = []
        for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
            with suppress(FileNotFoundError):
                held.append(os.readlink(f"/proc/{daemon.pid}/fd/{fd}"))
        if len(held) <= most or time.monotonic() > deadline:
            return held


@pytest.mark.parametrize("row", ROWS)
def test_a_client_that_leaves_leaves_nothing_open(daemon: Daemon, row: str) -> None:
    path, body = ROWS[row]
    cut(daemon, path, body, 0.2)
    before = settled(daemon, QUIET)
    for number in range(TIMES):
        cut(daemon, path, body, MOMENTS[number % len(MOMENTS)])
    after = settled(daemon, len(before))
    assert len(after) <= len(before), sorted(after)
