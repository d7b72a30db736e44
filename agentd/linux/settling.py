"""The last steps that make a staged entry what it is to be: owner and mode, then a name. Blocking."""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress

from agentd.linux.attributes import set_inherited_list
from agentd.linux.copying import allocate, copy_range
from agentd.linux.identity import CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, decided_as, may
from agentd.linux.places import Place
from agentd.linux.root import Location
from agentd.linux.syscalls import RENAME_NOREPLACE, renameat2

NEW_FILE_MODE = 0o644
NEW_DIRECTORY_MODE = 0o755
IN_PLACE = "files that cannot be renamed into place are written in place, which is not atomic"

_log = logging.getLogger("agentd.files")

# How a mount says that it does no such thing.
MOUNT_REFUSALS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_told: set[object] = set()


def settle(
    fd: int,
    replaced: os.stat_result | None,
    place: Place,
    *,
    durable: bool,
    mode: int | None = None,
    above: int | None = None,
) -> None:
    """Owner and mode of the staged entry ``fd``: what is replaced hands on both, but a named user becomes the owner. As
    a write would, this drops the set-id bits. mode: of what is new, instead of the usual one. durable: fsync(2).
    above: the directory that it goes to, whose default access control list a new file gets.

    Where the mount knows no owners or modes (FUSE volumes) the entry has those that the mount gives it.
    """
    found = os.fstat(fd)
    asked = 0o666 if mode is None else mode  # as a program would that leaves the rest to the umask
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
            with unless_mount_refuses(fd, "owners"):
                os.fchown(fd, uid, gid)
        except OSError as error:
            # One that cannot give files away, or not to somebody unknown to its user namespace (EINVAL), replaces a
            # foreign file by one of its own.
            may_not = error.errno == errno.EINVAL or (isinstance(error, PermissionError) and not may(CAP_CHOWN))
            if not may_not or (place.user is not None and uid != os.geteuid()):
                raise
    with unless_mount_refuses(fd, "modes"):
        os.fchmod(fd, mode)
    if replaced is None and above is not None and stat.S_ISREG(found.st_mode):
        set_inherited_list(above, fd, asked)
    if durable:
        os.fsync(fd)


def give(fd: int, uid: int, gid: int, mode: int) -> None:
    """Owner and mode, as far as the mount keeps them. In this order: chown(2) clears the set-id bits."""
    found = os.fstat(fd)
    if (found.st_uid, found.st_gid) != (uid, gid):
        with unless_mount_refuses(fd, "owners"):
            os.fchown(fd, uid, gid)
    with unless_mount_refuses(fd, "modes"):
        os.fchmod(fd, mode)


@contextmanager
def unless_mount_refuses(fd: int, what: str) -> Iterator[None]:
    """Lets the refusal of a mount pass that keeps no ``what``: one that comes though this thread has every right, as
    anybody has to the modes of what is his own."""
    try:
        yield
    except OSError as error:
        found = os.fstat(fd)
        is_own = what == "modes" and found.st_uid == os.geteuid()
        if error.errno not in MOUNT_REFUSALS or not (is_own or may(CAP_CHOWN | CAP_FOWNER)):
            raise
        once(f"a mount keeps no {what}: entries there have those that it gives them", found.st_dev)


def once(text: str, device: int) -> None:
    """A warning that is given once for each file system; ``device`` is its st_dev."""
    if (text, device) not in _told:
        _told.add((text, device))
        _log.warning(text, extra={"fields": {"device": f"{os.major(device)}:{os.minor(device)}"}})


def sync_upwards(dir_fd: int) -> None:
    """fsync(2) of a directory and of those above it, as far as its file system goes: what was renamed there lasts."""
    fd = os.open(".", _DIRECTORY, dir_fd=dir_fd)
    device = os.fstat(fd).st_dev
    while True:
        os.fsync(fd)
        parent = os.open("..", _DIRECTORY, dir_fd=fd)
        here, above = os.fstat(fd), os.fstat(parent)
        os.close(fd)
        fd = parent
        if above.st_dev != device or above.st_ino == here.st_ino:
            return os.close(fd)


@contextmanager
def movable(*entries: tuple[int, str]) -> Iterator[None]:
    """For its extent the daemon may move these entries (directory and name) if they are directories of its own.

    Whoever moves a directory to another one has to be allowed to write to it, because its ".." changes (rename(2)).
    Afterwards, wherever they are then, they have their owner and mode again, if no crash comes between.
    """
    with ExitStack() as undo:
        for dir_fd, name in () if may(CAP_DAC_OVERRIDE) else entries:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            undo.callback(os.close, fd)
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode):
                path, mode = f"/proc/self/fd/{fd}", stat.S_IMODE(found.st_mode)
                if found.st_uid == os.geteuid() and mode & 0o700 == 0o700:
                    continue
                try:
                    if found.st_uid != os.geteuid():
                        os.chown(path, os.geteuid(), -1)
                        undo.callback(os.chown, path, found.st_uid, -1)
                    os.chmod(path, mode | 0o700)
                    undo.callback(os.chmod, path, mode)
                except OSError as error:
                    if error.errno not in (errno.EACCES, *MOUNT_REFUSALS):  # it may be moved nonetheless
                        raise
        yield


def rename_new(source: int, name: str, target: int, new_name: str) -> None:
    """Renames without replacing, FileExistsError where something has the new name (renameat2(2), RENAME_NOREPLACE)."""
    try:
        renameat2(source, name, target, new_name, RENAME_NOREPLACE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _link_or_make(source, name, target, new_name)


def fill(source: int, place: Location, *, durable: bool) -> None:
    """Makes the place a copy of the settled file ``source``, on mounts that rename nothing. It is not atomic.

    What is there is written to, decided by the kernel as for the first of those whose rights count. Raises as a rename
    would where it is no file.
    """
    staged = os.fstat(source)
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if place.stat is None:
        flags |= os.O_CREAT | os.O_EXCL
    elif not stat.S_ISREG(place.stat.st_mode):
        raise FileExistsError(errno.EEXIST, "not a file", place.name)
    with decided_as(place.rights[0], "write", place.path) if place.rights else nullcontext():
        fd = os.open(place.name, flags, 0o600, dir_fd=place.dir_fd)
    try:
        if place.stat is not None and not os.path.samestat(place.stat, os.fstat(fd)):
            raise OSError(errno.ESTALE, "another file has taken its place", place.name)
        once(IN_PLACE, os.fstat(fd).st_dev)
        allocate(fd, 0, staged.st_size)
        copy_range(source, fd, staged.st_size)
        os.ftruncate(fd, staged.st_size)
        give(fd, staged.st_uid, staged.st_gid, stat.S_IMODE(staged.st_mode))
        if durable:
            os.fsync(fd)
    except BaseException:
        if place.stat is None:
            os.unlink(place.name, dir_fd=place.dir_fd)
        raise
    finally:
        os.close(fd)


def _link_or_make(source: int, name: str, target: int, new_name: str) -> None:
    """For file systems whose rename knows no RENAME_NOREPLACE: link(2) does not replace either, nor does an empty entry
    that is made first, where there are no links."""
    if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
        os.mkdir(new_name, 0o700, dir_fd=target)
        give_back = os.rmdir
    else:
        try:
            os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in MOUNT_REFUSALS:
                raise
            os.close(os.open(new_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target))
            give_back = os.unlink
        else:
            with suppress(OSError):
                os.unlink(name, dir_fd=source)
            return
    try:
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    except OSError:
        with suppress(OSError):
            give_back(new_name, dir_fd=target)
        raise
