"""How an upload ends, and what is left of it then, where a daemon or the machine went down in the middle."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentd.failpoints import VARIABLE
from agentd.uploads import journal
from agentd.uploads.journal import PAGE, RECORD, SPARE_RECORDS, Extend
from tests.conftest import StartDaemon
from tests.process.harness.journals import accept_before_boot
from tests.process.harness.mounts import mounted
from tests.process.harness.sender import NO_ANSWER
from tests.process.harness.waiting import eventually
from tests.uploading import Client, content_of, reason

CONTENT = content_of(2500)
FLAGS = ("--uploads-part-size", "1000")


def dead(client: Client, target: str = "target", **more: Any) -> Any:
    """The session of an upload in whose completion the daemon died."""
    session = client.begin(target, len(CONTENT), **more)
    client.send(session, CONTENT)
    with suppress(*NO_ANSWER):
        client.complete(session)
    client.daemon.wait()
    return session


def journal_of(client: Client, session: Any) -> Path:
    place: Path = client.daemon.root / "workspace/.nullspace/uploads/v1"
    return place / session["upload_id"] / "journal"


def note(client: Client, session: Any, records: list[journal.Record]) -> None:
    with journal_of(client, session).open("r+b") as file:
        journal.read(file.fileno())[0].append(file.fileno(), records)


def _a_fifo_instead(target: Path) -> None:
    target.unlink()
    os.mkfifo(target)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nothing": ("completed", lambda target: None),
    "deleted": ("failed", Path.unlink),
    "cut short": ("failed", lambda target: os.truncate(target, 2)),
    "other bytes": ("failed", lambda target: target.write_bytes(bytes(len(CONTENT)))),
    "another thing": ("failed", _a_fifo_instead),
}


@pytest.mark.parametrize(("end", "change"), CHANGES.values(), ids=CHANGES)
def test_after_the_machine_has_booted_a_file_that_was_renamed_is_completed_if_it_is_still_there_and_lost_if_not(
    start_daemon: StartDaemon, end: str, change: Callable[[Path], object]
) -> None:
    client = Client(start_daemon(*FLAGS, environment={VARIABLE: "complete.after_rename=exit"}))
    session = dead(client)
    accept_before_boot(journal_of(client, session))
    change(client.daemon.root / "workspace/target")
    client.daemon.restart(environment={})
    assert eventually(lambda: bool(client.status(session)["status"] == end))
    if end == "failed":
        assert reason(client.complete(session)) == (409, "upload_state_lost")
        assert client.abort(session).status == 204
        client.daemon.restart()
        assert client.status(session)["status"] == "aborted"


def test_the_copy_on_a_volume_that_was_not_there_at_the_start_goes_with_the_upload(
    start_daemon: StartDaemon, tmp_path: Path, away: Path | None
) -> None:
    if away is None:
        pytest.skip("there is no other file system here")
    (tmp_path / "root/volume").mkdir(parents=True)
    client = Client(start_daemon(*FLAGS, environment={VARIABLE: "complete.after_copy=exit"}))
    with mounted(away, tmp_path / "root/volume"):
        session = dead(client, "/volume/target")
        assert list(away.iterdir())
    client.daemon.restart(environment={})
    with mounted(away, tmp_path / "root/volume"):
        assert client.abort(session).status == 204
        assert list(away.iterdir()) == []


def test_uploads_of_a_clock_that_was_set_back_end_at_their_time(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, "--uploads-lifetime", "0.5", "--uploads-retention", "0.5"))
    session = client.begin("target", 1)
    client.daemon.kill9()
    note(client, session, [Extend(time.time() + 1e8)])
    client.daemon.restart()
    assert eventually(lambda: client.call("GET", f"/uploads/{session['upload_id']}").status == 404)


def test_failed_completions_leave_the_journal_room_for_an_abort(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS))
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT)
    target, size = client.daemon.root / "workspace/target", journal_of(client, session).stat().st_size
    (target.with_name("source")).touch()
    target.touch()
    with mounted(target.with_name("source"), target):
        answers = [client.complete(session) for _ in range(SPARE_RECORDS // 2 + 2)]
    assert {reason(answer) for answer in answers} == {(409, "conflict")}
    assert "abort the upload" in answers[-1].body.decode()
    assert journal_of(client, session).stat().st_size == size
    assert client.abort(session).status == 204
    client.daemon.restart()
    assert client.status(session)["status"] == "aborted"


def test_an_intent_that_the_disk_refuses_leaves_no_trace(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS, environment={VARIABLE: "sync.before_data=error:4"}))
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT)
    assert client.complete(session).status == 500
    client.daemon.kill9()
    with journal_of(client, session).open("rb") as file:
        assert [type(record) for record in journal.read(file.fileno())[1]] == [journal.Part] * 3


def test_what_a_client_said_of_an_upload_is_not_kept_beyond_its_end(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon(*FLAGS))
    sessions = [client.begin(name, len(CONTENT), metadata={"k": "v" * 60_000}) for name in ("one", "other")]
    for session in sessions:
        client.send(session, CONTENT)
    assert client.complete(sessions[0]).status == 200
    assert client.abort(sessions[1]).status == 204
    before = [client.status(session) for session in sessions]
    most = PAGE + 10 * RECORD.size
    assert eventually(lambda: all(journal_of(client, session).stat().st_size < most for session in sessions))
    client.daemon.restart()
    assert [client.status(session) for session in sessions] == before
