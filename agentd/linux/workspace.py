"""The two directories the daemon cannot do without, and the secrets it keeps there."""

import errno
import os
import secrets
from contextlib import suppress

from agentd.errors import NotFound, PermissionDenied, Unavailable
from agentd.linux.identity import Identity
from agentd.linux.reserved import Inode, inode
from agentd.linux.root import Root
from agentd.linux.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

RESERVED = ".nullspace"
_TRIES = 3
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def open_workspace(root: Root, path: str, owner: Identity) -> int:
    """An fd of the workspace, which is made for ``owner`` where it is missing, parents included. Blocks."""
    try:
        with root.open(path, _DIRECTORY) as found:
            return os.dup(found.fd)
    except NotFound:
        with root.locate(path, make_parents=owner) as place:
            os.mkdir(place.name, 0o755, dir_fd=place.dir_fd)
            fd = os.open(place.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=place.dir_fd)
            os.fchown(fd, owner.uid, owner.gid)
            return fd


def open_reserved(workspace: int) -> int:
    """An fd of the daemon's own tree in the workspace, 0700, made where it is missing. Blocks.

    PermissionDenied where somebody else made it: what is in it could not be trusted.
    """
    with suppress(FileExistsError):
        os.mkdir(RESERVED, 0o700, dir_fd=workspace)
    try:
        fd = os.open(RESERVED, _DIRECTORY | os.O_NOFOLLOW, dir_fd=workspace)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise _foreign() from None
        raise
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(fd)
        raise _foreign()
    os.fchmod(fd, 0o700)
    with suppress(OSError):
        # Git leaves it alone where the workspace is a repository: `git add` would publish the token (gitignore(5)).
        ignore = os.open(".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)
        with open(ignore, "w") as file:
            file.write("*\n")
    return fd


def _foreign() -> PermissionDenied:
    return PermissionDenied(f"{RESERVED} in the workspace is not the daemon's own directory of mode 0700")


def put_back(workspace: int, reserved: int) -> None:
    """Sees to it that the daemon's tree is in its place: whoever owns the workspace may rename what is in it. Blocks.

    Unavailable where it cannot be brought back; what is in it is safe, but a later daemon would not find it.
    """
    for _ in range(_TRIES):
        wanted = inode(os.fstat(reserved))
        with suppress(FileNotFoundError):
            if inode(os.stat(RESERVED, dir_fd=workspace, follow_symlinks=False)) == wanted:
                return
        with suppress(OSError):
            parent = os.open("..", _DIRECTORY, dir_fd=reserved)
            try:
                _move_back(parent, wanted, workspace)
            finally:
                os.close(parent)
    raise Unavailable(
        f"{RESERVED} was moved or deleted, and cannot be brought back; move it to the workspace and repeat"
    )


def _move_back(parent: int, wanted: Inode, workspace: int) -> None:
    name = _name_of(wanted, parent)
    if name is None:
        return
    try:
        renameat2(parent, name, workspace, RESERVED, RENAME_NOREPLACE)
    except FileExistsError:
        renameat2(parent, name, workspace, RESERVED, RENAME_EXCHANGE)


def _name_of(wanted: Inode, parent: int) -> str | None:
    """By stat(2): what readdir(3) says of inodes is of another file system where overlayfs shows a lower one."""
    for name in os.listdir(parent):
        with suppress(FileNotFoundError):
            if inode(os.stat(name, dir_fd=parent, follow_symlinks=False)) == wanted:
                return name
    return None


def keep_secret(directory: int, name: str) -> None:
    """A file of 0600 with one random line, unless it is there; whole or not at all. Blocks."""
    if name not in os.listdir(directory):
        keep(directory, name, secrets.token_urlsafe(32).encode() + b"\n")


def keep(directory: int, name: str, content: bytes) -> None:
    """A file of 0600 with this content; whole or not at all, and on the disk. Blocks."""
    fresh = f"{name}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(content)
        file.flush()
        os.fsync(fd)
    os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    with suppress(OSError):  # a file system that cannot
        os.fsync(directory)


def kept(directory: int, name: str) -> bytes | None:
    """What `keep` kept; None where there is nothing. Blocks."""
    with suppress(FileNotFoundError):
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
            return file.read()
    return None
