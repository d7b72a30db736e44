"""Volumes of FUSE that refuse renames, modes, owners or directories: what is written arrives nonetheless."""

import os

import pytest

from tests.conftest import StartDaemon
from tests.faults import fuse
from tests.faults.conftest import Volume
from tests.filing import FORM, Filing, code, form
from tests.uploading import Client, content_of, reason, tar_of

CONTENT = content_of(300_000)
MOST = (fuse.RENAME, fuse.RENAME2, fuse.SETATTR)
SOME = [(), (fuse.SETATTR,), (fuse.RENAME, fuse.RENAME2), MOST, (*MOST, fuse.MKDIR)]
NAMES = ["nothing", "modes", "renames", "modes and renames", "directories too"]


@pytest.mark.parametrize("refused", SOME, ids=NAMES)
def test_a_file_is_written_and_written_again(
    volume: Volume, start_daemon: StartDaemon, refused: tuple[int, ...]
) -> None:
    source = volume(*refused)
    daemon = start_daemon()
    files = Filing(daemon, daemon.root / "workspace")
    for content in (b"a longer one", CONTENT, b"", b"new"):
        answer = files.put("/volume/file", content, user="nobody")
        assert answer.status == 204, answer.body
        assert (source / "file").read_bytes() == content
    assert code(files.put("/volume/file", b"x", conflict="error")) == (409, "conflict")
    assert (os.listdir(source), files.left()) == (["file"], [])
    assert not [line for line in daemon.log() if line["level"] == "error"]


@pytest.mark.parametrize("refused", SOME, ids=NAMES)
def test_a_body_that_ends_early_leaves_the_old_file(
    volume: Volume, start_daemon: StartDaemon, refused: tuple[int, ...]
) -> None:
    source = volume(*refused)
    (source / "file").write_text("old")
    daemon = start_daemon()
    files = Filing(daemon, daemon.root / "workspace")
    assert code(files.send("/volume/file", form(("file", CONTENT))[:-9], "POST", **FORM)) == (400, "invalid_request")
    assert (source / "file").read_text() == "old"
    assert (os.listdir(source), files.left()) == (["file"], [])


def test_what_a_volume_refuses_is_logged_once(volume: Volume, start_daemon: StartDaemon) -> None:
    volume(*MOST)
    daemon = start_daemon()
    files = Filing(daemon, daemon.root / "workspace")
    for _ in range(3):
        files.put("/volume/file", b"x", user="nobody")
    warnings = [line["message"] for line in daemon.log() if line["level"] == "warning"]
    assert len(warnings) == len(set(warnings)) > 0


def test_a_tree_is_copied_moved_back_and_removed_where_modes_are_refused(
    volume: Volume, start_daemon: StartDaemon
) -> None:
    source = volume(fuse.SETATTR)
    daemon = start_daemon()
    files = Filing(daemon, daemon.root / "workspace")
    files.put("tree/sub/file", CONTENT)
    assert files.rename("tree", "/volume/tree").status == 200
    assert (source / "tree/sub/file").read_bytes() == CONTENT
    assert files.copy("/volume/tree", "back").status == 200
    assert (files.home / "back/sub/file").read_bytes() == CONTENT
    assert files.op("remove", "/volume/tree").status == 204
    assert (os.listdir(source), files.left()) == ([], [])


def test_what_has_to_be_new_is_a_file_where_the_volume_knows_neither_links_nor_renames_that_replace_nothing(
    volume: Volume, start_daemon: StartDaemon
) -> None:
    source = volume(unknown=(fuse.RENAME2,))
    client = Client(start_daemon())
    files = Filing(client.daemon, client.daemon.root / "workspace")
    assert files.put("/volume/written", CONTENT, conflict="error").status == 204
    assert client.put("/volume/uploaded", CONTENT, conflict="error").status == 200
    assert client.put_tar("/volume/tree", tar_of({"file": CONTENT}), conflict="error").status == 200
    for name in ("written", "uploaded", "tree/file"):
        assert (source / name).read_bytes() == CONTENT
    assert reason(client.create("/volume/written", 1, conflict="error")) == (409, "target_conflict")
    assert client.daemon.term() == 0
    assert sorted(os.listdir(source)) == ["tree", "uploaded", "written"]


def test_a_volume_that_refuses_to_rename_keeps_no_empty_entry_of_what_had_to_be_new(
    volume: Volume, start_daemon: StartDaemon
) -> None:
    source = volume(fuse.RENAME, unknown=(fuse.RENAME2,))
    client = Client(start_daemon())
    assert client.put_tar("/volume/tree", tar_of({}), conflict="error").status == 403
    assert client.daemon.term() == 0
    assert os.listdir(source) == []
