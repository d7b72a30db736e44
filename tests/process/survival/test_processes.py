"""Processes and terminals live on when the daemon is killed or replaced, and nobody who reads them misses a byte."""

import os
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.conftest import UNIT, StartDaemon
from tests.process.harness.manager import Managed, Manager
from tests.process.harness.waiting import eventually
from tests.processes import Shell, alive
from tests.terminals import lives

MIB = 1 << 20
PART = "seq $((i*1000+1)) $((i*1000+1000))"
FLAGS = ("--processes-grace", "0.1")
COUNT = "i=0; while [ $i -lt {0} ]; do i=$((i+1)); echo $i; {1} done"


def numbers(last: int) -> bytes:
    return "".join(f"{number}\n" for number in range(1, last + 1)).encode()


def told(shell: Shell, pid: int, cursor: int = 0, most: int = 1 << 30) -> tuple[list[Any], int]:
    """The next events but the first, as many as there are before the end, and the cursor behind them."""
    found: list[Any] = []
    with closing(shell.follow(pid, cursor)) as stream:
        for event in stream:
            cursor = event["cursor"]
            if event["type"] != "started":
                found.append(event)
            if event["type"] == "exit" or len(found) >= most:
                break
    return found, cursor


def text(events: list[Any]) -> bytes:
    return "".join(event.get("data", "") for event in events).encode()


def output(shell: Shell, pid: int, stream: str = "stdout", *, follow: bool = True) -> bytes:
    return shell.call("GET", f"/processes/{pid}/output?stream={stream}&follow={str(follow).lower()}").body


