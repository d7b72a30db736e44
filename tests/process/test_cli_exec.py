"""`agentd exec`: a command in the sandbox as if it ran here."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.cli import SECONDS, Cli
from tests.process.harness.waiting import eventually
from tests.processes import alive, running

pytestmark = pytest.mark.timeout(60 * UNIT)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("exec")) as daemon:
        yield daemon


@pytest.fixture
def cli(daemon: Daemon, tmp_path: Path) -> Cli:
    return Cli(daemon, tmp_path)


def first_line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout
    return process.stdout.readline()


def takes_signals(pid: int) -> bool:
    """Whether SIGHUP, which Python leaves alone, is caught (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) & 1 << (signal.SIGHUP - 1))


def test_both_streams_come_apart_and_the_status_is_the_commands(cli: Cli) -> None:
    done = cli.run("exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_options_stand_before_the_command_and_its_own_behind_it(cli: Cli) -> None:
    assert cli.says("exec", "--cwd", "/", "echo", "--cwd", "x", "--", "-l") == "--cwd x -- -l\n"


def test_user_directory_and_variables_are_those_asked_for(cli: Cli) -> None:
    cli.environment["FROM_HERE"] = "here"
    where = ("--user", "bob", "--cwd", "/workspace", "-e", "GIVEN=a b", "-e", "FROM_HERE")
    said = cli.says("exec", *where, "--", "sh", "-c", "id -u; pwd -P; echo $GIVEN-$FROM_HERE").split("\n")
    assert said[0] == "40001"
    assert said[1].endswith("/workspace")
    assert said[2] == "a b-here"


def test_output_is_seen_while_the_command_runs(cli: Cli) -> None:
    with cli.start("exec", "--", "sh", "-c", "echo now; read line") as process:
        assert first_line(process) == b"now\n"
        assert process.poll() is None
        process.communicate(b"go\n", timeout=SECONDS)
    assert process.returncode == 0


def test_bytes_go_in_and_come_out_unchanged(cli: Cli) -> None:
    content = os.urandom(3 << 20)
    assert cli.run("exec", "--", "cat", given=content).stdout == content


def test_input_may_come_from_a_file_or_from_nowhere(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0\xff" * 100_000)
    assert cli.run("exec", "--stdin", "file", "--", "cat").stdout == b"\0\xff" * 100_000
    assert cli.run("exec", "--stdin", "/dev/null", "--", "cat", given=b"not this").stdout == b""


def test_a_command_that_reads_nothing_does_not_wait_for_our_input(cli: Cli) -> None:
    with cli.start("exec", "--", "echo", "done") as process:
        assert first_line(process) == b"done\n"
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--", "sh", "-c", "kill -KILL $$"), 137, ""),
        (("--", "no-such-program"), 127, "no-such-program"),
        (("--", "/etc"), 126, "permission_denied"),
        (("--timeout", "0.2", "--", "sleep", "60"), 124, "ended after 0.2 s"),
        (("--user", "nobody-such", "--", "true"), 125, "unknown_user"),
        (("--cwd", "/nowhere", "--", "true"), 125, "not_found"),
        (("--url", "http://127.0.0.1:1", "--", "true"), 125, "does `agentd serve` run there?"),
        ((), 2, "name a command"),
        (("--timeout", "soon", "--", "true"), 2, "--timeout"),
        (("-e", "NOT_SET_HERE", "--", "true"), 2, "NOT_SET_HERE"),
        (("--tty", "--", "true"), 2, "--tty needs a terminal"),
    ],
)
def test_a_status_says_who_failed(cli: Cli, words: tuple[str, ...], status: int, said: str) -> None:
    done = cli.run("exec", *words)
    assert done.returncode == status, done.stderr
    assert said in "".join(done.stderr.decode().splitlines()[-1:])


