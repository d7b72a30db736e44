"""A file while it is written, out of everybody's sight: `Draft`.

Where it lies depends on where it is to go, as it takes its place by a rename: on the mount of the reserved tree in a
directory there, elsewhere without a name on the target's own file system (O_TMPFILE, open(2): a crash leaves nothing),
and where that is unknown in a private directory beside the target. Of those the directory in the reserved tree has a
note, by which the next daemon deletes what a crash has left in them. All functions here block.
"""

import errno
import os
import secrets
import string
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress

from agentd.errors import AgentError, NoSpace
from agentd.linux import syscalls, trees
from agentd.linux.copying import allocate, free_bytes
from agentd.linux.descriptor import Descriptor
from agentd.linux.private import private_directory
from agentd.linux.root import Location, Root
from agentd.linux.settling import rename_new

WRITES = "writes"
_CHECK = 16 << 20  # bytes between two looks at the free space
_NAME_LENGTH = 16  # of secrets.token_hex(8)
_LARGE = 1 << 20  # bytes from which space is taken before they come, and some has to be left
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMED = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMELESS = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
# The file system knows no O_TMPFILE, or the kernel takes it for O_DIRECTORY.
_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS})


class Draft(Descriptor):
    """One thread at a time. fd: open for writing, and once it is sealed for reading. size: bytes written so far.

    Closed without having been put into place, it is gone.
    """

    size = 0

    def __init__(
        self, drafts: "Drafts", fd: int, keep: ExitStack, home: int = -1, name: str = "", floor: int = 0
    ) -> None:
        """keep: closed with it. home, name: where it is, "" for one without a name. floor: bytes that stay free."""
        super().__init__(fd)
        self._drafts = drafts
        self._keep = keep
        self._home = home
        self._name = name
        self._floor = floor
        self._next_check = _CHECK

    def expect(self, length: int) -> None:
        """So many bytes are to come. NoSpace, or OSError (ENOSPC), where there is no room for them."""
        if length < _LARGE:
            return
        if allocate(self.fd, 0, length):
            self._next_check = length + _CHECK
            length = 0
        self._check_floor(length)

    def write(self, piece: memoryview | bytes) -> None:
        """Behind what is there. Raises NoSpace, OSError."""
        left = memoryview(piece)
        while left:
            left = left[os.write(self.fd, left) :]
        self.size += len(piece)
        if self.size >= self._next_check:
            self._next_check = self.size + _CHECK
            self._check_floor(0)

    def seal(self) -> None:
        """The content is whole. A file that is open for writing cannot be executed (ETXTBSY, execve(2)), and this one
        has its final name before it is closed."""
        reading = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        writing, self.fd = self.fd, reading
        os.close(writing)

    def move(self, place: Location, *, replace: bool) -> None:
        """Puts it into place. FileExistsError unless it may ``replace``; EXDEV for a place on another mount; the other
        errors of rename(2)."""
        if self._name:
            _rename(self._home, self._name, place, replace)
            self._name = ""
            return
        name = secrets.token_hex(8)
        with self._drafts.private(place) as home:
            os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=home, follow_symlinks=True)
            try:
                _rename(home, name, place, replace)
            except BaseException:
                os.unlink(name, dir_fd=home)
                raise

    def close(self) -> None:
        if self.fd >= 0:
            super().close()
            with self._keep:
                if self._name:
                    with suppress(FileNotFoundError):
                        os.unlink(self._name, dir_fd=self._home)

    def _check_floor(self, more: int) -> None:
        if self._floor:
            _check_free(self.fd, self._floor, more)


