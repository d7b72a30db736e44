"""`agentd health`, which containers are asked by, and the entry point of an image without a command."""

import os
import socket
import subprocess
import sys
import tempfile

from tests.conftest import ANSWER_SECONDS, Daemon, StartDaemon


def health(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """variables: AGENTD_LISTEN and AGENTD_URL, as ``listen`` and ``url``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
    environment |= {f"AGENTD_{name.upper()}": value for name, value in variables.items()}
    command = [sys.executable, "-m", "agentd", "health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, env=environment)


def test_a_daemon_that_answers_is_healthy(daemon: Daemon) -> None:
    assert health(f"127.0.0.1:{daemon.port}").returncode == 0
    assert health(listen=f"0.0.0.0:{daemon.port},unix:/nowhere").returncode == 0


def test_the_url_that_clients_use_is_asked_before_what_is_listened_at(daemon: Daemon) -> None:
    assert health(url=daemon.url, listen="127.0.0.1:1").returncode == 0
    assert health(url=f"{daemon.url}/v1").returncode == 0
    assert health(f"127.0.0.1:{daemon.port}", url="http://127.0.0.1:1").returncode == 0


def test_it_says_whom_it_asked_and_who_named_that(daemon: Daemon) -> None:
    nobody = "127.0.0.1:1"
    said = [ended.stderr for ended in (health(nobody), health(url=f"http://{nobody}"), health(listen=f"{nobody},fd:3"))]
    asked = [f"{nobody}", f"http://{nobody} (AGENTD_URL)", f"{nobody} (AGENTD_LISTEN)"]
    assert said == [f"agentd health: {one}: Connection refused\n" for one in asked]
    assert "neither HOST:PORT nor http://HOST:PORT nor unix:PATH" in health(url="https://127.0.0.1").stderr


def test_a_unix_socket_is_asked_too(start_daemon: StartDaemon) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # a path short enough for a socket
        start_daemon("--listen", f"unix:{place}/agentd")
        assert health(f"unix:{place}/agentd").returncode == 0


def test_where_nobody_listens_nothing_is_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "unix:/nowhere", "fd:3"):
        ended = health(address)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"agentd health: {address}: ")
        assert ended.stderr.count("\n") == 1


def test_who_answers_without_being_well_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(ANSWER_SECONDS)
        command = [sys.executable, "-m", "agentd", "health", f"127.0.0.1:{other.getsockname()[1]}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as asking:
            with other.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            assert asking.wait(ANSWER_SECONDS) == 1


def test_dashes_with_no_command_behind_them_are_no_command(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--")
    assert daemon.call("GET", "/livez").status == 200
    assert daemon.term() == 0
