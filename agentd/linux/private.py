"""A directory that nobody but the daemon enters, in a place that belongs to others. Blocking."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentd.errors import Conflict
from agentd.linux.branch import DIRECTORY
from agentd.linux.settling import once

_UNGUARDED = "a mount keeps no owners or modes: what is staged on it is open to whoever may write there"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def private_directory(dir_fd: int, name: str, *, make: bool = True) -> Iterator[int]:
    """A directory that only the daemon enters, as an fd; afterwards it goes, if it is empty.

    The one left by a crash is used again; with ``make`` False there has to be one. On a mount that keeps neither owners
    nor modes (FUSE volumes, vfat) it is open to whoever may write there: to others' files on it, too. Raises Conflict
    where it is not the daemon's, OSError.
    """
    ours = False
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=dir_fd)
            ours = True
    fd = -1
    try:
        fd = os.open(name, DIRECTORY, dir_fd=dir_fd)
        if not _is_private(os.fstat(fd)):
            if os.fstat(fd).st_dev != os.fstat(dir_fd).st_dev or _keeps_owners(fd):
                raise in_the_way(name)
            once(_UNGUARDED, os.fstat(fd).st_dev)
        ours = True
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)
        if ours:
            with suppress(OSError):
                os.rmdir(name, dir_fd=dir_fd)


def in_the_way(name: str) -> Conflict:
    return Conflict(f"{name} is in the way and is not a directory that the daemon made: move it away and repeat")


def _is_private(found: os.stat_result, mode: int = 0o700) -> bool:
    return found.st_uid == os.geteuid() and found.st_mode & 0o777 == mode


def _keeps_owners(fd: int) -> bool:
    """Whether the mount of the directory ``fd`` keeps owners and modes, told by a file that nobody else can have put
    there: whoever moves the directory about, or gives it an access control list, has no say in it."""
    name = secrets.token_hex(8)
    try:
        probe = os.open(name, _NEW_FILE, 0o600, dir_fd=fd)
    except PermissionError:
        return True
    try:
        with suppress(OSError):
            os.fchown(probe, os.geteuid(), os.getegid())
        with suppress(OSError):
            os.fchmod(probe, 0o600)
        return _is_private(os.fstat(probe), 0o600)
    finally:
        os.close(probe)
        os.unlink(name, dir_fd=fd)
