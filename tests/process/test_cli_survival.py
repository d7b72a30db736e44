"""`agentd exec` and the daemon that is killed under it, where a service manager keeps what the next one needs."""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import UNIT
from tests.process.harness.cli import SECONDS, Cli, at_a_terminal
from tests.process.harness.manager import Managed, Manager
from tests.process.harness.waiting import eventually

pytestmark = pytest.mark.timeout(90 * UNIT)

COUNT = "for i in $(seq 1 100); do echo line $i; echo err $i >&2; sleep 0.02; done; exit 6"


@pytest.fixture
def manager() -> Iterator[Manager]:
    with closing(Manager()) as manager:
        yield manager


@pytest.fixture
def daemon(manager: Manager, tmp_path: Path) -> Iterator[Managed]:
    daemon = Managed(tmp_path, manager)
    yield daemon
    daemon.term()


@pytest.fixture
def cli(daemon: Managed, tmp_path: Path) -> Cli:
    return Cli(daemon, tmp_path)


def die(daemon: Managed) -> None:
    """It is killed, and started again at the same address."""
    daemon.signal(signal.SIGKILL)
    daemon.restart("--processes-grace", "0.1", "--listen", f"127.0.0.1:{daemon.port}")


def test_no_output_is_lost_or_repeated_where_the_daemon_is_killed(cli: Cli, daemon: Managed) -> None:
    with cli.start("exec", "--", "sh", "-c", COUNT, bufsize=0) as process:
        begun = b""
        for _ in range(2):
            begun += process.stdout.readline()  # type: ignore[union-attr]
            die(daemon)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 6, err
    assert (begun + out).decode().split("\n")[:-1] == [f"line {i}" for i in range(1, 101)]
    assert err.decode().split("\n")[:-1] == [f"err {i}" for i in range(1, 101)]


def test_no_input_is_lost_or_repeated_where_the_daemon_is_killed(cli: Cli, daemon: Managed) -> None:
    pieces = [bytes([number]) * 20_000 for number in range(1, 20)]
    with cli.start("exec", "--", "cat") as process:
        assert process.stdin
        for number, piece in enumerate(pieces):
            process.stdin.write(piece)
            process.stdin.flush()
            if number == 10:
                die(daemon)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out == b"".join(pieces)) == (0, True), err


def test_a_terminal_goes_on_with_the_next_daemon(cli: Cli, daemon: Managed) -> None:
    with at_a_terminal(cli, "exec", "-t", "--", "sh", "-c", "echo one; read a; echo got-$a; exit 8") as seat:
        seat.until(b"one")
        die(daemon)
        assert eventually(lambda: seat.echoes(b"X"))
        seat.type(b"\r")
        assert seat.ended() == 8
    assert seat.seen.count(b"one") == seat.seen.count(b"got-X") == 1