class Drafts:
    """Where drafts are begun. reserved: fd of the reserved tree; floor: bytes that stay free on its file system."""

    def __init__(self, root: Root, reserved: int, floor: int) -> None:
        """What an earlier daemon did not finish is deleted."""
        with suppress(FileExistsError):
            os.mkdir(WRITES, 0o700, dir_fd=reserved)
        self._home = os.open(WRITES, _DIRECTORY, dir_fd=reserved)
        self._mount = syscalls.mount_id(self._home)
        self._device = os.fstat(self._home).st_dev
        self._floor = floor
        for name in os.listdir(self._home):
            with suppress(OSError, AgentError, ValueError):
                _clean(root, os.readlink(name, dir_fd=self._home))
            trees.remove(self._home, name)

    def close(self) -> None:
        os.close(self._home)

    def within(self) -> Draft:
        """In the reserved tree."""
        name = secrets.token_hex(8)
        fd = os.open(name, _NAMED, 0o600, dir_fd=self._home)
        return Draft(self, fd, ExitStack(), self._home, name, self._floor)

    def beside(self, place: Location) -> Draft:
        """On the mount of the place's directory. OSError where nothing can be made there."""
        try:
            return Draft(self, os.open(".", _NAMELESS, 0o600, dir_fd=place.dir_fd), ExitStack())
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        with ExitStack() as keep:
            parent = keep.enter_context(Location(os.dup(place.dir_fd), place.name, place.path, None, ()))
            home = keep.enter_context(self.private(parent))
            name = secrets.token_hex(8)
            fd = os.open(name, _NAMED, 0o600, dir_fd=home)
            return Draft(self, fd, keep.pop_all(), home, name)

    def homes(self, place: Location) -> Iterator[AbstractContextManager[int]]:
        """Directories that nobody else enters, and to which a rename may lead from the place, as fds."""
        if self.reaches(place):
            yield nullcontext(self._home)
        yield self.private(place)

    @contextmanager
    def private(self, place: Location) -> Iterator[int]:
        """A directory beside the place that nobody else enters, as an fd; afterwards it goes, if it is empty."""
        name = private_name()
        with ExitStack() as keep:
            keep.callback(self._forget, name)
            home = keep.enter_context(private_directory(place.dir_fd, name))
            with suppress(OSError):
                os.symlink(f"{_identity(home)} {os.path.dirname(place.path)}/{name}", name, dir_fd=self._home)
            yield home

    def _forget(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._home)

    def check_floor(self, fd: int, more: int) -> None:
        """NoSpace where too little would be free with ``more`` bytes in the file ``fd``."""
        if self._floor and more >= _LARGE and os.fstat(fd).st_dev == self._device:
            _check_free(fd, self._floor, more)

    def reaches(self, place: Location) -> bool:
        """Whether a rename leads from the reserved tree to the place, as far as can be told beforehand."""
        mount = syscalls.mount_id(place.dir_fd)
        if mount is not None and self._mount is not None:
            return mount == self._mount
        return os.fstat(place.dir_fd).st_dev == self._device


def private_name() -> str:
    """Of a directory beside a target, which nobody can foresee."""
    return f".agentd-{secrets.token_hex(16)}"


def _clean(root: Root, note: str) -> None:
    """Deletes what is in the directory that the note tells of, if it is still that. Raises ValueError, OSError, and
    what `Root.locate` raises."""
    identity, path = note.split(" ", 1)
    with root.locate(path, follow=False) as found:
        with private_directory(found.dir_fd, found.name, make=False) as home:
            if _identity(home) == identity:
                for name in os.listdir(home):
                    if len(name) == _NAME_LENGTH and not name.strip(string.hexdigits):
                        trees.remove(home, name)


def _identity(fd: int) -> str:
    found = os.fstat(fd)
    return f"{found.st_dev}:{found.st_ino}"


def _rename(home: int, name: str, place: Location, replace: bool) -> None:
    if replace:
        os.rename(name, place.name, src_dir_fd=home, dst_dir_fd=place.dir_fd)
    else:
        rename_new(home, name, place.dir_fd, place.name)


def _check_free(fd: int, floor: int, more: int) -> None:
    free = free_bytes(fd)
    if free - more < floor:
        raise NoSpace(
            f"{free} bytes are free and {floor} have to stay so: make room in the sandbox and repeat",
            limit=floor,
            free=free,
            requested=more,
        )
