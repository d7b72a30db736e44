"""What becomes of handles when the daemon ends, dies and comes back."""

import os
import re

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
    assert eventually(lambda: not runs(pid))


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
    damaged |= dict.fromkeys((20, 21), "")
    (place / "mch_20").mkdir()
    (place / "mch_21").symlink_to(kept.id)
    (place / "mch_unfinished.new").write_text("half of")
    daemon.restart()
    assert records(daemon) == sorted([*(f"mch_{number}" for number in damaged), kept.id])
    assert asked(daemon, "conway", "mch_3").status == 404
    assert [one["id"] for one in daemon.call("GET", "/v1/machines").json()["items"]] == [kept.id]


NO_TIMES = ["NaN", "Infinity", "-Infinity", "1e999", "1e300", "-1", '"1"', "1" * 400]


def test_a_time_or_a_mark_that_there_is_not_damages_a_record(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    kept, place = Machine(daemon, timeout_ms=600_000), daemon.root / "workspace/.nullspace/handles"
    daemon.kill9()
    told = (place / kept.id).read_text()
    for number, value in enumerate(NO_TIMES):
        for at, key in enumerate(("expires", "created", "stopped", "lifetime", "first")):
            spoilt = re.sub(f'"{key}": [^,}}]+', f'"{key}": {value}', told).replace(kept.id, f"mch_{number}_{at}")
            (place / f"mch_{number}_{at}").write_text(spoilt)
    daemon.restart()
    assert [one["id"] for one in daemon.call("GET", "/v1/machines").json()["items"]] == [kept.id]
    assert len(records(daemon)) == 1 + 5 * len(NO_TIMES)


STUBBORN = "trap '' TERM; while :; do sleep 0.05; done"


def test_a_start_does_not_wait_for_what_one_that_died_has_left(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--standalone", "--processes-grace", str(3 * UNIT))
    machine = Machine(daemon)
    pid = machine.begin(STUBBORN)
    daemon.kill9()
    daemon.restart()
    new = machine.begin("sleep 600")
    assert runs(pid)
    assert machine("DELETE").status == 200
    assert [runs(pid), runs(new)] == [False, False]


def test_what_was_left_is_found_again_by_the_next_and_the_one_after(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--standalone", "--processes-grace", str(600 * UNIT))
    machine = Machine(daemon)
    pids = [machine.begin(STUBBORN)]
    for _ in range(2):
        daemon.kill9()
        daemon.restart()
        pids.append(machine.begin(STUBBORN))
    assert all(map(runs, pids))
    daemon.kill9()
    daemon.restart(*FLAGS)
    spared = machine.begin("sleep 600")
    assert eventually(lambda: not any(map(runs, pids)))
    assert runs(spared)


@pytest.mark.parametrize("flags", [(), ("--keep-processes",)])
def test_what_one_that_died_has_left_ends_with_a_start_without_stand_alone_mode(
    start_daemon: StartDaemon, flags: tuple[str, ...]
) -> None:
    daemon = start_daemon(*FLAGS)
    machine = Machine(daemon)
    pid = machine.begin("setsid sleep 600 & exec sleep 600")
    daemon.kill9()
    daemon.restart("--processes-grace", "0.3", *flags)
    assert eventually(lambda: runs(pid) == bool(flags))
    assert any("left running in handles" in line["message"] for line in daemon.log()) != bool(flags)
    daemon.restart(*FLAGS)
    assert eventually(lambda: not runs(pid))
    assert machine.status == "running"


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
