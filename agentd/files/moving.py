"""Entries moved and copied, within a file system and across. All functions here block.

A move within a file system is a rename. Across, the entry is copied to where nobody sees it, put into place by a
rename, and only then is the old one deleted: interrupted at any moment there are one or two whole ones, never none.

Of what is at the target each conflict mode makes something else (`core.conflict`): ``error`` leaves it, ``replace``
puts the new entry in its place, ``merge`` does so with files and unites directories. A file and a directory never
replace each other.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentd.core.conflict import ConflictMode
from agentd.errors import Conflict, IsADirectory, NotADirectory, PathReserved, PermissionDenied, TargetConflict
from agentd.failpoints import hit
from agentd.files import generated
from agentd.files.changes import Changes
from agentd.files.copies import OF_ANY_COPY, Copy, copy_content
from agentd.files.drafts import Drafts, private_name
from agentd.files.entries import check_deletable, found, united
from agentd.files.operations import Entry, Files
from agentd.files.writing import Writing
from agentd.linux import trees
from agentd.linux.attributes import copy_attributes
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity
from agentd.linux.mounts import check_no_mount_below
from agentd.linux.oserrors import Table, os_errors
from agentd.linux.places import Place
from agentd.linux.reserved import Inode, inode
from agentd.linux.root import Location, Root
from agentd.linux.settling import once, rename_new, settle, sync_upwards
from agentd.linux.syscalls import RENAME_EXCHANGE, mount_id, renameat2
from agentd.linux.walk import may_write

_MEANINGS: Table = {
    errno.EINVAL: (Conflict, "a directory does not go into itself; choose another place"),
    errno.ENOTEMPTY: (Conflict, "the directory in its place is not empty; empty or remove it first"),
    errno.EMLINK: (Conflict, "its directory is full; choose another one"),
    errno.ENOSYS: (Conflict, "the file system renames nothing; copy its files and remove them"),
    errno.EOPNOTSUPP: (Conflict, "the file system does not know how; copy its files and remove them"),
    errno.EXDEV: (Conflict, "the file system does not let it go there; copy it and remove it"),
}
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = _READ | os.O_DIRECTORY
_NAMED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Moving:
    """reserved: the daemon's own tree. durable: what was moved or copied survives power loss, too."""

    def __init__(
        self,
        root: Root,
        files: Files,
        writing: Writing,
        changes: Changes,
        drafts: Drafts,
        *,
        reserved: Inode,
        durable: bool,
    ) -> None:
        self._root = root
        self._files = files
        self._writing = writing
        self._changes = changes
        self._drafts = drafts
        self._reserved = reserved
        self._durable = durable

    def rename(self, source: Place, target: Place) -> Entry:
        """As rename(2), and across file systems: links themselves are meant, files are replaced by files and empty
        directories by directories, missing parents are made. Says what is at the target then.

        Raises NotFound, Conflict, IsADirectory, NotADirectory, PathReserved for what holds the daemon's own tree.
        """
        return self._move(source, target, None)

    def move(self, source: Place, target: Place, conflict: ConflictMode) -> Entry:
        """As `rename`, where ``conflict`` says what becomes of what is there."""
        return self._move(source, target, conflict)

    def copy(self, source: Place, target: Place, conflict: ConflictMode) -> Entry:
        """A second one at the target; a link is copied itself. The copy belongs to the target's owner, and has what the
        original has besides; of what it replaces it takes over owner and mode, as everything that is written does.

        Raises what `rename` raises, and NoSpace.
        """
        with os_errors("copy", source.path, _MEANINGS), found(self._root, source) as (original, fd):
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return self._copy_file(source, fd, target, conflict)
            with self._place_for(fd, target, conflict) as place:
                owner = place.rights[0] if place.rights else target.owner
                with self._copied(original, fd, place, owner) as made:
                    if place.stat is not None and conflict is ConflictMode.REPLACE:
                        with Descriptor(os.open(made.name, _DIRECTORY, dir_fd=made.dir_fd)) as top:
                            settle(top.fd, place.stat, target, durable=False)
                    self._put(made, place, conflict)
                return self._described(place)

    # -- inside

    def _move(self, source: Place, target: Place, conflict: ConflictMode | None) -> Entry:
        with os_errors("move", source.path, _MEANINGS), found(self._root, source) as (original, fd):
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            original.check_replaceable()
            if is_directory and self._root.contains_reserved(fd):
                raise PathReserved(f"{source.path!r} holds the daemon's own tree and stays", path=source.path)
            with self._place_for(fd, target, conflict) as place:
                rights = united(original.rights, place.rights)
                self._check_rights(original, fd, place, rights, is_directory)
                if place.stat is not None and inode(place.stat) == inode(os.fstat(fd)):
                    _drop_a_name(original, fd, place)
                    return self._described(place)
                try:
                    self._put(original, place, conflict)
                    self._check_moved(original, fd, place)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    self._move_across(original, fd, place, conflict)
                if self._durable:
                    sync_upwards(place.dir_fd)
                    sync_upwards(original.dir_fd)
                return self._described(place)

    @contextmanager
    def _place_for(self, fd: int, target: Place, conflict: ConflictMode | None) -> Iterator[Location]:
        """The target, checked: whether the entry ``fd`` may come there. Its parents are made."""
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        if is_directory:
            self._check_outside(fd, target.path, target.path)
        with self._root.locate(target.path, follow=False, make_parents=target.owner, rights=target.rights) as place:
            place.check_replaceable()
            if is_directory:
                self._check_outside(fd, place.path, target.path)
            if place.stat is not None:
                self._check_replaced(place, is_directory, conflict)
                if is_directory and conflict is not None and self._root.real_path(fd).startswith(place.path + "/"):
                    raise Conflict(f"{target.path!r} holds what is to take its place", path=target.path)
            yield place

    def _check_outside(self, fd: int, path: str, asked: str) -> None:
        above = self._root.real_path(fd)
        if path.startswith(above + "/"):
            raise Conflict(f"{asked!r} is inside of what is to come there", path=asked)

    def _check_replaced(self, place: Location, is_directory: bool, conflict: ConflictMode | None) -> None:
        assert place.stat is not None
        if conflict is ConflictMode.ERROR:
            raise Conflict(f"{place.path!r} exists: remove it, or choose another name", path=place.path)
        if stat.S_ISDIR(place.stat.st_mode) and not is_directory:
            raise IsADirectory(f"{place.path!r} is a directory: name a place in it", path=place.path)
        if is_directory and not stat.S_ISDIR(place.stat.st_mode):
            raise NotADirectory(f"{place.path!r} is no directory: remove it, or choose another name", path=place.path)
        if is_directory and conflict is ConflictMode.REPLACE:
            with Descriptor(os.open(place.name, _DIRECTORY, dir_fd=place.dir_fd)) as old:
                if self._root.contains_reserved(old.fd):
                    raise PathReserved(f"{place.path!r} holds the daemon's own tree and stays", path=place.path)
                check_no_mount_below(old.fd, place.path)
                check_deletable(old.fd, place.rights, place.path)

    def _check_rights(
        self, original: Location, fd: int, place: Location, rights: tuple[Identity, ...], is_directory: bool
    ) -> None:
        """Who lends a link on one of the ways must be allowed both ends."""
        for one in (original, place):
            with Location(os.dup(one.dir_fd), one.name, one.path, one.stat, rights) as end:
                end.check_replaceable()
        if is_directory and inode(os.fstat(original.dir_fd)) != inode(os.fstat(place.dir_fd)):
            for identity in rights:  # its ".." changes
                may_write(fd, identity, "move", original.path)

    def _put(self, entry: Location, place: Location, conflict: ConflictMode | None) -> None:
        """Renames an entry to its place, where `_check_replaced` has let it come. OSError (EXDEV)."""
        hit("move.before_rename")
        if place.stat is None:
            rename_new(entry.dir_fd, entry.name, place.dir_fd, place.name)
        elif conflict is None or not stat.S_ISDIR(place.stat.st_mode):
            os.rename(entry.name, place.name, src_dir_fd=entry.dir_fd, dst_dir_fd=place.dir_fd)
        elif conflict is ConflictMode.REPLACE:
            self._exchange(entry, place)
        else:
            self._unite(entry, place)

    def _exchange(self, entry: Location, place: Location) -> None:
        """The tree that was at the place is deleted once it is where the entry was."""
        with Descriptor(os.open(place.name, _DIRECTORY, dir_fd=place.dir_fd)) as old:
            try:
                renameat2(entry.dir_fd, entry.name, place.dir_fd, place.name, RENAME_EXCHANGE)
            except OSError as error:
                # overlayfs does not exchange directories of its lower layer, other file systems know no exchange.
                if error.errno not in (errno.EINVAL, errno.EXDEV) or _is_elsewhere(entry, place):
                    raise
                once("trees that cannot be exchanged are replaced entry by entry", os.fstat(old.fd).st_dev)
                self._unite(entry, place, alone=True)
            else:
                with _without_rights(entry) as left:
                    self._changes.delete(left, old.fd)

    def _unite(self, entry: Location, place: Location, *, alone: bool = False) -> None:
        """alone: what the place has besides goes first."""
        if _is_elsewhere(entry, place):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        def allowed(dir_fd: int, name: str) -> None:
            with Location(os.dup(dir_fd), name, f"{place.path}/{name}", None, place.rights) as within:
                within.check_replaceable()

        check = allowed if place.rights else None
        with (
            Descriptor(os.open(entry.name, _DIRECTORY, dir_fd=entry.dir_fd)) as source,
            Descriptor(os.open(place.name, _DIRECTORY, dir_fd=place.dir_fd)) as target,
        ):
            check_deletable(source.fd, entry.rights, entry.path)
            if alone:
                trees.prune(source.fd, target.fd, check)
            try:
                trees.merge(
                    *(source.fd, target.fd, lambda: hit("move.after_entry"), check),
                    reserved=self._reserved,
                    durable=self._durable,
                    private=private_name(),
                )
            except TargetConflict as error:
                raise Conflict(error.detail, path=place.path) from error
            with _without_rights(entry) as left:
                self._changes.delete(left, source.fd)

    def _move_across(self, original: Location, fd: int, place: Location, conflict: ConflictMode | None) -> None:
        if generated.is_of_kernel(original.dir_fd):
            raise PermissionDenied(f"cannot move {original.path!r}: the kernel made it; copy it", path=original.path)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            check_no_mount_below(fd, original.path)
            with Descriptor(os.open(original.name, _DIRECTORY, dir_fd=original.dir_fd)) as top:
                check_deletable(top.fd, original.rights, original.path)
        rights = united(original.rights, place.rights)
        with self._copied(original, fd, place, rights[0] if rights else None) as made:
            self._put(made, place, conflict)
        hit("move.before_delete")
        self._changes.delete(original, fd)

    @contextmanager
    def _copied(self, original: Location, fd: int, place: Location, owner: Identity | None) -> Iterator[Location]:
        """A copy from where a rename leads to the place; what has not been moved there is deleted."""
        copy = Copy(original.rights, owner, self._root.hides(), original.path)
        with next(self._drafts.homes(place)) as home:
            with Location(os.dup(home), secrets.token_hex(8), place.path, None, ()) as made:
                try:
                    copy.make(original.dir_fd, original.name, inode(os.fstat(fd)), home, made.name)
                    if self._durable:
                        _sync(made)
                    yield made
                finally:
                    trees.remove(home, made.name)

    def _copy_file(self, source: Place, fd: int, target: Place, conflict: ConflictMode) -> Entry:
        replace = conflict is not ConflictMode.ERROR
        with self._files.open(source) as content, self._writing.begin(target, None, replace) as draft:
            draft.size = copy_content(content.fd, draft.fd, source.path)
            copy_attributes(fd, draft.fd, OF_ANY_COPY)
            mode = stat.S_IMODE(os.fstat(fd).st_mode) & 0o777
            return self._writing.publish(draft, target, replace, mode)

    def _check_moved(self, original: Location, fd: int, place: Location) -> None:
        """Somebody may have put the daemon's own tree in the place of what was to be moved: that goes back."""
        with suppress(FileNotFoundError, NotADirectoryError):
            with Descriptor(os.open(place.name, _DIRECTORY, dir_fd=place.dir_fd)) as now:
                if inode(os.fstat(now.fd)) == inode(os.fstat(fd)) or not self._root.contains_reserved(now.fd):
                    return
                with suppress(OSError):
                    rename_new(place.dir_fd, place.name, original.dir_fd, original.name)
                raise PathReserved(f"{original.path!r} became the daemon's own tree meanwhile", path=original.path)

    def _described(self, place: Location) -> Entry:
        with Descriptor(os.open(place.name, _NAMED, dir_fd=place.dir_fd)) as now:
            status = os.fstat(now.fd)
            target = os.readlink("", dir_fd=now.fd) if stat.S_ISLNK(status.st_mode) else None
            return self._files.entry(place.path, status, target)