def test_a_process_is_listed_as_it_was(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin("sleep 1000", tags={"a": "b"})
    before = shell.detail(pid)
    daemon.die()
    assert shell.detail(pid) == before
    assert [one["pid"] for one in shell.call("GET", "/processes?tag=a%3Db").json()] == [pid]


def test_a_reader_goes_on_from_its_cursor_without_loss_or_repetition(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin(COUNT.format(3000, "[ $((i % 100)) -gt 0 ] || sleep 0.05;"))
    seen, cursor = b"", 0
    for _ in range(2):
        events, cursor = told(shell, pid, cursor, 5)
        seen += text(events)
        daemon.die()
    assert seen + text(told(shell, pid, cursor)[0]) == numbers(3000)


@pytest.mark.slow
def test_output_is_complete_and_in_order_whenever_the_daemon_is_killed(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin(f"for i in $(seq 0 299); do {PART}; {PART} >&2; done")
    for number in range(3):
        threading.Event().wait((0.03 + 0.07 * number) * UNIT)
        daemon.die()
    assert output(shell, pid) == output(shell, pid, "stderr") == numbers(300_000)


def test_both_streams_keep_their_order(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin("for i in $(seq 300); do echo $i; echo $i >&2; done; head -c 300000 /dev/zero; echo end >&2")
    shell.wait(pid)
    before = told(shell, pid)
    daemon.die()
    assert told(shell, pid) == before
    assert {event["type"] for event in before[0]} == {"stdout", "stderr", "exit"}


@pytest.mark.slow
def test_what_is_too_long_to_be_kept_is_told_of_exactly(manage: Callable[..., Managed]) -> None:
    daemon = manage("--processes-output-bytes", "2097152")
    shell = Shell(daemon)
    pid = shell.begin("yes | head -c 30M")
    for _ in range(2):
        assert eventually(lambda: shell.detail(pid)["stdout_bytes"] > 5 * MIB)
        daemon.die()
    assert shell.wait(pid)["stdout_bytes"] == 30 * MIB
    events, cursor = told(shell, pid)
    gone = sum(event.get("bytes", 0) for event in events)
    assert (gone, len(text(events)), cursor) == (shell.detail(pid)["dropped_bytes"], 30 * MIB - gone, 30 * MIB)
    assert gone < 29 * MIB
    assert daemon.term() == 0


def test_input_goes_on_where_it_was(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin("cat; echo end")
    assert shell.post(pid, "stdin", data="one ") == 204
    daemon.die()
    assert shell.detail(pid)["stdin_bytes"] == 4
    assert shell.post(pid, "stdin", data="one two", offset=0, close=True) == 204
    assert shell.wait(pid)["running"] is False
    assert output(shell, pid) == b"one twoend\n"


def test_the_end_of_input_that_came_before_has_come(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin("cat; sleep 1000")
    assert shell.post(pid, "stdin", data="all", close=True) == 204
    daemon.die()
    assert shell.post(pid, "stdin", data="more") == 409


def test_everything_that_a_process_started_is_ended_with_it(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin("trap '' TERM; setsid sleep 1000 & sleep 1000 & while :; do sleep 0.1; done")
    assert eventually(lambda: len(alive(daemon.root)) >= 3)
    daemon.die()
    assert shell.post(pid, "kill") == 204
    assert eventually(lambda: alive(daemon.root) == [])
    assert shell.wait(pid)["running"] is False


@pytest.mark.parametrize("killed", [False, True])
def test_the_end_of_a_process_is_noticed(daemon: Managed, *, killed: bool) -> None:
    shell = Shell(daemon)
    pid = shell.begin("read line; exit 3")
    daemon.die()
    if killed:
        assert shell.post(pid, "signal", signal="KILL") == 204
    else:
        assert shell.post(pid, "stdin", data="go\n") == 204
    ended = shell.wait(pid)
    known = ("signalled", 137, "SIGKILL") if killed else ("exited", 3, None)
    assert (ended["reason"], ended["exit_code"], ended["signal"]) in (known, ("lost", 255, None))


def test_what_ended_while_there_was_no_daemon_has_ended(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin("sleep 0.2; echo done")
    daemon.kill9()
    assert eventually(lambda: not lives(pid))
    daemon.restart()
    assert shell.wait(pid)["reason"] in ("exited", "lost")
    assert output(shell, pid) == b"done\n"


def test_what_has_ended_is_remembered(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.run("echo out; echo err >&2; exit 4")["pid"]
    before = shell.detail(pid)
    daemon.die()
    assert shell.detail(pid) == before
    assert (shell.logs(pid)["stdout"], shell.logs(pid)["exit_code"]) == ("out\n", 4)


def test_a_repeated_request_finds_what_the_first_has_started(daemon: Managed) -> None:
    shell = Shell(daemon)
    request = {"key": "k", "shell": True, "envs": {"A": "1"}, "background": True}
    pid = shell.exec("sleep 0.5; echo $A", **request).json()["pid"]
    daemon.die()
    assert shell.exec("sleep 0.5; echo $A", **request).json()["pid"] == pid
    assert shell.exec("sleep 0.5; echo $A", **{**request, "envs": {"A": "2"}}).status == 422
    done = shell.exec("sleep 0.5; echo $A", **request).json()
    assert done == {"pid": pid}
    assert output(shell, pid) == b"1\n"


def test_a_timeout_is_kept(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin("sleep 1000", limits={"wall_secs": 1.0})
    daemon.die()
    assert shell.wait(pid)["reason"] == "timed_out"


def test_a_command_is_not_told_that_its_input_has_ended_where_it_has_not(daemon: Managed) -> None:
    shell = Shell(daemon)
    pid = shell.begin("sleep 0.1; exec wc -c", stdin="x" * 900_000)
    daemon.die()
    assert shell.wait(pid)["reason"] == "lost"
    assert output(shell, pid) == b""


def test_what_does_not_survive_is_ended_by_the_next_daemon(daemon: Managed) -> None:
    shell = Shell(daemon)
    session = "/sessions/" + shell.call("POST", "/sessions", {}).json()["session_id"]
    shell.call("POST", session + "/exec", {"command": "setsid sleep 1000 & sleep 1000", "run_async": True})
    assert eventually(lambda: len(alive(daemon.root)) >= 3)
    daemon.die()
    assert eventually(lambda: alive(daemon.root) == [])
    assert shell.call("GET", session).status == 404


def test_an_orderly_end_ends_everything(daemon: Managed, manager: Manager) -> None:
    shell = Shell(daemon)
    shell.begin("sleep 1000")
    assert shell.run("true")["exit_code"] == 0
    assert manager.names() != []
    assert daemon.term() == 0
    assert (alive(daemon.root), manager.names()) == ([], [])


def test_what_is_to_be_kept_is_kept_beyond_an_orderly_end(manage: Callable[..., Managed]) -> None:
    daemon = manage("--keep-processes")
    shell = Shell(daemon)
    pid = shell.begin("cat; echo end")
    assert shell.post(pid, "stdin", data="before ") == 204
    assert daemon.term() == 0
    daemon.restart(*FLAGS)
    assert shell.post(pid, "stdin", data="after ", close=True) == 204
    shell.wait(pid)
    assert output(shell, pid) == b"before after end\n"
    assert daemon.term() == 0


def test_a_process_that_the_store_has_no_room_for_ends_with_the_daemon(daemon: Managed, manager: Manager) -> None:
    shell = Shell(daemon)
    kept = shell.begin("exec sleep 1000")
    assert manager.names() != []
    manager.full = True
    shell.begin("sleep 1001; true")
    daemon.die()
    assert [one["pid"] for one in shell.call("GET", "/processes").json()] == [kept]
    assert eventually(lambda: alive(daemon.root) == [kept])


def test_a_damaged_entry_costs_one_process(daemon: Managed, manager: Manager) -> None:
    shell = Shell(daemon)
    for _ in range(8):
        shell.begin("sleep 1000")
    fine = shell.begin("exec sleep 1000")
    daemon.kill9()
    names = sorted({name for name in manager.names() if not name.endswith("-i")}, key=[*manager.store].index)
    for how, name in enumerate(names[:-1]):
        damage(manager.store[name], how)
    daemon.restart()
    assert [one["pid"] for one in shell.call("GET", "/processes").json()] == [fine]
    assert eventually(lambda: alive(daemon.root) == [fine])


def damage(fds: list[int], how: int) -> None:
    """In one of several ways: cut, of another version, nonsense in the record and in the account; a part is missing."""
    file = fds[0]
    match how:
        case 0:
            os.truncate(file, 100)
        case 1:
            os.pwrite(file, b"\xff" * 8, 0)
        case 2:
            os.pwrite(file, b"{", os.fstat(file).st_size - 1)
        case 3:
            os.pwrite(file, b"\xff" * 4096, 0)
        case 4:
            os.pwrite(file, b"\x01" + bytes(7), 8 * 6)
        case 5:
            os.close(fds.pop())
        case 6:
            os.pwrite(file, b"\xff", os.pread(file, 4 * MIB, 0).index(b"sleep 1000"))
        case _:
            os.close(fds.pop())
            os.close(fds.pop(1))


@pytest.mark.parametrize("flags", [(), ("--keep-processes",)])
def test_without_a_store_what_a_killed_daemon_left_running_is_ended_unless_it_is_to_be_kept(
    start_daemon: StartDaemon, flags: tuple[str, ...]
) -> None:
    daemon = start_daemon(*FLAGS, *flags)
    pid = Shell(daemon).begin("trap '' PIPE TERM; exec sleep 1000", user="root")
    daemon.kill9()
    assert alive(daemon.root) == [pid]
    daemon.restart()
    daemon.term()
    daemon.restart()
    assert eventually(lambda: alive(daemon.root) == ([pid] if flags else []))
    if flags:
        os.kill(pid, 9)


def test_what_was_kept_on_purpose_is_not_ended_by_a_later_daemon(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, "--keep-processes")
    pid = Shell(daemon).begin("exec sleep 1000")
    assert daemon.term() == 0
    daemon.restart(*FLAGS)
    assert daemon.term() == 0
    assert alive(daemon.root) == [pid]
    os.kill(pid, 9)


def test_what_a_daemon_that_died_was_ending_is_ended_by_the_next(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--processes-grace", "1000")
    Shell(daemon).begin("trap '' PIPE TERM; while :; do sleep 0.1; done", user="root")
    for flags in ((), FLAGS):
        daemon.kill9()
        daemon.restart(*flags)
    assert eventually(lambda: alive(daemon.root) == [])


@pytest.mark.parametrize("content", [b"", b"nonsense \xff 12", b"0\n", b"9" * 4096])
def test_a_damaged_list_of_marks_is_no_reason_not_to_start(start_daemon: StartDaemon, content: bytes) -> None:
    daemon = start_daemon(*FLAGS)
    daemon.kill9()
    (daemon.root / "workspace/.nullspace/marks").write_bytes(content)
    daemon.restart()
    assert Shell(daemon).run("echo yes")["stdout"] == "yes\n"
