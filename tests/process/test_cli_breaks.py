"""`agentd exec` over a network that breaks, and daemons that end."""

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.cli import SECONDS, Cli, at_a_terminal
from tests.process.harness.waiting import eventually

pytestmark = pytest.mark.timeout(90 * UNIT)

COUNT = "for i in $(seq 1 200); do echo line $i; echo err $i >&2; sleep 0.01; done; exit 6"


class Cutter:
    """Passes connections on to a daemon, and cuts all of them when asked."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        for one in self._open[:]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = self._daemon.connect()
                except ConnectionRefusedError:
                    near.close()
                    continue
                far.settimeout(None)
                self._open += (near, far)
                for pair in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=_pump, args=pair))
                    self._threads[-1].start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cutter(daemon: Daemon) -> Iterator[Cutter]:
    made = Cutter(daemon)
    yield made
    made.close()


@pytest.fixture
def cli(daemon: Daemon, cutter: Cutter, tmp_path: Path) -> Cli:
    made = Cli(daemon, tmp_path)
    made.environment["AGENTD_URL"] = cutter.url
    return made


def test_no_output_is_lost_or_repeated_where_the_connection_breaks(cli: Cli, cutter: Cutter) -> None:
    with cli.start("exec", "--", "sh", "-c", COUNT, bufsize=0) as process:
        begun = b""
        for _ in range(3):
            begun += process.stdout.readline()  # type: ignore[union-attr]
            cutter.cut()
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 6
    assert (begun + out).decode().split("\n")[:-1] == [f"line {i}" for i in range(1, 201)]
    assert err.decode().split("\n")[:-1] == [f"err {i}" for i in range(1, 201)]


def test_no_input_is_lost_or_repeated_where_the_connection_breaks(cli: Cli, cutter: Cutter) -> None:
    pieces = [bytes([number]) * 50_000 for number in range(1, 40)]
    with cli.start("exec", "--", "cat") as process:
        assert process.stdin
        for number, piece in enumerate(pieces):
            process.stdin.write(piece)
            process.stdin.flush()
            if number % 10 == 5:
                cutter.cut()
        out, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, out == b"".join(pieces)) == (0, True)


def test_a_daemon_that_died_with_its_commands_is_no_good_end(cli: Cli, daemon: Daemon) -> None:
    with cli.start("exec", "--", "sh", "-c", "echo begun; sleep 60") as process:
        process.stdout.readline()  # type: ignore[union-attr]
        daemon.kill9()
        daemon.restart("--listen", f"127.0.0.1:{daemon.port}")
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 125
    assert b"how it ended cannot be told" in err


@pytest.mark.slow
def test_a_daemon_that_does_not_come_back_is_not_waited_for_for_ever(cli: Cli, daemon: Daemon) -> None:
    with cli.start("exec", "--", "sh", "-c", "echo begun; read line") as process:
        process.stdout.readline()  # type: ignore[union-attr]
        daemon.term()
        assert process.wait(SECONDS) == 125


def test_a_terminal_goes_on_where_the_connection_breaks(cli: Cli, cutter: Cutter) -> None:
    with at_a_terminal(cli, "exec", "-t", "--", "sh", "-c", "echo one; read a; echo got-$a; read b; exit 8") as seat:
        seat.until(b"one")
        cutter.cut()
        assert eventually(lambda: seat.echoes(b"X"))
        seat.type(b"\r")
        seat.until(b"got-X")
        cutter.cut()
        assert eventually(lambda: seat.echoes(b"Y"))
        seat.type(b"\r")
        assert seat.ended() == 8
    assert seat.seen.count(b"one") == seat.seen.count(b"got-") == 1


def test_ctrl_c_ends_a_terminal_whose_daemon_is_gone(cli: Cli, daemon: Daemon) -> None:
    with at_a_terminal(cli, "exec", "-t", "--", "sh", "-c", "echo one; sleep 60") as seat:
        seat.until(b"one")
        daemon.term()
        with pytest.raises(subprocess.TimeoutExpired):
            seat.process.wait(0.5 * UNIT)
        seat.type(b"\x03")
        assert seat.ended() == 128 + signal.SIGINT, seat.seen.decode()
