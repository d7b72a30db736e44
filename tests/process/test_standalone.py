"""What becomes of handles when the daemon ends, dies and comes back."""

import os

import pytest

from tests.alone import FLAGS, Machine, asked, records, runs
from tests.conftest import UNIT, Daemon, StartDaemon
from tests.process.harness.waiting import eventually

KINDS = {"killed": Daemon.kill9, "ended": Daemon.term}


@pytest.mark.parametrize("kind", KINDS)
def test_handles_come_back_as_they_were_and_nothing_runs_in_them(start_daemon: StartDaemon, kind: str) -> None:
    daemon = start_daemon(*FLAGS)
    machine = Machine(daemon, cwd="/workspace/mine", envs={"WHO": "me"}, metadata={"a": "\udcff"})
    stopped = Machine(daemon)
    stopped("POST", "/hibernate")
    pid, before = machine.begin("setsid sleep 600 & sleep 600"), machine("GET").json()
    KINDS[kind](daemon)
    daemon.restart()
    assert eventually(lambda: not runs(pid))
    changes = {"last_active_at": "", "remaining_ms": 0}
    assert machine("GET").json() | changes == before | changes
    assert (machine("GET", "/processes").json(), stopped.status) == ([], "paused")
    assert machine.run("pwd; echo $WHO") == f"{daemon.root}/workspace/mine\nme\n"


def test_what_may_outlive_the_daemon_still_ends_with_its_handle(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--keep-processes")
    machine = Machine(daemon)
    pid = machine.begin("exec sleep 600")
    daemon.restart()
    assert runs(pid)
    machine("DELETE")
    assert not runs(pid)


def test_one_whose_time_was_up_meanwhile_is_gone(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    machine = Machine(daemon, timeout_ms=int(2000 * UNIT))
    pid = machine.begin("exec sleep 600")
    daemon.kill9()
    daemon.restart()
    assert eventually(lambda: machine.status == "machine_not_found")
    assert eventually(lambda: not runs(pid))
    assert records(daemon) == []


def test_one_that_cannot_come_back_is_stopped_and_says_why_when_it_is_started(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    machine, other = Machine(daemon, cwd="/workspace/mine"), Machine(daemon)
    daemon.kill9()
    (daemon.root / "workspace/mine").rmdir()
    (daemon.root / "workspace/mine").touch()
    daemon.restart()
    assert (machine.status, other.status) == ("paused", "running")
    assert machine("POST", "/resume").json()["code"] == "not_a_directory"
    (daemon.root / "workspace/mine").unlink()
    assert machine("POST", "/resume").json()["status"] == "running"


@pytest.mark.parametrize("flags", [(), ("--keep-processes",)])
def test_what_ran_in_one_that_cannot_come_back_is_ended(start_daemon: StartDaemon, flags: tuple[str, ...]) -> None:
    daemon = start_daemon(*FLAGS, *flags)
    pid = Machine(daemon, cwd="/workspace/mine").begin("exec sleep 600")
    daemon.kill9()
    (daemon.root / "workspace/mine").rmdir()
    (daemon.root / "workspace/mine").touch()
    daemon.restart()
    assert not runs(pid)


def test_a_record_that_cannot_be_read_is_left_as_it_is(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    kept, deleted = Machine(daemon), Machine(daemon)
    deleted("DELETE")
    daemon.kill9()
    place = daemon.root / "workspace/.nullspace/handles"
    copied = (place / kept.id).read_text()
    damaged = dict(enumerate(("", "{", "[]", '{"id": "mch_3"}', "\0" * 100, "[" * 200_000, copied)))
    for number, content in damaged.items():
        (place / f"mch_{number}").write_text(content)
    (place / "mch_unfinished.new").write_text("half of")
    daemon.restart()
    assert records(daemon) == sorted([*(f"mch_{number}" for number in damaged), kept.id])
    assert asked(daemon, "conway", "mch_3").status == 404
    assert [one["id"] for one in daemon.call("GET", "/v1/machines").json()["items"]] == [kept.id]


def test_without_stand_alone_mode_they_wait(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    machine = Machine(daemon)
    daemon.term()
    daemon.restart("--listen", "127.0.0.1:0")
    assert machine("GET").status == 404
    daemon.term()
    daemon.restart(*FLAGS)
    assert machine.status == "running"


def test_records_are_for_the_daemon_alone(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    machine = Machine(daemon, envs={"SECRET": "s"})
    place = daemon.root / "workspace/.nullspace/handles"
    assert (place.stat().st_mode & 0o777, (place / machine.id).stat().st_mode & 0o777) == (0o700, 0o600)
    assert os.stat(place).st_uid == os.geteuid()
