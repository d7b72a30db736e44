"""The disk fills: what was accepted stays, the upload lives on, and goes on once there is room."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.uploads import journal
from tests.conftest import Daemon, StartDaemon
from tests.faults.conftest import Mount, fill
from tests.process.harness.waiting import eventually
from tests.uploading import Client, content_of, reason, reset, running, sha256, tar_of

Bind = Callable[[Path, Path], None]

PART = 512 << 10
CONTENT = content_of(4 * PART)
FLAGS = ("--uploads-part-size", str(PART), "--uploads-min-free-bytes", "0", "--uploads-quota-bytes", "1GiB")


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_refuses_the_part_and_the_upload_goes_on_when_there_is_room(
    mount: Mount, start_daemon: StartDaemon, kind: str
) -> None:
    root = mount(kind)
    client = Client(start_daemon(*FLAGS, root=root))
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT, (3,))
    ballast = fill(root, PART // 2)
    assert reason(client.part(session, 0, CONTENT[:PART])) == (507, "insufficient_staging_space")
    assert client.status(session)["status"] == "uploading"
    assert client.status(session)["accepted_bytes"] == PART
    ballast.unlink()
    client.send(session, CONTENT)
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert (root / "workspace/target").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_refused_part_takes_no_room(mount: Mount, start_daemon: StartDaemon, kind: str) -> None:
    root = mount(kind)
    client = Client(start_daemon(*FLAGS, root=root))
    session = client.begin("target", len(CONTENT))
    fill(root, PART // 2)
    free = _free(root)
    assert client.part(session, 0, CONTENT[:PART]).status == 507
    assert _free(root) >= free - 4096


def test_what_is_larger_than_a_file_may_be_is_refused_at_once(tmp_path: Path) -> None:
    class Bounded(Daemon):
        prefix = ("prlimit", "--fsize=10000000")

    (tmp_path / "root").mkdir()
    client = Client(Bounded(tmp_path / "root", tmp_path / "log", (), {}))
    try:
        assert reason(client.create("target", 20 << 20)) == (413, "request_too_large")
        assert client.put("target", CONTENT).status == 200
    finally:
        assert client.daemon.term() == 0


def test_a_full_disk_is_known_before_the_body_is_sent(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount()
    client = Client(start_daemon(*FLAGS, root=root))
    session = client.begin("target", len(CONTENT))
    fill(root, 0)
    with client.open_part(session, 0, PART, "Expect: 100-continue") as connection:
        assert connection.recv(12) == b"HTTP/1.1 507"


def test_a_part_that_was_cut_can_be_sent_again_though_the_disk_has_no_room_for_two(
    mount: Mount, start_daemon: StartDaemon
) -> None:
    root = mount("ext4")
    client = Client(start_daemon(*FLAGS, root=root))
    session = client.begin("target", len(CONTENT))
    fill(root, PART + PART // 2)
    cut = running(client, session, 0, PART)
    cut.sendall(b"x")
    reset(cut)
    assert client.part(session, 0, CONTENT[:PART]).status == 200


def test_some_space_is_left_free(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount()
    client = Client(
        start_daemon(*FLAGS[:2], "--uploads-min-free-bytes", "4MiB", "--uploads-quota-bytes", "1GiB", root=root)
    )
    content = content_of(16 * PART)
    session = client.begin("target", len(content))
    taken = [client.part(session, n, content[n * PART : (n + 1) * PART]).status for n in range(16)]
    assert set(taken) == {200, 507}
    assert _free(root) >= 4 << 20
    assert client.abort(session).status == 204
    assert eventually(lambda: _free(root) >= 7 << 20)


def test_a_create_on_a_full_disk_is_refused_in_the_contracts_words(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount()
    client = Client(start_daemon(*FLAGS, root=root))
    fill(root, 0)
    assert reason(client.create("target", 1)) == (507, "insufficient_staging_space")
    assert list((root / "workspace/.nullspace/uploads/v1").iterdir()) == []


def test_an_accepted_part_is_still_accepted_when_the_disk_is_full(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount()
    client = Client(start_daemon(*FLAGS, root=root))
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT)
    fill(root, 0)
    assert client.part(session, 0, CONTENT[:PART], None).status == 200
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert (root / "workspace/target").read_bytes() == CONTENT


def test_a_full_disk_at_the_target_leaves_the_upload_staged_and_nothing_behind(
    mount: Mount, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    client = Client(start_daemon(*FLAGS))
    other = mount("tmpfs", 4, place=tmp_path / "root/workspace/other")
    session = client.begin("other/target", len(CONTENT))
    client.send(session, CONTENT)
    ballast = fill(other, PART)
    assert client.complete(session, sha256(CONTENT)).status == 507
    assert client.status(session)["status"] == "staged"
    assert list(other.iterdir()) == [ballast]
    ballast.unlink()
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert (other / "target").read_bytes() == CONTENT
    assert client.daemon.term() == 0  # what is left is freed after the answer
    assert [entry.name for entry in other.iterdir()] == ["target"]


def test_a_full_disk_while_an_archive_is_unpacked_leaves_nothing_of_it(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount()
    client = Client(start_daemon(*FLAGS, root=root))
    archive = tar_of({f"f{n}": content_of(PART) for n in range(4)})
    session = client.begin_tar("target", archive)
    client.send(session, archive)
    ballast = fill(root, 2 * PART)
    assert client.complete(session).status == 507
    assert not (root / "workspace/target").exists()
    assert client.status(session)["status"] == "staged"
    ballast.unlink()
    assert client.complete(session, sha256(archive)).status == 200
    assert len(list((root / "workspace/target").iterdir())) == 4


def test_an_archive_that_would_leave_too_little_free_is_not_unpacked(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount()
    client = Client(start_daemon(*FLAGS[:2], "--uploads-min-free-bytes", "4MiB", root=root))
    archive = tar_of({f"f{n}": content_of(PART) for n in range(5)})
    session = client.begin_tar("target", archive)
    client.send(session, archive)
    assert reason(client.complete(session)) == (507, "insufficient_staging_space")
    assert _free(root) >= 5 << 20
    assert client.status(session)["status"] == "staged"


def test_a_copy_beside_its_target_that_would_leave_too_little_free_is_not_made(
    mount: Mount, bind: Bind, start_daemon: StartDaemon
) -> None:
    root = mount()
    for name in ("source", "there"):
        (root / name).mkdir()
    bind(root / "source", root / "there")  # no rename leads there
    client = Client(start_daemon(*FLAGS[:2], "--uploads-min-free-bytes", "5MiB", root=root))
    session = client.begin("/there/target", len(CONTENT))
    client.send(session, CONTENT)
    assert reason(client.complete(session)) == (507, "insufficient_staging_space")
    assert list((root / "there").iterdir()) == []
    assert client.abort(session).status == 204


@pytest.mark.parametrize("metadata", [{}, {"said": "much " * 2000}], ids=["little", "much"])
def test_an_upload_whose_journal_has_no_room_left_is_aborted_on_a_full_disk(
    mount: Mount, start_daemon: StartDaemon, metadata: dict[str, str]
) -> None:
    root = mount()
    client = Client(start_daemon(*FLAGS, root=root))
    session = client.begin("target", len(CONTENT), metadata=metadata)
    client.send(session, CONTENT)
    client.daemon.kill9()
    with (root / "workspace/.nullspace/uploads/v1" / session["upload_id"] / "journal").open("r+b") as file:
        made = journal.read(file.fileno())[0]
        made.append(file.fileno(), [journal.Rollback(1.0)] * (-made.bytes_used % journal.PAGE // journal.RECORD.size))
        os.ftruncate(file.fileno(), made.bytes_used)
    client.daemon.restart()
    fill(root, 0)
    assert client.abort(session).status == 204
    assert _free(root) > len(CONTENT) // 2
    client.daemon.restart()
    assert client.status(session)["status"] == "aborted"


def _free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize
