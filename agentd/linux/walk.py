"""A path followed component by component, where one system call cannot do it.

Each directory is held by an O_PATH fd, each component is opened with O_NOFOLLOW and looked at through that fd, and a
link's text is read from the fd that told its owner, so nothing is decided about one thing and done to another. ``..``
is opened and must be the directory that the walk came by; if it is not, somebody renamed it and the walk is stale.

A link lends its owner's rights, never the daemon's, and the same is true of everybody who may have put it where it
is found: anybody's link can be moved, by itself or with a directory above it, to a place from where it leads elsewhere.
Only where root and the daemon's own user alone could do that is a link of theirs followed freely; from any other link
on, each step must be allowed to all who lend it, as the kernel decides. Raises OSError, whose meaning depends on what
the path is for, and the AgentErrors of refusals.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import msgspec

from agentd.errors import PathReserved, PermissionDenied
from agentd.linux import syscalls
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import CAP_CHOWN, Identity, acts_as_others, decided_as, may
from agentd.linux.reserved import Reserved, inode

LINK_LIMIT = 40
NOBODY = 65534  # overflowuid of proc_sys_kernel(5): whom every system leaves without rights of its own
_MAKE_LIMIT = 2048
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


class Stale(Exception):
    """What was looked at is not what stands there now: begin again."""


class Errand(msgspec.Struct, frozen=True):
    """What a path is resolved for. asked: the path as given, for the errors. act: "open", "make", ... for the same."""

    asked: str
    act: str
    rights: tuple[Identity, ...]
    make_parents: Identity | None = None


class Walk(Descriptor):
    """One walk from the root. Its result is where it stands: `fd` (O_PATH), `directory`, `rights`."""

    def __init__(self, root_fd: int, reserved: Reserved, owner: Callable[[int], Identity], errand: Errand) -> None:
        super().__init__(os.open(".", _DIRECTORY, dir_fd=root_fd))
        self.rights = errand.rights
        self._root_fd = root_fd
        self._root = os.fstat(self.fd)
        self._reserved = reserved
        self._owner = owner
        self._errand = errand
        self._trail: list[tuple[str, os.stat_result]] = []
        self._links = 0
        self._made = 0

    @property
    def directory(self) -> str:
        """The directory where the walk stands, absolute in sandbox terms."""
        return "/" + "/".join(name for name, _ in self._trail)

    def to_entry(self, path: str, *, follow: bool) -> tuple[str, os.stat_result | None]:
        """Walks to the directory that holds the last entry of ``path``: the entry's name there and its lstat.

        follow: a link as the last entry is followed, existing or not what it names. The name is "." where the path
        ends at the root. ENOENT for a missing directory on the way (unless it is to be made), ENOTDIR, EACCES, ELOOP.
        """
        pending = components(path)[::-1]
        while pending:
            name = pending.pop()
            if name == "..":
                self._up()
                continue
            entry = self._look(name)
            if entry is None:
                if not pending:
                    return name, None
                self._make(name)
                pending.append(name)
                continue
            with entry:
                status = os.fstat(entry.fd)
                if stat.S_ISLNK(status.st_mode) and (follow or pending):
                    pending += components(self._cross(entry.fd, status))[::-1]
                elif not pending:
                    return name, status
                else:
                    self._enter(name, entry, status)
        return self._own_entry()

    def _look(self, name: str) -> Descriptor | None:
        self._search()
        try:
            return Descriptor(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self.fd))
        except FileNotFoundError:
            return None

    def _cross(self, link: int, status: os.stat_result) -> str:
        """The text of a link, to be followed from here on with the rights of those who lend it too."""
        self._links += 1
        if self._links > LINK_LIMIT:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if syscalls.file_system_type(link) == syscalls.PROC_SUPER_MAGIC:
            self._refuse_magic()
        lenders = self._lenders(status) - {identity.uid for identity in self.rights}
        self.rights = (*self.rights, *map(self._owner, sorted(lenders)))
        target = os.readlink("", dir_fd=link)
        if target.startswith("/"):
            self._move(os.open(".", _DIRECTORY, dir_fd=self._root_fd))
            self._trail.clear()
        return target

    def _lenders(self, link: os.stat_result) -> set[int]:
        """Who but root and the daemon owns a link in this directory, or may have put it here; NOBODY where many might.

        The owner of a directory may move whatever is in it, and so may those whom its mode lets write. A sticky one
        keeps them from taking away what is not theirs, but not from bringing it from a place of their own: that goes
        for links, as a directory is moved to another parent only by one who may write in it.
        A daemon that is one user alone (in a volume that is everybody's, mostly) follows links of its own anywhere.
        """
        above = [self._root, *(status for _, status in self._trail)]
        lenders = {status.st_uid for status in (link, *above)} - {0, os.geteuid()}
        *above, holder = above
        is_open = _is_open(holder) or any(_is_open(one) and not one.st_mode & stat.S_ISVTX for one in above)
        return {NOBODY} if is_open and not lenders and acts_as_others() else lenders

    def _refuse_magic(self) -> None:
        """Of the links in a proc file system only those at its top (self, thread-self, mounts, net) are mere text."""
        if os.stat("..", dir_fd=self.fd).st_dev != os.fstat(self.fd).st_dev:
            return
        asked = self._errand.asked
        if (self._reserved.place + "/") in (asked + "/"):
            raise PathReserved(f"{asked!r} leads into the daemon's own tree; use a path outside of it", path=asked)
        raise PermissionDenied(
            f"{asked!r} goes by a link of /proc, which is not followed; name what it leads to", path=asked
        )

    def _enter(self, name: str, entry: Descriptor, status: os.stat_result) -> None:
        if not stat.S_ISDIR(status.st_mode):
            # A mount may show the reserved tree: what is there is not to be learnt from the refusal.
            self._reserved.check_directory(self.fd, self._errand.asked)
            self._reserved.check_entry(self.fd, name, status, self._errand.asked)
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self._move(entry.detach())
        self._trail.append((name, status))
        self._reserved.check_place(self.directory, self._errand.asked)
        self._reserved.check_inode(status, self._errand.asked)

    def _up(self) -> None:
        self._search()
        if not self._trail:
            return
        self._move(os.open("..", _DIRECTORY, dir_fd=self.fd))
        self._trail.pop()
        if inode(os.fstat(self.fd)) != inode(self._trail[-1][1] if self._trail else self._root):
            raise Stale

    def _move(self, fd: int) -> None:
        self.close()
        self.fd = fd

    def _own_entry(self) -> tuple[str, os.stat_result | None]:
        """The directory where the walk stands, as an entry of the one above."""
        if not self._trail:
            return ".", os.fstat(self.fd)
        name, own = self._trail[-1]
        self._up()
        status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        if inode(status) != inode(own):
            raise Stale
        return name, status

    def _search(self) -> None:
        """Looking anything up in a directory needs its search permission, and ``.`` is something to look up."""
        for identity in self.rights:
            with decided((identity,), self._errand):
                os.stat(".", dir_fd=self.fd)

    def _make(self, name: str) -> None:
        """The missing directory ``name``, with mode 0755 whatever the umask, given to the errand's user.

        Where rights bound the walk it is made as the first of their owners and stays theirs, as nobody gives away
        what is his, and each of the others must be allowed to make it too.
        """
        errand = self._errand
        self._reserved.check_place(os.path.join(self.directory, name), errand.asked)
        self._reserved.check_directory(self.fd, errand.asked)
        if errand.make_parents is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._made += 1
        if self._made > _MAKE_LIMIT:
            raise Stale
        for identity in self.rights[1:]:
            may_write(self.fd, identity, errand.act, errand.asked)
        try:
            with decided(self.rights[:1], errand):
                os.mkdir(name, 0o755, dir_fd=self.fd)
        except FileExistsError:
            return
        if self.rights:
            self._hand_over(name, self.rights[0].uid, self.rights[0])
        else:
            self._hand_over(name, os.geteuid(), errand.make_parents)

    def _hand_over(self, name: str, maker: int, owner: Identity) -> None:
        """Only if it is still the one just made: anything else that stands there now is not ours to give away."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return
            raise
        try:
            if os.fstat(fd).st_uid == maker and not os.listdir(fd):
                os.fchmod(fd, 0o755)
                if may(CAP_CHOWN):
                    os.fchown(fd, owner.uid, owner.gid)
        finally:
            os.close(fd)


def components(path: str) -> list[str]:
    """The names of a path; ``.`` and empty ones stand for nothing."""
    return [name for name in path.split("/") if name not in ("", ".")]


def _is_open(directory: os.stat_result) -> bool:
    """Whether its mode lets others than its owner write; a user's own group (by convention of his number) is he."""
    private_group = directory.st_gid == directory.st_uid != 0
    return bool(directory.st_mode & (stat.S_IWOTH if private_group else stat.S_IWOTH | stat.S_IWGRP))


def decided(rights: tuple[Identity, ...], errand: Errand) -> AbstractContextManager[None]:
    """By the kernel, as the one of ``rights`` if there is one, else as the daemon."""
    return decided_as(rights[0], errand.act, errand.asked) if rights else nullcontext()


def may_write(dir_fd: int, identity: Identity, act: str, asked: str) -> None:
    """PermissionDenied unless the kernel lets ``identity`` add and remove entries in the directory."""
    with decided_as(identity, act, asked):
        try:
            syscalls.faccessat2(dir_fd, "", os.W_OK | os.X_OK, syscalls.AT_EACCESS | syscalls.AT_EMPTY_PATH)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                raise PermissionError(errno.EACCES, "this kernel cannot tell (no faccessat2)") from error
            raise
