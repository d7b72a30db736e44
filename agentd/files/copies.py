"""A second one of an entry, whole trees included, with all that belongs to it: content with its holes, mode, extended
attributes, hard links within the tree. Where it is a move's, owners, times and set-id bits too. Blocks.

It is made where nobody else sees it (`Drafts.homes`): what is given away there cannot be swapped for another file.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

import msgspec

from agentd.errors import Conflict, PermissionDenied
from agentd.linux.attributes import copy_attributes
from agentd.linux.branch import DIRECTORY, Branch
from agentd.linux.copying import copy_file
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity, decided_as
from agentd.linux.reserved import Inode, inode
from agentd.linux.settling import unless_mount_refuses
from agentd.linux.trees import walk

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# The file system has no hard links, or no more of them; the path in the copy is too long for a system call.
_NO_LINKS = frozenset({errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENAMETOOLONG})
# Attributes that lend rights (capabilities(7)) or are the system's own go with the entry itself alone.
OF_ANY_COPY = ("user.", "system.posix_acl_")


class Copy(msgspec.Struct):
    """One copy. rights: who all must be allowed to read. owner: whose everything is; None keeps owners, times and
    set-id bits. hidden: what is left out, as `Root.hides`. path: for errors."""

    rights: tuple[Identity, ...]
    owner: Identity | None
    hidden: Callable[[int, str, os.stat_result], bool]
    path: str
    _links: dict[Inode, str] = msgspec.field(default_factory=dict)

    def make(self, source_dir: int, name: str, original: Inode, target_dir: int, new_name: str) -> None:
        """Makes ``new_name`` what ``name`` is. Raises Conflict where that is not ``original`` or changes meanwhile,
        PermissionDenied, OSError; what is there of the copy is left then."""
        status = os.stat(name, dir_fd=source_dir, follow_symlinks=False)
        if inode(status) != original:
            raise Conflict(f"{self.path!r} was replaced by something else meanwhile; repeat", path=self.path)
        if not stat.S_ISDIR(status.st_mode):
            self._copy(source_dir, name, target_dir, new_name, status)
            return
        os.mkdir(new_name, 0o700, dir_fd=target_dir)
        with Descriptor(os.open(name, DIRECTORY, dir_fd=source_dir)) as above:
            with Descriptor(os.open(new_name, DIRECTORY, dir_fd=target_dir)) as top:
                with Branch(above.fd) as source, Branch(top.fd) as target:
                    walk(
                        [source, target],
                        lambda: self._visit(source, target, top.fd),
                        lambda: self.dress(source.fd, target.fd),
                    )

    def dress(self, source: int, target: int, above: int = -1) -> None:
        """Gives ``target`` what ``source`` has besides its content. All are fds, of any kind; above: of the directory
        of a link."""
        found = os.fstat(source)
        keep = self.owner is None
        uid, gid = (found.st_uid, found.st_gid) if self.owner is None else (self.owner.uid, self.owner.gid)
        if stat.S_ISLNK(found.st_mode) and self.owner is not None and uid in (0, os.geteuid()):
            uid = self._lender(found, above)
        entry = f"/proc/self/fd/{target}"
        now = os.fstat(target)
        if (now.st_uid, now.st_gid) != (uid, gid):
            with unless_mount_refuses(target, "owners"):
                os.chown(entry, uid, gid)
        copy_attributes(source, target, ("",) if keep else OF_ANY_COPY)
        if not stat.S_ISLNK(found.st_mode):
            mode = stat.S_IMODE(found.st_mode)
            with unless_mount_refuses(target, "modes"):
                os.chmod(entry, mode if keep else mode & 0o1777)
        if keep:
            os.utime(entry, ns=(found.st_atime_ns, found.st_mtime_ns))

    def _visit(self, source: Branch, target: Branch, top: int) -> list[str]:
        """Copies what is in this directory; the names of the directories in it, which are empty yet."""
        if self.hidden(source.fd, ".", os.fstat(source.fd)):  # it may have been put here since it was looked at
            return []
        for identity in self.rights:
            with decided_as(identity, "copy", self.path):
                os.close(os.open(".", DIRECTORY, dir_fd=source.fd))
        deeper = []
        for name in os.listdir(source.fd):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=source.fd, follow_symlinks=False)
                if self.hidden(source.fd, name, status):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    os.mkdir(name, 0o700, dir_fd=target.fd)
                    deeper.append(name)
                elif not self._linked(status, target, name, top):
                    self._copy(source.fd, name, target.fd, name, status)
        return deeper

    def _copy(self, source_dir: int, name: str, target_dir: int, new_name: str, status: os.stat_result) -> None:
        """Anything but a directory."""
        if stat.S_ISREG(status.st_mode):
            self._copy_file(source_dir, name, target_dir, new_name)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source_dir), new_name, dir_fd=target_dir)
        else:
            if self.rights and not stat.S_ISFIFO(status.st_mode):
                raise PermissionDenied(
                    f"{self.path!r} holds a device or a socket, which only root makes", path=self.path
                )
            os.mknod(new_name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=target_dir)
        with Descriptor(os.open(new_name, _NAMED, dir_fd=target_dir)) as made:
            with Descriptor(os.open(name, _NAMED, dir_fd=source_dir)) as original:
                self.dress(original.fd, made.fd, source_dir)

    def _lender(self, link: os.stat_result, above: int) -> int:
        """Whose the copy of a link is that would be root's: root's links are followed with the daemon's rights
        (`linux.walk`), which nobody's link gets by being copied."""
        for uid in (link.st_uid, os.fstat(above).st_uid):
            if uid not in (0, os.geteuid()):
                return uid
        return link.st_uid

    def _copy_file(self, source_dir: int, name: str, target_dir: int, new_name: str) -> None:
        with Descriptor(self._opened(source_dir, name)) as source:
            with Descriptor(os.open(new_name, _NEW, 0o600, dir_fd=target_dir)) as target:
                copy_content(source.fd, target.fd, self.path)
                self.dress(source.fd, target.fd)

    def _opened(self, source_dir: int, name: str) -> int:
        """A regular file for reading, if all whose rights count may."""
        for identity in self.rights[1:]:
            with decided_as(identity, "copy", self.path):
                os.close(os.open(name, _READ, dir_fd=source_dir))
        if not self.rights:
            return os.open(name, _READ, dir_fd=source_dir)
        with decided_as(self.rights[0], "copy", self.path):
            return os.open(name, _READ, dir_fd=source_dir)

    def _linked(self, status: os.stat_result, target: Branch, name: str, top: int) -> bool:
        """Whether it was copied already, under another name, and has got one more."""
        if status.st_nlink < 2:
            return False
        known = self._links.setdefault(inode(status), target.path(name))
        if known == target.path(name):
            return False
        try:
            os.link(known, name, src_dir_fd=top, dst_dir_fd=target.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return False
        return True


def copy_content(source: int, target: int, path: str) -> int:
    """All of a regular file into an empty one; the number of its bytes. Conflict where it shrinks meanwhile."""
    size = os.fstat(source).st_size
    try:
        copy_file(source, target, size)
    except OSError as error:
        if error.errno == errno.EIO and os.fstat(source).st_size < size:
            raise Conflict(f"{path!r} was cut short while it was copied; repeat", path=path) from error
        raise
    return size
