"""What is on a disk, as values that can be compared."""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Seen(NamedTuple):
    """kind: ``file``, ``dir`` or ``link``. content: of a file, its SHA-256."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str


Tree = dict[str, Seen]


def seen(top: Path) -> Tree:
    """Everything from ``top`` down, by its path from there; ``.`` is the top itself, and {} says that there is none."""
    looks: list[Tree] = []  # two that agree: a daemon that resumes its work may change things while they are read
    while len(looks) < 2 or looks[-1] != looks[-2]:
        with suppress(FileNotFoundError):
            looks.append(_seen(top))
    return looks[-1]


def _seen(top: Path) -> Tree:
    found: Tree = {}
    if not os.path.lexists(top):
        return found
    for path in [top, *sorted(top.rglob("*"))]:
        about = path.lstat()
        kind = {stat.S_IFREG: "file", stat.S_IFDIR: "dir"}.get(stat.S_IFMT(about.st_mode), "link")
        content = hashlib.sha256(path.read_bytes()).hexdigest() if kind == "file" else ""
        owner = (about.st_uid, about.st_gid)
        found[str(path.relative_to(top))] = Seen(kind, stat.S_IMODE(about.st_mode), owner, content)
    return found


def inodes(top: Path) -> dict[str, tuple[int, int, str]]:
    """Inode, size and, of a file, SHA-256 of everything below ``top``: equal only where nothing was touched."""
    return {
        str(path.relative_to(top)): (
            path.lstat().st_ino,
            path.lstat().st_size if path.is_file() else 0,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(top.rglob("*"))
    }
