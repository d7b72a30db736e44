"""What is said of one entry, and one file opened for reading. All functions here block."""

import os
import secrets
import stat
import threading
import time

import msgspec

from agentd.errors import InvalidRequest, IsADirectory, NotADirectory, NotFound, RequestTooLarge
from agentd.files import generated
from agentd.linux.attributes import attribute_names
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Users
from agentd.linux.places import Place
from agentd.linux.root import Opened, Root


class Entry(msgspec.Struct, frozen=True):
    """An entry of the sandbox. type: ``file``, ``dir``, ``symlink`` or ``other``. size in bytes; mode: the permission
    bits; modified: seconds since the epoch; target: of a symbolic link, as it is written there."""

    name: str
    path: str
    type: str
    size: int
    mode: int
    owner: str
    group: str
    modified: float
    target: str | None


class Status(msgspec.Struct, frozen=True):
    """All that is known of an entry. Times in nanoseconds since the epoch; rdev: of a device; attributes: the names of
    its extended attributes (xattr(7))."""

    entry: Entry
    inode: int
    device: int
    links: int
    uid: int
    gid: int
    blocks: int
    accessed: int
    modified: int
    changed: int
    attributes: list[str]


class Content(Descriptor):
    """A file open for reading. size in bytes; modified: seconds since the epoch; version: another one for each content
    that this name ever has, as far as the kernel's clock tells (stores through a mapping show when they are synced)."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd)
        found, self.version = _settled(fd)
        self.name = name
        self.size = found.st_size
        self.modified = found.st_mtime_ns / 1e9


class Files:
    """The sandbox's entries, one at a time."""

    def __init__(self, root: Root, users: Users) -> None:
        self._root = root
        self._users = users

    def info(self, place: Place) -> Entry:
        """Describes the entry, a symbolic link itself and not what it leads to."""
        with self._root.open(place.path, os.O_PATH | os.O_NOFOLLOW, rights=place.rights) as opened:
            return self._described(opened)

    def exists(self, place: Place) -> bool:
        """Whether something is there; a link counts, wherever it leads. What `info` raises, but for what is missing."""
        try:
            self.info(place)
        except (NotFound, NotADirectory):
            return False
        return True

    def status(self, place: Place, *, follow: bool = False) -> Status:
        """As `info`, and all else. follow: what a symbolic link leads to, instead of the link."""
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        with self._root.open(place.path, flags, rights=place.rights) as opened:
            found = opened.stat
            return Status(
                entry=self._described(opened),
                inode=found.st_ino,
                device=found.st_dev,
                links=found.st_nlink,
                uid=found.st_uid,
                gid=found.st_gid,
                blocks=found.st_blocks,
                accessed=found.st_atime_ns,
                modified=found.st_mtime_ns,
                changed=found.st_ctime_ns,
                attributes=attribute_names(opened.fd),
            )

    def read(self, place: Place, limit: int) -> bytes:
        """All of a regular file. RequestTooLarge where it has more than ``limit`` bytes."""
        with self.open(place) as content:
            if content.size > limit:
                raise RequestTooLarge(
                    f"{place.path} has {content.size} bytes, at most {limit} are given in one piece: get it as a file",
                    path=place.path,
                    limit=limit,
                )
            return _read(content.fd, content.size)

    def open(self, place: Place) -> Content:
        """A regular file, opened for reading. What is no file has no content, and is not opened: that would act on it.

        Where the kernel makes the content on reading, it is what could be read at this moment.
        """
        with self._root.open(place.path, os.O_PATH, rights=place.rights) as seen:
            _check_regular(seen.stat, place.path)
        with self._root.open(place.path, os.O_RDONLY, rights=place.rights) as opened:
            _check_regular(opened.stat, place.path)
            generated.refuse_own(self._root, opened, place.path)
            name = opened.path.rpartition("/")[2]
            return Content((generated.copied(opened, place.path) or opened).detach(), name)

    def entry(self, path: str, found: os.stat_result, target: str | None = None) -> Entry:
        """Describes what ``found`` is the lstat of. path: resolved; target: of a symbolic link."""
        return Entry(
            name=path.rpartition("/")[2],
            path=path,
            type=_TYPES.get(stat.S_IFMT(found.st_mode), "other"),
            size=found.st_size,
            mode=stat.S_IMODE(found.st_mode),
            owner=self._users.name(found.st_uid),
            group=self._users.group(found.st_gid),
            modified=found.st_mtime,
            target=target,
        )

    def _described(self, opened: Opened) -> Entry:
        target = os.readlink("", dir_fd=opened.fd) if stat.S_ISLNK(opened.stat.st_mode) else None
        return self.entry(opened.path, opened.stat, target)


_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
_CLOCK_REALTIME_COARSE = 5  # linux/time.h; the clock that gives files their times
_SECOND = 10**9
_PIECE = 1 << 20
_TICKS = 3  # one is enough on a machine that is not busy


def _read(fd: int, size: int) -> bytes:
    """The first ``size`` bytes, or what there is of them."""
    pieces, done = [], 0
    while done < size and (piece := os.pread(fd, min(_PIECE, size - done), done)):
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces)


def _check_regular(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectory(f"{path} is a directory: name a file", path=path)
    if not stat.S_ISREG(found.st_mode):
        raise InvalidRequest(f"{path} is no regular file and has no content to send", path=path)


def _settled(fd: int) -> tuple[os.stat_result, str]:
    """The file's state, and a version made of what changes with the content.

    A file changed in this very tick of the clock may change once more and look the same, so the tick is waited for. If
    that does not help (written all the time, a clock that goes back, times in whole seconds), the version is like no
    other.
    """
    found = os.fstat(fd)
    for _ in range(_TICKS):
        if not _is_young(found):
            break
        threading.Event().wait(time.clock_getres(_CLOCK_REALTIME_COARSE))
        found = os.fstat(fd)
    stamps = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    version = "-".join(f"{stamp:x}" for stamp in stamps)
    return found, f"{version}-{secrets.token_hex(8)}" if _is_young(found) else version


def _is_young(found: os.stat_result) -> bool:
    step = 0 if found.st_ctime_ns % _SECOND else 2 * _SECOND
    return found.st_ctime_ns + step >= time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
