"""The last steps that make a staged entry what it is to be: owner and mode, then a name. Blocking."""

import errno
import os
import stat
from contextlib import suppress

from agentd.linux.places import Place
from agentd.linux.syscalls import RENAME_NOREPLACE, renameat2

NEW_FILE_MODE = 0o644
NEW_DIRECTORY_MODE = 0o755


def settle(fd: int, replaced: os.stat_result | None, place: Place, *, durable: bool, mode: int | None = None) -> None:
    """Owner and mode of the staged entry ``fd``: what is replaced hands on both, but a named user becomes the owner. As
    a write would, this drops the set-id bits. mode: of what is new, instead of the usual one. durable: fsync(2)."""
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
            os.fchown(fd, uid, gid)
        except PermissionError:
            if os.geteuid() == 0 or place.user is not None:
                raise  # a daemon that is not root replaces a foreign file by one of its own
    os.fchmod(fd, mode)
    if durable:
        os.fsync(fd)


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
