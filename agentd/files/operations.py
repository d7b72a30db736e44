"""What is said of one entry, and one file opened for reading. All functions here block."""

import os
import secrets
import stat
import threading
import time
from dataclasses import dataclass

from agentd.errors import InvalidRequest, IsADirectory
from agentd.files import generated
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Users
from agentd.linux.places import Place
from agentd.linux.root import Root


@dataclass(frozen=True, slots=True)
class Entry:
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
            target = os.readlink("", dir_fd=opened.fd) if stat.S_ISLNK(opened.stat.st_mode) else None
            return self._entry(opened.path, opened.stat, target)

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

    def _entry(self, path: str, found: os.stat_result, target: str | None) -> Entry:
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


_TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
_CLOCK_REALTIME_COARSE = 5  # linux/time.h; the clock that gives files their times
_SECOND = 10**9
_TICKS = 3  # one is enough on a machine that is not busy


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
