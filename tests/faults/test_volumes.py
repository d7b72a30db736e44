"""Volumes of FUSE that refuse renames, modes, owners or directories: what is written arrives nonetheless."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.faults import fuse
from tests.filing import FORM, Filing, code, form
from tests.uploading import content_of

CONTENT = content_of(300_000)
MOST = (fuse.RENAME, fuse.RENAME2, fuse.SETATTR)
SOME = [(), (fuse.SETATTR,), (fuse.RENAME, fuse.RENAME2), MOST, (*MOST, fuse.MKDIR)]
NAMES = ["nothing", "modes", "renames", "modes and renames", "directories too"]

Volume = Callable[..., Path]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """``volume(*refused)``: what is behind /volume of the sandbox. To be named before ``start_daemon``."""
    with ExitStack() as stack:

        def make(*refused: int) -> Path:
            source, place = tmp_path / "source", tmp_path / "root/volume"
            source.mkdir()
            place.mkdir(parents=True)
            try:
                stack.enter_context(fuse.volume(source, place, *refused))
            except OSError as error:
                pytest.skip(f"{error}")
            return source

        yield make


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