def _without_rights(entry: Location) -> Location:
    """The same place, for what the daemon clears up itself."""
    return Location(os.dup(entry.dir_fd), entry.name, entry.path, None, ())


def _is_elsewhere(entry: Location, place: Location) -> bool:
    """Whether no rename leads from the one to the other, as far as can be told."""
    mounts = mount_id(entry.dir_fd), mount_id(place.dir_fd)
    if None not in mounts:
        return mounts[0] != mounts[1]
    return os.fstat(entry.dir_fd).st_dev != os.fstat(place.dir_fd).st_dev


def _drop_a_name(original: Location, fd: int, place: Location) -> None:
    """Both are names of one file: of two different names the old one goes, which rename(2) would leave."""
    same_directory = inode(os.fstat(original.dir_fd)) == inode(os.fstat(place.dir_fd))
    if os.fstat(fd).st_nlink > 1 and not (same_directory and original.name == place.name):
        with suppress(IsADirectoryError):
            os.unlink(original.name, dir_fd=original.dir_fd)


def _sync(made: Location) -> None:
    """What the copy holds lasts; for a link there is nothing that could be synced."""
    with suppress(OSError), Descriptor(os.open(made.name, _READ, dir_fd=made.dir_fd)) as top:
        if stat.S_ISDIR(os.fstat(top.fd).st_mode):
            trees.sync_tree(top.fd)
        else:
            os.fsync(top.fd)
