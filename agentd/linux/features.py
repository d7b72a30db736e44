"""What this kernel and this file system can do, found out by doing it."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentd.linux import syscalls

PROBES = (".probe-a", ".probe-b")
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV}


def features(directory: int) -> dict[str, object]:
    """``kernel`` (its release), ``filesystem`` (its type), and ``features`` (name to bool), tried out in a directory of
    the daemon's own on the workspace's file system. Blocks."""
    with _probes(directory):
        found = {name: _works(attempt, directory) for name, attempt in {**ATTEMPTS, **CALLS}.items()}
    return {"kernel": os.uname().release, "filesystem": filesystem(directory), "features": found}


def can_exchange(directory: int) -> bool:
    """Whether RENAME_EXCHANGE is known here, tried out in a directory of the daemon's own. Blocks."""
    with _probes(directory):
        return _works(_exchange, directory)


def filesystem(fd: int) -> str:
    """The type of the file system that holds ``fd``, as in proc_pid_mountinfo(5): ``ext4``, ``overlay``."""
    mount = syscalls.mount_id(fd)
    with open("/proc/self/mountinfo") as table:
        for line in table:
            before, _, after = line.partition(" - ")
            if before.split()[0] == str(mount):
                return after.split()[0]
    return f"{syscalls.file_system_type(fd):#x}"


@contextmanager
def _probes(directory: int) -> Iterator[None]:
    """Two files, for the time being."""
    try:
        for name in PROBES:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=directory))
        yield
    finally:
        for name in {*PROBES} & set(os.listdir(directory)):
            os.unlink(name, dir_fd=directory)


def _works(attempt: Callable[[int], None], directory: int) -> bool:
    try:
        attempt(directory)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def _openat2(directory: int) -> None:
    os.close(syscalls.openat2(directory, ".", os.O_PATH, syscalls.RESOLVE_BENEATH))


def _exchange(directory: int) -> None:
    syscalls.renameat2(directory, PROBES[0], directory, PROBES[1], syscalls.RENAME_EXCHANGE)


def _noreplace(directory: int) -> None:
    os.unlink(PROBES[1], dir_fd=directory)
    syscalls.renameat2(directory, PROBES[0], directory, PROBES[1], syscalls.RENAME_NOREPLACE)
    os.rename(PROBES[1], PROBES[0], src_dir_fd=directory, dst_dir_fd=directory)


def _on_file(act: Callable[[int], object]) -> Callable[[int], None]:
    def attempt(directory: int) -> None:
        fd = os.open(PROBES[0], os.O_RDWR | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.pwrite(fd, b"x", 0)
            act(fd)
        finally:
            os.close(fd)

    return attempt


ATTEMPTS: dict[str, Callable[[int], None]] = {
    "openat2": _openat2,
    "rename_exchange": _exchange,
    "rename_noreplace": _noreplace,
    "fallocate": _on_file(lambda fd: syscalls.fallocate(fd, syscalls.FALLOC_FL_KEEP_SIZE, 0, 4096)),
    "sync_file_range": _on_file(lambda fd: syscalls.sync_file_range(fd, 0, 1)),
    "copy_file_range": _on_file(lambda fd: os.copy_file_range(fd, fd, 1, 0, 1)),
    "fdatasync": _on_file(os.fdatasync),
}

# Those that no file system has a say in.
CALLS: dict[str, Callable[[int], None]] = {
    "pidfd": lambda _: os.close(os.pidfd_open(os.getpid())),
    "memfd": lambda _: os.close(os.memfd_create("probe")),
}


def missing_calls() -> list[str]:
    """The names of `CALLS` that are not to be had here."""
    return [name for name, attempt in CALLS.items() if not _works(attempt, -1)]
