"""Where uploads wait: one directory for each under the reserved tree, everything relative to directory fds.

::

    lock                        flock held for the daemon's life
    uploads/v1/<id>/journal     see journal.py; an ended upload keeps it alone, until its retention ends
                    data        the staging file: sparse, exact size, 0600
                    tree        an archive being unpacked, or the tree that an exchange brought back
    uploads/v1/.new-<random>    being created       .trash-<id>  being deleted
    quarantine/<id>             could not be read

All functions here block.
"""

import errno
import fcntl
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import xxhash

from agentd.core.parts import Digests, Span
from agentd.errors import InsufficientStagingSpace
from agentd.failpoints import hit
from agentd.linux import trees
from agentd.linux.copying import allocate, free_bytes
from agentd.linux.reserved import inode
from agentd.linux.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    fallocate,
)
from agentd.linux.workspace import put_back
from agentd.uploads import journal

_log = logging.getLogger("agentd.uploads")

DATA, JOURNAL, TREE = "data", "journal", "tree"
_SHORTER = "journal.new"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _boot_id() -> bytes:
    """Which boot of the kernel this is, proc(5): 16 bytes, zeros where it cannot be told."""
    with suppress(OSError, ValueError):
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    return bytes(16)


BOOT_ID = _boot_id()


class StoreLocked(Exception):
    """Another daemon serves this root."""


class Files(msgspec.Struct):
    """The open files of one upload. ``data`` is -1 where the staging file is not there (any more)."""

    directory: int
    journal: int
    data: int
    data_size: int

    @property
    def linked(self) -> bool:
        """Whether nobody has deleted them."""
        return all(fd >= 0 and os.fstat(fd).st_nlink for fd in (self.journal, self.data))

    def close(self) -> None:
        for fd in (self.directory, self.journal, self.data):
            if fd >= 0:
                os.close(fd)


