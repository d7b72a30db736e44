"""Everything that a program started is found and ended, however it tries to get away."""

import os
import resource
import secrets
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.linux.descendants import LOCKS, RSS, TOP, end_all, find, signal_all
from agentd.linux.identity import Identity
from agentd.linux.spawn import Child, Settings, spawn
from agentd.linux.steps import finish
from tests.conftest import UNIT
from tests.process.harness.deaf import deaf
from tests.process.harness.waiting import eventually
from tests.unit.linux.conftest import BOB

Start = Callable[..., Child]

# Its first thread ends (exit(2)), and the process goes on.
HEADLESS = """python3 -c '
import ctypes, os, platform, threading, time
threading.Thread(target=time.sleep, args=[1000]).start()
print(flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
' & wait"""
ESCAPES = {
    "headless": HEADLESS,
    "child": "sleep 1000 & echo; wait",
    "orphan": "(sleep 1000 & ) ; echo; sleep 1000",
    "session": "setsid sleep 1000 & echo; wait",
    "daemon": "(setsid sh -c 'sleep 1000 & echo; exec sleep 1000' &) ; sleep 1000",
    "stubborn": "trap '' TERM HUP INT; (setsid sleep 1000 &); echo; while :; do sleep 1000; done",
    "cleaned": "env -i setsid /bin/sh -c 'cd /; umask 0; exec sleep 1000' </dev/null >/dev/null 2>&1 & echo; wait",
    "spoilt": "(ulimit -m 5000; ulimit -x 5000; sleep 1000 & echo; wait) & wait",
}


@pytest.fixture
def start(top: Path) -> Iterator[Start]:
    """Starts a shell's script as bob, with a mark; returns once it has written something."""
    cwd, null = os.open(top / "workspace", os.O_PATH), os.open("/dev/null", os.O_RDWR)
    started: list[Child] = []

    def start(script: str, shell: str = "bash") -> Child:
        reader, writer = os.pipe()
        steps = spawn(
            [shell, "-c", script],
            identity=Identity(BOB, BOB, (BOB,), "bob", "/"),
            cwd=cwd,
            env={"PATH": os.environ["PATH"]},
            fds={0: null, 1: writer, 2: null},
            settings=Settings(512),
            mark=secrets.randbits(50) << 10,
        )
        started.append(child := finish(steps))
        os.close(writer)
        assert select.select([reader], [], [], 10 * UNIT)[0]
        os.close(reader)
        return child

    yield start
    for child in started:
        end_all([child.mark], [child.pid], 0)
        os.waitpid(child.pid, 0)
        child.close()
    for fd in (cwd, null):
        os.close(fd)


@pytest.mark.parametrize("kind", ESCAPES)
def test_nothing_gets_away(start: Start, kind: str) -> None:
    child = start(ESCAPES[kind])
    assert len(find([child.mark], [child.pid])) >= 2
    end_all([child.mark], [child.pid], grace=0.05 * UNIT)
    assert find([child.mark], [child.pid]) == {}
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT) is not None


def test_what_a_leader_left_behind_is_found_after_its_end(start: Start) -> None:
    child = start("(setsid sleep 1000 >/dev/null &); echo")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert len(find([child.mark], [])) == 1
    end_all([child.mark], [], grace=10 * UNIT)
    assert find([child.mark], []) == {}


def test_a_storm_of_forks_is_calmed(start: Start) -> None:
    child = start("f() { while :; do (setsid sleep 100 &) ; (f &) ; sleep 0.02; done; }; ulimit -u 500; f & echo; wait")
    assert eventually(lambda: len(find([child.mark], [])) > 40)
    end_all([child.mark], [child.pid], grace=0)
    assert find([child.mark], [child.pid]) == {}


def test_one_who_ends_at_once_is_not_waited_for_longer(start: Start) -> None:
    child = start("setsid sleep 1000 & echo; wait")
    begun = time.monotonic()
    end_all([child.mark], [child.pid], grace=60 * UNIT)
    assert time.monotonic() - begun < 10 * UNIT


def test_a_grace_lets_the_last_work_be_done(start: Start, top: Path) -> None:
    child = start("trap 'sleep 0.2; echo done > done; exit' TERM; echo; while :; do sleep 0.01; done")
    end_all([child.mark], [child.pid], grace=20 * UNIT)
    assert (top / "workspace/done").read_text() == "done\n"


def test_others_are_left_alone(start: Start) -> None:
    child, other = start("sleep 1000 & echo; wait"), start("sleep 1000 & echo; wait")
    end_all([child.mark], [child.pid], grace=0)
    assert len(find([other.mark], [])) == 2
    assert os.getpid() not in find([0], [])


def test_a_signal_reaches_those_who_left_too(start: Start, top: Path) -> None:
    script = "trap 'echo > got; exit' USR1; echo; while :; do sleep 0.01; done"
    child = start(f"setsid bash -c \"{script}\" & trap '' USR1; wait")
    signal_all([child.mark], [child.pid], signal.SIGUSR1)
    assert eventually((top / "workspace/got").exists)


def test_a_mark_is_two_limits_that_nobody_feels_and_the_daemon_has_none(start: Start) -> None:
    child = start("echo; sleep 1000")
    lines = Path(f"/proc/{child.pid}/limits").read_text().splitlines()
    found = {line[:25].strip(): line.split()[-3:-1] for line in lines if line[25:].split()[0].isdigit()}
    assert found["Max resident set"] == [str(child.mark)] * 2
    assert found["Max file locks"] == [str(TOP - child.mark)] * 2
    assert {resource.getrlimit(number)[1] for number in (RSS, LOCKS)} == {resource.RLIM_INFINITY}


def test_a_mark_cannot_be_taken_away(start: Start) -> None:
    child = start("! ulimit -m unlimited && ! ulimit -x unlimited && echo && sleep 1000")
    assert child.pid in find([child.mark], [])


def test_a_mark_cannot_be_made_another_s(start: Start) -> None:
    other = start("echo; sleep 1000")
    start(f"ulimit -m {other.mark >> 10}; ulimit -x {TOP - other.mark}; echo; exec sleep 1000")
    assert find([other.mark], []).keys() == {other.pid}


def test_one_with_a_spoilt_mark_is_whose_its_ancestor_is(start: Start) -> None:
    child = start("(ulimit -m 5; ulimit -x 5; echo; exec sleep 1000) & wait")
    others = [start("echo; sleep 1000") for _ in range(4)]
    for other in others:
        end_all([other.mark], [other.pid], grace=0)
    assert len(find([child.mark], [])) == 2


@pytest.mark.slow
def test_what_sleeps_in_a_file_system_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with deaf(tmp_path) as asked:
        pid = os.posix_spawnp("ls", ("ls", str(tmp_path / "x")), os.environ)
        assert asked.wait(10 * UNIT)
        began = time.monotonic()
        end_all([], [pid], 0)
        assert 5 < time.monotonic() - began < 20 * UNIT
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
