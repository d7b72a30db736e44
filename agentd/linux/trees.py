"""Deleting, merging and syncing whole trees, by directory descriptors. Blocking.

Symbolic links are never followed, and the depth of a tree costs neither stack nor descriptors.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

from agentd.errors import PathReserved, TargetConflict
from agentd.failpoints import hit
from agentd.linux.branch import DIRECTORY, Branch
from agentd.linux.copying import copy_file
from agentd.linux.identity import CAP_DAC_OVERRIDE, may
from agentd.linux.private import in_the_way, private_directory
from agentd.linux.reserved import Inode, inode
from agentd.linux.settling import MOUNT_REFUSALS, give, movable, unless_mount_refuses

# Nothing here deletes these directories or what is in them, wherever they turn up: whoever owns the workspace may move
# the daemon's own tree into another at any moment. A store's tree is here as long as the store is open.
SPARED: set[Inode] = set()

_KIND_CHANGED = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
_MOVED_AWAY = (errno.ENOENT, errno.ESTALE)
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_TRIES = 3
_ENTRY = "entry"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(dir_fd: int, name: str, between: Callable[[], None] | None = None) -> None:
    """Delete a file or a whole tree; nothing there, and others deleting meanwhile, are fine.

    between: called after each entry that went; what it raises ends the work.

    The tree's directories are made the daemon's own first (0700), so that nobody goes on adding to them. Mounts, and
    what is in SPARED, are left alone. What cannot be deleted does not save the rest: the first such OSError is raised
    at the end (EBUSY for what is left alone). An interrupted deletion is taken up by calling again.
    """
    removal = _Removal(between)
    if not removal.delete(dir_fd, name):
        with suppress(FileNotFoundError):
            top_fd = _seize(dir_fd, name)
            try:
                removal.empty(top_fd)
            finally:
                os.close(top_fd)
            removal.delete(dir_fd, name)
    removal.tell()


class _Removal:
    def __init__(self, between: Callable[[], None] | None) -> None:
        self.between = between
        self.went = False  # an entry went, and `between` does not know yet
        self.progress = False
        self.failure: OSError | None = None

    def empty(self, top_fd: int) -> None:
        self.progress = True
        while self.progress:
            self.progress, self.failure = False, None
            self._thin_out(top_fd)
        if self.failure is not None:
            raise self.failure

    def delete(self, dir_fd: int, name: str) -> bool:
        """Delete a file or an empty directory. False for a directory with something in it, but never for a mount."""
        try:
            os.unlink(name, dir_fd=dir_fd)
        except FileNotFoundError:
            return True
        except IsADirectoryError:
            try:
                # EBUSY comes before ENOTEMPTY (vfs_rmdir in Linux): "not empty" also says "no mount point".
                os.rmdir(name, dir_fd=dir_fd)
            except FileNotFoundError:
                return True
            except OSError as failure:
                if failure.errno in _NOT_EMPTY:
                    return False
                raise
        self.went = True
        return True

    def tell(self) -> None:
        if self.went:
            self.went, self.progress = False, True
            if self.between is not None:
                self.between()

    def _thin_out(self, top_fd: int) -> None:
        """Delete what is in the top directory and one level below it, and lift what is deeper into the top.

        So the tree is never more than two levels high from here, and no path and no stack is needed.
        """
        for name in _names(top_fd):
            fd = self._enter_unless_deleted(top_fd, name)
            if fd is not None:
                try:
                    self._lift(fd, top_fd)
                finally:
                    os.close(fd)
                with self._collected():
                    self.delete(top_fd, name)
            self.tell()

    def _lift(self, fd: int, top_fd: int) -> None:
        for name in _names(fd):
            below_fd = self._enter_unless_deleted(fd, name)
            if below_fd is not None:
                # It was opened for _seize alone: to be moved, a directory must be writable (its ".." changes).
                os.close(below_fd)
                with self._collected():
                    os.rename(name, secrets.token_hex(8), src_dir_fd=fd, dst_dir_fd=top_fd)
                    self.went = True
            self.tell()

    def _enter_unless_deleted(self, dir_fd: int, name: str) -> int | None:
        with self._collected():
            if not self.delete(dir_fd, name):
                return _seize(dir_fd, name)
        return None

    @contextmanager
    def _collected(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as failure:
            self.failure = self.failure or failure


def merge(
    source_fd: int,
    target_fd: int,
    after_entry: Callable[[], None],
    rights_check: Callable[[int, str], None] | None = None,
    *,
    reserved: tuple[int, int] | None = None,
    durable: bool = False,
    private: str = ".agentd-merge",
) -> None:
    """Move the entries of a staged tree into an existing directory; what else is there stays.

    A directory that the target lacks is renamed as a whole; one that it has is entered and keeps its owner and mode.
    Files and links are renamed over what is there (not over a directory) and bring the staged owner, mode and content.
    Every entry is atomic. A symbolic link of the target is an entry like a file: never followed. What lies on a mount
    below the target is copied into a private directory beside its place and renamed from there.

    First all is checked and nothing moved; then each entry is checked again and moved. After a crash or an error the
    same call does the rest.

    after_entry: called after each entry moved.
    rights_check: called with the target's directory (fd) and the entry's name before each entry, in both passes.
    reserved: device and inode of a directory that is not entered.
    durable: sync the directories that got entries, and copied files. The staged tree itself is for sync_tree.
    private: name of the private directory, for this upload alone and the same in each of its lives: what a crash leaves
    in one is found again by nothing else.

    Raises TargetConflict (facts: path, from the target) where a directory meets something else or the target keeps
    changing, PathReserved, whatever `rights_check` raises, OSError.
    """
    for _ in range(_TRIES):
        try:
            for act in (False, True):
                with Branch(source_fd) as source, Branch(target_fd) as target:
                    _Merge(source, target, after_entry, rights_check, reserved, durable, private, act).run()
        except OSError as failure:
            if failure.errno not in _MOVED_AWAY:
                raise
        else:
            return
    raise TargetConflict("The target's directories keep being moved or deleted while the upload is merged into them.")


class _Merge:
    def __init__(
        self,
        source: Branch,
        target: Branch,
        after_entry: Callable[[], None],
        rights_check: Callable[[int, str], None] | None,
        reserved: tuple[int, int] | None,
        durable: bool,
        private: str,
        act: bool,
    ) -> None:
        self.source, self.target = source, target
        self.after_entry, self.rights_check, self.reserved = after_entry, rights_check, reserved
        self.durable, self.private, self.act = durable, private, act

    def run(self) -> None:
        try:
            walk([self.source, self.target], self._visit, self._leave)
        except OSError as failure:
            if failure.errno in _KIND_CHANGED:
                raise self._conflict("/".join(self.source.names)) from failure
            raise

    def _visit(self) -> list[str]:
        """Deal with the entries of this directory; the names of those that are directories on both sides."""
        if self.target.identity == self.reserved:
            raise PathReserved("The archive reaches into the reserved directory.", path="/".join(self.target.names))
        if self.act and not may(CAP_DAC_OVERRIDE):
            _take_over(self.source.fd)
        deeper = []
        for name, is_directory in _entries(self.source.fd):
            if self._both_directories(name, is_directory):
                deeper.append(name)
            elif self.act:
                if not self._move(name, is_directory):
                    deeper.append(name)
                self.after_entry()
        return deeper

    def _leave(self) -> None:
        if self.act and self.durable:
            os.fsync(self.target.fd)

    def _both_directories(self, name: str, is_directory: bool) -> bool:
        if self.rights_check is not None:
            self.rights_check(self.target.fd, name)
        try:
            there = os.stat(name, dir_fd=self.target.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(there.st_mode) != is_directory:
            raise self._conflict(self.target.path(name))
        return is_directory

    def _move(self, name: str, is_directory: bool) -> bool:
        """Move an entry. False for a directory whose entries are still to be moved."""
        try:
            self._rename(name, is_directory)
        except OSError as failure:
            if failure.errno in _KIND_CHANGED:
                raise self._conflict(self.target.path(name)) from failure
            if is_directory and failure.errno in _NOT_EMPTY:
                return False  # somebody made it since it was checked
            if failure.errno != errno.EXDEV:
                raise
            self._carry(name)
            return not is_directory
        return True

    def _rename(self, name: str, is_directory: bool) -> None:
        with movable((self.source.fd, name)) if is_directory else nullcontext():
            os.rename(name, name, src_dir_fd=self.source.fd, dst_dir_fd=self.target.fd)

    def _carry(self, name: str) -> None:
        """Copy an entry to another file system (a directory without its content), then rename it into place there."""
        staged = os.stat(name, dir_fd=self.source.fd, follow_symlinks=False)
        with _place_for_an_entry(self.target.fd, self.private) as private_fd:
            _copy_entry(self.source.fd, name, private_fd, staged, self.durable)
            hit("complete.after_copy")
            os.rename(_ENTRY, name, src_dir_fd=private_fd, dst_dir_fd=self.target.fd)
        if not stat.S_ISDIR(staged.st_mode):
            os.unlink(name, dir_fd=self.source.fd)

    def _conflict(self, path: str) -> TargetConflict:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        return TargetConflict(f"{path[:200]!r} is a directory on one side and something else on the other.", path=shown)


@contextmanager
def _place_for_an_entry(dir_fd: int, name: str) -> Iterator[int]:
    """A private directory for one entry called _ENTRY.

    An entry in the hands of others could be swapped for another file before its chown. Nor may others have the daemon
    delete something by giving it this name: only _ENTRY and an empty directory are ever deleted.
    """
    with private_directory(dir_fd, name) as fd:
        if set(_names(fd)) - {_ENTRY}:
            raise in_the_way(name)
        removal = _Removal(None)
        removal.delete(fd, _ENTRY)
        try:
            yield fd
        finally:
            removal.delete(fd, _ENTRY)


def _copy_entry(source_fd: int, name: str, target_fd: int, staged: os.stat_result, durable: bool) -> None:
    """Make _ENTRY in `target_fd` what `name` is in `source_fd`: a file, a link, or a directory without its content."""
    if stat.S_ISLNK(staged.st_mode):
        os.symlink(os.readlink(name, dir_fd=source_fd), _ENTRY, dir_fd=target_fd)
        with unless_mount_refuses(target_fd, "owners"):
            os.chown(_ENTRY, staged.st_uid, staged.st_gid, dir_fd=target_fd, follow_symlinks=False)
        return
    if stat.S_ISDIR(staged.st_mode):
        os.mkdir(_ENTRY, 0o700, dir_fd=target_fd)
        fd = os.open(_ENTRY, DIRECTORY, dir_fd=target_fd)
    else:
        fd = os.open(_ENTRY, _NEW_FILE, 0o600, dir_fd=target_fd)
    try:
        if stat.S_ISREG(staged.st_mode):
            content_fd = os.open(name, _READ, dir_fd=source_fd)
            try:
                copy_file(content_fd, fd, staged.st_size)
            finally:
                os.close(content_fd)
        give(fd, staged.st_uid, staged.st_gid, stat.S_IMODE(staged.st_mode))
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def prune(source_fd: int, target_fd: int, rights_check: Callable[[int, str], None] | None = None) -> None:
    """Delete from the target what the source does not have, or has in another kind: a merge then makes them equal.

    For where trees cannot be exchanged. rights_check: as for `merge`. Raises PathReserved, OSError.
    """
    with Branch(source_fd) as source, Branch(target_fd) as target:

        def visit() -> list[str]:
            if target.identity in SPARED:
                raise PathReserved("the archive reaches into the daemon's own tree", path="/".join(target.names))
            staged = dict(_entries(source.fd))
            deeper = []
            for name, is_directory in _entries(target.fd):
                if staged.get(name) is not is_directory:
                    if rights_check is not None:
                        rights_check(target.fd, name)
                    remove(target.fd, name)
                elif is_directory:
                    deeper.append(name)
            return deeper

        walk([source, target], visit, lambda: None)


def sync_tree(dir_fd: int) -> None:
    """fsync(2) every file and directory of the tree, the top one last. Raises OSError; then nothing is certain."""
    with Branch(dir_fd) as branch:

        def visit() -> list[str]:
            deeper = []
            for name, is_directory in _entries(branch.fd):
                if is_directory:
                    deeper.append(name)
                elif stat.S_ISREG(os.stat(name, dir_fd=branch.fd, follow_symlinks=False).st_mode):
                    fd = os.open(name, _READ, dir_fd=branch.fd)
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
            return deeper

        walk([branch], visit, lambda: os.fsync(branch.fd))


def walk(branches: Sequence[Branch], visit: Callable[[], list[str]], leave: Callable[[], None]) -> None:
    """Depth first, all branches in step: `visit` on entering says which directories to enter, `leave` comes after."""
    pending = [visit()]
    while True:
        if pending[-1]:
            name = pending[-1].pop()
            for branch in branches:
                branch.down(name)
            pending.append(visit())
            continue
        leave()
        pending.pop()
        if not pending:
            return
        for branch in branches:
            branch.up()


def _seize(dir_fd: int, name: str) -> int:
    """Open a directory and make it the daemon's own alone, so that nobody else adds to it. EBUSY for what is spared."""
    fd = os.open(name, DIRECTORY | os.O_PATH, dir_fd=dir_fd)  # whatever its mode
    try:
        found = os.fstat(fd)
        if found.st_dev != os.fstat(dir_fd).st_dev or inode(found) in SPARED:
            raise OSError(errno.EBUSY, "a mount, or the daemon's own tree, is left alone", name)
        _take_over(fd)
        return os.open(".", DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def _take_over(fd: int) -> None:
    path = f"/proc/self/fd/{fd}"
    for take in (partial(os.chown, path, os.geteuid(), os.getegid()), partial(os.chmod, path, 0o700)):
        try:
            take()
        except OSError as failure:
            if failure.errno not in (errno.EACCES, *MOUNT_REFUSALS):
                raise


def _names(fd: int) -> Iterator[str]:
    with os.scandir(fd) as entries:
        for entry in entries:
            yield entry.name


def _entries(fd: int) -> list[tuple[str, bool]]:
    """Names, and whether each is a directory."""
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
