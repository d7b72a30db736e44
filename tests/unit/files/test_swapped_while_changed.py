"""A process that swaps directories for links, or for the daemon's own tree, while files are changed gains nothing."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentd.core.conflict import ConflictMode
from agentd.files.changes import Changes
from agentd.files.drafts import Drafts
from agentd.files.editing import Editing
from agentd.files.moving import Moving
from agentd.files.operations import Files
from agentd.files.writing import Writing
from agentd.linux import syscalls
from agentd.linux.identity import Identity
from agentd.linux.places import Place
from agentd.linux.reserved import inode
from agentd.linux.root import Root
from agentd.linux.steps import finish
from tests.swapping import outcomes, swapping

EVE, DAEMON = Identity(40002, 40002, (40002,), "eve", "/"), Identity(0, 0, (0,), "root", "/")
NAMES = ("victim", "trap")
EXPECTED = {
    *("done", "PermissionDenied", "PathReserved", "NotFound", "Unavailable", "Conflict", "IsADirectory"),
    *("NotADirectory", "InvalidRequest", "TooManyLinks", "InvalidPath"),
}


@dataclass
class House:
    """victim: a directory of eve's, as an fd that goes along wherever it is moved. bait: where her link leads."""

    top: Path
    victim: int
    changes: Changes
    writing: Writing
    moving: Moving
    editing: Editing
    bait: str = ""

    def refill(self) -> None:
        if not os.fstat(self.victim).st_nlink:
            self._make_again()
        if self.bait:
            self.lay_trap()
        for name in ("dir", "dir/sub"):
            if not self.has(name):
                os.mkdir(name, dir_fd=self.victim)
        for name in ("file", "dir/file"):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=self.victim)
            os.write(fd, b"harmless")
            os.close(fd)

    def _make_again(self) -> None:
        fresh = self.top / "fresh"
        fresh.mkdir()
        os.chown(fresh, EVE.uid, EVE.gid)
        os.close(self.victim)
        self.victim = os.open(fresh, os.O_RDONLY)
        for name in NAMES:
            with suppress(FileExistsError):
                place = str(self.top / "workspace" / name)
                syscalls.renameat2(syscalls.AT_FDCWD, str(fresh), syscalls.AT_FDCWD, place, syscalls.RENAME_NOREPLACE)
                return

    def lay_trap(self) -> None:
        for name in NAMES:
            with suppress(FileExistsError):
                (self.top / "workspace" / name).symlink_to(self.bait)
                os.chown(self.top / "workspace" / name, EVE.uid, EVE.gid, follow_symlinks=False)

    def has(self, name: str) -> bool:
        try:
            os.lstat(f"/proc/self/fd/{self.victim}/{name}")
        except FileNotFoundError:
            return False
        return True


def place(path: str) -> Place:
    return Place(path, None, DAEMON, ())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    top = tmp_path / "top"
    for name in ("private/dir", "workspace/.nullspace/dir", "workspace/victim", "out"):
        (top / name).mkdir(parents=True)
    for name in ("private", "workspace/.nullspace"):
        for secret in ("file", "dir/file", "secret"):
            (top / name / secret).write_text("secret")
        (top / name).chmod(0o700)
    for name in ("workspace", "workspace/victim"):
        os.chown(top / name, EVE.uid, EVE.gid)
    root = Root(str(top))
    reserved = os.open(top / "workspace/.nullspace", os.O_RDONLY)
    root.reserve(reserved)
    drafts, files = Drafts(root, reserved, 0), Files(root, root.users)
    writing, changes = Writing(root, files, drafts, durable=False), Changes(root, root.users, files, drafts)
    own = inode(os.fstat(reserved))
    moving = Moving(root, files, writing, changes, drafts, reserved=own, durable=False)
    victim = os.open(top / "workspace/victim", os.O_RDONLY)
    made = House(top, victim, changes, writing, moving, Editing(files, writing))
    yield made
    for fd in (made.victim, reserved):
        os.close(fd)
    drafts.close()
    root.close()


