"""Copying between open files without the bytes passing through Python, where the kernel can.

Three ways, each taken up where the one before it is refused: ``copy_file_range`` (shares extents on btrfs and xfs;
EXDEV between two file systems, see copy_file_range(2)), ``sendfile`` from file to file, and ``pread`` with ``pwrite``.
"""

import errno
import os
from collections.abc import Callable

from agentd.linux.syscalls import FALLOC_FL_KEEP_SIZE, fallocate

_PIECE = 64 * 1024 * 1024  # bytes between two looks at `stop`
_BUFFER = 1024 * 1024

# "Not this way", as opposed to "the disk failed". EPERM and ENOSYS are how seccomp filters refuse a system call.
_REFUSALS = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class Stopped(Exception):
    """The caller's `stop` said true: the work was left unfinished."""


def allocate(fd: int, offset: int, length: int) -> bool:
    """Reserve the region's blocks, so that a full disk is known beforehand (fallocate(2), the size stays).

    False on a file system that cannot do that: it is trusted to say so at the write. Raises OSError.
    """
    if length == 0:
        return True
    try:
        fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, length)
    except OSError as failure:
        if failure.errno not in _REFUSALS:
            raise
        return False
    return True


def free_bytes(fd: int) -> int:
    """What is free for anybody on the file system of ``fd`` (statvfs(3))."""
    found = os.fstatvfs(fd)
    return found.f_bavail * found.f_frsize


def copy_range(
    source_fd: int,
    target_fd: int,
    length: int,
    source_offset: int = 0,
    target_offset: int = 0,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Copy `length` bytes (offsets in bytes). Moves `target_fd`'s file position.

    Raises Stopped (`stop` is asked every 64 MiB), OSError (EIO where the source ends early).
    """
    ways = [_by_kernel, _by_sendfile, _by_hand]
    done = 0
    while done < length:
        if stop is not None and stop():
            raise Stopped
        count = min(length - done, _PIECE)
        try:
            copied = ways[0](source_fd, target_fd, source_offset + done, target_offset + done, count)
        except OSError as failure:
            if len(ways) == 1 or failure.errno not in _REFUSALS:
                raise
            copied = 0
        done += copied
        if copied == 0:
            # Some file systems answer 0 to a way that they do not support: only the last way is believed.
            if len(ways) == 1:
                raise OSError(errno.EIO, "the source ends early")
            del ways[0]


def copy_file(source_fd: int, target_fd: int, size: int, stop: Callable[[], bool] | None = None) -> None:
    """Copy the first `size` bytes of a file into an empty file; holes stay holes (SEEK_DATA, lseek(2)).

    Moves both file positions. Raises as `copy_range` does.
    """
    os.ftruncate(target_fd, size)
    offset = 0
    while offset < size:
        start, end = _next_extent(source_fd, offset, size)
        copy_range(source_fd, target_fd, end - start, start, start, stop)
        offset = end


def _next_extent(fd: int, offset: int, size: int) -> tuple[int, int]:
    """The next run of data at or after `offset`; empty at `size` when only a hole is left."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        end = os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as failure:
        if failure.errno == errno.ENXIO:
            return size, size
        if failure.errno in _REFUSALS:
            return offset, size
        raise
    return min(start, size), min(end, size)


def _by_kernel(source_fd: int, target_fd: int, source_offset: int, target_offset: int, count: int) -> int:
    return os.copy_file_range(source_fd, target_fd, count, source_offset, target_offset)


def _by_sendfile(source_fd: int, target_fd: int, source_offset: int, target_offset: int, count: int) -> int:
    os.lseek(target_fd, target_offset, os.SEEK_SET)
    return os.sendfile(target_fd, source_fd, source_offset, count)


def _by_hand(source_fd: int, target_fd: int, source_offset: int, target_offset: int, count: int) -> int:
    return os.pwrite(target_fd, os.pread(source_fd, min(count, _BUFFER), source_offset), target_offset)
