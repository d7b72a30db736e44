"""What can be uploaded: a file, a directory (as a tar archive), a stream (spooled first). Everything here blocks.

The archive is POSIX.1-2001 (PAX), made so that the same tree always gives the same bytes, because a resume sends the
archive of a second run: names sorted, parents first, owner 0, times 0, links kept and never followed.
"""

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, BinaryIO, Protocol

import msgspec

PIECE = 1 << 20


class SourceUnusable(Exception):
    """What was named cannot be uploaded: not there, not readable, or of a kind that no archive may hold."""


class SourceChanged(Exception):
    """The source was written to while it was being uploaded."""


class Source(msgspec.Struct, frozen=True):
    """Bytes to upload: an open file, read by offset only.

    kind, source_kind: words of the wire contract. sha256: lowercase hex when it is known beforehand, else None.
    """

    fd: int
    name: str
    size: int
    modified_ns: int
    kind: str
    source_kind: str
    sha256: str | None

    def changed(self) -> bool:
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) != (self.size, self.modified_ns)


@contextmanager
def open_source(path: str, stdin: BinaryIO | None = None) -> Iterator[Source]:
    """A file, a directory, or `stdin` for the path ``-``, ready to be uploaded; SourceUnusable when it is none."""
    with ExitStack() as held:
        try:
            if path == "-" and stdin is not None:
                spool = held.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(stdin, spool, PIECE)
                source = _spooled(spool, "standard input", "file", "spooled_stream")
            elif os.path.isdir(path):
                spool = held.enter_context(tempfile.TemporaryFile())
                write_tar(path, spool)
                source = _spooled(spool, path, "directory_tar", "directory_archive")
            else:
                source = _restartable(held.enter_context(open(path, "rb", opener=_without_waiting)), path)
        except OSError as error:
            raise SourceUnusable(f"{error.filename or path}: {error.strerror or error}") from error
        yield source


def _without_waiting(path: str, flags: int) -> int:
    """A FIFO that nobody writes to must not hang the open."""
    return os.open(path, flags | os.O_NONBLOCK)


def _restartable(file: IO[bytes], name: str) -> Source:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise SourceUnusable(f"{name}: neither a regular file nor a directory")
    return Source(file.fileno(), name, status.st_size, status.st_mtime_ns, "file", "restartable_file", None)


def _spooled(spool: IO[bytes], name: str, kind: str, source_kind: str) -> Source:
    spool.flush()
    status = os.fstat(spool.fileno())
    digest = hashlib.sha256()
    feed(digest, spool.fileno(), 0, status.st_size)
    return Source(spool.fileno(), name, status.st_size, status.st_mtime_ns, kind, source_kind, digest.hexdigest())


def write_tar(top: str, out: IO[bytes]) -> None:
    """Archives the tree below `top`, without `top` itself. OSError; SourceUnusable for what no archive may hold."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _below(top):
            member = _member(path, os.path.relpath(path, top))
            if member.isreg():
                with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)


def _below(top: str) -> Iterator[str]:
    """Everything below a directory, depth first, names in byte order, a directory before what it holds."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        if path != top:
            yield path
        if path == top or (os.path.isdir(path) and not os.path.islink(path)):
            names = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            waiting.extend(os.path.join(path, name) for name in names)


def _member(path: str, name: str) -> tarfile.TarInfo:
    status = os.lstat(path)
    member = tarfile.TarInfo(name)
    member.mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        member.size = status.st_size
    elif stat.S_ISDIR(status.st_mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        member.type = tarfile.SYMTYPE
        member.linkname = os.readlink(path)
        # Refused here as the daemon would refuse it after the whole transfer.
        climbed = os.path.normpath(os.path.join(os.path.dirname(name), member.linkname)).split("/")[0] == ".."
        if climbed or member.linkname.startswith("/"):
            raise SourceUnusable(f"{path}: the link leads out of the directory (to {member.linkname})")
    else:
        raise SourceUnusable(f"{path}: only files, directories and links can be uploaded")
    return member


class _Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...


def feed(digest: _Digest, fd: int, first: int, length: int) -> None:
    """Hashes a range of a file, piece by piece. SourceChanged when the file ends before."""
    buffer = memoryview(bytearray(min(PIECE, length)))
    done = 0
    while done < length:
        count = os.preadv(fd, [buffer[: length - done]], first + done)
        if not count:
            raise SourceChanged("the source became shorter while it was being uploaded")
        digest.update(buffer[:count])
        done += count
