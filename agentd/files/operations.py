"""What is said of one entry, and one file opened for reading. All functions here block."""

import os
import stat
from dataclasses import dataclass

from agentd.errors import InvalidRequest, IsADirectory
from agentd.linux.identity import Identity, Users
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


class Files:
    """The sandbox's files. Paths are absolute sandbox paths; ``rights`` bound what the daemon's own would allow."""

    def __init__(self, root: Root, users: Users) -> None:
        self._root = root
        self._users = users

    def info(self, path: str, rights: tuple[Identity, ...] = ()) -> Entry:
        """Describes the entry, a symbolic link itself and not what it leads to."""
        with self._root.open(path, os.O_PATH | os.O_NOFOLLOW, rights=rights) as opened:
            target = os.readlink("", dir_fd=opened.fd) if stat.S_ISLNK(opened.stat.st_mode) else None
            return self._entry(opened.path, opened.stat, target)

    def open(self, path: str, rights: tuple[Identity, ...] = ()) -> tuple[int, os.stat_result, str]:
        """A regular file opened for reading: its fd, which is the caller's, its stat and its name."""
        with self._root.open(path, os.O_RDONLY, rights=rights) as opened:
            if stat.S_ISDIR(opened.stat.st_mode):
                raise IsADirectory(f"{path} is a directory: name a file", path=path)
            if not stat.S_ISREG(opened.stat.st_mode):
                raise InvalidRequest(f"{path} is no regular file and has no content to send", path=path)
            return os.dup(opened.fd), opened.stat, opened.path.rpartition("/")[2]

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
