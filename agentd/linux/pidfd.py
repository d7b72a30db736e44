"""What the kernel says of a process by its pidfd (pidfd_open(2)), to one that need not be its parent."""

import errno
import fcntl
import os
import select
import struct

# linux/pidfd.h: _IOWR(0xFF, 11, struct pidfd_info), whose first version has 64 bytes: the mask of what is asked for,
# and filled in, is its first field, the exit status its last.
_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11
_INFO_EXIT = 1 << 3
_SIZE, _STATUS_AT = 64, 60


def is_pidfd(fd: int) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[pidfd]"


def has_ended(fd: int) -> bool:
    """Whether all of it has, reaped or not."""
    return _waited(fd, select.POLLIN, 0)


def exit_status(fd: int, patience: float) -> int | None:
    """Of a process that has ended, as waitpid(2) has it; None where the kernel does not tell (before Linux 6.15).

    It does once the parent has reaped the process, which is waited for: at most ``patience`` seconds. Blocks.
    """
    try:
        status = _told(fd)
        if status is None and _waited(fd, select.POLLHUP, patience):
            status = _told(fd)
    except OSError as error:
        # No such ioctl; or one that does not know of endings, and the process is gone.
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.ESRCH, errno.EPERM):
            raise
        return None
    return status


def _told(fd: int) -> int | None:
    answer = bytearray(struct.pack("=Q", _INFO_EXIT).ljust(_SIZE, b"\0"))
    fcntl.ioctl(fd, _GET_INFO, answer)
    (mask,) = struct.unpack_from("=Q", answer)
    status: int = struct.unpack_from("=i", answer, _STATUS_AT)[0]
    return status if mask & _INFO_EXIT else None


def _waited(fd: int, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, event & select.POLLIN)
    return any(found & event for _, found in poll.poll(seconds * 1000))
