"""Whatever is sent, the answer is a documented error, and nothing of the inside is in it."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.conftest import ANSWER_SECONDS, Daemon, StartDaemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for all: nothing here leaves a trace in it."""
    place = tmp_path_factory.mktemp("daemon")
    (place / "root").mkdir()
    one = Daemon(place / "root", place / "stderr", (), {})
    yield one
    one.kill9()


def said(daemon: Daemon, *pieces: bytes) -> bytes:
    """All that the daemon answers to these bytes until it closes the connection."""
    with daemon.connect() as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def request(daemon: Daemon, head: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [head, "Host: x", "Connection: close", f"Authorization: Bearer {daemon.token}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9_000 + b"\r\nY: " + b"y" * 9_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + (b"X: " + b"x" * 9_000 + b"\r\n") * 2 + b"\r\n", 431),
    ],
)
def test_what_is_no_http_gets_a_problem(daemon: Daemon, sent: bytes, status: int) -> None:
    answer = said(daemon, sent)
    assert answer.split()[1] == str(status).encode()
    assert b"application/problem+json" in answer
    assert b"X-Request-Id: " in answer
    assert b"aiohttp" not in answer
    assert "traceback" not in str(daemon.log())


def test_headers_that_drip_end_in_time(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--limits-body-stall-timeout", "0.3")
    with daemon.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            try:
                connection.sendall(b"X: y\r\n")
            except ConnectionError:
                break
            connection.settimeout(0.05)
            try:
                assert connection.recv(100).startswith(b"HTTP/1.0 408")
                return
            except TimeoutError:
                pass
    pytest.fail("the connection was kept")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/nothing/here", None, 404, "not_found"),
        ("GET", "/version/", None, 404, "not_found"),
        ("GET", "//version", None, 404, "not_found"),
        ("PATCH", "/version", None, 405, "method_not_allowed"),
        ("HEAD", "/version", None, 405, None),
        ("POST", "/v1/uploads", b"{", 400, "invalid_request"),
        ("POST", "/v1/uploads", b"[]", 400, "invalid_request"),
        ("POST", "/v1/uploads", b"{}", 400, "invalid_request"),
        ("POST", "/v1/uploads", b'{"kind": 7}', 400, "invalid_request"),
        ("POST", "/v1/uploads", b"x" * (2 << 20), 413, "request_too_large"),
    ],
)
def test_a_request_that_fits_nothing_has_a_documented_error(
    daemon: Daemon, method: str, path: str, body: bytes | None, status: int, code: str | None
) -> None:
    answer = daemon.call(method, path, body, {"Content-Type": "application/json"})
    assert answer.status == status
    assert code is None or answer.json()["code"] == code
    assert b"Traceback" not in answer.body
    assert answer.headers["x-request-id"]


def test_inside_a_dialect_errors_have_its_shape_and_outside_they_are_problems(daemon: Daemon) -> None:
    inside = daemon.call("GET", "/v1/machines/m/nowhere")
    outside = daemon.call("GET", "/nowhere")
    assert "error" in inside.json()
    assert inside.headers["content-type"] == "application/json"
    assert outside.headers["content-type"] == "application/problem+json"
    assert outside.json()["type"] == "urn:agentd:problem:not_found"


@pytest.mark.parametrize("header", ["Content-Type: text/plain", "Content-Encoding: gzip"])
def test_a_json_body_of_another_kind_is_415(daemon: Daemon, header: str) -> None:
    answer = said(daemon, request(daemon, "POST /v1/uploads HTTP/1.1", header, "Content-Length: 2", body=b"{}"))
    assert answer.split()[1] == b"415"


@pytest.mark.parametrize("target", ["http://x/version", "/version?x=%ff&x=%00", "/version#x"])
def test_odd_targets_find_their_path(daemon: Daemon, target: str) -> None:
    assert said(daemon, request(daemon, f"GET {target} HTTP/1.1")).split()[1] == b"200"


@pytest.mark.parametrize(
    "target", ["*", "x:80", "/%", "/%zz", "/\udcff", "http://", "http:///x", "/" * 9000, "/a" * 4000]
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "CONNECT"])
def test_no_target_is_too_odd_for_an_answer(daemon: Daemon, method: str, target: str) -> None:
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    sent = head.encode(errors="surrogateescape") + f"Authorization: Bearer {daemon.token}\r\n\r\n".encode()
    assert said(daemon, sent).split()[1] in (b"400", b"404", b"405")


def test_requests_in_one_packet_are_answered_in_turn(daemon: Daemon) -> None:
    first = f"GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.token}\r\n\r\n".encode()
    answer = said(daemon, first * 40 + request(daemon, "GET /nowhere HTTP/1.1"))
    assert answer.count(b"HTTP/1.1 200") == 40
    assert answer.count(b"HTTP/1.1 404") == 1


def test_a_refused_upload_of_any_size_sees_its_answer(daemon: Daemon) -> None:
    head = b"PUT /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n"
    with daemon.connect() as connection:
        connection.sendall(head + b"x" * 30_000_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 401")
        connection.shutdown(socket.SHUT_WR)
