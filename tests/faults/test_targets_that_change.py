"""What stands at a target, or below it, by the time that an upload is published."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.faults.conftest import run, wait_until_stopped
from tests.filing import Filing, code
from tests.uploading import Client, reason, tar_of

ARCHIVE = tar_of({"new": b"new"})


@pytest.mark.parametrize(("conflict", "there"), [("merge", ["new", "theirs"]), ("replace", ["new"])])
def test_a_tree_that_comes_into_being_meanwhile_is_dealt_with_as_one_that_was_there(
    start_daemon: StartDaemon, conflict: str, there: list[str]
) -> None:
    daemon = start_daemon(environment={"AGENTD_FAILPOINT": "complete.after_intent=pause"})
    client, target = Client(daemon), daemon.root / "workspace/target"
    session = client.begin_tar("target", ARCHIVE, conflict=conflict)
    client.send(session, ARCHIVE)
    with ThreadPoolExecutor(1) as pool:
        completed = pool.submit(client.complete, session)
        wait_until_stopped(daemon)
        target.mkdir()
        (target / "theirs").touch()
        daemon.signal(signal.SIGCONT)
        assert completed.result().status == 200, completed.result().body
    assert daemon.term() == 0
    assert sorted(path.name for path in target.iterdir()) == there
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".agentd")] == []


def test_trees_that_are_completed_at_once_are_all_merged_into_a_target_that_was_not_there(
    start_daemon: StartDaemon,
) -> None:
    client = Client(start_daemon())
    archives = [tar_of({f"{number}": b"x"}) for number in range(4)]
    sessions = [client.begin_tar("target", archive) for archive in archives]
    for session, archive in zip(sessions, archives, strict=True):
        client.send(session, archive)
    with ThreadPoolExecutor(4) as pool:
        assert [answer.status for answer in pool.map(client.complete, sessions)] == [200] * 4
    assert sorted(path.name for path in (client.daemon.root / "workspace/target").iterdir()) == ["0", "1", "2", "3"]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory in the workspace; something is mounted at ``sub/volume`` in it."""
    volume = tmp_path / "root/workspace/tree/sub/volume"
    volume.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(volume))
    fd = os.open(volume, os.O_PATH)
    (volume / "precious").touch()
    yield tmp_path / "root/workspace/tree"
    run("umount", "--lazy", os.readlink(f"/proc/self/fd/{fd}"))  # wherever it has been moved
    os.close(fd)


def test_a_tree_with_a_mount_in_it_is_not_replaced_by_an_upload(tree: Path, start_daemon: StartDaemon) -> None:
    client = Client(start_daemon())
    session = client.begin_tar("tree", ARCHIVE, conflict="replace")
    client.send(session, ARCHIVE)
    answer = client.complete(session)
    assert reason(answer) == (409, "conflict")
    assert "/workspace/tree/sub/volume" in answer.body.decode()
    assert client.put_tar("tree", ARCHIVE).status == 200
    assert sorted(path.name for path in tree.rglob("*")) == ["new", "precious", "sub", "volume"]
    assert client.abort(session).status == 204


def test_a_tree_with_a_mount_in_it_is_not_replaced_by_another_and_not_removed(
    tree: Path, start_daemon: StartDaemon
) -> None:
    files = Filing(start_daemon(), tree.parent)
    files.put("other/file", b"x")
    for answer in (files.move("other", "tree", conflict="replace"), files.op("remove", "tree")):
        assert code(answer) == (409, "conflict")
        assert "/workspace/tree/sub/volume" in answer.body.decode()
    assert (tree / "sub/volume/precious").exists()
    assert files.rename("tree", "moved").status == 200
    assert (tree.parent / "moved/sub/volume/precious").exists()
    assert files.rename("moved", "tree").status == 200
