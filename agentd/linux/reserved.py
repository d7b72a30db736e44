"""The daemon's own tree, recognised whatever it is called.

A directory is recognised by device and inode, and what lies beneath it by the directories above: nobody but root can
take a thing out of a directory of root's with mode 0700, so the way up from anything in it leads through it at every
moment, whoever renames it or its ancestors meanwhile. The one way round is a bind mount of a directory inside: its way
up leaves through the mount. That is seen by the mount id, and /proc/self/mountinfo says what the mount shows.
Where the kernel tells no mount ids (gVisor) such a mount, which only root can make, stays unseen.
"""

import os
import re
from collections.abc import Callable, Iterator

import msgspec

from agentd.errors import InvalidPath, PathReserved, PermissionDenied
from agentd.linux import syscalls

DEPTH_LIMIT = 1024

Inode = tuple[int, int]


def inode(status: os.stat_result) -> Inode:
    """Device and inode number: the same directory, whatever its name."""
    return status.st_dev, status.st_ino


class Reserved:
    """Refuses the reserved trees. ``asked``, wherever it is taken, is the path for the error's text."""

    def __init__(self, root_fd: int, place: str) -> None:
        """place: absolute, in sandbox terms, and refused even while nothing is there."""
        self.place = place
        self._root = inode(os.fstat(root_fd))
        self._trees: dict[Inode, _Tree] = {}
        self._known_mounts = {syscalls.mount_id(root_fd), None}

    def add(self, fd: int) -> None:
        """From now on the directory ``fd`` is reserved, with all beneath it. What was reserved before stays so."""
        kept = os.open(".", os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
        tree = _Tree(kept, inode(os.fstat(kept)), syscalls.mount_id(kept))
        if tree.inode in self._trees:
            os.close(kept)
            return
        self._trees = {**self._trees, tree.inode: tree}
        self._known_mounts = {*self._known_mounts, tree.mount}

    def close(self) -> None:
        """Lets go of the trees' fds."""
        trees, self._trees = self._trees, {}
        for tree in trees.values():
            os.close(tree.fd)

    def check_place(self, path: str, asked: str) -> None:
        """path: resolved, absolute, in sandbox terms."""
        if path == self.place or path.startswith(self.place + "/"):
            raise _refusal(asked)

    def check_inode(self, status: os.stat_result, asked: str) -> None:
        """status: of any directory or entry on the way."""
        if inode(status) in self._trees:
            raise _refusal(asked)

    def check_directory(self, fd: int, asked: str) -> None:
        """Refuses ``fd`` if it is, or lies beneath, a reserved tree, or is no longer beneath the root."""
        trees = self._trees
        if not trees:
            return
        devices = {device for device, _ in trees}
        same_device = False
        for status in _upwards(fd, asked):
            if inode(status) in trees:
                raise _refusal(asked)
            if inode(status) == self._root:
                break
            same_device = same_device or status.st_dev in devices
        if same_device:
            self._check_mount(syscalls.mount_id(fd), asked)

    def check_entry(self, dir_fd: int, name: str, status: os.stat_result, asked: str) -> None:
        """status: the lstat of ``name`` in ``dir_fd``, a checked directory. A mount that shows the tree is refused."""
        self.check_inode(status, asked)
        if self._trees:
            mount = syscalls.mount_id(dir_fd, name)
            if mount not in self._known_mounts and mount != syscalls.mount_id(dir_fd):
                self._check_mount(mount, asked)

    def hides(self) -> Callable[[int, str, os.stat_result], bool]:
        """`check_entry` as a question, for a walk over many entries: only where something is mounted that shows a part
        of a tree now, which root alone can do, is each entry's mount looked at."""
        trees = self._trees
        if not self._shown_elsewhere():
            return lambda dir_fd, name, status: inode(status) in trees

        def hidden(dir_fd: int, name: str, status: os.stat_result) -> bool:
            try:
                self.check_entry(dir_fd, name, status, name)
            except (PathReserved, OSError):
                return True
            return False

        return hidden

    def _shown_elsewhere(self) -> bool:
        trees = [tree for tree in self._trees.values() if tree.mount is not None]
        try:
            mounts = _read_mounts() if trees else {}
        except OSError:
            return True
        return any(_shows(mounts, number, tree) for tree in trees for number in mounts if number != tree.mount)

    def is_within(self, fd: int) -> bool:
        """Whether ``fd`` is a reserved tree or one of its ancestors."""
        wanted = inode(os.fstat(fd))
        for tree in self._trees.values():
            for status in _upwards(tree.fd, self.place):
                if inode(status) == wanted:
                    return True
                if inode(status) == self._root:
                    break
        return False

    def _check_mount(self, mount: int | None, asked: str) -> None:
        if mount in self._known_mounts:
            return
        mounts = _read_mounts()
        for tree in self._trees.values():
            if _shows(mounts, mount, tree):
                raise _refusal(asked)


class _Tree(msgspec.Struct, frozen=True):
    fd: int
    inode: Inode
    mount: int | None


class _Mount(msgspec.Struct, frozen=True):
    """A line of /proc/self/mountinfo. source: the directory shown, in its file system; place: where it is mounted."""

    parent: int
    device: bytes
    source: bytes
    place: bytes


def _refusal(asked: str) -> PathReserved:
    return PathReserved(f"{asked!r} is or leads into the daemon's own tree; use a path outside of it", path=asked)


def _upwards(fd: int, asked: str) -> Iterator[os.stat_result]:
    """The directory ``fd`` and those above it, as they are at the moment of each step."""
    yield os.fstat(fd)
    way = ".."
    for _ in range(DEPTH_LIMIT):
        yield os.stat(way, dir_fd=fd)
        way += "/.."
    top = inode(os.stat(way, dir_fd=fd))
    if top == inode(os.stat(way + "/..", dir_fd=fd)):
        raise PermissionDenied(f"{asked!r} leads out of the sandbox's root; use a path beneath it", path=asked)
    raise InvalidPath(f"{asked!r} is more than {DEPTH_LIMIT} directories deep; use a shallower place", path=asked)


def _read_mounts() -> dict[int, _Mount]:
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.split(b" ", 5) for line in file.read().splitlines()]
    return {
        int(number): _Mount(int(parent), device, unescaped(source), unescaped(place))
        for number, parent, device, source, place, _ in lines
    }


def unescaped(field: bytes) -> bytes:
    """proc_pid_mountinfo(5): blanks and backslashes are written in octal."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)


def _shows(mounts: dict[int, _Mount], number: int | None, tree: _Tree) -> bool:
    """Whether the mount, or one that it is mounted in, shows a part of the tree. In doubt it does."""
    home = mounts.get(tree.mount or -1)
    if home is None or number not in mounts:
        return True
    path = os.fsencode(os.readlink(f"/proc/self/fd/{tree.fd}"))
    inside = os.path.normpath(os.path.join(home.source, os.path.relpath(path, home.place)))
    while number is not None and number != tree.mount and number in mounts:
        mount = mounts[number]
        if mount.device == home.device and (mount.source + b"/").startswith(inside + b"/"):
            return True
        number = mount.parent if mount.parent != number else None
    return False
