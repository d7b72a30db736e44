"""The daemon's own tree is found, trusted and brought back by what it is, whoever renames things in the workspace."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.errors import PermissionDenied, Unavailable
from agentd.linux.reserved import inode
from agentd.linux.workspace import keep_secret, open_reserved, put_back
from tests.swapping import outcomes, swapping

USER = 40001


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    place = tmp_path / "workspace"
    place.mkdir()
    os.chown(place, USER, USER)
    return place


@pytest.fixture
def fds() -> Iterator[Callable[[Path], int]]:
    """Opens directories, until the end of the test."""
    opened: list[int] = []

    def new(path: Path) -> int:
        opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        return opened[-1]

    yield new
    for fd in opened:
        os.close(fd)


def test_the_reserved_tree_is_made_for_the_daemon_alone_and_found_again(
    workspace: Path, fds: Callable[[Path], int]
) -> None:
    for _ in range(2):
        fd = open_reserved(fds(workspace))
        assert inode(os.fstat(fd)) == inode((workspace / ".nullspace").stat())
        assert (os.fstat(fd).st_uid, os.fstat(fd).st_mode & 0o7777) == (os.geteuid(), 0o700)
        os.close(fd)


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_that_others_could_write_is_not_trusted(
    workspace: Path, fds: Callable[[Path], int], mode: int
) -> None:
    (workspace / ".nullspace").mkdir()
    (workspace / ".nullspace").chmod(mode)
    with pytest.raises(PermissionDenied):
        open_reserved(fds(workspace))
    assert (workspace / ".nullspace").stat().st_mode & 0o777 == mode


def test_a_directory_of_a_user_is_never_taken_for_the_daemons(workspace: Path, fds: Callable[[Path], int]) -> None:
    for name, owner in ((".nullspace", 0), ("evil", USER)):
        (workspace / name).mkdir(mode=0o700)
        os.chown(workspace / name, owner, owner)
    fd = fds(workspace)

    def attempt() -> str:
        found = open_reserved(fd)
        owner = os.fstat(found).st_uid
        os.close(found)
        return str(owner)

    with swapping(workspace / ".nullspace", workspace / "evil"):
        seen = outcomes(attempt)
    assert seen["0"]
    assert set(seen) <= {"0", "PermissionDenied"}


@pytest.mark.parametrize("in_the_way", [False, True])
def test_a_tree_that_was_moved_comes_back(workspace: Path, fds: Callable[[Path], int], in_the_way: bool) -> None:
    (workspace / ".nullspace").mkdir(mode=0o700)
    reserved = fds(workspace / ".nullspace")
    (workspace / "a").mkdir()
    (workspace / ".nullspace").rename(workspace / "a/b")
    if in_the_way:
        (workspace / ".nullspace").mkdir()
    put_back(fds(workspace), reserved)
    assert inode((workspace / ".nullspace").stat()) == inode(os.fstat(reserved))


def test_a_tree_that_was_deleted_is_unavailable(workspace: Path, fds: Callable[[Path], int]) -> None:
    (workspace / ".nullspace").mkdir(mode=0o700)
    reserved, place = fds(workspace / ".nullspace"), fds(workspace)
    shutil.rmtree(workspace / ".nullspace")
    with pytest.raises(Unavailable):
        put_back(place, reserved)


def test_a_tree_that_is_renamed_all_the_time_comes_back_or_is_unavailable(
    workspace: Path, fds: Callable[[Path], int]
) -> None:
    (workspace / ".nullspace").mkdir(mode=0o700)
    reserved, place = fds(workspace / ".nullspace"), fds(workspace)
    (workspace / "other").mkdir()

    def attempt() -> str:
        put_back(place, reserved)
        return "back"

    with swapping(workspace / ".nullspace", workspace / "other"):
        seen = outcomes(attempt)
    assert set(seen) <= {"back", "Unavailable"}


def test_a_secret_is_made_once_for_the_daemon_alone(workspace: Path, fds: Callable[[Path], int]) -> None:
    keep_secret(fds(workspace), "token")
    made = (workspace / "token").read_text()
    keep_secret(fds(workspace), "token")
    assert (workspace / "token").read_text() == made
    assert (workspace / "token").stat().st_mode & 0o777 == 0o600
    assert os.listdir(workspace) == ["token"]
