"""What clients do to a part on its way, and that no more than that part is touched by it."""

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import UNIT, StartDaemon
from tests.faults.conftest import wait_until_stopped
from tests.uploading import Client, answer_on, content_of, piece, reason, reset, running, sha256

PART = 1000
CONTENT = content_of(3 * PART)
FLAGS = ("--uploads-part-size", str(PART))


@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "closed"])
@pytest.mark.parametrize("sent", [0, 1, PART - 1])
def test_a_client_that_leaves_in_the_middle_of_a_part_leaves_nothing(
    start_daemon: StartDaemon, leave: object, sent: int
) -> None:
    daemon = start_daemon(*FLAGS)
    client = Client(daemon)
    session = client.begin("target", len(CONTENT))
    connection = running(client, session, 1, PART)
    connection.sendall(b"x" * sent)
    leave(connection)  # type: ignore[operator]
    client.send(session, CONTENT)
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert (daemon.root / "workspace/target").read_bytes() == CONTENT
    assert not [line for line in daemon.log() if line["level"] != "info" or line.get("status") == 500]


def test_a_client_that_stalls_is_let_go_and_the_part_may_be_sent_again(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, "--limits-body-stall-timeout", "0.3"))
    session = client.begin("target", PART)
    stalled = running(client, session, 0, PART)
    stalled.sendall(b"x")
    answer = answer_on(stalled)
    assert answer is not None
    assert reason(answer) == (408, "request_timeout")
    assert answer.json()["retryable"] is True
    assert client.part(session, 0, CONTENT[:PART]).status == 200


def test_a_slow_client_that_does_not_stall_is_served(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, "--limits-body-stall-timeout", str(2 * UNIT)))
    session = client.begin("target", PART)
    slow = running(client, session, 0, PART)
    pause = threading.Event()
    for start in range(0, PART, PART // 10):
        slow.sendall(CONTENT[start : start + PART // 10])
        pause.wait(0.05)
    answer = answer_on(slow)
    assert answer is not None
    assert answer.json()["status"] == "staged"


def test_the_second_writer_of_a_part_takes_over(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    client = Client(daemon)
    session = client.begin("target", PART)
    older = running(client, session, 0, PART)
    older.sendall(b"o" * (PART - 1))
    assert client.part(session, 0, CONTENT[:PART]).status == 200
    assert answer_on(older) is None
    assert client.complete(session).status == 200
    assert (daemon.root / "workspace/target").read_bytes() == CONTENT[:PART]


@pytest.mark.parametrize(("newer", "status"), [(CONTENT[:PART], 200), (bytes(PART), 409)])
def test_a_second_writer_becomes_a_replay_where_the_first_has_sent_everything(
    start_daemon: StartDaemon, newer: bytes, status: int
) -> None:
    daemon = start_daemon(*FLAGS, environment={"AGENTD_FAILPOINT": "part.after_digest=pause"})
    client = Client(daemon)
    session = client.begin("target", PART)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.part, session, 0, CONTENT[:PART])
        wait_until_stopped(daemon)
        second = pool.submit(client.part, session, 0, newer)
        daemon.signal(signal.SIGCONT)
        assert (first.result().status, second.result().status) == (200, status)
    assert client.status(session)["accepted_bytes"] == PART


def test_an_abort_ends_the_parts_that_run(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    client = Client(daemon)
    session = client.begin("target", len(CONTENT))
    parts = [running(client, session, number, PART) for number in range(3)]
    assert client.abort(session).status == 204
    assert [answer_on(one) for one in parts] == [None] * 3
    assert client.status(session)["status"] == "aborted"
    left = daemon.root / "workspace/.nullspace/uploads/v1" / session["upload_id"]
    assert [entry.name for entry in left.iterdir()] == ["journal"]


def test_an_abort_before_the_intent_wins_over_the_completion(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, environment={"AGENTD_FAILPOINT": "complete.after_seal=pause"})
    client = Client(daemon)
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT)
    with ThreadPoolExecutor(2) as pool:
        completed = pool.submit(client.complete, session, sha256(CONTENT))
        wait_until_stopped(daemon)
        aborted = pool.submit(client.abort, session)
        daemon.signal(signal.SIGCONT)
        results = (aborted.result().status, completed.result().status)
    assert results in ((204, 409), (409, 200))
    assert (daemon.root / "workspace/target").exists() is (results == (409, 200))
    assert client.status(session)["status"] == ("completed" if results == (409, 200) else "aborted")


def test_complete_waits_for_a_part_that_runs(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    client = Client(daemon)
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT, (0, 2))
    last = running(client, session, 1, PART)
    with ThreadPoolExecutor(1) as pool:
        completed = pool.submit(client.complete, session, sha256(CONTENT))
        last.sendall(piece(session, CONTENT, 1))
        answer = answer_on(last)
        assert answer is not None
        assert answer.status == 200
        assert completed.result().status in (200, 409)
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert (daemon.root / "workspace/target").read_bytes() == CONTENT


def test_complete_says_what_is_missing_when_the_part_that_ran_was_cut(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS))
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT, (0, 2))
    last = running(client, session, 1, PART)
    with ThreadPoolExecutor(1) as pool:
        completed = pool.submit(client.complete, session)
        reset(last)
        assert reason(completed.result()) == (409, "missing_parts")
    client.send(session, CONTENT)
    assert client.complete(session, sha256(CONTENT)).status == 200


def test_a_part_that_outlasts_the_lifetime_is_not_expired_under_its_writer(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, "--uploads-lifetime", "0.5"))
    session = client.begin("target", 2 * PART)
    slow = running(client, session, 0, PART)
    slow.sendall(CONTENT[: PART - 1])
    threading.Event().wait(0.8)
    slow.sendall(CONTENT[PART - 1 : PART])
    answer = answer_on(slow)
    assert answer is not None
    assert (answer.status, answer.json()["status"]) == (200, "uploading")


