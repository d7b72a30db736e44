"""What all changes of entries ask of them. All functions here block."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from agentd.errors import Conflict, NotFound
from agentd.linux.branch import Branch
from agentd.linux.identity import Identity, decided_as
from agentd.linux.oserrors import Table, os_errors
from agentd.linux.places import Place
from agentd.linux.reserved import inode
from agentd.linux.root import Location, Root
from agentd.linux.threads import Pool
from agentd.linux.trees import walk

# How a mount says that nothing is renamed or made on it.
REFUSALS = frozenset(
    {errno.EPERM, errno.EACCES, errno.EBUSY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS}
)
_CHANGED = (Conflict, "what is in it was moved or removed meanwhile; repeat")
_LOOKING_THROUGH: Table = {errno.ENOENT: _CHANGED, errno.ENOTDIR: _CHANGED, errno.ELOOP: _CHANGED}
# For what is mostly quick and may last (a move across file systems, a tree): it waits for nobody's hashing.
CHANGES = Pool("changes", 8)
_TRIES = 16


@contextmanager
def suppress_refusals() -> Iterator[None]:
    """For one of several ways: what the mount refuses is tried in another."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise


@contextmanager
def found(root: Root, place: Place) -> Iterator[tuple[Location, int]]:
    """The entry of that name, a link itself, and an fd (O_PATH) of it. Raises NotFound, and Conflict where it is
    another one whenever it is looked at."""
    for _ in range(_TRIES):
        with root.locate(place.path, follow=False, rights=place.rights) as location:
            if location.stat is None:
                raise NotFound(f"{place.path!r}: nothing is there; check the path", path=place.path)
            fd = _held(location)
            if fd is not None:
                try:
                    yield location, fd
                finally:
                    os.close(fd)
                return
    raise Conflict(f"{place.path!r} is replaced all the time; repeat when that is over", path=place.path)


def _held(location: Location) -> int | None:
    """None where it is gone, or another one."""
    assert location.stat is not None
    with suppress(FileNotFoundError):
        fd = os.open(location.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=location.dir_fd)
        if inode(os.fstat(fd)) == inode(location.stat):
            return fd
        os.close(fd)
    return None


def united(*rights: tuple[Identity, ...]) -> tuple[Identity, ...]:
    """All of them, each once."""
    return tuple({identity.uid: identity for some in rights for identity in some}.values())


def as_first(rights: tuple[Identity, ...], act: str, path: str) -> AbstractContextManager[None]:
    """What is done in its extent is decided by the kernel as for the first of those whose rights count, if any; the
    others are to be asked before."""
    return decided_as(rights[0], act, path) if rights else nullcontext()


def check_deletable(fd: int, rights: tuple[Identity, ...], path: str) -> None:
    """PermissionDenied unless each of ``rights`` may delete all that is in the directory ``fd``; Conflict where that
    changes meanwhile."""
    with os_errors("look through", path, _LOOKING_THROUGH), Branch(fd) as branch:

        def visit() -> list[str]:
            deeper = []
            with os.scandir(branch.fd) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    within = f"{path}/{branch.path(entry.name)}"
                    with Location(os.dup(branch.fd), entry.name, within, status, rights) as location:
                        location.check_replaceable()
                    if stat.S_ISDIR(status.st_mode):
                        deeper.append(entry.name)
            return deeper

        walk([branch], visit, lambda: None)
