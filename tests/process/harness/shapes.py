"""The uploads of the tests of crashes: what is sent, what was at the target before, what has to be there after."""

import io
import os
import random
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.process.harness.trees import Seen, Tree, seen

PART_SIZE = 64 << 10
SIZE = 3 * PART_SIZE + PART_SIZE // 2
THEIRS = (1234, 1235)  # who owns what was at the target before
OLD_FILE_MODE, OLD_DIRECTORY_MODE = 0o640, 0o750

CONTENT = random.Random(1).randbytes(SIZE)
NEW_FILES = {"new.bin": CONTENT[:70_000], "shared.txt": b"new", "sub/deep/leaf": b"leaf", "sub/shared": b"new below"}
OLD_FILES = {"old.txt": b"old", "shared.txt": b"older", "sub/kept": b"kept", "sub/shared": b"old below"}


@dataclass(frozen=True)
class Shape:
    """kind and conflict: as in the wire contract. over: whether the target exists. elsewhere: it is on another file
    system than the staging area."""

    kind: str = "file"
    conflict: str = "merge"
    over: bool = False
    elsewhere: bool = False

    def __str__(self) -> str:
        words = ["file" if self.is_file else "tree", self.conflict]
        return "_".join(words + ["over"] * self.over + ["elsewhere"] * self.elsewhere)

    @property
    def is_file(self) -> bool:
        return self.kind == "file"

    @property
    def content(self) -> bytes:
        return CONTENT if self.is_file else ARCHIVE

    def prepare(self, target: Path) -> None:
        """Puts at ``target`` what is there before the upload."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if not self.over:
            return
        if self.is_file:
            target.write_bytes(b"old")
        else:
            _write_files(target, OLD_FILES)
        for path in [target, *target.rglob("*")]:
            os.chown(path, *THEIRS)
            path.chmod(OLD_DIRECTORY_MODE if path.is_dir() else OLD_FILE_MODE)

    def after(self, before: Tree, scratch: Path) -> Tree:
        """What the target has to be in the end; ``scratch`` is a directory to make it in."""
        _write_files(scratch, {"x": CONTENT} if self.is_file else NEW_FILES)
        made = seen(scratch / "x" if self.is_file else scratch)
        shutil.rmtree(scratch)
        new = {
            name: one._replace(mode=0o755 if one.kind == "dir" else 0o644, owner=(0, 0)) for name, one in made.items()
        }
        if not before:
            return new
        merged = before | new if self.conflict == "merge" and not self.is_file else new
        kept = [name for name in merged if name in before and (name == "." or merged[name].kind == "dir")]
        if self.conflict == "replace":
            kept = ["."]  # the tree is a new one, in the place and with the owner and mode of the old
        return merged | {name: _like(merged[name], before[name]) for name in kept}


def is_whole(now: Tree, before: Tree, after: Tree, *, by_entries: bool) -> bool:
    """Whether nothing at the target is torn: it is the old or the new, as a whole or, in a merge, each entry of it."""
    if not by_entries:
        return now in (before, after)
    known = all(one in (before.get(name), after.get(name)) for name, one in now.items())
    return known and before.keys() <= now.keys()


def _like(new: Seen, old: Seen) -> Seen:
    return new._replace(mode=old.mode, owner=old.owner)


def _write_files(top: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in NEW_FILES.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = _archive()

FILE = Shape()
FILE_OVER = Shape(over=True)
FILE_ERROR = Shape(conflict="error")
FILE_ELSEWHERE = Shape(over=True, elsewhere=True)
TREE_NEW = Shape("directory_tar", "error")
TREE_REPLACE = Shape("directory_tar", "replace", over=True)
TREE_MERGE = Shape("directory_tar", "merge", over=True)
TREE_NEW_ELSEWHERE = Shape("directory_tar", "error", elsewhere=True)
TREE_REPLACE_ELSEWHERE = Shape("directory_tar", "replace", over=True, elsewhere=True)
TREE_MERGE_ELSEWHERE = Shape("directory_tar", "merge", over=True, elsewhere=True)
SHAPES = (
    *(FILE, FILE_OVER, FILE_ERROR, FILE_ELSEWHERE),
    *(TREE_NEW, TREE_REPLACE, TREE_MERGE),
    *(TREE_NEW_ELSEWHERE, TREE_REPLACE_ELSEWHERE, TREE_MERGE_ELSEWHERE),
)
