"""The directories that one watch follows: in the kernel's terms a number each, in ours a place in a tree. Blocking."""

import threading
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

import msgspec

from agentd.errors import CapacityExceeded
from agentd.linux import inotify
from agentd.linux.inotify import Inotify, Notice
from agentd.linux.reserved import Inode, inode
from agentd.linux.root import Opened

_CHANGES = inotify.CREATE | inotify.DELETE | inotify.MODIFY | inotify.ATTRIB | inotify.MOVED_FROM | inotify.MOVED_TO
_ITS_OWN = inotify.DELETE_SELF | inotify.MOVE_SELF
_MASK = _CHANGES | _ITS_OWN | inotify.ONLYDIR | inotify.EXCL_UNLINK
_ABOVE = inotify.DELETE | inotify.ONLYDIR


class Names:
    """A set of names, of which only 8 bytes are kept each: their sorted hashes."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._hashes = array("q", sorted(map(hash, names)))

    def __contains__(self, name: str) -> bool:
        at = bisect_left(self._hashes, hash(name))
        return at < len(self._hashes) and self._hashes[at] == hash(name)

    def add(self, name: str) -> None:
        if name not in self:
            insort(self._hashes, hash(name))

    def discard(self, name: str) -> bool:
        """Whether it was there."""
        if name not in self:
            return False
        del self._hashes[bisect_left(self._hashes, hash(name))]
        return True


class Directory:
    """One that is watched. wd: its number; identity: its inode. name: in ``parent``; None and "" for the top.

    names: of the entries in it that may be told of; listed: when they were last read. below: those of the directories
    in it that are watched, by name.
    """

    __slots__ = ("below", "identity", "listed", "name", "names", "parent", "wd")

    def __init__(self, wd: int, identity: Inode, parent: "Directory | None", name: str) -> None:
        self.wd = wd
        self.identity = identity
        self.parent = parent
        self.name = name
        self.names = Names()
        self.listed = 0
        self.below: dict[str, Directory] = {}

    def path(self, name: str) -> str:
        """Of an entry in it, from the top on."""
        names = [name, *(directory.name for directory in self._upwards() if directory.parent is not None)]
        return "/".join(reversed(names))

    def is_within(self, other: "Directory") -> bool:
        """Or is it."""
        return any(directory is other for directory in self._upwards())

    @property
    def is_attached(self) -> bool:
        """Whether it is where its name says."""
        return self.parent is not None and self.parent.below.get(self.name) is self

    def attach(self, parent: "Directory", name: str) -> None:
        self.detach()
        self.parent, self.name = parent, name
        parent.below[name] = self

    def detach(self) -> None:
        """Its entries keep their paths until it is attached again."""
        if self.parent is not None and self.is_attached:
            del self.parent.below[self.name]

    def _upwards(self) -> Iterator["Directory"]:
        at: Directory | None = self
        while at is not None:
            yield at
            at = at.parent


class Left(msgspec.Struct, frozen=True):
    """The first half of a rename. path: from the top on. directory: the one that left, where it is watched. known: the
    name was told, and is free now. is_bare: nothing was told of what is in it."""

    path: str
    notice: Notice
    directory: Directory | None
    known: bool
    is_bare: bool


class Displaced(msgspec.Struct, frozen=True):
    """What had a name that something else was renamed to. by: that other. directory: it, where it was watched. is_file:
    it was told to be one, more or less."""

    by: Inode | None
    directory: Directory | None
    is_file: bool


class Allowance:
    """How many directories all watches together may follow."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            if self._left <= 0:
                return False
            self._left -= 1
            return True

    def give(self, count: int) -> None:
        with self._lock:
            self._left += count


class Directories:
    """Those that are watched, by number."""

    def __init__(self, limit: int, allowance: Allowance) -> None:
        """CapacityExceeded where the kernel allows no further watch."""
        self._limit = limit
        self._allowance = allowance
        self._known: dict[int, Directory] = {}
        self._above = -1
        self.inotify = Inotify()

    def close(self) -> None:
        """Done also when dropped, as what a job opened for a cancelled caller is."""
        self._allowance.give(len(self._known))
        self._known.clear()
        self.inotify.close()

    def __del__(self) -> None:
        if hasattr(self, "inotify"):
            self.close()

    def find(self, wd: int) -> Directory | None:
        return self._known.get(wd)

    def watch(self, opened: Opened, parent: Directory | None = None, name: str = "") -> Directory | None:
        """An open directory, watched from now on; as it was, if it is already. None for the one above the top, which is
        there again where it is mounted further down. Raises CapacityExceeded, PermissionDenied."""
        wd = self.inotify.add(opened.fd, _MASK, opened.path)
        if wd == self._above:
            return None
        if wd not in self._known:
            self._admit(opened.path)
            self._known[wd] = Directory(wd, inode(opened.stat), parent, name)
        return self._known[wd]

    def watch_above(self, opened: Opened) -> None:
        """The directory that the top is in, for `is_above`."""
        wd = self.inotify.add(opened.fd, _ABOVE, opened.path)
        if wd in self._known:
            self.inotify.add(opened.fd, _MASK, opened.path)
        else:
            self._above = wd

    def is_above(self, wd: int) -> bool:
        return wd == self._above >= 0

    def forget(self, directory: Directory) -> None:
        """With all below it."""
        directory.detach()
        pending = [directory]
        while pending:
            one = pending.pop()
            pending += one.below.values()
            if self._known.get(one.wd) is one:
                del self._known[one.wd]
                self._allowance.give(1)
                self.inotify.remove(one.wd)

    def _admit(self, path: str) -> None:
        if len(self._known) >= self._limit:
            raise CapacityExceeded(
                f"cannot watch {path!r}: one watch follows at most {self._limit} directories; watch a part of the tree",
                path=path,
                limit=self._limit,
            )
        if not self._allowance.take():
            raise CapacityExceeded(
                f"cannot watch {path!r}: the daemon watches no more directories; end other watches", path=path
            )
