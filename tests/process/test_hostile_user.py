"""A user whose programs the daemon starts has no way to harm the daemon by it, nor to get away from it."""

import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness import hostile
from tests.process.harness.leases import leased
from tests.process.harness.tracer import held
from tests.process.harness.waiting import eventually
from tests.processes import Shell, alive, running

# All it does at first is to get away: its mark is spoilt, its session and its parents are left behind.
AWAY = "ulimit -m 5; ulimit -x 5; (setsid sleep 1000 >/dev/null 2>&1 &)"
MALLORY = 64003  # nobody else's here: all of the user's processes are stopped
KILLED, STOPPED, HELD_UP = 300, 40, 50


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    if os.geteuid():
        pytest.skip("to start programs as others takes root")
    with running(tmp_path) as daemon:
        yield daemon


@contextmanager
def attack(*words: str) -> Iterator[list[int]]:
    """Has it done by mallory meanwhile. Gives how often it was, once it is over."""
    command = [sys.executable, hostile.__file__, str(MALLORY), *words]
    rounds: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        try:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == "begun\n"
            yield rounds
        finally:
            attacker.send_signal(signal.SIGTERM)
            rounds.append(int(attacker.communicate()[0]))


@pytest.mark.slow
def test_whoever_kills_all_threads_that_he_may_kills_none_of_the_daemon(daemon: Daemon) -> None:
    shell, codes = Shell(daemon), []
    with attack("kill", str(daemon.pid)) as rounds, suppress(http.client.HTTPException):
        codes += [shell.exec("true", user=str(MALLORY)).status for _ in range(KILLED)]
    assert codes == [200] * KILLED
    assert daemon.process.poll() is None
    assert rounds[0] > KILLED / 10


@pytest.mark.slow
def test_whoever_stops_his_own_processes_holds_up_no_others(daemon: Daemon) -> None:
    shell = Shell(daemon)
    with attack("stop"):
        begun = [shell.exec("sleep", "1000", user=str(MALLORY), background=True) for _ in range(STOPPED)]
        assert shell.run("echo on")["stdout"] == "on\n"
    assert {answer.status for answer in begun} <= {200, 503}
    for answer in begun:
        assert answer.status == 503 or shell.post(answer.json()["pid"], "kill") == 204
    assert alive(daemon.root) == []


def test_whoever_holds_up_the_start_of_his_own_programs_holds_up_no_others(daemon: Daemon) -> None:
    programs = [f"./program-{number}" for number in range(HELD_UP)]
    shell, workspace = Shell(daemon), daemon.root / "workspace"
    with leased(MALLORY, workspace, *programs), ThreadPoolExecutor(HELD_UP) as pool:
        begun = [pool.submit(shell.exec, program, user=str(MALLORY), background=True) for program in programs]
        assert eventually(lambda: len(alive(daemon.root)) == HELD_UP)
        began = time.monotonic()
        assert shell.exec("/bin/true").json()["exit_code"] == 0
        assert time.monotonic() - began < UNIT
        daemon.kill9()
        assert all(answer.exception() for answer in begun)


def test_one_that_gets_away_at_its_first_instruction_is_ended_all_the_same(daemon: Daemon) -> None:
    shell = Shell(daemon)
    pid = shell.exec("bash", "-c", AWAY, user=str(MALLORY), background=True).json()["pid"]
    other = shell.exec("sleep", "1000", user=str(MALLORY), background=True).json()["pid"]
    assert shell.wait(pid)["exit_code"] == 0
    assert len(alive(daemon.root)) == 2
    assert shell.post(pid, "kill") == 204
    assert alive(daemon.root) == [other]


def test_one_that_gets_away_is_ended_with_the_daemon(daemon: Daemon) -> None:
    assert Shell(daemon).exec("bash", "-c", AWAY, user=str(MALLORY)).status == 200
    assert len(alive(daemon.root)) == 1
    daemon.term()
    assert alive(daemon.root) == []


def test_whoever_keeps_the_end_of_his_own_process_to_himself_holds_up_nobody(daemon: Daemon) -> None:
    shell = Shell(daemon)
    pid = shell.exec("sleep", "1000", user=str(MALLORY), background=True).json()["pid"]
    began = time.monotonic()
    with held(MALLORY, pid):
        assert shell.run("echo on")["stdout"] == "on\n"
        assert shell.wait(pid)["reason"] == "lost"
        assert time.monotonic() - began < 10 * UNIT


def test_a_debugger_takes_no_exit_status_away(daemon: Daemon) -> None:
    shell = Shell(daemon)
    pid = shell.exec("sleep", "1000", user=str(MALLORY), background=True).json()["pid"]
    with held(MALLORY, pid):
        assert shell.run("echo on")["stdout"] == "on\n"
    assert shell.wait(pid)["signal"] == "SIGKILL"


def test_no_limit_can_be_raised_from_the_first_instruction_on(daemon: Daemon) -> None:
    script = "for limit in t v u n f m x; do ulimit -H$limit unlimited 2>/dev/null && echo $limit; done; ulimit -Hv"
    limits = {"cpu_secs": 100, "memory_bytes": 1 << 30, "processes": 100, "open_files": 200, "file_bytes": 1 << 20}
    ran = Shell(daemon).exec("bash", "-c", script, user=str(MALLORY), limits=limits).json()
    assert (ran["stdout"], ran["exit_code"]) == (f"{1 << 20}\n", 0)


class Strict(Daemon):
    """One in whose PID namespace nothing in memory can be executed (vm.memfd_noexec)."""

    prefix = (
        *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"),
        *('echo 2 >/proc/sys/vm/memfd_noexec && exec "$@"', "sh"),
    )


@pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("unshare") is None or not Path("/proc/sys/vm/memfd_noexec").exists(),
    reason="it takes root, unshare(1), and Linux 6.3",
)
def test_where_the_machine_code_cannot_run_programs_are_started_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    daemon = Strict(tmp_path / "root", tmp_path / "stderr", (), {})
    try:
        shell = Shell(daemon)
        assert daemon.call("GET", "/v1/capabilities").json()["launcher"] is False
        assert (
            shell.run("id -u; echo $HIDDEN", user=str(MALLORY), envs={"HIDDEN": "no"})["stdout"] == f"{MALLORY}\nno\n"
        )
        assert shell.exec("no-such-program").status == 404
    finally:
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert daemon.wait() == 0


def test_elsewhere_it_is_the_machine_code(daemon: Daemon) -> None:
    assert daemon.call("GET", "/v1/capabilities").json()["launcher"] is True
    assert eventually(lambda: Shell(daemon).exec("true", user=str(MALLORY)).status == 200)
