"""The marks of the daemon's processes (see `linux.descendants`), and those of daemons before it, which died."""

import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import suppress

_NAME = "marks"
_WIDTH = 1 << 32
_MOST = 4096  # bytes of the file


class Marks(Collection[int]):
    """Of some daemons. firsts: what each counts from. spared: which are none of these."""

    def __init__(self, firsts: Collection[int], spared: Collection[int] = ()) -> None:
        self.firsts = frozenset(firsts)
        self._spared = frozenset(mark for mark in spared if first_of(mark) in self.firsts)

    def __contains__(self, mark: object) -> bool:
        if not isinstance(mark, int) or mark in self._spared:
            return False
        return first_of(mark) in self.firsts and mark not in self.firsts

    def __iter__(self) -> Iterator[int]:
        every = (range(first + 1, first + _WIDTH) for first in sorted(self.firsts))
        return (mark for marks in every for mark in marks if mark not in self._spared)

    def __len__(self) -> int:
        return len(self.firsts) * (_WIDTH - 1) - len(self._spared)


def new_first() -> int:
    """Where a daemon's marks are counted from."""
    return secrets.randbits(27) + 1 << 32


def new_mark(first: int) -> int:
    return first + 1 + secrets.randbelow(_WIDTH - 1)


def first_of(mark: int) -> int:
    return mark & ~(_WIDTH - 1)


def written(directory: int) -> frozenset[int]:
    """The firsts in the file, of daemons that have not ended in an orderly way. Blocks."""
    with suppress(OSError):
        with open(os.open(_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
            words = file.read(_MOST).split()
        found = (int(word) for word in words if word.isdigit())
        return frozenset(first for first in found if first and first_of(first) == first)
    return frozenset()


def write(directory: int, firsts: Collection[int]) -> None:
    """Replaces the file, which needs to survive the daemon and not the machine. Blocks. OSError."""
    fresh = f"{_NAME}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "w") as file:
        file.write("".join(f"{first}\n" for first in sorted(firsts)))
    os.rename(fresh, _NAME, src_dir_fd=directory, dst_dir_fd=directory)


def remove(directory: int) -> None:
    """Blocks."""
    with suppress(FileNotFoundError):
        os.unlink(_NAME, dir_fd=directory)
