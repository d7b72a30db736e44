"""Output as it comes: events with cursors, raw bytes, and what becomes of them when readers or the daemon go away."""

import base64
import http.client
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ANSWER_SECONDS, Daemon
from tests.process.harness.waiting import eventually
from tests.processes import Shell, alive, running, with_bob

MIB = 1 << 20


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = with_bob(tmp_path_factory.mktemp("streams"), "--processes-output-bytes", "2MiB")
    yield daemon
    assert daemon.term() == 0


@pytest.fixture
def shell(sandbox: Daemon) -> Shell:
    return Shell(sandbox)


def text_of(events: list[Any], kind: str = "stdout") -> str:
    return "".join(event["data"] for event in events if event["type"] == kind)


def test_a_command_is_told_of_from_its_start_to_its_end(shell: Shell) -> None:
    script = "echo one; sleep 0.05; echo two >&2; exit 4"
    events = list(shell.events("POST", "/exec/stream", {"command": script, "shell": True}))
    assert [event["type"] for event in events] == ["started", "stdout", "stderr", "exit"]
    assert [event["cursor"] for event in events] == [0, 4, 8, 8]
    assert (events[1]["data"], events[2]["data"], events[2]["offset"]) == ("one\n", "two\n", 0)
    assert (events[3]["exit_code"], events[3]["reason"]) == (4, "exited")


def test_events_come_while_the_command_runs(shell: Shell) -> None:
    pid = shell.begin("echo ready; read line; echo $line")
    events = shell.follow(pid)
    assert [next(events)["type"], next(events)["data"]] == ["started", "ready\n"]
    shell.post(pid, "stdin", data="go\n")
    assert [next(events)["data"], next(events)["type"]] == ["go\n", "exit"]


def test_a_stream_that_was_cut_goes_on_at_any_cursor_it_gave(shell: Shell) -> None:
    pid = shell.begin("for i in 1 2 3 4 5 6; do printf 'é%s' $i; sleep 0.02; printf '€%s' $i >&2; sleep 0.02; done")
    whole = list(shell.follow(pid))
    for at in range(1, len(whole)):
        rest = list(shell.follow(pid, whole[at - 1]["cursor"]))
        for kind in ("stdout", "stderr"):
            assert text_of(whole[:at], kind) + text_of(rest, kind) == text_of(whole, kind)
    assert text_of(whole) == "é1é2é3é4é5é6"


def test_a_character_that_comes_in_two_pieces_is_told_whole(shell: Shell) -> None:
    pid = shell.begin(
        r"printf '\342\202'; read l; printf '\254'; read l; printf '\303'; echo x >&2; read l; printf '\251'"
    )
    for _ in range(3):
        shell.post(pid, "stdin", data="\n")
    events = list(shell.follow(pid))
    assert text_of(events).startswith("€")
    exact = b"".join(
        base64.b64decode(event["data_base64"]) if "data_base64" in event else event["data"].encode()
        for event in events
        if event["type"] == "stdout"
    )
    assert exact == "€é".encode()


