"""The file system turns read-only: nothing is lost or claimed, and questions are still answered."""

from pathlib import Path

from tests.conftest import StartDaemon
from tests.faults.conftest import Mount, run
from tests.uploading import Client, content_of, reason, tar_of

CONTENT = content_of(2000)


def test_a_read_only_staging_area_refuses_writes_and_answers_questions(mount: Mount, start_daemon: StartDaemon) -> None:
    root = mount("ext4", 16)
    client = Client(start_daemon("--uploads-part-size", "1000", "--uploads-min-free-bytes", "0", root=root))
    session = client.begin("target", len(CONTENT))
    client.send(session, CONTENT, (0,))
    run("mount", "-o", "remount,abort", str(root))
    refused = [client.part(session, 1, CONTENT[1000:]), client.create("other", 1)]
    assert {reason(one) for one in refused} <= {(403, "volume_read_only"), (500, "storage_failed")}
    assert client.part(session, 0, CONTENT[:1000]).status in (200, 409)
    assert client.status(session)["accepted_bytes"] == 1000


def test_a_read_only_target_leaves_the_upload_staged(mount: Mount, start_daemon: StartDaemon, tmp_path: Path) -> None:
    client = Client(start_daemon("--uploads-part-size", "1000"))
    other = mount(place=tmp_path / "root/workspace/other")
    run("mount", "-o", "remount,ro", str(other))
    archive = tar_of({"f": b"x"})
    for session, content in (
        (client.begin("other/f", 1000), CONTENT[:1000]),
        (client.begin_tar("other/d", archive), archive),
    ):
        client.send(session, content)
        assert reason(client.complete(session)) == (403, "volume_read_only")
        assert client.status(session)["status"] == "staged"
    run("mount", "-o", "remount,rw", str(other))
    assert client.complete(session).status == 200
