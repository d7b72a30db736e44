"""System calls that Python and libc do not offer, or offer for the whole process only.

Every function is one system call (man section 2 of the same name, unless said otherwise), raises ``OSError`` with the
kernel's errno, and repeats the call after EINTR. It knows x86_64 and aarch64; any other machine fails at import.
The set*id calls go past libc on purpose: libc changes every thread (nptl(7)), the kernel only the calling one.

Paths are ``str`` with surrogateescape, offsets and lengths bytes. All fds made here are close-on-exec.
"""

import ctypes
import errno
import functools
import os
import platform
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

_NUMBERS = {
    "x86_64": {
        "sync_file_range": 277,
        "fallocate": 285,
        "renameat2": 316,
        "statx": 332,
        "fstatfs": 138,
        "setgroups": 116,
        "setfsuid": 122,
        "setfsgid": 123,
        "capget": 125,
        "capset": 126,
    },
    "aarch64": {
        "sync_file_range": 84,
        "fallocate": 47,
        "renameat2": 276,
        "statx": 291,
        "fstatfs": 44,
        "setgroups": 159,
        "setfsuid": 151,
        "setfsgid": 152,
        "capget": 90,
        "capset": 91,
    },
}
_NUMBER = {"close_range": 436, "openat2": 437, "faccessat2": 439, **_NUMBERS[platform.machine()]}

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

SYNC_FILE_RANGE_WAIT_BEFORE = 1
SYNC_FILE_RANGE_WRITE = 2
SYNC_FILE_RANGE_WAIT_AFTER = 4

CLOSE_RANGE_CLOEXEC = 4

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EACCESS = 0x200
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000

PROC_SUPER_MAGIC = 0x9FA0

WNOTHREAD = 0x20000000

_STATX_MNT_ID = 0x1000
_PR_SET_CHILD_SUBREAPER = 36
_CAPABILITY_VERSION_3 = 0x20080522
_OPENAT2_TRIES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(name: str, *args: Any, path: str | None = None) -> int:
    number = ctypes.c_long(_NUMBER[name])
    raw = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    while True:
        result = int(_libc.syscall(number, *raw))
        if result != -1:
            return result
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path)


def openat2(dir_fd: int, path: str, flags: int, resolve: int) -> int:
    """A new fd. EAGAIN, which says that a ``..`` raced a rename somewhere, is repeated a bounded number of times.

    ENOSYS before Linux 5.6 and in gVisor until 2026, EPERM under seccomp filters that do not know the call.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    for left in reversed(range(_OPENAT2_TRIES)):
        try:
            return _call("openat2", dir_fd, os.fsencode(path), how, len(how), path=path)
        except OSError as error:
            if error.errno != errno.EAGAIN or not left:
                raise
    raise AssertionError("unreachable")


def renameat2(old_dir_fd: int, old: str, new_dir_fd: int, new: str, flags: int = 0) -> None:
    """Rename with RENAME_NOREPLACE (EEXIST when the new name is taken) or RENAME_EXCHANGE (both must exist).

    EINVAL: the file system does not know the flag, or nothing here knows the call. EXDEV: two mounts, or a lower
    directory of overlayfs.
    """
    try:
        _call("renameat2", old_dir_fd, os.fsencode(old), new_dir_fd, os.fsencode(new), flags, path=new)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM) or _has_renameat2():
            raise
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), new) from None


@functools.cache
def _has_renameat2() -> bool:
    """A seccomp filter that does not know the call answers before anybody looks at its arguments, often by EPERM."""
    try:
        _call("renameat2", AT_FDCWD, b"", AT_FDCWD, b"", 0)
    except OSError as error:
        return error.errno == errno.ENOENT
    raise AssertionError("unreachable")


def sync_file_range(fd: int, offset: int, length: int, flags: int = SYNC_FILE_RANGE_WRITE) -> None:
    """Starts (WRITE) or awaits writeback of a range. It makes nothing durable: no metadata, no disk flush."""
    _call("sync_file_range", fd, offset, length, flags)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Reserves blocks: ENOSPC now rather than in a later write. EOPNOTSUPP where the file system cannot."""
    _call("fallocate", fd, mode, offset, length)