def test_an_interrupt_goes_to_the_command_which_may_do_as_it_likes(cli: Cli) -> None:
    script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    with cli.start("exec", "--", "sh", "-c", script) as process:
        first_line(process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (5, b"caught\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_its_status_says_so(cli: Cli, number: int) -> None:
    with cli.start("exec", "--", "sh", "-c", "echo ready; exec sleep 60") as process:
        first_line(process)
        process.send_signal(number)
        assert process.wait(SECONDS) == 128 + number


def test_a_second_interrupt_ends_a_command_that_ignores_them(cli: Cli, daemon: Daemon) -> None:
    with cli.start("exec", "--", "sh", "-c", "trap '' INT; echo ready; while :; do sleep 0.05; done") as process:
        first_line(process)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5 * UNIT)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    assert eventually(lambda: alive(daemon.root) == [])


def test_an_interrupt_before_the_start_leaves_no_command_behind(cli: Cli, daemon: Daemon) -> None:
    daemon.signal(signal.SIGSTOP)
    with cli.start("exec", "--", "sleep", "60") as process:
        assert eventually(lambda: takes_signals(process.pid))
        process.send_signal(signal.SIGINT)
        daemon.signal(signal.SIGCONT)
        assert process.wait(SECONDS) == 130
    assert eventually(lambda: alive(daemon.root) == [])


def test_nothing_is_left_of_a_command_whose_reader_left(cli: Cli, daemon: Daemon) -> None:
    with cli.start("exec", "--", "yes") as process:
        first_line(process)
        process.stdout.close()  # type: ignore[union-attr]
        assert process.stderr.read() == b""  # type: ignore[union-attr]
        assert process.wait(SECONDS) == 141
    assert eventually(lambda: alive(daemon.root) == [])


def test_json_is_one_object_with_all_that_came_of_it(cli: Cli) -> None:
    done = cli.run("exec", "--json", "--", "sh", "-c", "printf '\\377'; echo err >&2; exit 3")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["reason"], told["stderr"]) == (3, 3, "exited", "err\n")
    assert told["stdout_base64"] == "/w=="
    assert told["pid"] > 0


def test_json_of_a_stream_is_an_event_a_line(cli: Cli) -> None:
    events = [json.loads(line) for line in cli.says("exec", "--json", "--stream", "--", "echo", "hi").splitlines()]
    assert [event["type"] for event in events] == ["started", "stdout", "exit"]
    assert events[1]["data"] == "hi\n"


def test_a_detached_command_goes_on_and_can_be_listed_and_killed(cli: Cli, daemon: Daemon) -> None:
    pid = cli.says("exec", "--detach", "--", "sleep", "60").strip()
    listed = cli.says("ps").splitlines()
    assert [line.split()[:3] for line in listed if "sleep 60" in line] == [[pid, "root", "running"]]
    assert pid in cli.says("ps", "-q").split()
    assert json.loads(cli.says("kill", "--json", pid))["signal"] == "SIGTERM"
    assert pid not in cli.says("ps", "-q").split()
    ended = [json.loads(line) for line in cli.says("ps", "-a", "--json").splitlines()]
    assert [one["running"] for one in ended if one["pid"] == int(pid)] == [False]


def test_a_detached_command_may_have_input(cli: Cli, daemon: Daemon) -> None:
    given = os.urandom(1 << 20)
    cli.run("exec", "-d", "--stdin", "-", "--", "sh", "-c", "cat > here.part; mv here.part here", given=given)
    assert eventually(lambda: (daemon.root / "workspace/here").exists())
    assert (daemon.root / "workspace/here").read_bytes() == given


def test_kill_sends_the_signal_that_is_named(cli: Cli) -> None:
    pid = cli.says("exec", "-d", "--", "sleep", "60").strip()
    assert cli.run("kill", "--signal", "NOSUCH", pid).returncode == 1
    cli.says("kill", "-s", "usr1", pid)
    told = [json.loads(line) for line in cli.says("ps", "-a", "--json").splitlines()]
    assert eventually(lambda: f"{pid} root SIGUSR1" in " ".join(cli.says("ps", "-a").split()))
    assert pid in {str(one["pid"]) for one in told}
    assert b"process_not_found" in cli.run("kill", "1").stderr
