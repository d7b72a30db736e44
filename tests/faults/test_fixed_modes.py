"""Volumes on which every entry has one owner and one mode, whatever is asked for (vfat, CIFS, object stores), and what
else they refuse: uploads and written files arrive, and nothing else stays."""

import http.client
import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Daemon, StartDaemon
from tests.faults import fuse
from tests.faults.conftest import Volume
from tests.filing import Filing
from tests.process.test_one_user import CAPLESS
from tests.uploading import Client, content_of, reason, tar_of

CONTENT = content_of(300_000)
TREE = tar_of({"sub": None, "sub/file": CONTENT})
SOMEBODY = 64124


def entries(source: Path) -> list[str]:
    return sorted(str(path.relative_to(source)) for path in source.rglob("*"))


@pytest.mark.parametrize("owner", [0, SOMEBODY])
def test_files_and_trees_arrive_where_owners_and_modes_are_fixed(
    volume: Volume, start_daemon: StartDaemon, owner: int
) -> None:
    source = volume(fixed=owner)
    client = Client(start_daemon())
    files = Filing(client.daemon, client.daemon.root / "workspace")
    for _ in range(2):
        assert files.put("/volume/written", CONTENT).status == 204
        assert client.put("/volume/uploaded", CONTENT, user="nobody").status == 200
    for conflict in ("merge", "merge", "replace"):
        assert client.put_tar("/volume/tree", TREE, conflict=conflict).status == 200
    assert client.daemon.term() == 0
    assert entries(source) == ["tree", "tree/sub", "tree/sub/file", "uploaded", "written"]
    assert all((source / name).read_bytes() == CONTENT for name in ("written", "uploaded", "tree/sub/file"))


def test_that_nothing_is_guarded_there_is_logged_once(volume: Volume, start_daemon: StartDaemon) -> None:
    volume(fixed=SOMEBODY)
    client = Client(start_daemon())
    for _ in range(2):
        client.put("/volume/uploaded", CONTENT)
    warnings = [line["message"] for line in client.daemon.log() if line["level"] == "warning"]
    assert len([text for text in warnings if text.startswith("a mount keeps no owners or modes")]) == 1


def test_what_a_crash_leaves_there_goes_with_the_next_start(volume: Volume, start_daemon: StartDaemon) -> None:
    source = volume(fixed=SOMEBODY)
    client = Client(start_daemon(environment={"AGENTD_FAILPOINT": "complete.after_copy=exit"}))
    session = client.begin("/volume/uploaded", len(CONTENT))
    client.send(session, CONTENT)
    with suppress(OSError, http.client.HTTPException):
        client.complete(session)
    client.daemon.wait()
    assert len(entries(source)) == 2
    client.daemon.restart(environment={})
    assert client.abort(session).status == 204
    assert client.daemon.term() == 0
    assert entries(source) == []


def test_a_tree_is_uploaded_where_modes_are_refused(volume: Volume, start_daemon: StartDaemon) -> None:
    source = volume(fuse.SETATTR)
    client = Client(start_daemon())
    for conflict in ("merge", "merge", "replace"):
        answer = client.put_tar("/volume/tree", TREE, conflict=conflict, user="nobody")
        assert answer.status == 200, answer.body
    assert client.daemon.term() == 0
    assert entries(source) == ["tree", "tree/sub", "tree/sub/file"]


def test_a_daemon_without_capabilities_writes_what_is_its_own_where_modes_are_refused(
    volume: Volume, tmp_path: Path
) -> None:
    class Capless(Daemon):
        prefix = CAPLESS

    source = volume(fuse.SETATTR)
    client = Client(Capless(tmp_path / "root", tmp_path / "log", (), {}))
    try:
        assert Filing(client.daemon, tmp_path / "root").put("/volume/written", CONTENT).status == 204
        assert client.put("/volume/uploaded", CONTENT).status == 200
        assert client.put_tar("/volume/tree", TREE).status == 200
    finally:
        assert client.daemon.term() == 0
    assert entries(source) == ["tree", "tree/sub", "tree/sub/file", "uploaded", "written"]


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_an_upload_is_written_into_place_where_nothing_is_renamed(
    volume: Volume, start_daemon: StartDaemon, conflict: str
) -> None:
    source = volume(fuse.RENAME, fuse.RENAME2)
    client = Client(start_daemon())
    if conflict != "error":
        (source / "file").write_bytes(bytes(400_000))
    assert client.put("/volume/file", CONTENT, conflict=conflict).status == 200
    assert (source / "file").read_bytes() == CONTENT
    assert reason(client.create("/volume/file", 1, conflict="error")) == (409, "target_conflict")
    assert client.put_tar("/volume/tree", TREE).status == 403
    assert client.daemon.term() == 0
    assert entries(source) == ["file"]
    assert os.listdir(client.daemon.root / "workspace/.nullspace/writes") == []
