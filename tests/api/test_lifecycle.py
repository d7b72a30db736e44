"""From the start to the end of a daemon: what it listens on, what it says, how it drains, why it does not start."""

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ANSWER_SECONDS, START_SECONDS, Daemon, StartDaemon


def refusal(root: Path, *flags: str, **environment: str) -> tuple[int, list[str]]:
    """Exit status and stderr of a start that should fail."""
    done = subprocess.run(
        [sys.executable, "-m", "agentd", "serve", "--root", str(root), "--listen", "127.0.0.1:0", *flags],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("{")]


class Upload:
    """A JSON request of which the last bytes are held back."""

    def __init__(self, daemon: Daemon) -> None:
        self.connection = daemon.connect()
        head = f"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.token}\r\nContent-Length: 2\r\n"
        self.connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert self.connection.recv(100).startswith(b"HTTP/1.1 100")

    def finish(self) -> bytes:
        self.connection.sendall(b"{}")
        return self.rest()

    def rest(self) -> bytes:
        answer = b""
        try:
            while piece := self.connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        self.connection.close()
        return answer


def test_each_listener_is_announced_once(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "agentd.sock"
    daemon = start_daemon("--listen", "127.0.0.1:0", "--listen", f"unix:{path}", "--listen", "[::1]:0")
    assert daemon.ready[0] == f"agentd ready on http://127.0.0.1:{daemon.port}"
    assert daemon.ready[1] == f"agentd ready on unix:{path}"
    assert daemon.ready[2].startswith("agentd ready on http://[::1]:")
    with socket.create_connection(("::1", int(daemon.ready[2].rpartition(":")[2]))) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_unix_socket_is_private_serves_and_is_removed(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "agentd.sock"
    daemon = start_daemon("--listen", f"unix:{path}", "--insecure")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert daemon.term() == 0
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "agentd.sock"
    daemon = start_daemon("--listen", f"unix:{path}")
    daemon.kill9()
    assert path.exists()
    daemon.restart()
    status, lines = refusal(tmp_path / "root", "--listen", f"unix:{path}")
    assert (status, lines) == (78, [f"agentd: listen: unix:{path}: Address already in use"])
    path.unlink()
    path.write_text("not a socket")
    assert refusal(tmp_path / "root", "--listen", f"unix:{path}")[0] == 78
    assert path.read_text() == "not a socket"


@pytest.mark.parametrize("second", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_given_twice_is_refused_in_one_line(tmp_path: Path, second: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listens = [flag for host in ("127.0.0.1", second) for flag in ("--listen", f"{host}:{port}")]
    status, lines = refusal(tmp_path, *listens)
    assert (status, len(lines), lines[0].startswith("agentd: listen: ")) == (78, 1, True)


def test_a_socket_of_the_service_manager_is_taken_over(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        fd = given.fileno()
        command = [sys.executable, "-m", "agentd", "serve", "--root", str(tmp_path), "--listen", f"fd:{fd}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[fd])
        assert process.stdout is not None
        with process, process.stdout:
            with socket.create_connection(given.getsockname(), timeout=ANSWER_SECONDS) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
            assert process.stdout.readline() == b"agentd ready on http://127.0.0.1:%d\n" % given.getsockname()[1]
            process.terminate()
            assert process.wait() == 0


def test_the_service_manager_is_told_of_start_and_end(start_daemon: StartDaemon, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(ANSWER_SECONDS)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        daemon = start_daemon(environment=environment)
        told = [manager.recv(200) for _ in range(4)]
        assert {b"READY=1\nSTATUS=serving on " + daemon.url.encode(), b"WATCHDOG=1"} == set(told)
        daemon.term()
        while told[-1] != b"STOPPING=1\nSTATUS=draining":
            told.append(manager.recv(200))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_lets_the_running_request_finish_and_takes_no_other(daemon: Daemon, number: signal.Signals) -> None:
    upload, idle = Upload(daemon), daemon.connect()
    daemon.signal(number)
    assert idle.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        daemon.connect()
    answer = upload.finish()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"Connection: close" in answer
    assert daemon.wait() == 0
    idle.close()


def test_readiness_turns_before_the_listeners_close(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--drain-notice", "60")
    daemon.signal(signal.SIGTERM)
    while daemon.call("GET", "/readyz", token=None).status != 503:
        pass
    assert daemon.call("GET", "/livez", token=None).status == 200
    answer = daemon.call("GET", "/version")
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_after_the_drain_timeout_requests_are_cancelled(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--drain-timeout", "0.1")
    upload = Upload(daemon)
    assert daemon.term() == 0
    assert upload.rest() == b""
    assert daemon.log()[-1]["in_time"] is False


def test_a_second_signal_ends_at_once(daemon: Daemon) -> None:
    upload, idle = Upload(daemon), daemon.connect()
    daemon.signal(signal.SIGTERM)
    assert idle.recv(1) == b""
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 128 + signal.SIGTERM
    assert upload.rest() == b""
    idle.close()


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (("--listen", "nowhere"), "listen"),
        (("--listen", "127.0.0.1:99999"), "listen"),
        (("--listen", "192.0.2.1:1"), "listen"),
        (("--listen", "fd:977"), "listen"),
        (("--listen", "0.0.0.0:0", "--insecure"), "insecure"),
        (("--token-file", "/no/such/file"), "token_file"),
        (("--token-file", "/dev/null"), "token_file"),
        (("--default-user", "nobody-of-that-name"), "default_user"),
        (("--uploads-part-size", "0"), "uploads.part_size"),
        (("--config", "/no/such/file"), "config"),
        (("--frobnicate",), "flags"),
    ],
)
def test_a_setting_that_cannot_be_used_ends_with_78_and_its_key(
    tmp_path: Path, flags: tuple[str, ...], key: str
) -> None:
    status, lines = refusal(tmp_path, *flags)
    assert status == 78
    assert len(lines) == 1
    assert lines[0].startswith(f"agentd: {key}: ")


def test_an_unknown_variable_ends_with_78_and_its_name(tmp_path: Path) -> None:
    status, lines = refusal(tmp_path, AGENTD_PART_SIZE="1")
    assert (status, len(lines)) == (78, 1)
    assert "AGENTD_PART_SIZE" in lines[0]


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    status, lines = refusal(tmp_path / "nowhere")
    assert (status, len(lines)) == (78, 1)
    assert lines[0].startswith("agentd: root: ")


def test_a_workspace_that_cannot_be_made_points_to_root(tmp_path: Path) -> None:
    (tmp_path / "workspace").write_text("in the way")
    status, lines = refusal(tmp_path)
    assert (status, len(lines)) == (78, 1)
    assert "--root" in lines[0]


def test_a_reserved_tree_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "workspace/.nullspace").mkdir(parents=True)
    os.chown(tmp_path / "workspace/.nullspace", 12345, 12345)
    status, lines = refusal(tmp_path)
    assert (status, len(lines)) == (78, 1)


def test_a_link_in_place_of_the_reserved_tree_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace/.nullspace").symlink_to("/elsewhere")
    assert refusal(tmp_path)[0] == 78
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_missing_workspace_is_made_for_the_default_user(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--default-user", "65534", "--workspace", "/srv/work")
    found = (daemon.root / "srv/work").stat()
    assert (found.st_uid, found.st_gid) == (65534, pwd.getpwuid(65534).pw_gid)
    assert (daemon.root / "srv/work/.nullspace").stat().st_uid == os.geteuid()


def test_one_root_has_one_daemon(daemon: Daemon) -> None:
    status, lines = refusal(daemon.root)
    assert (status, len(lines)) == (78, 1)
    assert daemon.call("GET", "/livez", token=None).status == 200


def test_what_is_printed_is_the_configuration_and_no_daemon_starts(tmp_path: Path) -> None:
    flags = ("--root", str(tmp_path), "--uploads-part-size", "4MiB", "--print-config")
    done = subprocess.run([sys.executable, "-m", "agentd", "serve", *flags], capture_output=True, text=True, check=True)
    assert "part_size = 4194304  # flag --uploads-part-size" in done.stdout
    assert 'listen = ["127.0.0.1:8811"]  # default' in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_whose_stdout_nobody_reads_serves_on(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with socket.create_server(("127.0.0.1", 0)) as given:
        fd = given.fileno()
        command = [sys.executable, "-m", "agentd", "serve", "--root", str(tmp_path), "--listen", f"fd:{fd}"]
        process = subprocess.Popen(command, stdout=writing, stderr=subprocess.DEVNULL, pass_fds=[fd])
        os.close(writing)
        with process, socket.create_connection(given.getsockname(), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            process.terminate()
