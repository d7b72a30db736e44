"""Parts on their way from the socket to the disk of a real daemon: every byte, on one connection, and nothing left."""

import http.client
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ANSWER_SECONDS, UNIT, Daemon, StartDaemon
from tests.uploading import MACHINE, Client, content_of, piece, reset, running, sha256

PART = 700_001
FLAGS = ("--uploads-part-size", str(PART))


class OneConnection:
    """Parts, and the session between them, all on one connection. chunked: without a Content-Length."""

    def __init__(self, connection: http.client.HTTPConnection, token: str, *, chunked: bool = False) -> None:
        self._connection = connection
        self._token = {"Authorization": f"Bearer {token}"}
        self._chunked = chunked

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        sent = iter([body[: len(body) // 2], body[len(body) // 2 :]]) if self._chunked and body else body
        self._connection.request(method, MACHINE + path, sent, self._token | headers, encode_chunked=self._chunked)
        answer = self._connection.getresponse()
        answer.read()
        assert not answer.will_close
        return answer.status

    def send(self, session: Any, content: bytes) -> None:
        place = f"/uploads/{session['upload_id']}"
        for number in range(session["part_count"]):
            framing = {"Transfer-Encoding": "chunked"} if self._chunked else {}
            assert self.call("PUT", f"{place}/parts/{number}", piece(session, content, number), **framing) == 200
            assert self.call("GET", place) == 200


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("agentd")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))


def fds(daemon: Daemon) -> list[str]:
    """What the daemon has open, its sockets by number."""
    found = []
    for fd in os.listdir(f"/proc/{daemon.pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{daemon.pid}/fd/{fd}"))
    return sorted(found)


@pytest.mark.parametrize("chunked", [False, True])
def test_parts_on_one_connection_arrive_whole(start_daemon: StartDaemon, chunked: bool) -> None:
    daemon = start_daemon(*FLAGS)
    client, content = Client(daemon), content_of(20 * PART + 7)
    session = client.begin("target", len(content))
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=ANSWER_SECONDS)
    OneConnection(connection, daemon.token, chunked=chunked).send(session, content)
    connection.close()
    assert client.complete(session, sha256(content)).status == 200
    assert (daemon.root / "workspace/target").read_bytes() == content


def test_parts_over_a_unix_socket_arrive_whole(start_daemon: StartDaemon, tmp_path: Path) -> None:
    place = Path(os.path.relpath(tmp_path / "socket"))
    daemon = start_daemon(*FLAGS, "--listen", "127.0.0.1:0", "--listen", f"unix:{place}")
    client, content = Client(daemon), content_of(20 * PART + 7)
    session = client.begin("target", len(content))
    connection = UnixConnection(place)
    OneConnection(connection, daemon.token).send(session, content)
    connection.close()
    assert client.complete(session, sha256(content)).status == 200


def test_parts_that_end_in_any_way_leave_no_fds_open(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    before = fds(daemon)
    client, content = Client(daemon), content_of(4 * PART)
    session = client.begin("target", len(content))
    for leave in (reset, socket.socket.close) * 5:
        gone = running(client, session, 1, PART)
        gone.sendall(content[: PART // 2])
        leave(gone)
        assert client.part(session, 2, bytes(PART), "0" * 64).status == 400
    client.send(session, content)
    assert client.abort(session).status == 204
    assert settled(daemon, before) == before


def staging_files(daemon: Daemon) -> list[str]:
    return [place for place in fds(daemon) if place.endswith("/data")]


def test_a_staging_file_stays_open_between_parts_and_no_longer_than_its_upload(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    before = fds(daemon)
    client, content = Client(daemon), content_of(2 * PART)
    session = client.begin("target", len(content))
    for number in range(2):
        client.send(session, content, (number,))
        assert len(staging_files(daemon)) == 1
    assert client.complete(session).status == 200
    assert settled(daemon, before) == before


def test_few_staging_files_stay_open_however_many_uploads_there_are(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--uploads-part-size", "1")
    client = Client(daemon)
    sessions = [client.begin(f"target{n}", 2) for n in range(20)]
    for number in range(2):
        for session in sessions:
            client.send(session, b"ab", (number,))
    for _ in range(200):
        if len(staging_files(daemon)) <= 16:
            break
        threading.Event().wait(0.01 * UNIT)
    assert len(staging_files(daemon)) == 16
    assert all(client.complete(session, sha256(b"ab")).status == 200 for session in sessions)
    assert staging_files(daemon) == []


def settled(daemon: Daemon, expected: list[str]) -> list[str]:
    """What the daemon has open once it has noticed that its clients are gone."""
    for _ in range(200):
        if fds(daemon) == expected:
            break
        threading.Event().wait(0.01 * UNIT)
    return fds(daemon)
