"""``agentd serve -- COMMAND``: an image's own command, run by the daemon as PID 1 of a namespace and elsewhere."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ANSWER_SECONDS, STOP_SECONDS, Daemon
from tests.process.harness.waiting import eventually
from tests.process.test_orphans import First, children
from tests.processes import BOB, Shell, alive

# For each signal a line in the file `told`, and an end of its own after TERM.
LISTENER = """
trap 'echo term >>told; exit 9' TERM
for name in HUP QUIT USR1 USR2 WINCH; do trap "echo $name >>told" $name; done
echo ready >>told
while :; do sleep 0.01; done
"""
STORM = "i=0; while [ $i -lt 100 ]; do (setsid sleep 0.0$((i % 10)) &) ; i=$((i+1)); done; sleep 0.1"

Start = Callable[..., "Beside"]


class Beside:
    """A daemon with a command beside it. pid: the daemon's, as it is seen from here."""

    def __init__(self, kind: type[Daemon], place: Path, *command: str, flags: tuple[str, ...] = ()) -> None:
        self.place = place / "root"
        (self.place / "workspace").mkdir(parents=True)
        self.stderr = place / "stderr"
        grace = ("--processes-grace", "0.1")
        self.daemon = kind(self.place, self.stderr, (*grace, *flags, "--", *command), {"AGENTD_TEST_SECRET": "hidden"})
        self.pid = children(self.daemon.pid)[0] if kind is First else self.daemon.pid
        self.shell = Shell(self.daemon)

    def told(self) -> list[str]:
        found = self.place / "workspace/told"
        return found.read_text().split() if found.exists() else []

    def term(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.daemon.wait()


@pytest.fixture(params=["first", "elsewhere"])
def kind(request: pytest.FixtureRequest) -> type[Daemon]:
    if request.param == "elsewhere":
        return Daemon
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("a PID namespace takes root, and unshare(1)")
    return First


@pytest.fixture
def start(kind: type[Daemon], tmp_path: Path) -> Iterator[Start]:
    started: list[Beside] = []

    def begin(*command: str, flags: tuple[str, ...] = ()) -> Beside:
        started.append(Beside(kind, tmp_path, *command, flags=flags))
        return started[-1]

    yield begin
    for one in started:
        if one.daemon.process.poll() is None:
            one.term()


def read_until(fd: int, word: bytes) -> None:
    seen = b""
    while word not in seen:
        assert select.select([fd], [], [], ANSWER_SECONDS)[0], seen
        seen += os.read(fd, 4096)


def test_the_command_speaks_to_the_daemon_s_streams_as_a_process_of_its_own(start: Start) -> None:
    beside = start("sh", "-c", "echo loud >&2; env >told; pwd >>told; sleep 1000")
    assert eventually(lambda: str(beside.place / "workspace") in beside.told())
    assert "loud" in beside.stderr.read_text().splitlines()
    assert not [word for word in beside.told() if word.startswith("AGENTD_") or "hidden" in word]
    (listed,) = beside.shell.call("GET", "/processes?tag=agentd=entrypoint").json()
    assert listed["running"]


def test_it_is_the_default_user_s(start: Start, tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text(f"bob:x:{BOB}:{BOB}::/:/bin/sh\n")
    script = "echo bob:; id -u >&2; exit 0"
    beside = start("sh", "-c", script, flags=("--default-user", "bob", "--cwd", "/"))
    assert eventually(lambda: str(BOB) in beside.stderr.read_text().splitlines())


def test_signals_are_handed_on_and_term_drains_the_daemon_too(start: Start) -> None:
    beside = start("sh", "-c", LISTENER)
    assert eventually(lambda: "ready" in beside.told())
    for name in ("HUP", "QUIT", "USR1", "USR2", "WINCH"):
        os.kill(beside.pid, signal.Signals[f"SIG{name}"])
        assert eventually(lambda name=name: name in beside.told())
    assert beside.shell.run("exit 3")["exit_code"] == 3
    assert beside.term() == 0
    assert beside.told()[-1] == "term"


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137)])
def test_the_daemon_ends_with_the_command_where_it_is_asked_to(start: Start, script: str, status: int) -> None:
    beside = start("sh", "-c", f"until [ -e go ]; do sleep 0.01; done; {script}", flags=("--end-with-command",))
    beside.shell.run("setsid sleep 1000 >/dev/null 2>&1 &")
    (beside.place / "workspace/go").touch()
    assert beside.daemon.wait() == status
    assert alive(beside.place) == []


def test_the_daemon_goes_on_without_the_command_where_it_is_not(start: Start) -> None:
    beside = start("sh", "-c", "exit 5")
    assert eventually(lambda: any(line.get("exit_code") == 5 for line in beside.daemon.log()))
    assert beside.shell.run("echo on")["stdout"] == "on\n"
    assert beside.term() == 0


@pytest.mark.parametrize(
    ("script", "status"),
    [("trap 'sleep 0.3; exit 6' TERM; echo>go; while :; do sleep 0.01; done", 6), ("echo>go; exec sleep 1000", 143)],
)
def test_after_a_signal_the_command_ends_in_its_own_time_and_gives_the_status(
    start: Start, script: str, status: int
) -> None:
    beside = start("sh", "-c", script, flags=("--end-with-command",))
    assert eventually((beside.place / "workspace/go").exists)
    assert beside.term() == status


def test_one_that_is_deaf_is_killed_after_the_time_of_a_drain(start: Start) -> None:
    deaf = "trap '' TERM INT; echo>go; while :; do sleep 0.01; done"
    beside = start("sh", "-c", deaf, flags=("--end-with-command", "--drain-timeout", "0.2"))
    assert eventually((beside.place / "workspace/go").exists)
    assert beside.term() == 137


def test_a_storm_of_forks_loses_no_status_neither_the_command_s(start: Start) -> None:
    beside = start("sh", "-c", f"until [ -e go ]; do {STORM}; done; exit 7", flags=("--end-with-command",))
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: beside.shell.run(f"(sleep 0.01 &); exit {n}")["exit_code"], range(256)))
    assert codes == list(range(256))
    (beside.place / "workspace/go").touch()
    assert beside.daemon.wait() == 7


def test_a_terminal_that_controls_the_daemon_is_the_command_s(tmp_path: Path) -> None:
    script = "trap 'echo interrupted' INT; echo go >/dev/tty; until read word; do :; done; exit ${#word}"
    flags = ["--root", str(tmp_path), "--listen", "127.0.0.1:0", "--drain-notice", "0", "--end-with-command"]
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", sys.executable, "-m", "agentd", "serve", *flags, "--", "sh", "-c", script]
    log = tmp_path / "log"
    with log.open("wb") as stderr, subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=stderr) as daemon:
        os.close(theirs)
        read_until(ours, b"go\r\n")
        os.write(ours, b"\x03")
        read_until(ours, b"interrupted\r\n")
        os.write(ours, b"four\n")
        assert daemon.wait(STOP_SECONDS) == 4
    os.close(ours)
    assert "the command has ended" in log.read_text().partition("draining")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "no-such-program"], "command: cannot run 'no-such-program'"),
        (["--keep-processes", "--", "true"], "keep_processes: a command"),
    ],
)
def test_a_command_that_cannot_be_run_is_an_error_of_the_configuration(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    flags = ["--root", str(tmp_path), "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "agentd", "serve", *flags, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=STOP_SECONDS)
    assert ended.returncode == os.EX_CONFIG
    assert ended.stderr.splitlines()[-1].startswith(f"agentd: {words}")
