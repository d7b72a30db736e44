"""A walk down a directory tree that others change meanwhile: `Descent`.

It goes by descriptors: each directory is opened by its name in the one above, never through a link, and on the way back
``..`` is believed only where it is the directory that the walk came through. One fd is held for the whole way, however
deep it is, and one more for each directory that is larger than `SORTED`: those are read as they are walked, in the file
system's order, while the names of a smaller one are read at once and sorted. So memory does not grow with the tree.

What vanishes is passed over; what cannot be read, or was moved away with the walk in it, is told to ``failed``. The
reserved tree, and mounts that show a part of it, are never seen. Where rights bound the walk, the kernel decides as
each of their owners: run `steps` within `deciding`, as `batches` does.

    top = root.open(path, DIRECTORY, rights=place.rights)
    descent = Descent(root, top, depth=3)
    async for found in batches(descent.steps(), descent.rights, 1000, list): ...
"""

import errno
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import chain, islice
from operator import length_hint
from stat import S_ISDIR
from typing import TypeVar

import msgspec

from agentd.errors import InvalidRequest
from agentd.files.generated import is_of_kernel
from agentd.linux.identity import Identity, acting_as
from agentd.linux.reserved import Inode, inode
from agentd.linux.root import Opened, Root
from agentd.linux.threads import in_thread

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
WHOLE = 1 << 20  # a depth that no tree has
SORTED = 10_000  # names
_SORTED_DEEPER = 1000  # where the levels above hold their share
_TOGETHER = 64  # entries
_LOOK = 1024  # entries, of which all may be passed over
_GONE = frozenset({errno.ENOENT, errno.ESRCH})  # the latter for what told of a process
# Also what open(2) says where something else has the name now: a file, a link, a socket.
_REPLACED = _GONE | frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
_BATCH_SECONDS = 0.02

# The names to be walked in a directory: what tells its fd as long as they are asked for, its path with a slash at the
# end, and how many names the directories above it hold.
Names = Callable[[Callable[[], int], str, int], Iterator[str]]
T = TypeVar("T")
R = TypeVar("R")


class _Level(msgspec.Struct):
    """A directory on the way. path: with a slash at the end. name: in the directory above. held: names in memory."""

    path: str
    name: str
    inode: Inode
    names: Iterator[str]
    held: int


# An entry's name and lstat.
Step = tuple[str, os.stat_result]


