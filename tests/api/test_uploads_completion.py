"""What a completion promises beside the file itself."""

import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.conftest import Answer, Daemon
from tests.uploading import Client, content_of, reason, sha256

BIG = content_of(48 << 20)


@pytest.fixture
def client(daemon: Daemon) -> Client:
    return Client(daemon)


def test_a_program_can_be_run_as_soon_as_the_answer_is_there(client: Client) -> None:
    content = Path(shutil.which("true") or "").read_bytes()
    for turn in range(5):
        target = client.daemon.root / f"workspace/program-{turn}"
        with target.open("wb") as old:
            old.truncate(256 << 20)
        subprocess.run(["fallocate", "-l", "256MiB", str(target)], check=True)
        target.chmod(0o755)
        assert client.put(f"program-{turn}", content).status == 200
        assert subprocess.run([target], check=False).returncode == 0
        target.unlink()


def test_a_digest_that_was_never_checked_is_not_confirmed(client: Client) -> None:
    session = client.begin("target", 3)
    client.send(session, b"abc")
    assert client.complete(session).status == 200
    assert client.complete(session).status == 200
    assert reason(client.complete(session, sha256(b"abd"))) == (409, "upload_already_completed")


def test_another_client_s_wrong_digest_is_not_held_against_the_right_one(client: Client) -> None:
    session = client.begin("target", len(BIG))
    client.send(session, BIG)
    answers: dict[str, Answer] = {}

    def complete(name: str, digest: str) -> None:
        answers[name] = client.complete(session, digest)

    asking = [threading.Thread(target=complete, args=one) for one in (("wrong", "0" * 64), ("right", sha256(BIG)))]
    for thread in asking:
        thread.start()
        thread.join(0.03)
    for thread in asking:
        thread.join()
    assert answers["right"].status == 200
    assert answers["wrong"].status == 409


def test_an_upload_whose_directory_was_deleted_can_be_aborted_and_gives_its_space_back(client: Client) -> None:
    session = client.begin("target", 3)
    reserved = client.daemon.root / "workspace/.nullspace/uploads/v1"
    shutil.rmtree(reserved / session["upload_id"])
    assert reason(client.part(session, 0, b"abc")) == (409, "upload_state_lost")
    assert client.abort(session).status == 204
    assert client.status(session)["status"] == "aborted"


def test_metadata_is_bounded(client: Client) -> None:
    assert client.create("target", 3, metadata={"k": "v" * 60_000}).status == 200
    assert reason(client.create("target", 3, metadata={"k": "v" * 70_000})) == (400, "invalid_request")
