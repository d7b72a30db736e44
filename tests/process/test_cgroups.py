"""A daemon that may make cgroups: each process has one, from which nothing gets away.

What bounds memory needs a hierarchy of version 2 that has the controller for it; elsewhere that is skipped.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.alone import Machine, runs
from tests.conftest import Daemon
from tests.process.harness.waiting import eventually
from tests.processes import Shell, alive
from tests.tables import ALONE

# First of all it spoils its mark, which root may be able to take away, and leaves all its ancestors behind.
AWAY = "for i in 5 unlimited; do ulimit -m $i; ulimit -x $i; done; (setsid sleep 1000 &)"
UNFINDABLE = f"exec bash -c '{AWAY}' >/dev/null 2>&1"
FAST = "for i in 1 2 3 4; do (setsid sleep 1000 &); done; exec sleep 1000"
# Each of them has less than the limit.
HOG = "for i in 1 2 3 4; do head -c 100M /dev/zero | tail -c 99M | sleep 1000 & done; sleep 1000"


def hierarchy() -> Path | None:
    """Where one of version 2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.partition(" - ")[2].startswith("cgroup2 "):
            return Path(line.split()[4])
    return None


def empty(directory: Path) -> None:
    for one in directory.iterdir():
        if one.is_dir():
            one.rmdir()
    directory.rmdir()


@pytest.fixture
def own() -> Iterator[Path]:
    """A cgroup of the test's."""
    top = hierarchy()
    if top is None or os.geteuid():
        pytest.skip("no cgroup hierarchy of version 2, or no right to it")
    own = top / f"agentd-test-{secrets.token_hex(6)}"
    try:
        own.mkdir()
    except OSError:
        pytest.skip("a cgroup cannot be made here")
    yield own
    assert eventually(lambda: not (own / "agentd/cgroup.procs").read_text())
    empty(own)


@pytest.fixture
def daemon(own: Path, tmp_path: Path) -> Iterator[Daemon]:
    """One to which a cgroup is delegated."""

    class Inside(Daemon):
        # The second time others cannot enter the upper one, whose controllers are handed on.
        prefix = (
            "sh",
            "-c",
            f'for i in {own}/agentd {own}; do echo $$ >$i/cgroup.procs && break; done; exec "$@"',
            "sh",
        )

    (tmp_path / "root").mkdir()
    flags = ("--processes-cgroup", "auto", "--processes-grace", "0.1", *ALONE)
    daemon = Inside(tmp_path / "root", tmp_path / "stderr", flags, {})
    yield daemon
    daemon.term()


def leaves(own: Path) -> list[Path]:
    return sorted(own.glob("run-*"))


def groups(own: Path) -> list[set[int]]:
    return [{int(pid) for pid in (leaf / "cgroup.procs").read_text().split()} for leaf in leaves(own)]


def test_what_a_handle_has_started_ends_with_it_and_nothing_of_another(daemon: Daemon) -> None:
    one, other, shell = Machine(daemon), Machine(daemon), Shell(daemon)
    spared = [other.begin("exec sleep 1000"), shell.begin("exec sleep 1000")]
    one.run(UNFINDABLE)
    assert len(alive(daemon.root)) == len(spared) + 1
    assert one("DELETE").status == 200
    assert sorted(alive(daemon.root)) == sorted(spared)
    assert all(map(runs, spared))


def test_every_process_has_a_cgroup_of_its_own_until_its_end(own: Path, daemon: Daemon) -> None:
    shell = Shell(daemon)
    pids = [shell.begin(FAST) for _ in range(3)]
    assert eventually(lambda: [len(group) for group in groups(own)] == [5, 5, 5])
    assert all(len(group & {*pids}) == 1 for group in groups(own))
    for pid in pids:
        assert shell.post(pid, "kill") == 204
    assert leaves(own) == []
    assert daemon.call("GET", "/v1/capabilities").json()["cgroup"] is True


def test_a_process_is_in_its_cgroup_from_its_first_instruction(own: Path, daemon: Daemon) -> None:
    said = {Shell(daemon).exec("grep", "^0:", "/proc/self/cgroup").json()["stdout"] for _ in range(20)}
    assert {line.split("/")[-2] for line in said} == {own.name}
    assert all(line.split("/")[-1].startswith("run-") for line in said)
    assert len(said) == 20


def test_one_that_cannot_be_found_is_killed_all_the_same(own: Path, daemon: Daemon) -> None:
    shell = Shell(daemon)
    pid = shell.begin(UNFINDABLE)
    assert shell.wait(pid)["exit_code"] == 0
    assert len(alive(daemon.root)) == 1
    assert shell.post(pid, "kill") == 204
    assert (alive(daemon.root), leaves(own)) == ([], [])


def test_at_the_daemon_s_end_what_cannot_be_found_ends_too(own: Path, daemon: Daemon) -> None:
    assert Shell(daemon).run(UNFINDABLE)["exit_code"] == 0
    assert len(alive(daemon.root)) == 1
    assert daemon.term() == 0
    assert (alive(daemon.root), leaves(own)) == ([], [])


def test_what_is_left_after_a_crash_is_removed_by_the_next_daemon(own: Path, daemon: Daemon) -> None:
    Shell(daemon).begin("sleep 0.3")
    daemon.kill9()
    assert eventually(lambda: all(not (leaf / "cgroup.procs").read_text() for leaf in leaves(own)))
    assert len(leaves(own)) == 1
    daemon.restart()
    assert leaves(own) == []


def test_memory_is_bounded_for_all_that_a_command_starts(own: Path, daemon: Daemon) -> None:
    if "memory" not in (own / "cgroup.subtree_control").read_text().split():
        pytest.skip("this hierarchy has no controller of memory")
    shell = Shell(daemon)
    pid = shell.begin(HOG, limits={"memory_bytes": 256 << 20, "wall_secs": 100})
    assert shell.wait(pid)["signal"] == "SIGKILL"
    assert alive(daemon.root) == []
    assert shell.run("echo on")["stdout"] == "on\n"


def test_processes_are_bounded_for_all_that_a_command_starts(own: Path, daemon: Daemon) -> None:
    if "pids" not in (own / "cgroup.subtree_control").read_text().split():
        pytest.skip("this hierarchy has no controller of processes")
    shell = Shell(daemon)
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo all"
    assert shell.run(script, limits={"processes": 5})["stdout"] == ""
    assert shell.run(script, limits={"processes": 50})["stdout"] == "all\n"


def test_where_there_is_none_the_daemon_says_so_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    daemon = Daemon(tmp_path / "root", tmp_path / "stderr", ("--processes-cgroup", "auto"), {})
    try:
        said = [line["message"] for line in daemon.log() if "no cgroups" in line.get("message", "")]
        if daemon.call("GET", "/v1/capabilities").json()["cgroup"]:
            pytest.skip("here there is one")
        assert said
        assert Shell(daemon).run("echo on")["stdout"] == "on\n"
    finally:
        daemon.term()
