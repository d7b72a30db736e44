"""The one way from a path to the thing it names: `Root`.

Nothing is checked by its name and then used by its name: a path is resolved to fds, the checks are made on them, and
they are what the caller works on. Where no link is on the way the kernel resolves the directory in one openat2(2);
everything else, or everything where that call is missing, is `walk.Walk`, with the same results and errors.

All functions block; call them through `threads.in_thread`. Paths are ``str`` with surrogateescape, absolute, in sandbox
terms: "/workspace/x" is workspace/x beneath the root's directory.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from agentd.errors import Conflict, InvalidPath, NotFound, PermissionDenied, Unavailable
from agentd.linux import syscalls
from agentd.linux.descriptor import Descriptor
from agentd.linux.identity import Identity, Users, decided_as
from agentd.linux.oserrors import Table, os_errors
from agentd.linux.reserved import Reserved, inode
from agentd.linux.walk import Errand, Stale, Walk, components, decided, may_write

PATH_LIMIT = 4096
NAME_LIMIT = 255
_TRIES = 64
_ALWAYS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
_BENEATH = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS

_MEANINGS: Table = {
    errno.ENOENT: (NotFound, "a directory on the way to it is missing; make it first"),
    errno.EXDEV: (PermissionDenied, "it leads out of the sandbox's root; use a path beneath it"),
    errno.ENXIO: (Conflict, "it is a socket, or a FIFO or device with nobody at the other end; name a file"),
    errno.ENODEV: (Conflict, "it is a device that is not there; name a file"),
    errno.ESRCH: (NotFound, "the process that it tells of has ended"),
}

T = TypeVar("T")


class Opened(Descriptor):
    """An open file or directory. path: absolute and resolved, in sandbox terms. stat: fstat at the time of opening.
    rights: whose rights bounded the opening, and bound whatever is opened by way of it."""

    def __init__(self, fd: int, path: str, status: os.stat_result, rights: tuple[Identity, ...] = ()) -> None:
        super().__init__(fd)
        self.path = path
        self.stat = status
        self.rights = rights

    def check_enterable(self) -> None:
        """PermissionDenied unless each of ``rights`` may enter this directory: one that was opened with O_PATH was
        opened without asking its own mode."""
        for identity in self.rights:
            with os_errors("enter", self.path), decided_as(identity, "enter", self.path):
                os.stat(".", dir_fd=self.fd)


class Location(Descriptor):
    """A place for an entry: a directory and a name in it, whether or not anything has that name.

    dir_fd: O_PATH. name: never empty, "." or "..". path: absolute and resolved, in sandbox terms. stat: lstat of the
    entry, None when there is none. rights: whose rights bound what is done here (see `check_replaceable`).
    """

    def __init__(
        self, dir_fd: int, name: str, path: str, status: os.stat_result | None, rights: tuple[Identity, ...]
    ) -> None:
        super().__init__(dir_fd)
        self.name = name
        self.path = path
        self.stat = status
        self.rights = rights

    @property
    def dir_fd(self) -> int:
        return self.fd

    def changed(self) -> bool:
        """Whether something else than ``stat`` has the name by now."""
        now = _lstat(self.name, self.dir_fd)
        if now is None or self.stat is None:
            return now is not self.stat
        return inode(now) != inode(self.stat)

    def check_replaceable(self) -> None:
        """PermissionDenied (ReadOnlyFileSystem) unless each of ``rights`` may create, replace or remove this entry.

        The kernel decides on the directory's fd; the rule of sticky directories (unlink(2), EPERM) is applied here,
        because the kernel tells it only to one who does it.
        """
        with os_errors("replace", self.path):
            for identity in self.rights:
                may_write(self.dir_fd, identity, "replace", self.path)
            directory = os.fstat(self.dir_fd)
            if not directory.st_mode & stat.S_ISVTX:
                return
            entry = _lstat(self.name, self.dir_fd)
            if entry is None:
                return
            for identity in self.rights:
                if identity.uid not in (0, entry.st_uid, directory.st_uid):
                    raise PermissionDenied(
                        f"cannot replace {self.path!r}: its directory is sticky and it belongs to another user than "
                        f"{identity.name!r}; choose another name",
                        path=self.path,
                        user=identity.name,
                    )


class Root:
    """The sandbox's ``/``, of which nothing is seen but through here.

    directory: of this machine. reserved: the daemon's own place, in sandbox terms. use_openat2: None asks the kernel.
    """

    def __init__(
        self, directory: str = "/", reserved: str = "/workspace/.nullspace", *, use_openat2: bool | None = None
    ) -> None:
        with os_errors("open", directory):
            self.fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        self.users = Users(self)
        self._reserved = Reserved(self.fd, reserved)
        self._openat2 = _has_openat2(self.fd) if use_openat2 is None else use_openat2

    def close(self) -> None:
        """For tests: a daemon's root lives as long as the daemon."""
        self._reserved.close()
        os.close(self.fd)

    def reserve(self, fd: int) -> None:
        """The directory ``fd`` is the daemon's: refused from now on under every name. ``fd`` stays the caller's."""
        self._reserved.add(fd)

    def contains_reserved(self, fd: int) -> bool:
        """Whether the directory ``fd`` is the reserved tree or lies above it: then it is not to be moved or deleted."""
        return self._reserved.is_within(fd)

    def hides(self) -> Callable[[int, str, os.stat_result], bool]:
        """What tells a walk that an entry is the reserved tree, or a mount that shows a part of it: to be passed over.

        It is given the directory (fd), one that was not hidden itself, the entry's name there and its lstat.
        """
        return self._reserved.hides()

    def real_path(self, fd: int) -> str:
        """The path of ``fd`` at this moment, absolute in sandbox terms. NotFound when it was deleted or moved away."""
        top = os.readlink(f"/proc/self/fd/{self.fd}").rstrip("/")
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not os.fstat(fd).st_nlink or not (path + "/").startswith(top + "/"):
            raise NotFound(f"{path!r} is no longer in the sandbox; it was deleted or moved", path=path)
        return path[len(top) :] or "/"

    def open(self, path: str, flags: int, *, rights: tuple[Identity, ...] = ()) -> Opened:
        """What ``path`` names, opened with ``flags`` (never O_CREAT or O_TRUNC) and O_NONBLOCK: a FIFO cannot hang it.

        Links are followed, the last one not if ``flags`` has O_NOFOLLOW. rights: the kernel must allow each of them to
        do so. Raises NotFound, NotADirectory, IsADirectory, PermissionDenied, PathReserved, TooManyLinks, InvalidPath.
        """
        if path.endswith(("/", "/.")):
            flags |= os.O_DIRECTORY
        follow = not flags & os.O_NOFOLLOW
        return self._settled(Errand(path, "open", rights), lambda errand: self._open(errand, follow, flags))

    def locate(
        self,
        path: str,
        *,
        follow: bool = True,
        make_parents: Identity | None = None,
        rights: tuple[Identity, ...] = (),
    ) -> Location:
        """The directory that holds the entry named by ``path``, and its name there.

        follow: a link there is resolved, whether or not what it names exists. make_parents: missing directories on the
        way are made, 0755 and that user's (where rights bound the walk, the first of their owners'); without it they
        are NotFound. A path that ends in ``..`` names that directory's own entry; the root has none and is InvalidPath.
        Slashes at the end mean nothing. Raises what `open` raises.
        """
        errand = Errand(path, "reach", rights, make_parents)
        location = self._settled(errand, lambda errand: self._find(errand, follow))
        if location.name == ".":
            location.close()
            raise InvalidPath(f"{path!r} names the root; name something in it", path=path)
        return location

    def _settled(self, errand: Errand, attempt: Callable[[Errand], T]) -> T:
        """``attempt`` repeated while somebody renames things under it, its OSErrors translated."""
        _check_form(errand.asked)
        for _ in range(_TRIES):
            try:
                with os_errors(errand.act, errand.asked, _MEANINGS):
                    return attempt(errand)
            except Stale:
                continue
        raise Unavailable(f"{errand.asked!r} is renamed all the time; repeat when that is over", path=errand.asked)

    def _open(self, errand: Errand, follow: bool, flags: int) -> Opened:
        with self._find(errand, follow) as found:
            if found.stat is None:
                raise NotFound(f"cannot open {errand.asked!r}: nothing is there; check the path", path=errand.asked)
            for identity in found.rights[1:]:
                self._open_entry(found, flags, errand, (identity,)).close()
            return self._open_entry(found, flags, errand, found.rights[:1])

    def _open_entry(self, found: Location, flags: int, errand: Errand, rights: tuple[Identity, ...]) -> Opened:
        try:
            with decided(rights, errand):
                fd = os.open(found.name, flags | _ALWAYS, dir_fd=found.dir_fd)
        except OSError as error:
            was_link = found.stat is not None and stat.S_ISLNK(found.stat.st_mode)
            if found.changed() or (error.errno == errno.ELOOP and not was_link):
                raise Stale from None
            raise
        opened = Opened(fd, found.path, os.fstat(fd), found.rights)
        if found.stat is None or inode(opened.stat) != inode(found.stat):
            opened.close()
            raise Stale
        return opened

    def _find(self, errand: Errand, follow: bool) -> Location:
        """The last entry of the path, checked against the reserved tree. Its name is "." for the root."""
        location = self._find_at_once(errand, follow) or self._find_by_walk(errand, follow)
        try:
            self._reserved.check_place(location.path, errand.asked)
            self._reserved.check_directory(location.dir_fd, errand.asked)
            if location.stat is not None:
                self._reserved.check_entry(location.dir_fd, location.name, location.stat, errand.asked)
        except BaseException:
            location.close()
            raise
        return location

    def _find_at_once(self, errand: Errand, follow: bool) -> Location | None:
        """By openat2, for the common case alone: whatever is in its way, the walk finds out what it is."""
        names = components(errand.asked)
        if not (self._openat2 and names and len(errand.rights) <= 1) or ".." in names:
            return None
        *parents, name = names
        try:
            with decided(errand.rights, errand):
                fd = syscalls.openat2(self.fd, "/".join(parents) or ".", os.O_PATH | os.O_DIRECTORY, _BENEATH)
                location = Location(fd, name, "/" + "/".join(names), None, errand.rights)
                location.stat = _lstat(name, fd)
        except (OSError, PermissionDenied):
            return None
        if follow and location.stat is not None and stat.S_ISLNK(location.stat.st_mode):
            location.close()
            return None
        return location

    def _find_by_walk(self, errand: Errand, follow: bool) -> Location:
        with Walk(self.fd, self._reserved, self.users.of, errand) as walk:
            name, status = walk.to_entry(errand.asked, follow=follow)
            path = os.path.normpath(os.path.join(walk.directory, name))
            return Location(walk.detach(), name, path, status, walk.rights)


def _check_form(path: str) -> None:
    """InvalidPath for what no file system takes (PATH_MAX counts the final NUL, limits.h)."""
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raise InvalidPath(
            f"{path!r} has characters that no file name has; send its bytes with surrogateescape"
        ) from None
    if not raw:
        raise InvalidPath("the path is empty; give an absolute path")
    if b"\0" in raw:
        raise InvalidPath(f"{path!r} has a NUL byte in it; leave it out", path=path)
    if not raw.startswith(b"/"):
        raise InvalidPath(f"{path!r} is not absolute; begin it with a slash", path=path)
    if len(raw) >= PATH_LIMIT:
        raise InvalidPath(f"the path {path[:80]!r}... has {len(raw)} bytes; at most {PATH_LIMIT - 1} are possible")
    for name in raw.split(b"/"):
        if len(name) > NAME_LIMIT:
            raise InvalidPath(
                f"the name {os.fsdecode(name[:80])!r}... in the path has {len(name)} bytes; at most {NAME_LIMIT} are "
                "possible"
            )


def _lstat(name: str, dir_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _has_openat2(fd: int) -> bool:
    try:
        os.close(syscalls.openat2(fd, ".", os.O_PATH, _BENEATH))
    except OSError:
        return False
    return True
