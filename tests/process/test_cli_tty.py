"""`agentd exec --tty`: this terminal becomes one of the sandbox, and is given back as it was."""

import signal
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.cli import Cli, Seat, at_a_terminal
from tests.process.harness.waiting import eventually
from tests.processes import alive, running

pytestmark = pytest.mark.timeout(60 * UNIT)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("tty")) as daemon:
        yield daemon


@pytest.fixture
def cli(daemon: Daemon, tmp_path: Path) -> Cli:
    return Cli(daemon, tmp_path)


def is_raw(seat: Seat) -> bool:
    return not termios.tcgetattr(seat.ours)[3] & termios.ICANON


def test_what_is_typed_is_read_there_and_the_status_is_passed_on(cli: Cli) -> None:
    with at_a_terminal(cli, "exec", "-t", "--", "sh", "-c", "tty; read line; echo got $line; exit 9") as seat:
        seat.until(b"/dev/pts/")
        assert is_raw(seat)
        seat.type(b"hello\r")
        seat.until(b"got hello\r\n")
        assert seat.ended() == 9
        assert termios.tcgetattr(seat.ours) == seat.modes


def test_without_a_command_it_is_a_shell(cli: Cli) -> None:
    with at_a_terminal(cli, "exec", "--tty", "--user", "bob") as seat:
        seat.type(b"echo user-$(id -u); exit 3\r")
        seat.until(b"user-40001")
        assert seat.ended() == 3


def test_the_size_is_ours_from_the_beginning_and_follows_it(cli: Cli) -> None:
    script = "stty size; trap 'stty size' WINCH; read line; read line"
    with at_a_terminal(cli, "exec", "-t", "--", "sh", "-c", script, cols=101, rows=33) as seat:
        seat.until(b"33 101")
        seat.resize(77, 11)
        seat.until(b"11 77")
        seat.type(b"\r\r")
        seat.ended()


def test_ctrl_c_is_typed_to_the_program(cli: Cli) -> None:
    script = "trap 'exit 4' INT; echo ready; while :; do sleep 0.05; done"
    with at_a_terminal(cli, "exec", "-t", "--", "sh", "-c", script) as seat:
        seat.until(b"ready")
        seat.type(b"\x03")
        assert seat.ended() == 4
        assert termios.tcgetattr(seat.ours) == seat.modes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_both_sides_and_gives_the_terminal_back(cli: Cli, daemon: Daemon, number: int) -> None:
    with at_a_terminal(cli, "exec", "-t", "--", "sh", "-c", "echo ready; sleep 60") as seat:
        seat.until(b"ready")
        assert is_raw(seat)
        seat.process.send_signal(number)
        assert seat.ended() == 128 + number
        assert termios.tcgetattr(seat.ours) == seat.modes
    assert eventually(lambda: alive(daemon.root) == [])


def test_a_refused_terminal_leaves_ours_as_it_was(cli: Cli) -> None:
    with at_a_terminal(cli, "exec", "-t", "--user", "nobody-such") as seat:
        seat.until(b"unknown_user")
        assert seat.ended() == 125
        assert termios.tcgetattr(seat.ours) == seat.modes


def test_a_large_paste_arrives_whole(cli: Cli, daemon: Daemon) -> None:
    script = "stty -icanon -echo; echo ready; head -c 100000 | md5sum"
    with at_a_terminal(cli, "exec", "-t", "--", "sh", "-c", script) as seat:
        seat.until(b"ready")
        for _ in range(100):
            seat.type(b"0123456789" * 100)
        seat.until(b"13572e9e")
        assert seat.ended() == 0
