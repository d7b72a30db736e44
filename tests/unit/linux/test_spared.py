"""What deletes in other people's directories: only what it should, and never the daemon's own tree."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import Conflict, PathReserved
from agentd.linux import trees
from agentd.linux.private import private_directory
from agentd.linux.reserved import inode

NOBODY = 65534


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def write(top: Path, **files: str) -> None:
    """`a__b="text"` writes a/b."""
    for name, content in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def files(top: Path) -> dict[str, str]:
    return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}


def prune(top: Path) -> None:
    """By what is in ``staged``, in ``target``."""
    fds = [os.open(top / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("staged", "target")]
    try:
        trees.prune(*fds)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("place", ["d", "d/x", "d/x/y/z"])
def test_remove_leaves_the_daemons_own_tree_alone_wherever_it_is(
    tmp_path: Path, top: int, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    write(tmp_path, d__beside="1", **{f"{place}/uploads/journal": "2"})
    monkeypatch.setattr(trees, "SPARED", {inode((tmp_path / place).stat())})
    with pytest.raises(OSError, match="daemon's own"):
        trees.remove(top, "d")
    assert sorted(files(tmp_path).values()) == (["1", "2"] if place == "d" else ["2"])


def test_prune_leaves_what_the_staged_tree_has_in_the_same_kind(tmp_path: Path) -> None:
    write(tmp_path / "staged", d__f="new", kind="new", both="new")
    write(tmp_path / "target", d__f="old", d__x__y="old", kind__z="old", both="old", other="old")
    prune(tmp_path)
    assert files(tmp_path / "target") == {"d/f": "old", "both": "old"}


def test_prune_never_enters_the_daemons_own_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "staged", d__own__uploads="bad")
    write(tmp_path / "target", d__own__token="1", d__own__uploads="2")
    monkeypatch.setattr(trees, "SPARED", {inode((tmp_path / "target/d/own").stat())})
    with pytest.raises(PathReserved):
        prune(tmp_path)
    assert files(tmp_path / "target") == {"d/own/token": "1", "d/own/uploads": "2"}


def test_private_directory_goes_when_it_is_empty_and_is_used_again_when_not(tmp_path: Path, top: int) -> None:
    tmp_path.chmod(0o2755)
    for _ in range(2):
        with private_directory(top, "p") as fd:
            os.close(os.open("kept", os.O_CREAT, dir_fd=fd))
    with private_directory(top, "p", make=False) as fd:
        os.unlink("kept", dir_fd=fd)
    assert os.listdir(top) == []
    with pytest.raises(FileNotFoundError), private_directory(top, "p", make=False):
        pass


@pytest.mark.parametrize(("owner", "mode"), [(NOBODY, 0o700), (0, 0o755)])
def test_private_directory_of_somebody_else_is_in_the_way(tmp_path: Path, top: int, owner: int, mode: int) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p").chmod(mode)
    os.chown(tmp_path / "p", owner, owner)
    with pytest.raises(Conflict), private_directory(top, "p"):
        pass
    assert os.listdir(top) == ["p"]
