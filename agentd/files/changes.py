"""Entries made, removed, linked, and given other owners and modes. All functions here block.

What is changed is held by an fd from the moment it was found, and named by that alone: a mode or an owner never lands
on something that was put in its place. Where rights bound the way to it, the kernel decides as those who have them.
"""

import errno
import os
import secrets
import stat
from contextlib import suppress

from agentd.errors import Conflict, InvalidPath, IsADirectory, NotADirectory, PathReserved, PermissionDenied
from agentd.files.drafts import Drafts
from agentd.files.entries import REFUSALS, as_first, check_deletable, found, united
from agentd.files.operations import Entry, Files
from agentd.linux import trees
from agentd.linux.identity import CAP_CHOWN, Identity, Users, may
from agentd.linux.mounts import check_no_mount_below
from agentd.linux.oserrors import Table, os_errors
from agentd.linux.places import Place
from agentd.linux.reserved import inode
from agentd.linux.root import PATH_LIMIT, Location, Opened, Root
from agentd.linux.settling import rename_new

_LINKING: Table = {
    errno.EXDEV: (Conflict, "both have to be on one file system; make a symbolic link"),
    errno.EMLINK: (Conflict, "it has as many names as the file system takes; make a symbolic link"),
}


class Changes:
    def __init__(self, root: Root, users: Users, files: Files, drafts: Drafts) -> None:
        self._root = root
        self._users = users
        self._files = files
        self._drafts = drafts

    def make_directory(self, place: Place, mode: int | None = None) -> None:
        """With all that is missing above it, 0755 and the owner's; one that is there stays as it is.

        mode: of the new one itself.

        Raises NotADirectory where something else is in the way, and what `Root.locate` raises.
        """
        within = f"{place.path.rstrip('/')}/-"
        is_new = mode is not None and not self._files.exists(place)
        try:
            self._root.locate(within, make_parents=place.owner, rights=place.rights).close()
        except NotADirectory:
            raise NotADirectory(
                f"cannot make {place.path!r}: it, or one above it, is there and no directory", path=place.path
            ) from None
        if mode is not None and is_new:
            self.set_mode(place, mode)

    def set_mode(self, place: Place, mode: int) -> None:
        """Sets permission bits, 0 to 0o7777, of what a link leads to."""
        with self._root.open(place.path, os.O_PATH, rights=place.rights) as opened:
            _check_owner(opened)
            with os_errors("change the mode of", place.path), as_first(opened.rights, "change", place.path):
                os.chmod(f"/proc/self/fd/{opened.fd}", mode)

    def set_owner(self, place: Place, owner: str | None, group: str | None, *, follow: bool = True) -> Entry:
        """Gives the entry to a user and a group, by names or numbers; None leaves it as it is. Says what it is then.

        follow: what a link leads to, instead of the link. Raises UnknownUser, and PermissionDenied where rights bound
        the call and the kernel does not let those who have them give it away.
        """
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        uid = -1 if owner is None else self._users.find(owner).uid
        gid = -1 if group is None else self._users.group_id(group)
        with self._root.open(place.path, flags, rights=place.rights) as opened:
            if len(opened.rights) > 1:
                _check_owner(opened)
            with os_errors("change the owner of", place.path), as_first(opened.rights, "change", place.path):
                os.chown(f"/proc/self/fd/{opened.fd}", uid, gid)
            found = os.fstat(opened.fd)
            target = os.readlink("", dir_fd=opened.fd) if stat.S_ISLNK(found.st_mode) else None
            return self._files.entry(opened.path, found, target)

    def remove(self, place: Place, *, recursive: bool = True) -> None:
        """Deletes a file, a link itself, or a directory with all that is in it: that one disappears at once.

        recursive: False raises IsADirectory for a directory.

        Raises NotFound; PermissionDenied where those whose rights bound the call may not delete all of it; PathReserved
        for a directory above the daemon's own tree, Conflict for one with mounts in it. Nothing is deleted then. What
        the file system itself keeps (chattr(1)) is put back with what is left of its tree.
        """
        with os_errors("remove", place.path), found(self._root, place) as (location, fd):
            if not recursive and stat.S_ISDIR(os.fstat(fd).st_mode):
                raise IsADirectory(f"{place.path!r} is a directory: ask for all that is in it to go", path=place.path)
            self.delete(location, fd)

    def delete(self, location: Location, fd: int) -> None:
        """As `remove`, for an entry that was found: ``fd`` is it. Raises OSErrors besides."""
        location.check_replaceable()
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            with as_first(location.rights, "remove", location.path):
                os.unlink(location.name, dir_fd=location.dir_fd)
            return
        if self._root.contains_reserved(fd):
            raise PathReserved(f"{location.path!r} holds the daemon's own tree and stays", path=location.path)
        try:
            with as_first(location.rights, "remove", location.path):
                os.rmdir(location.name, dir_fd=location.dir_fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._delete_tree(location, fd, location.path)

    def link(self, place: Place, target: str) -> Entry:
        """Makes a symbolic link with the text ``target``, which is not looked at. Conflict where something is there,
        InvalidPath for a text that no link has."""
        _check_text(target)
        with (
            os_errors("make", place.path),
            self._root.locate(place.path, follow=False, make_parents=place.owner, rights=place.rights) as location,
        ):
            location.check_replaceable()
            if location.rights or not may(CAP_CHOWN):
                with as_first(location.rights, "make", place.path):
                    os.symlink(target, location.name, dir_fd=location.dir_fd)
            else:
                self._make_link(target, location, place.owner)
            made = os.stat(location.name, dir_fd=location.dir_fd, follow_symlinks=False)
            return self._files.entry(location.path, made, target)

    def link_hard(self, place: Place, existing: Place) -> Entry:
        """Gives the file ``existing`` (a link itself, not what it leads to) one more name. Conflict where something
        has that name, and across file systems."""
        with (
            os_errors("link", place.path, _LINKING),
            found(self._root, existing) as (source, fd),
            self._root.locate(place.path, follow=False, make_parents=place.owner, rights=place.rights) as location,
        ):
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise IsADirectory(f"{existing.path!r} is a directory, which has one name only", path=existing.path)
            location.check_replaceable()
            rights = united(source.rights, location.rights)
            if len(rights) > 1:
                raise PermissionDenied(
                    f"cannot link {place.path!r}: the way leads by links of several users; name both without links",
                    path=place.path,
                )
            with as_first(rights, "link", place.path):
                os.link(f"/proc/self/fd/{fd}", location.name, dst_dir_fd=location.dir_fd, follow_symlinks=True)
            return self._files.entry(location.path, os.fstat(fd))

    # -- inside

    def _delete_tree(self, location: Location, fd: int, path: str) -> None:
        """Out of its place by one rename, and deleted then; on its mount's refusal it is deleted where it is."""
        check_no_mount_below(fd, path)
        if location.rights:
            check_deletable(fd, location.rights, path)
        for home in self._drafts.homes(location):
            with home as home_fd:
                name = secrets.token_hex(8)
                try:
                    os.rename(location.name, name, src_dir_fd=location.dir_fd, dst_dir_fd=home_fd)
                except OSError as error:
                    if error.errno in REFUSALS:
                        continue
                    raise
                try:
                    if inode(os.stat(name, dir_fd=home_fd, follow_symlinks=False)) != inode(os.fstat(fd)):
                        raise Conflict(f"{path!r} was replaced by something else meanwhile; repeat", path=path)
                    trees.remove(home_fd, name)
                except BaseException:
                    with suppress(OSError):
                        rename_new(home_fd, name, location.dir_fd, location.name)
                    raise
                return
        trees.remove(location.dir_fd, location.name)

    def _make_link(self, target: str, location: Location, owner: Identity) -> None:
        """Given to its owner where nobody else can put something in its place."""
        name = secrets.token_hex(8)
        with self._drafts.private(location) as home:
            os.symlink(target, name, dir_fd=home)
            try:
                os.chown(name, owner.uid, owner.gid, dir_fd=home, follow_symlinks=False)
                rename_new(home, name, location.dir_fd, location.name)
            except BaseException:
                os.unlink(name, dir_fd=home)
                raise


def _check_text(target: str) -> None:
    """symlink(2): 1 to PATH_MAX bytes, without NUL."""
    try:
        raw = os.fsencode(target)
    except UnicodeEncodeError:
        raise InvalidPath(f"{target!r} has characters that no file name has", path=target) from None
    if not 0 < len(raw) < PATH_LIMIT or b"\0" in raw:
        raise InvalidPath(f"the target of a link has 1 to {PATH_LIMIT - 1} bytes and no NUL", path=target)


def _check_owner(opened: Opened) -> None:
    """PermissionDenied unless each of those whose rights count may change what only an owner changes."""
    for identity in opened.rights:
        if identity.uid not in (0, opened.stat.st_uid):
            raise PermissionDenied(
                f"cannot change {opened.path!r}: it does not belong to {identity.name!r}, whose rights apply (the "
                "request's user, or whoever lends a link on the way); name the file without the link",
                path=opened.path,
                user=identity.name,
            )
