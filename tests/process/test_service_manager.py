"""What a service manager gives the daemon is for the daemon alone, and what it asks for by a signal is done."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.config import load
from tests.conftest import Daemon, StartDaemon
from tests.process.harness.waiting import eventually
from tests.processes import Shell, alive

GIVEN = {
    "CREDENTIALS_DIRECTORY": "/run/credentials/agentd.service",
    "INVOCATION_ID": "0123456789abcdef",
    "JOURNAL_STREAM": "8:1",
    "LISTEN_FDNAMES": "web",
    "LISTEN_FDS": "1",
    "LISTEN_PID": "1",
    "NOTIFY_SOCKET": "@nowhere",
    "WATCHDOG_PID": "1",
    "WATCHDOG_USEC": "1000000",
}
SHOW = "import os; print(*os.environ)"


@pytest.fixture
def shell(start_daemon: StartDaemon) -> Shell:
    return Shell(start_daemon(environment=GIVEN))


@pytest.fixture
def credentials(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "token").write_text("of-the-manager\n")
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def variables(shell: Shell, kind: str) -> str:
    """The names of those that something of this kind has."""
    if kind == "command":
        return str(shell.run("env")["stdout"])
    if kind == "code":
        return shell.call("POST", "/code/execute", {"code": SHOW}).body.decode()
    session = shell.call("POST", "/sessions", {}).json()["session_id"]
    return str(shell.call("POST", f"/sessions/{session}/exec", {"command": "env"}).json())


@pytest.mark.parametrize("kind", ["command", "session", "code"])
def test_nothing_that_is_started_finds_any_of_it(shell: Shell, kind: str) -> None:
    found = variables(shell, kind)
    assert "PATH" in found
    assert not [name for name in GIVEN if name in found]


def test_a_credential_is_the_token(start_daemon: StartDaemon, credentials: dict[str, str]) -> None:
    daemon = start_daemon(environment=credentials)
    assert daemon.call("GET", "/v1/files", token="of-the-manager").status == 200
    assert daemon.call("GET", "/v1/files", token="other").status == 401


def test_a_token_file_that_is_named_counts_for_more(credentials: dict[str, str]) -> None:
    loaded = load(None, credentials, {})
    assert loaded.origins["token_file"] == "credential token"
    assert loaded.config.token_file == f"{credentials['CREDENTIALS_DIRECTORY']}/token"
    assert load(None, {**credentials, "AGENTD_TOKEN_FILE": "/other"}, {}).config.token_file == "/other"


@pytest.mark.parametrize("directory", ["/nowhere", "", "relative"])
def test_a_service_without_a_token_of_its_own_is_as_any_other(directory: str) -> None:
    assert load(None, {"CREDENTIALS_DIRECTORY": directory}, {}).config.token_file is None


def test_a_socket_is_handed_over_once(tmp_path: Path) -> None:
    daemon = f"exec {sys.executable} -m agentd serve --root {tmp_path} --listen systemd --listen systemd"
    with socket.create_server(("127.0.0.1", 0)) as given:
        script = f"exec 3<&0; export LISTEN_FDS=1 LISTEN_PID=$$; {daemon}"
        done = subprocess.run(["sh", "-c", script], stdin=given, stderr=subprocess.PIPE, check=False)
    assert done.returncode == os.EX_CONFIG
    assert b"listen: systemd: the service manager has handed over no listening socket" in done.stderr


def test_usr2_leaves_running_what_runs(daemon: Daemon) -> None:
    pid = Shell(daemon).begin("sleep 1000")
    daemon.signal(signal.SIGUSR2)
    assert daemon.wait() == 0
    assert pid in alive(daemon.root)
    os.killpg(pid, signal.SIGKILL)
    assert eventually(lambda: alive(daemon.root) == [])


def test_term_ends_what_runs(daemon: Daemon) -> None:
    Shell(daemon).begin("sleep 1000")
    assert daemon.term() == 0
    assert alive(daemon.root) == []