def test_an_upload_that_nobody_touches_expires_and_says_so(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, "--uploads-lifetime", "0.2"))
    session = client.begin("target", PART)
    threading.Event().wait(0.4)
    assert client.status(session)["status"] == "expired"
    assert reason(client.part(session, 0, CONTENT[:PART])) == (410, "upload_expired")
    assert reason(client.complete(session)) == (410, "upload_expired")
    assert client.abort(session).status == 204


def test_more_connections_than_turns_are_all_served(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(
        "--uploads-part-size", "100", "--uploads-parts-at-once", "2", "--uploads-parts-per-upload", "1"
    )
    client = Client(daemon)
    sessions = [client.begin(f"target-{n}", len(CONTENT)) for n in range(3)]
    jobs = [(session, number) for number in range(30) for session in sessions]
    with ThreadPoolExecutor(30) as pool:
        send = lambda job: client.part(job[0], job[1], piece(job[0], CONTENT, job[1])).status  # noqa: E731
        assert set(pool.map(send, jobs)) == {200}
    assert {client.complete(session, sha256(CONTENT)).status for session in sessions} == {200}


def test_stalled_clients_take_no_turns_from_those_that_send(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, "--uploads-parts-per-upload", "2", "--uploads-parts-at-once", "2"))
    slow, fast = client.begin("slow", len(CONTENT)), client.begin("fast", len(CONTENT))
    stalled = [running(client, slow, number, PART) for number in range(2)]
    client.send(slow, CONTENT, (2,))
    client.send(fast, CONTENT)
    assert client.complete(fast, sha256(CONTENT)).status == 200
    for one in stalled:
        one.close()


def test_the_status_is_answered_while_all_writers_are_busy(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, "--uploads-parts-at-once", "2"))
    session = client.begin("target", len(CONTENT))
    busy = [running(client, session, number, PART) for number in range(2)]
    for one in busy:
        one.sendall(b"x")
    assert client.status(session)["status"] == "created"
    assert client.call("GET", "/uploads").status == 200
    for one in busy:
        one.close()


def test_replays_while_the_whole_is_hashed_do_not_disturb_its_digest(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--uploads-part-size", "1MiB")
    client, content = Client(daemon), content_of(1 << 20) * 96
    session = client.begin("target", len(content))
    client.send(session, content)
    daemon.kill9()
    daemon.restart()
    first, digest = piece(session, content, 0), sha256(content)
    with ThreadPoolExecutor(1) as pool:
        completed = pool.submit(client.complete, session, digest)
        threading.Event().wait(0.03)  # the completion has begun
        while not completed.done():
            assert client.part(session, 0, first).status in (200, 409)
        assert completed.result().status == 200
