"""One directory of a tree, entered and left level by level with a single descriptor, however deep the tree is."""

import errno
import os
from typing import Self

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Branch:
    """A place in the tree below `top_fd`. Symbolic links are never followed.

    The way back is "..", which is believed only if it leads to the directory we came from (same device and inode):
    somebody may have moved the directory meanwhile. Then the names are walked again from the top.

    fd: the directory we are in (the branch closes it).
    names: how we came here, from the top.
    """

    def __init__(self, top_fd: int) -> None:
        self._top_fd = top_fd
        self.fd = os.open(".", DIRECTORY, dir_fd=top_fd)
        self.names: list[str] = []
        self._trail = [_identity(self.fd)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def path(self, name: str) -> str:
        """The path, from the top, of the entry `name` of this directory."""
        return "/".join([*self.names, name])

    def down(self, name: str) -> None:
        """Enter the directory `name`. Raises OSError: ENOENT; ENOTDIR or ELOOP for anything but a directory."""
        self._move(os.open(name, DIRECTORY, dir_fd=self.fd))
        self.names.append(name)
        self._trail.append(_identity(self.fd))

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the directory we are in."""
        return self._trail[-1]

    def up(self) -> None:
        """Return to the directory above. Raises OSError: ENOENT, ESTALE when it is no longer where we came through."""
        self._move(os.open("..", DIRECTORY, dir_fd=self.fd))
        self.names.pop()
        self._trail.pop()
        if _identity(self.fd) != self.identity:
            self._move(os.open(".", DIRECTORY, dir_fd=self._top_fd))
            for name in self.names:
                self._move(os.open(name, DIRECTORY, dir_fd=self.fd))
            if _identity(self.fd) != self.identity:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/".join(self.names))

    def _move(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd


def _identity(fd: int) -> tuple[int, int]:
    stat = os.fstat(fd)
    return stat.st_dev, stat.st_ino