class Descent:
    """One walk. For each step: `fd`, the directory that holds the entry, and `path`, its path with a slash at the end.

    rights: of those who bound it.
    """

    def __init__(
        self,
        root: Root,
        top: Opened,
        depth: int = WHOLE,
        *,
        names: Names | None = None,
        skips: Callable[[str, str, bool], bool] | None = None,
        failed: Callable[[str, str], None] = lambda path, why: None,
        reads: bool = False,
        one_file_system: bool = False,
    ) -> None:
        """top: a directory open for reading, the walk's own from now on. depth: 1 for what is in it alone. names: gives
        the names of a directory instead. skips: whether to pass over an entry and what is in it, by the path of its
        directory, its name and whether it is a directory. failed: told a path and a reason. reads: the content of files
        is wanted, so file systems whose content the kernel makes are not entered, and InvalidRequest as the top.
        one_file_system: mounts are not entered."""
        self.rights = top.rights
        self.path = top.path.rstrip("/") + "/"
        self.fd = top.fd
        self._top = top
        self._depth = depth
        self._names = names or _sorted_if_small
        self._skips = skips
        self._failed = failed
        self._reads = reads
        self._one_file_system = one_file_system
        self._hides = root.hides()
        self._levels: list[_Level] = []
        self._held = 0
        if reads and is_of_kernel(top.fd):
            raise InvalidRequest(f"what is in {top.path!r} is made by the kernel; read single files", path=top.path)

    def steps(self) -> Generator[list[Step], None, None]:
        """Every entry, each directory before what is in it: some of one directory at a time, or none where it is time
        to look whether the walk is still wanted. Closed, it lets go of its fds."""
        try:
            self._push("", self._top.stat)
            while self._levels:
                yield from self._in_directory(self._levels[-1])
        finally:
            self.close()

    def _in_directory(self, level: _Level) -> Generator[list[Step], None, None]:
        """Until it is done, or the walk stands in one of its directories."""
        skips, hides, fd, path = self._skips, self._hides, self.fd, self.path
        goes_deeper = len(self._levels) < self._depth
        steps: list[Step] = []
        try:
            for number, name in enumerate(level.names, 1):
                if not number % _LOOK:
                    yield steps
                    steps = []
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError as error:
                    self._tell(path + name, error)
                    continue
                is_directory = S_ISDIR(status.st_mode)
                if (skips is not None and skips(path, name, is_directory)) or hides(fd, name, status):
                    continue
                steps.append((name, status))
                if is_directory and goes_deeper:
                    yield steps
                    self._down(name, status)
                    if not self._levels or self._levels[-1] is not level:
                        return
                    fd, steps = self.fd, []
                elif len(steps) == _TOGETHER:
                    yield steps
                    steps = []
        except OSError as error:
            self._tell(path, error)
        yield steps
        self._up()

    def close(self) -> None:
        for level in self._levels:
            _close(level.names)
        self._levels.clear()
        if self.fd != self._top.fd:
            os.close(self.fd)
        self._top.close()
        self.fd = -1

    def open(self, name: str, status: os.stat_result, flags: int = os.O_RDONLY) -> int | None:
        """An fd of the entry of this step, as all who have to be allowed to it; None where something else is there
        now, or where the kernel makes what would be read. Raises OSError, PermissionDenied."""
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        for identity in self.rights[1:]:
            with acting_as(identity):
                fd = self._opened(name, status, flags)
            if fd is None:
                return None
            os.close(fd)
        return self._opened(name, status, flags)

    def _opened(self, name: str, status: os.stat_result, flags: int) -> int | None:
        try:
            fd = os.open(name, flags, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _REPLACED:
                return None
            raise
        is_foreign = self._reads and status.st_dev != self._levels[-1].inode[0] and is_of_kernel(fd)
        if not is_foreign and inode(os.fstat(fd)) == inode(status):
            return fd
        os.close(fd)
        return None

    def _down(self, name: str, status: os.stat_result) -> None:
        """Enters the directory, if it can be entered."""
        try:
            fd = self.open(name, status, DIRECTORY)
        except OSError as error:
            self._tell(self.path + name, error)
            return
        if fd is None:
            return
        self._stand_in(fd)
        self.path += name + "/"
        if not self._push(name, status):
            self._return()

    def _push(self, name: str, status: os.stat_result) -> bool:
        """Begins to read the directory where the walk stands now."""
        is_mount = bool(self._levels) and status.st_dev != self._levels[-1].inode[0]
        if is_mount and (self._one_file_system or (self._reads and is_of_kernel(self.fd))):
            return False
        try:
            for identity in self.rights[1:]:
                with acting_as(identity):
                    os.stat(".", dir_fd=self.fd)  # its search permission
            names = self._names(lambda: self.fd, self.path, self._held)
            held = length_hint(names)
        except OSError as error:
            self._tell(self.path, error)
            return False
        self._levels.append(_Level(self.path, name, inode(status), names, held))
        self._held += held
        return True

    def _up(self) -> None:
        level = self._levels.pop()
        self._held -= level.held
        _close(level.names)
        self._return()

    def _return(self) -> None:
        """Goes back to the directory of the last level; levels that are not where they were are given up."""
        while self._levels:
            level = self._levels[-1]
            self.path = level.path
            with suppress(OSError):
                self._stand_in(os.open("..", DIRECTORY, dir_fd=self.fd))
                if inode(os.fstat(self.fd)) == level.inode:
                    return
            with suppress(OSError):
                self._stand_in(self._top.fd)
                for below in self._levels[1:]:
                    self._stand_in(os.open(below.name, DIRECTORY, dir_fd=self.fd))
                if inode(os.fstat(self.fd)) == level.inode:
                    return
            self._levels.pop()
            self._held -= level.held
            _close(level.names)
            self._failed(level.path.rstrip("/"), "it was moved or removed while it was read")

    def _stand_in(self, fd: int) -> None:
        before, self.fd = self.fd, fd
        if before != self._top.fd:
            os.close(before)

    def _tell(self, path: str, error: OSError) -> None:
        if error.errno not in _GONE:
            self._failed(path.rstrip("/"), error.strerror or str(error))


def deciding(rights: tuple[Identity, ...]) -> AbstractContextManager[None]:
    """This thread acts as the first of ``rights``, if there is one; for the others see `Descent`."""
    return acting_as(rights[0]) if rights else nullcontext()


async def batches(
    chunks: Generator[list[T], None, None],
    rights: tuple[Identity, ...],
    count: int,
    form: Callable[[list[T]], R],
) -> AsyncGenerator[R, None]:
    """What ``form`` makes of what is in ``chunks``: about ``count`` together, never none.

    Both run in worker threads, ``chunks`` as ``rights`` has it, for some ten milliseconds at a time or until the next
    chunk is there: so a caller who leaves soon stops the work. The chunks are closed with this.
    """

    def batch() -> tuple[R | None, bool]:
        found, done = _batch(chunks, rights, count)
        return (form(found) if found else None), done

    try:
        done = False
        while not done:
            formed, done = await in_thread(batch)
            if formed is not None:
                yield formed
    finally:
        await in_thread(chunks.close)


def _batch(chunks: Iterator[list[T]], rights: tuple[Identity, ...], count: int) -> tuple[list[T], bool]:
    found: list[T] = []
    end = time.monotonic() + _BATCH_SECONDS
    with deciding(rights):
        for chunk in chunks:
            found += chunk
            if len(found) >= count or time.monotonic() > end:
                return found, False
    return found, True


def _sorted_if_small(fd: Callable[[], int], path: str, held: int) -> Iterator[str]:
    names = _scan(fd())
    room = max(SORTED - held, _SORTED_DEEPER)
    first = list(islice(names, room + 1))
    if len(first) <= room:
        return iter(sorted(first))
    return _Large(first, names)


class _Large(Iterator[str]):
    """The names of a directory that is read as it is walked."""

    def __init__(self, first: list[str], scan: Generator[str, None, None]) -> None:
        self._names = chain(first, scan)
        self._held = len(first)
        self._scan = scan

    def __next__(self) -> str:
        return next(self._names)

    def __length_hint__(self) -> int:
        return self._held

    def close(self) -> None:
        self._scan.close()


def _scan(fd: int) -> Generator[str, None, None]:
    """The names in a directory; ``fd`` may be closed before the end."""
    with os.scandir(fd) as entries:
        for entry in entries:
            yield entry.name


def _close(names: Iterator[str]) -> None:
    close = getattr(names, "close", None)
    if close is not None:
        close()
