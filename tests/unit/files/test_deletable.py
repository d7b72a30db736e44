"""Whether all of a tree may be deleted is found out while its owner changes it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.errors import Conflict
from agentd.files.entries import check_deletable
from agentd.linux.identity import Identity

EVE = Identity(40002, 40002, (40002,), "eve", "/")


class Rights(tuple[Identity, ...]):
    """Eve's. She makes her ``change`` when they are asked for an entry at that ``depth``, which is so once at each."""

    change: Callable[[], object]
    depth: int

    def __iter__(self) -> Iterator[Identity]:
        self.depth -= 1
        if self.depth == 0:
            self.change()
        return super().__iter__()


def gone(top: Path) -> None:
    (top / "a").rename(top.parent / "elsewhere")


def a_file(top: Path) -> None:
    gone(top)
    (top / "a").touch()


def a_link(top: Path) -> None:
    gone(top)
    (top / "a").symlink_to(top.parent)


def another(top: Path) -> None:
    """Both the directory that is looked through and the one that it was in."""
    (top / "a/below").rename(top.parent / "below")
    gone(top)
    (top / "a").mkdir()


@pytest.mark.parametrize(("change", "depth"), [(gone, 1), (a_file, 1), (a_link, 1), (another, 3)])
def test_a_directory_that_is_taken_away_meanwhile_is_a_conflict(
    tmp_path: Path, change: Callable[[Path], None], depth: int
) -> None:
    (tmp_path / "top/a/below/file").mkdir(parents=True)
    for path in (tmp_path / "top", *(tmp_path / "top").rglob("*")):
        os.chown(path, EVE.uid, EVE.gid)
    rights = Rights((EVE,))
    rights.change, rights.depth = lambda: change(tmp_path / "top"), depth
    fd = os.open(tmp_path / "top", os.O_RDONLY)
    with pytest.raises(Conflict, match="moved or removed meanwhile; repeat"):
        check_deletable(fd, rights, "/top")
    os.close(fd)