def test_server_sent_events_carry_their_cursor_as_id(shell: Shell) -> None:
    pid = shell.begin("echo one; echo two >&2")
    shell.wait(pid)
    answer = shell.call("GET", f"/processes/{pid}/stream", None, {"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, *_, last = answer.body.decode().strip().split("\n\n")
    assert first.splitlines()[:2] == ["event: started", "id: 0"]
    assert last.splitlines()[:2] == ["event: exit", "id: 8"]
    resumed = shell.call("GET", f"/processes/{pid}/stream", None, {"Accept": "text/event-stream", "Last-Event-ID": "4"})
    assert b"one" not in resumed.body
    assert b"two" in resumed.body


def test_what_is_no_longer_kept_is_told_of_as_a_gap(shell: Shell) -> None:
    pid = shell.begin("seq 1000000")
    shell.wait(pid)
    events = list(shell.follow(pid))
    (gap,) = (event for event in events if event["type"] == "gap")
    truth = "".join(f"{n}\n" for n in range(1, 1_000_001))
    assert len(text_of(events)) + gap["bytes"] == len(truth)
    assert truth.startswith(text_of(events[: events.index(gap)]))
    assert truth.endswith(text_of(events[events.index(gap) :]))
    assert shell.detail(pid)["dropped_bytes"] == gap["bytes"]


def test_raw_bytes_come_from_an_offset_on(shell: Shell) -> None:
    pid = shell.begin(r"printf 'a\377b\0c'; echo err >&2")
    shell.wait(pid)
    assert shell.call("GET", f"/processes/{pid}/output").body == b"a\xffb\0c"
    assert shell.call("GET", f"/processes/{pid}/output?offset=3").body == b"\0c"
    assert shell.call("GET", f"/processes/{pid}/output?offset=99").body == b""
    assert shell.call("GET", f"/processes/{pid}/output?stream=stderr&follow=true").body == b"err\n"


def test_raw_bytes_that_are_gone_are_refused_with_the_place_to_go_on(shell: Shell) -> None:
    pid = shell.begin("head -c 9M /dev/zero | tr '\\0' x")
    shell.wait(pid)
    refused = shell.call("GET", f"/processes/{pid}/output?offset={1 * MIB}")
    assert refused.status == 409
    offset = refused.json()["details"]["offset"]
    assert shell.call("GET", f"/processes/{pid}/output?offset={offset}").body == b"x" * (9 * MIB - offset)


def test_raw_bytes_are_followed_to_the_end(shell: Shell) -> None:
    pid = shell.begin("echo one; sleep 0.2; echo two")
    assert shell.call("GET", f"/processes/{pid}/output?follow=true").body == b"one\ntwo\n"


def test_a_reader_that_stops_reading_holds_up_nobody(shell: Shell, sandbox: Daemon) -> None:
    pid = shell.begin("read go; head -c 60M /dev/zero")
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=ANSWER_SECONDS)
    connection.request("GET", f"/v1/processes/{pid}/stream", headers={"Authorization": f"Bearer {sandbox.token}"})
    connection.getresponse().readline()
    shell.post(pid, "stdin", data="\n")
    assert shell.wait(pid)["exit_code"] == 0
    assert shell.detail(pid)["stdout_bytes"] == 60 * MIB
    connection.close()


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that a test ends."""
    with running(tmp_path / "ending", "--drain-timeout", "5") as daemon:
        yield daemon


def test_at_the_daemon_s_end_streams_say_where_to_go_on(ending: Daemon) -> None:
    shell = Shell(ending)
    events = shell.follow(shell.begin("echo one; sleep 1000"))
    assert [next(events)["type"], next(events)["type"]] == ["started", "stdout"]
    ending.signal(signal.SIGTERM)
    assert next(events) == {"type": "draining", "cursor": 4}
    assert ending.wait() == 0


def test_at_the_daemon_s_end_nothing_that_it_started_is_left(ending: Daemon) -> None:
    shell = Shell(ending)
    shell.begin("trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done", user="bob")
    shell.run("setsid sleep 1000 >/dev/null 2>&1 &")
    assert eventually(lambda: len(alive(ending.root)) >= 4)
    assert ending.term() == 0
    assert alive(ending.root) == []


def test_processes_may_be_kept_beyond_the_daemon_s_end(tmp_path: Path) -> None:
    with running(tmp_path / "kept", "--keep-processes") as daemon:
        shell = Shell(daemon)
        pid = shell.begin("trap '' PIPE; sleep 1000 & echo; wait", user="bob")
        shell.begin("sleep 1000", stdin="x" * 200_000)
        assert eventually(lambda: bool(shell.logs(pid)["stdout"]))
        assert daemon.term() == 0
        left = alive(daemon.root)
        for one in left:
            os.kill(one, signal.SIGKILL)
    assert pid in left
    assert len(left) >= 3


def test_a_command_waits_for_the_one_who_sets_the_pace(shell: Shell) -> None:
    pid = shell.begin("read go; head -c 20M /dev/zero; echo end")
    threading.Timer(0.3, lambda: shell.post(pid, "stdin", data="\n")).start()
    body = shell.call("GET", f"/processes/{pid}/output?follow=true&paced=true").body
    assert (len(body), body[-4:]) == (20 * MIB + 4, b"end\n")
