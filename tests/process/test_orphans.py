"""What a process of the daemon's leaves behind becomes the daemon's child, as PID 1 and elsewhere, and is reaped."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.process.harness.waiting import eventually
from tests.processes import Shell

ORPHANS = "i=0; while [ $i -lt 250 ]; do (sleep 0.0$((i % 10)) &) ; i=$((i+1)); done"

# Processes beside it instead of below it (clone(2), CLONE_PARENT | SIGCHLD).
SIBLINGS = """
import ctypes, os, platform
for _ in range(20):
    if ctypes.CDLL(None).syscall({"x86_64": 56, "aarch64": 220}[platform.machine()], 0x8000 | 17, 0, 0, 0, 0) == 0:
        os._exit(0)
"""


class First(Daemon):
    """A daemon that is PID 1 of a namespace of its own."""

    prefix = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def children(pid: int) -> list[int]:
    text = "".join(task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for child in text.split()]


def zombies(pid: int) -> int:
    count = 0
    for child in children(pid):
        try:
            count += b") Z " in Path(f"/proc/{child}/stat").read_bytes()
        except FileNotFoundError:
            continue
    return count


@pytest.fixture(params=["first", "subreaper"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Daemon, int]]:
    """A daemon, and its pid as it is seen from here."""
    if request.param == "first" and (os.geteuid() or shutil.which("unshare") is None):
        pytest.skip("a PID namespace takes root, and unshare(1)")
    (tmp_path / "root").mkdir()
    daemon = (First if request.param == "first" else Daemon)(tmp_path / "root", tmp_path / "stderr", (), {})
    pid = children(daemon.pid)[0] if request.param == "first" else daemon.pid
    yield daemon, pid
    os.kill(pid, signal.SIGTERM)
    assert daemon.wait() == 0


def test_a_thousand_orphans_are_reaped_and_no_status_is_lost(daemon: tuple[Daemon, int]) -> None:
    shell, pid = Shell(daemon[0]), daemon[1]
    orphans = [shell.begin(ORPHANS) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: shell.run(f"exit {n}")["exit_code"], range(100)))
    assert codes == list(range(100))
    assert [shell.wait(one)["exit_code"] for one in orphans] == [0] * 4
    assert eventually(lambda: children(pid) == [])


def test_an_orphan_is_still_ended_with_its_command(daemon: tuple[Daemon, int]) -> None:
    shell, pid = Shell(daemon[0]), daemon[1]
    command = shell.begin("(setsid sleep 1000 >/dev/null 2>&1 &); sleep 0.1")
    assert shell.wait(command)["exit_code"] == 0
    assert len(children(pid)) == 1
    assert shell.post(command, "kill") == 204
    assert eventually(lambda: children(pid) == [])
    assert zombies(pid) == 0


def test_what_a_command_has_made_its_sibling_is_reaped_and_robs_nobody(daemon: tuple[Daemon, int]) -> None:
    shell, pid = Shell(daemon[0]), daemon[1]
    with ThreadPoolExecutor(4) as pool:
        codes = pool.map(lambda _: shell.exec(sys.executable, "-c", SIBLINGS).json()["exit_code"], range(8))
        assert list(codes) == [0] * 8
    assert shell.run("exit 3")["exit_code"] == 3
    assert eventually(lambda: shell.exec("true").status == 200 and children(pid) == [])