class Store:
    """The uploads' part of the reserved tree. ``reserved``: its directory fd, which the store takes over;
    ``workspace``: that of the directory it belongs in, which stays the caller's."""

    def __init__(self, workspace: int, reserved: int, *, durable: bool) -> None:
        self.workspace = workspace
        self.fd = reserved
        self.durable = durable
        with ExitStack() as undo:
            undo.callback(os.close, reserved)
            self._lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=reserved)
            undo.callback(os.close, self._lock)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreLocked("another daemon serves this workspace") from None
            self._sync(workspace)
            self.uploads = self._directory("uploads", "v1")
            undo.callback(os.close, self.uploads)
            self.quarantine_fd = self._directory("quarantine")
            undo.pop_all()
        self._own = inode(os.fstat(reserved))
        trees.SPARED.add(self._own)

    def close(self) -> None:
        trees.SPARED.discard(self._own)
        for fd in (self.quarantine_fd, self.uploads, self._lock, self.fd):
            os.close(fd)

    def check_place(self) -> None:
        """Unavailable where somebody moved the reserved tree and it cannot be brought back."""
        put_back(self.workspace, self.fd)

    def ids(self) -> list[str]:
        """The uploads that are there, the ended ones included."""
        return sorted(name for name in os.listdir(self.uploads) if not name.startswith("."))

    def quarantined(self) -> list[str]:
        return sorted(os.listdir(self.quarantine_fd))

    def free_bytes(self) -> int:
        return free_bytes(self.uploads)

    def create(self, header: journal.Header, parts: int) -> journal.Journal:
        """Makes the upload's directory: whole under a hidden name, then renamed."""
        self.check_place()
        name = f".new-{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=self.uploads)
        try:
            with _opened(name, _DIRECTORY, self.uploads) as directory:
                hit("create.after_mkdir")
                with _opened(JOURNAL, os.O_RDWR | os.O_CREAT | os.O_EXCL, directory) as fd:
                    made = journal.create(fd, header, parts)
                    self._sync(fd)
                hit("create.after_header")
                with _opened(DATA, os.O_RDWR | os.O_CREAT | os.O_EXCL, directory) as fd:
                    os.ftruncate(fd, header.size)
                    self._sync(fd)
                self._sync(directory)
            os.rename(name, header.upload_id, src_dir_fd=self.uploads, dst_dir_fd=self.uploads)
            name = header.upload_id
            hit("create.after_rename")
            self._sync(self.uploads)
        except BaseException:
            trees.remove(self.uploads, name)
            raise
        return made

    def open(self, upload_id: str) -> Files:
        with ExitStack() as undo:
            directory = os.open(upload_id, _DIRECTORY, dir_fd=self.uploads)
            undo.callback(os.close, directory)
            fd = os.open(JOURNAL, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            undo.callback(os.close, fd)
            data = -1
            with suppress(FileNotFoundError):
                data = _open_data(directory)
            undo.pop_all()
        return Files(directory, fd, data, os.fstat(data).st_size if data >= 0 else -1)

    def empty(self, upload_id: str, made: journal.Journal, point: str, at_last: bool = True) -> None:
        """Leaves an ended upload its journal, cut to what is used: the tombstone. ``point``: a failpoint between.
        ``at_last``: nothing more is to be written there, so that the journal may be replaced by a shorter one."""
        with _opened(upload_id, _DIRECTORY, self.uploads) as directory:
            for name in (TREE, DATA):  # where the data is still there, a later daemon knows that there is work left
                trees.remove(directory, name)
                hit(point)
            with _opened(JOURNAL, os.O_RDWR, directory) as fd:
                os.ftruncate(fd, made.bytes_used)
                if at_last and made.offset > journal.PAGE:  # whoever asked for it may have said much about it
                    self._shorten(directory, journal.epitaph(fd, made.header))

    def _shorten(self, directory: int, content: bytes) -> None:
        """Replaces the journal. Without room for that it stays as it is."""
        try:
            with _opened(_SHORTER, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, directory) as fd:
                journal.write_at(fd, content, 0)
                self._sync(fd)
            os.rename(_SHORTER, JOURNAL, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            trees.remove(directory, _SHORTER)

    def delete(self, upload_id: str) -> None:
        """Forgets the upload: renamed first, so that a crash leaves nothing that looks alive."""
        with suppress(FileNotFoundError):
            os.rename(upload_id, f".trash-{upload_id}", src_dir_fd=self.uploads, dst_dir_fd=self.uploads)
        hit("sweep.after_rename")
        trees.remove(self.uploads, f".trash-{upload_id}")

    def delete_leftovers(self) -> int:
        """Removes what a crash left half made or half deleted; their number. What cannot go stays for another time."""
        names = [name for name in os.listdir(self.uploads) if name.startswith(".")]
        for name in names:
            try:
                trees.remove(self.uploads, name)
            except OSError:
                _log.exception("%s, left by an earlier daemon, cannot be deleted whole", name)
            hit("recover.mid_cleanup")
        return len(names)

    def quarantine(self, upload_id: str) -> None:
        """Takes an upload that cannot be read out of the way of the others."""
        name = upload_id
        while True:
            try:
                return os.rename(upload_id, name, src_dir_fd=self.uploads, dst_dir_fd=self.quarantine_fd)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                name = f"{upload_id}.{secrets.token_hex(4)}"

    def delete_unreadable(self, name: str) -> None:
        for place in (self.quarantine_fd, self.uploads):
            trees.remove(place, name)

    def _directory(self, *names: str) -> int:
        """Opens the directory at the end of ``names``, made 0700 where it is missing."""
        fd = os.dup(self.fd)
        for name in names:
            try:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=fd)
                self._sync(fd)
                child = os.open(name, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = child
        return fd

    def _sync(self, fd: int) -> None:
        if self.durable:
            os.fsync(fd)


def can_sync(directory: int) -> bool:
    """Whether files and directories here can be made to last, as far as fsync(2) says. Blocks."""
    name = f".sync-{secrets.token_hex(8)}"
    try:
        with _opened(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, directory) as fd:
            os.unlink(name, dir_fd=directory)
            os.fdatasync(fd)
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return False
    return True


def reserve(fd: int, span: Span, free_floor: int) -> None:
    """Allocates a region, so that a full disk is known before its bytes are there.

    Raises InsufficientStagingSpace where the disk would be below ``free_floor`` bytes, OSError where it is full; the
    region is given back then. What an earlier try has allocated counts as there. A file system that cannot allocate
    ahead is trusted to say so at the write.
    """
    try:
        missing = 0 if allocate(fd, span.offset, span.length) else span.length
    except OSError:
        _release(fd, span)
        raise
    free = free_bytes(fd)
    if free - missing < free_floor:
        _release(fd, span)
        raise InsufficientStagingSpace(
            f"{free - missing} bytes would be free beside these {span.length}, and {free_floor} have to stay free: "
            "make room in the sandbox and repeat",
            limit=free_floor,
            used=free,
            requested=span.length,
        )


def _release(fd: int, span: Span) -> None:
    with suppress(OSError):
        fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, span.offset, span.length)


class Sink:
    """Takes the bytes of one part, in order: hashes them and writes them at their place. One thread at a time.

    begin: called before the first byte. end: called after the last one. Both in the thread that writes.
    """

    def __init__(
        self,
        fd: int,
        span: Span,
        hashes: "Hashes",
        *,
        begin: Callable[[], None],
        end: Callable[[], None] | None,
    ) -> None:
        self._fd = fd
        self._span = span
        self._hashes = hashes
        self._begin = begin
        self._end = end
        self._taken = 0

    def write(self, piece: memoryview) -> None:
        if not self._taken:
            self._begin()
        self._hashes.write(piece)
        journal.write_at(self._fd, piece, self._span.offset + self._taken)
        if not self._taken:
            hit("part.after_first_write")
        self._taken += len(piece)
        if self._end is not None and self._taken == self._span.length:
            self._end()


class Hashes:
    """The digests of a part's bytes."""

    def __init__(self, *, sha256: bool) -> None:
        self._xxh3 = xxhash.xxh3_128()
        self._sha256 = hashlib.sha256() if sha256 else None

    def write(self, piece: memoryview) -> None:
        self._xxh3.update(piece)
        if self._sha256 is not None:
            self._sha256.update(piece)

    def digests(self) -> Digests:
        return Digests(self._xxh3.digest(), None if self._sha256 is None else self._sha256.digest())


def _open_data(directory: int) -> int:
    """The staging file, for reading and writing; -1 where it is the target already, too (link(2))."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(DATA, flags, dir_fd=directory)
    except PermissionError:  # a completion that was cut short gave it the owner and the mode of what it replaces
        found = os.stat(DATA, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise
        if found.st_nlink > 1:
            return -1
        if found.st_uid != os.geteuid():
            os.chown(DATA, os.geteuid(), os.getegid(), dir_fd=directory, follow_symlinks=False)
        os.chmod(DATA, 0o600, dir_fd=directory)
        return os.open(DATA, flags, dir_fd=directory)


@contextmanager
def _opened(name: str, flags: int, dir_fd: int) -> Iterator[int]:
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)
