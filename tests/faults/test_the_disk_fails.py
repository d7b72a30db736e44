"""The disk fails, or somebody takes the staging area away: what is lost is said, and nothing else is."""

import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest

from tests.conftest import StartDaemon
from tests.faults.conftest import wait_until_stopped
from tests.uploading import Client, answer_on, content_of, reason, reset, running, sha256, tar_of

PART = 1000
CONTENT = content_of(3 * PART)
FLAGS = ("--uploads-part-size", str(PART))


def test_a_disk_that_fails_under_a_part_fails_its_upload_alone(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, environment={"AGENTD_FAILPOINT": "part.after_first_write=error"}))
    broken, whole = client.begin("broken", len(CONTENT)), client.begin("whole", len(CONTENT))
    assert reason(client.part(broken, 0, CONTENT[:PART])) == (500, "storage_failed")
    assert client.status(broken)["status"] == "failed"
    assert reason(client.part(broken, 0, CONTENT[:PART])) == (409, "upload_state_lost")
    assert reason(client.complete(broken)) == (409, "upload_state_lost")
    assert client.abort(broken).status == 204
    client.send(whole, CONTENT)
    assert client.complete(whole, sha256(CONTENT)).status == 200


POINTS = ["after_hash", "after_unpack", "after_chown", "after_intent", "after_rename", "after_published"]


@pytest.mark.parametrize("point", POINTS)
def test_a_completion_that_fails_says_the_truth_about_the_target(start_daemon: StartDaemon, point: str) -> None:
    archive = tar_of({"f": b"new"})
    daemon = start_daemon(environment={"AGENTD_FAILPOINT": f"complete.{point}=error"})
    client = Client(daemon)
    session = client.begin_tar("target", archive)
    client.send(session, archive)
    answer = client.complete(session)
    there = (daemon.root / "workspace/target").exists()
    assert there is (point in ("after_rename", "after_published"))
    assert answer.status == 500
    daemon.kill9()
    daemon.restart(environment={})
    assert client.complete(session).status == 200
    assert (daemon.root / "workspace/target/f").read_bytes() == b"new"


@pytest.mark.parametrize("before", [(), (0,)])
@pytest.mark.parametrize("what", ["", "data"])
def test_an_upload_whose_files_are_deleted_says_that_it_lost_them(
    start_daemon: StartDaemon, what: str, before: tuple[int, ...]
) -> None:
    daemon = start_daemon(*FLAGS)
    client = Client(daemon)
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT, before)
    place = daemon.root / "workspace/.nullspace/uploads/v1" / session["upload_id"]
    shutil.rmtree(place) if not what else (place / what).unlink()
    assert reason(client.part(session, 1, CONTENT[PART : 2 * PART])) == (409, "upload_state_lost")
    assert client.status(session)["status"] == "failed"


def test_a_completion_of_files_that_were_deleted_says_that_they_are_lost(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS)
    client = Client(daemon)
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT)
    (daemon.root / "workspace/.nullspace/uploads/v1" / session["upload_id"] / "data").unlink()
    assert reason(client.complete(session)) == (409, "upload_state_lost")
    assert not (daemon.root / "workspace/target").exists()


def test_an_abort_after_the_intent_loses_against_the_completion(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(*FLAGS, environment={"AGENTD_FAILPOINT": "complete.after_intent=pause"})
    client = Client(daemon)
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT)
    with ThreadPoolExecutor(2) as pool:
        completed = pool.submit(client.complete, session, sha256(CONTENT))
        wait_until_stopped(daemon)
        aborted = pool.submit(client.abort, session)
        daemon.signal(signal.SIGCONT)
        assert completed.result().status == 200
        assert reason(aborted.result()) == (409, "upload_already_completed")
    assert (daemon.root / "workspace/target").read_bytes() == CONTENT


def test_a_stop_within_a_completion_leaves_target_and_status_in_agreement(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(environment={"AGENTD_FAILPOINT": "complete.after_intent=pause"})
    client, archive = Client(daemon), tar_of({"f": b"new"})
    session = client.begin_tar("target", archive, conflict="error")
    client.send(session, archive)
    with ThreadPoolExecutor(1) as pool:
        completed = pool.submit(client.complete, session)
        wait_until_stopped(daemon)
        (daemon.root / "workspace/target").write_bytes(b"in the way")
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGCONT)
        daemon.wait()
        assert isinstance(completed.exception(), OSError | HTTPException) or completed.result().status in (409, 503)
    daemon.restart(environment={})
    assert client.status(session)["status"] == "staged"
    assert (daemon.root / "workspace/target").read_bytes() == b"in the way"


def test_complete_does_not_wait_for_a_writer_where_another_part_is_missing(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS))
    session = client.begin("target", len(CONTENT))
    slow = running(client, session, 0, PART)
    assert reason(client.complete(session)) == (409, "missing_parts")
    slow.sendall(CONTENT[:PART])
    answer = answer_on(slow)
    assert answer is not None
    assert answer.status == 200


def test_a_replay_that_ends_after_the_abort_is_not_called_accepted(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS))
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT, (0,))
    replay = running(client, session, 0, PART)
    assert client.abort(session).status == 204
    replay.sendall(CONTENT[:PART])
    answer = answer_on(replay)
    assert answer is None or reason(answer) == (409, "upload_aborted")


@pytest.mark.parametrize("kind", ["file", "tree", "merged"])
def test_at_durability_power_everything_works_the_same(start_daemon: StartDaemon, kind: str) -> None:
    daemon = start_daemon(*FLAGS, "--uploads-durability", "power")
    client = Client(daemon)
    archive = tar_of({"sub": None, "sub/f": CONTENT})
    if kind == "merged":
        (daemon.root / "workspace/a/b").mkdir(parents=True)
    reset(running(client, client.begin("cut", PART), 0, PART))
    answer = client.put("a/b", CONTENT) if kind == "file" else client.put_tar("a/b", archive)
    assert answer.status == 200, answer.body
    place = daemon.root / ("workspace/a/b" if kind == "file" else "workspace/a/b/sub/f")
    assert place.read_bytes() == CONTENT


def test_parts_keep_an_upload_alive_beyond_its_first_lifetime(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, "--uploads-lifetime", "1"))
    session = client.begin("target", len(CONTENT))
    for number in range(3):
        threading.Event().wait(0.5)
        client.send(session, CONTENT, (number,))
    assert client.complete(session, sha256(CONTENT)).status == 200