HERE, OUT = "/workspace/victim", "/out/copy"
MERGE, REPLACE = ConflictMode.MERGE, ConflictMode.REPLACE
ACTS: dict[str, Callable[[House], object]] = {
    "write": lambda house: house.writing.write(place(f"{HERE}/file"), b"new"),
    "write deep": lambda house: house.writing.write(place(f"{HERE}/new/deep/file"), b"new"),
    "append": lambda house: house.writing.append(place(f"{HERE}/file"), b"new"),
    "replace": lambda house: finish(house.editing.replace([place(f"{HERE}/file")], "s", "S")),
    "mkdir": lambda house: house.changes.make_directory(place(f"{HERE}/new/dir")),
    "mode": lambda house: house.changes.set_mode(place(f"{HERE}/file"), 0o666),
    "mode of the directory": lambda house: house.changes.set_mode(place(f"{HERE}/dir"), 0o777),
    "owner": lambda house: house.changes.set_owner(place(f"{HERE}/file"), str(EVE.uid), None),
    "remove": lambda house: house.changes.remove(place(f"{HERE}/file")),
    "remove a tree": lambda house: house.changes.remove(place(f"{HERE}/dir")),
    "remove the directory": lambda house: house.changes.remove(place(HERE)),
    "link": lambda house: house.changes.link(place(f"{HERE}/link"), "x"),
    "hard link": lambda house: house.changes.link_hard(place(OUT), place(f"{HERE}/file")),
    "rename": lambda house: house.moving.rename(place(f"{HERE}/file"), place(OUT)),
    "move a tree": lambda house: house.moving.move(place(f"{HERE}/dir"), place(OUT), REPLACE),
    "move the directory": lambda house: house.moving.move(place(HERE), place(OUT), REPLACE),
    "copy": lambda house: house.moving.copy(place(f"{HERE}/file"), place(OUT), MERGE),
    "copy a tree": lambda house: house.moving.copy(place(f"{HERE}/dir"), place(OUT), MERGE),
    "copy the directory": lambda house: house.moving.copy(place(HERE), place(OUT), MERGE),
    "copy the workspace": lambda house: house.moving.copy(place("/workspace"), place(OUT), MERGE),
}


def state(directory: Path) -> dict[str, object]:
    """All of it but the staging area."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        if "writes" not in path.parts:
            status = path.lstat()
            text = path.read_text() if path.is_file() else None
            found[str(path.relative_to(directory))] = (
                status.st_ino,
                status.st_uid,
                status.st_mode,
                status.st_nlink,
                text,
            )
    return found


def attempt(house: House, act: Callable[[House], object]) -> str:
    house.refill()
    try:
        act(house)
    finally:
        for path in sorted((house.top / "out").rglob("*"), reverse=True):
            if path.is_file() and not path.is_symlink():
                assert "secret" not in path.read_text()
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    return "done"


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("target", ["private", "reserved"])
def test_a_directory_swapped_for_a_link_leads_no_change_astray(house: House, act: str, target: str) -> None:
    house.bait = "/private" if target == "private" else "/workspace/.nullspace"
    house.lay_trap()
    secrets = [house.top / "private", house.top / "workspace/.nullspace"]
    before = [state(path) for path in secrets]
    with swapping(house.top / "workspace/victim", house.top / "workspace/trap"):
        seen = outcomes(lambda: attempt(house, ACTS[act]))
    assert set(seen) <= EXPECTED
    assert [state(path) for path in secrets] == before


@pytest.mark.parametrize("act", ACTS)
def test_the_daemons_own_tree_swapped_in_is_left_as_it_is(house: House, act: str) -> None:
    reserved = house.top / "workspace/.nullspace"
    before = state(reserved)
    with swapping(house.top / "workspace/victim", reserved):
        seen = outcomes(lambda: attempt(house, ACTS[act]))
    assert set(seen) <= EXPECTED
    assert state(reserved) == before
