"""The last steps that make a staged entry what it is to be: owner and mode, then a name. Blocking."""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentd.linux.places import Place
from agentd.linux.syscalls import RENAME_NOREPLACE, capget, renameat2

NEW_FILE_MODE = 0o644
NEW_DIRECTORY_MODE = 0o755

_log = logging.getLogger("agentd.files")

# Those who may give files away and change their modes (capabilities(7)): CAP_CHOWN and CAP_FOWNER.
_OVER_FILES = 1 << 0 | 1 << 3
_REFUSALS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_told: set[object] = set()


def settle(fd: int, replaced: os.stat_result | None, place: Place, *, durable: bool, mode: int | None = None) -> None:
    """Owner and mode of the staged entry ``fd``: what is replaced hands on both, but a named user becomes the owner. As
    a write would, this drops the set-id bits. mode: of what is new, instead of the usual one. durable: fsync(2).

    Where the mount knows no owners or modes (FUSE volumes) the entry has those that the mount gives it.
    """
    found = os.fstat(fd)
    if replaced is None:
        uid, gid = place.owner.uid, place.owner.gid
        usual = NEW_DIRECTORY_MODE if stat.S_ISDIR(found.st_mode) else NEW_FILE_MODE
        mode = usual if mode is None else mode
    else:
        user = place.user
        uid, gid = (user.uid, user.gid) if user is not None else (replaced.st_uid, replaced.st_gid)
        mode = stat.S_IMODE(replaced.st_mode) & 0o1777
    if (found.st_uid, found.st_gid) != (uid, gid):
        try:
            with unless_mount_refuses(fd, "owners"):
                os.fchown(fd, uid, gid)
        except PermissionError:
            if os.geteuid() == 0 or place.user is not None:
                raise  # a daemon that is not root replaces a foreign file by one of its own
    with unless_mount_refuses(fd, "modes"):
        os.fchmod(fd, mode)
    if durable:
        os.fsync(fd)


@contextmanager
def unless_mount_refuses(fd: int, what: str) -> Iterator[None]:
    """Lets the refusal of a mount pass that keeps no ``what``: one that comes though this thread has every right."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS or capget().effective & _OVER_FILES != _OVER_FILES:
            raise
        once(f"a mount keeps no {what}: entries there have those that it gives them", os.fstat(fd).st_dev)


def once(text: str, device: int) -> None:
    """A warning that is given once for each file system; ``device`` is its st_dev."""
    if (text, device) not in _told:
        _told.add((text, device))
        _log.warning(text, extra={"fields": {"device": f"{os.major(device)}:{os.minor(device)}"}})


def sync_upwards(dir_fd: int) -> None:
    """fsync(2) of a directory and of those above it, as far as its file system goes: what was renamed there lasts."""
    fd = os.open(".", _DIRECTORY, dir_fd=dir_fd)
    device = os.fstat(fd).st_dev
    while True:
        os.fsync(fd)
        parent = os.open("..", _DIRECTORY, dir_fd=fd)
        here, above = os.fstat(fd), os.fstat(parent)
        os.close(fd)
        fd = parent
        if above.st_dev != device or above.st_ino == here.st_ino:
            return os.close(fd)


def rename_new(source: int, name: str, target: int, new_name: str) -> None:
    """Renames without replacing, FileExistsError where something has the new name (renameat2(2), RENAME_NOREPLACE)."""
    try:
        renameat2(source, name, target, new_name, RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        _link_or_make(source, name, target, new_name)


def _link_or_make(source: int, name: str, target: int, new_name: str) -> None:
    """For file systems whose rename knows no RENAME_NOREPLACE: link(2) and mkdir(2) do not replace either."""
    try:
        os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except PermissionError:  # a directory
        os.mkdir(new_name, 0o700, dir_fd=target)
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    else:
        with suppress(OSError):
            os.unlink(name, dir_fd=source)
