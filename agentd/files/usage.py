"""How much room a tree takes, as du(1) counts it."""

import os
from collections.abc import Generator
from stat import S_ISDIR, S_ISLNK, S_ISREG

import msgspec

from agentd.files.traversal import DIRECTORY, Descent
from agentd.linux.identity import Identity
from agentd.linux.places import Place
from agentd.linux.reserved import Inode, inode
from agentd.linux.root import Root

_REMEMBERED = 1_000_000  # files with several names


class Usage(msgspec.Struct):
    """apparent: bytes of content. allocated: bytes of disk, directories and links too. files, directories, links,
    others: how many. unread: paths that could not be read."""

    apparent: int = 0
    allocated: int = 0
    files: int = 0
    directories: int = 0
    links: int = 0
    others: int = 0
    unread: int = 0


class Counting:
    """A count that has begun: what `chunks` gives is nothing, but afterwards `usage` is there. chunks, rights: for
    `traversal.batches`."""

    def __init__(self, descent: Descent, usage: Usage, *, one_file_system: bool) -> None:
        self.usage = usage
        self.rights: tuple[Identity, ...] = descent.rights
        self._descent = descent
        self._one_file_system = one_file_system
        self._seen: set[Inode] = set()

    @property
    def chunks(self) -> Generator[list[None], None, None]:
        """Once. Not kept: with a generator of its own in it, what is dropped would stay open for a while."""
        return self._count()

    def _count(self) -> Generator[list[None], None, None]:
        top = os.fstat(self._descent.fd)
        self._add(top)
        for steps in self._descent.steps():
            for _, status in steps:
                # Of files overlayfs tells the device of the layer.
                if not self._one_file_system or not S_ISDIR(status.st_mode) or status.st_dev == top.st_dev:
                    self._add(status)
            yield []

    def _add(self, status: os.stat_result) -> None:
        mode, usage = status.st_mode, self.usage
        if status.st_nlink > 1 and not S_ISDIR(mode):
            if inode(status) in self._seen:
                return
            if len(self._seen) < _REMEMBERED:
                self._seen.add(inode(status))
        usage.allocated += status.st_blocks * 512
        if S_ISREG(mode):
            usage.files += 1
            usage.apparent += status.st_size
        elif S_ISDIR(mode):
            usage.directories += 1
        elif S_ISLNK(mode):
            usage.links += 1
        else:
            usage.others += 1


class Measuring:
    """All methods block, and raise what `Root.open` raises."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def usage(self, place: Place, *, one_file_system: bool = False) -> Counting:
        """The directory and all that is in it. A file with several names counts once. one_file_system: mounts below it
        do not count."""
        usage = Usage()

        def failed(path: str, why: str) -> None:
            usage.unread += 1

        top = self._root.open(place.path, DIRECTORY & ~os.O_NOFOLLOW, rights=place.rights)
        descent = Descent(self._root, top, failed=failed, one_file_system=one_file_system)
        return Counting(descent, usage, one_file_system=one_file_system)