def faccessat2(dir_fd: int, path: str, mode: int, flags: int = 0) -> None:
    """Returns when the thread may access ``path``, else EACCES or EROFS.

    AT_EACCESS decides by the effective, that is the file system ids and capabilities of this thread; AT_EMPTY_PATH
    with "" asks about ``dir_fd`` itself, O_PATH fds too. ENOSYS before Linux 5.8.
    """
    _call("faccessat2", dir_fd, os.fsencode(path), mode, flags, path=path)


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Closes the fds ``first`` to ``last``, both included, or marks them close-on-exec (CLOSE_RANGE_CLOEXEC)."""
    _call("close_range", first, last, flags)


def mount_id(dir_fd: int, name: str = "") -> int | None:
    """statx(2), STATX_MNT_ID: the mount through which ``name`` in ``dir_fd`` (unfollowed), or ``dir_fd``, is seen.

    It is the first number of /proc/self/mountinfo. None where the kernel does not tell (Linux before 5.8, and gVisor).
    """
    buffer = ctypes.create_string_buffer(256)
    flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT
    try:
        _call("statx", dir_fd, os.fsencode(name), flags, _STATX_MNT_ID, buffer, path=name)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise
    mask: int = struct.unpack_from("=I", buffer, 0)[0]
    number: int = struct.unpack_from("=Q", buffer, 144)[0]
    return number if mask & _STATX_MNT_ID else None


def file_system_type(fd: int) -> int:
    """fstatfs(2): the magic number of the file system, such as PROC_SUPER_MAGIC. O_PATH fds too."""
    buffer = ctypes.create_string_buffer(256)
    _call("fstatfs", fd, buffer)
    magic: int = struct.unpack_from("=q", buffer, 0)[0]
    return magic


def setgroups(groups: Sequence[int]) -> None:
    """The supplementary groups of this thread alone. EPERM without CAP_SETGID."""
    _call("setgroups", len(groups), struct.pack(f"={len(groups)}I", *groups))


def setfsuid(uid: int) -> int:
    """The file system uid of this thread alone; returns the one before.

    The call cannot fail: ask again with -1, which changes nothing. From 0 to another it also takes the file system
    capabilities out of the effective set, and back to 0 puts them in again (capabilities(7)).
    """
    return _call("setfsuid", uid & 0xFFFFFFFF) & 0xFFFFFFFF


def setfsgid(gid: int) -> int:
    """The file system gid of this thread alone; returns the one before. -1 only asks."""
    return _call("setfsgid", gid & 0xFFFFFFFF) & 0xFFFFFFFF


def become_subreaper() -> None:
    """PR_SET_CHILD_SUBREAPER (prctl(2)): orphans among the descendants of this process become its children."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), *(ctypes.c_ulong(0),) * 3):
        raise OSError(code := ctypes.get_errno(), os.strerror(code))


class Capabilities(NamedTuple):
    """The capability sets of a thread as bit masks of 64 (capabilities(7))."""

    effective: int
    permitted: int
    inheritable: int


def capget() -> Capabilities:
    """This thread's capabilities."""
    header = struct.pack("=II", _CAPABILITY_VERSION_3, 0)
    buffer = ctypes.create_string_buffer(24)
    _call("capget", ctypes.create_string_buffer(header), buffer)
    low = struct.unpack_from("=III", buffer, 0)
    high = struct.unpack_from("=III", buffer, 12)
    return Capabilities(*(lower | upper << 32 for lower, upper in zip(low, high, strict=True)))


def capset(capabilities: Capabilities) -> None:
    """Sets this thread's capabilities. EPERM for what is not permitted to it."""
    header = struct.pack("=II", _CAPABILITY_VERSION_3, 0)
    low = (mask & 0xFFFFFFFF for mask in capabilities)
    high = (mask >> 32 for mask in capabilities)
    _call("capset", ctypes.create_string_buffer(header), struct.pack("=6I", *low, *high))
