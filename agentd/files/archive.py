"""A directory as one archive, made while it is sent.

Members are in the order of the walk and named from the directory, which is no member itself. Files and symbolic links
are there as they are, links never followed; sockets, FIFOs and devices are left out, and so is what vanishes meanwhile.
Holes of a sparse file are zeros. A second name of a file is a hard link where the format has those.

Once it has begun, nobody can be told that something is missing. So what cannot be read ends the archive, unless the
caller would rather be without it; a file that grows is cut at the size it had, and one that shrinks after its size has
been told ends the archive too, in any case. The end is a failure, and with it the connection is cut.
"""

import importlib
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import NamedTuple

from agentd.errors import AgentError, NotSupported, StorageFailed
from agentd.files.formats import PIECE, Compressor, Format, Member, Plain, Tar, Zip
from agentd.files.globs import Ignore
from agentd.files.listing import Owners
from agentd.files.search import below
from agentd.files.traversal import DIRECTORY, Descent
from agentd.linux.identity import Identity, Users
from agentd.linux.places import Place
from agentd.linux.reserved import Inode, inode
from agentd.linux.root import Root

_LEVEL = 4  # of zlib
_ZSTD_LEVEL = 3
_TOGETHER = 256 << 10  # bytes
_LINKS = 100_000  # files whose names are remembered; others with several names come several times


class Archive(NamedTuple):
    """chunks, rights: for `traversal.batches`. name: of the directory."""

    chunks: Generator[list[bytes], None, None]
    rights: tuple[Identity, ...]
    name: str


class Archives:
    """All methods block."""

    def __init__(self, root: Root, users: Users) -> None:
        self._root = root
        self._users = users

    def open(self, place: Place, form: str, ignore: Ignore, *, skip_unreadable: bool = False) -> Archive:
        """The directory as an archive of a form of `FORMATS`. skip_unreadable: leave out what cannot be read.

        Raises what `Root.open` raises, InvalidRequest for a directory whose content the kernel makes, NotSupported
        where this Python lacks the compression.
        """
        made = FORMATS[form]()
        top = self._root.open(place.path, DIRECTORY & ~os.O_NOFOLLOW, rights=place.rights)
        failed = _pass_over if skip_unreadable else _give_up
        descent = Descent(self._root, top, skips=below(top.path, ignore), failed=failed, reads=True)
        members = _Members(descent, made, Owners(self._users), failed)
        return Archive(_collected(members.stream()), descent.rights, top.path.rpartition("/")[2] or "root")


class _Members:
    def __init__(self, descent: Descent, form: Format, owners: Owners, failed: Callable[[str, str], None]) -> None:
        self._descent = descent
        self._form = form
        self._owners = owners
        self._failed = failed
        self._start = len(descent.path)
        self._names: dict[Inode, str] = {}

    def stream(self) -> Iterator[bytes]:
        """The bytes of the archive; b"" where there are none for a while."""
        form, descent = self._form, self._descent
        try:
            for steps in descent.steps():
                for name, status in steps:
                    if S_ISREG(status.st_mode):
                        yield from self._file(name, status)
                    elif S_ISDIR(status.st_mode) or S_ISLNK(status.st_mode):
                        yield self._entry(name, status)
                yield b""
            yield from form.end()
        finally:
            form.close()

    def _entry(self, name: str, status: os.stat_result) -> bytes:
        target = ""
        if S_ISLNK(status.st_mode):
            try:
                target = os.readlink(name, dir_fd=self._descent.fd)
            except OSError:
                return b""
        return self._form.begin(self._member(name, status, target=target)) + self._form.finish()

    def _file(self, name: str, status: os.stat_result) -> Generator[bytes, None, None]:
        path = self._descent.path + name
        same = self._names.get(inode(status), "")
        if same:
            yield self._form.begin(self._member(name, status, same=same)) + self._form.finish()
            return
        fd = self._opened(name, status, path)
        if fd is None:
            return
        try:
            is_there = yield from self._content(fd, name, path)
        finally:
            os.close(fd)
        if is_there and status.st_nlink > 1 and self._form.has_hard_links and len(self._names) < _LINKS:
            self._names[inode(status)] = path[self._start :]

    def _opened(self, name: str, status: os.stat_result, path: str) -> int | None:
        try:
            return self._descent.open(name, status)
        except (OSError, AgentError) as error:
            self._failed(path, getattr(error, "strerror", None) or str(error))
            return None

    def _content(self, fd: int, name: str, path: str) -> Generator[bytes, None, bool]:
        """Whether the file is a member now."""
        status = os.fstat(fd)
        size = status.st_size
        if size <= PIECE:
            try:
                content = b"".join(_pieces(fd, size, path))
            except StorageFailed as error:
                self._failed(path, error.detail)
                return False
            yield self._form.begin(self._member(name, status, content=content)) + self._form.finish()
            return True
        yield self._form.begin(self._member(name, status, size=size, content=None))
        for piece in _pieces(fd, size, path):
            size -= len(piece)
            yield self._form.content(piece)
        if size:
            raise StorageFailed(f"{path!r} became shorter while it was archived; repeat", path=path)
        yield self._form.finish()
        return True

    def _member(
        self,
        name: str,
        status: os.stat_result,
        *,
        size: int = 0,
        target: str = "",
        same: str = "",
        content: bytes | None = b"",
    ) -> Member:
        owner, group = self._owners.user[status.st_uid], self._owners.group[status.st_gid]
        size = size if content is None else len(content)
        return Member(self._descent.path[self._start :] + name, status, size, target, same, content, owner, group)


def _pieces(fd: int, size: int, path: str) -> Iterator[bytes]:
    """Up to ``size`` bytes."""
    try:
        while size and (piece := os.read(fd, min(size, PIECE))):
            size -= len(piece)
            yield piece
    except OSError as error:
        raise StorageFailed(f"{path!r} could not be read to its end: {error.strerror}", path=path) from error


def _collected(pieces: Iterator[bytes]) -> Generator[list[bytes], None, None]:
    """Small ones together, and nothing as often as there is nothing."""
    kept, size = [], 0
    for piece in pieces:
        if piece:
            kept.append(piece)
            size += len(piece)
        if size >= _TOGETHER:
            yield kept
            kept, size = [], 0
        else:
            yield []
    yield kept


def _pass_over(path: str, why: str) -> None:
    pass


def _give_up(path: str, why: str) -> None:
    raise StorageFailed(f"{path!r} cannot be archived: {why}; leave it out, or skip what is unreadable", path=path)


def _zstd() -> Compressor:
    """Of Python 3.14, or its backport (the extra ``zstd``)."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            made: Compressor = importlib.import_module(name).ZstdCompressor(_ZSTD_LEVEL)
            return made
    raise NotSupported("this daemon has no zstd; install the extra agentd[zstd], or ask for tar.gz")


FORMATS: dict[str, Callable[[], Format]] = {
    "tar": lambda: Tar(Plain()),
    "tar.gz": lambda: Tar(zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)),
    "tar.zst": lambda: Tar(_zstd()),
    "zip": lambda: Zip(_LEVEL),
}
