"""Unpacking a tar archive into an empty directory, by directory descriptors only.

What is made: regular files, directories, symbolic links, and hard links to an earlier member. What a name, a link or a
type may not be is said by the wire contract's three reasons: ArchivePathInvalid, ArchiveLinkInvalid,
ArchiveEntryUnsupported (also for an archive that is damaged).

Two members of one name: a directory is merged into a directory (the later mode counts), anything else replaces what is
no directory, as tar does; a directory against a non-directory is ArchivePathInvalid. Parents that the archive does not
name are made 0755. "." and empty components are dropped; the top directory itself is left as it is. Content is copied
by the kernel. Times of the archive are not applied: the reference client always sends 0.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from agentd.errors import (
    ArchiveEntryUnsupported,
    ArchiveLinkInvalid,
    ArchivePathInvalid,
    InsufficientStagingSpace,
    SizeLimitExceeded,
    UploadError,
)
from agentd.linux.branch import DIRECTORY, Branch
from agentd.linux.copying import Stopped, copy_range, free_bytes
from agentd.linux.settling import give, unless_mount_refuses
from agentd.uploads.members import Member, read_members

_NAME_LIMIT, _PATH_LIMIT = 255, 4096  # bytes: NAME_MAX, PATH_MAX of <limits.h>
_CHECK = 1 << 20  # bytes between two looks at the free space
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_NAME = (errno.ENAMETOOLONG, errno.EILSEQ)  # file systems whose names are shorter, or UTF-8 only
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Made = TypeVar("Made")


class ArchiveLimits(msgspec.Struct, frozen=True):
    """entries: members and the parents made for them; bytes: content of all files; depth: components of a name.
    free_floor: bytes that stay free on the disk."""

    entries: int
    bytes: int
    depth: int
    free_floor: int = 0


class Unpacked(msgspec.Struct, frozen=True):
    """entries, bytes: as in ArchiveLimits; files: regular files and hard links."""

    entries: int
    files: int
    bytes: int


def unpack(
    data_fd: int,
    size: int,
    dir_fd: int,
    limits: ArchiveLimits,
    owner: tuple[int, int] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Unpacked:
    """Unpack the uncompressed tar ``data_fd[0:size]`` into the empty directory `dir_fd`. Blocking.

    dir_fd: must be out of the reach of others until the end; its own owner and mode are not touched.
    owner: uid and gid of everything made; None leaves it to the process.
    stop: asked between members and every 64 MiB of a file.

    A failure leaves a part of the tree behind. Raises ArchivePathInvalid, ArchiveLinkInvalid, ArchiveEntryUnsupported,
    SizeLimitExceeded (facts: limit, used), InsufficientStagingSpace (each names the entry in facts: path), Stopped,
    OSError.
    """
    with Branch(dir_fd) as branch:
        unpacker = _Unpacker(data_fd, size, branch, limits, owner, stop)
        unpacker.run()
        return Unpacked(unpacker.entries, unpacker.files, unpacker.bytes)


class _Unpacker:
    def __init__(
        self,
        data_fd: int,
        size: int,
        branch: Branch,
        limits: ArchiveLimits,
        owner: tuple[int, int] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.data_fd, self.size, self.branch = data_fd, size, branch
        self.limits, self.owner, self.stop = limits, owner, stop
        self.entries = self.files = self.bytes = 0
        self.unchecked = 0  # bytes since somebody looked at the free space
        # (minus depth, offset of the member): directories that get their mode last. No names: memory stays small.
        self.late_modes: list[tuple[int, int]] = []

    def run(self) -> None:
        for member in read_members(self.data_fd, 0, self.size, self._look):
            with _errors_of(member):
                self._add(member)
        for _, offset in sorted(self.late_modes):
            self._look()
            member = next(read_members(self.data_fd, offset, self.size, self._look))
            with _errors_of(member):
                *parents, name = _components(member)
                self._go(member, parents)
                self._settle_directory(name, member.mode)

    def _look(self) -> None:
        if self.stop is not None and self.stop():
            raise Stopped

    def _add(self, member: Member) -> None:
        make = _MAKERS.get(member.type)
        if make is None:
            raise _refusal(ArchiveEntryUnsupported, member, f"is of the unsupported type {member.type!r}")
        components = _components(member)
        _check_limit(member, "depth", self.limits.depth, len(components))
        if not components:
            if member.type != tarfile.DIRTYPE:
                raise _refusal(ArchivePathInvalid, member, "has no name")
            return
        self._count(member)
        make(self, member, components)

    def _count(self, member: Member) -> None:
        _check_limit(member, "entries", self.limits.entries, self.entries + 1)
        self.entries += 1

    def _file(self, member: Member, components: list[str]) -> None:
        _check_limit(member, "bytes", self.limits.bytes, self.bytes + member.size)
        self._check_free(member)
        self._go(member, components[:-1])
        name = components[-1]
        fd = self._put(member, name, lambda: os.open(name, _NEW_FILE, 0o600, dir_fd=self.branch.fd))
        try:
            copy_range(self.data_fd, fd, member.size, member.body, stop=self.stop)
            self._settle(fd, member.mode)
        finally:
            os.close(fd)
        self.files += 1
        self.bytes += member.size

    def _check_free(self, member: Member) -> None:
        self.unchecked += member.size
        if self.limits.free_floor and self.unchecked >= _CHECK:
            self.unchecked = 0
            if free_bytes(self.data_fd) - member.size < self.limits.free_floor:
                floor = self.limits.free_floor
                why = (
                    f"leaves too little space, as {floor} bytes have to stay free: make room in the sandbox and repeat"
                )
                raise _refusal(InsufficientStagingSpace, member, why, limit=floor)

    def _directory(self, member: Member, components: list[str]) -> None:
        *parents, name = components
        self._go(member, parents)
        try:
            os.mkdir(name, 0o700, dir_fd=self.branch.fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=self.branch.fd, follow_symlinks=False).st_mode):
                raise _refusal(ArchivePathInvalid, member, "is a directory over something else") from None
            known = True
        else:
            known = False
        # Modes that neither hinder us nor change what is made within are final at once; the order of the rest counts.
        if known or member.mode & 0o7000 or member.mode & 0o700 != 0o700:
            self.late_modes.append((-len(components), member.offset))
        else:
            self._settle_directory(name, member.mode)

    def _symlink(self, member: Member, components: list[str]) -> None:
        *parents, name = components
        _check_link(member, len(parents))
        self._go(member, parents)
        self._put(member, name, lambda: os.symlink(os.fsdecode(member.link), name, dir_fd=self.branch.fd))
        if self.owner:
            with unless_mount_refuses(self.branch.fd, "owners"):
                os.chown(name, *self.owner, dir_fd=self.branch.fd, follow_symlinks=False)

    def _hard_link(self, member: Member, components: list[str]) -> None:
        if member.size:
            raise _refusal(ArchiveEntryUnsupported, member, "is a hard link with content")
        *parents, name = components
        source_fd, source = self._source_of_link(member, components)
        try:
            self._go(member, parents)
            fds = {"src_dir_fd": source_fd, "dst_dir_fd": self.branch.fd}
            self._put(member, name, lambda: os.link(source, name, **fds, follow_symlinks=False))
        finally:
            os.close(source_fd)
        self.files += 1

    def _source_of_link(self, member: Member, components: list[str]) -> tuple[int, str]:
        """The regular file that a hard link names: its directory (a new descriptor) and its name there."""
        try:
            source = _components(member, member.link)
            self._go(member, source[:-1], make=False)
            mode = os.stat(source[-1], dir_fd=self.branch.fd, follow_symlinks=False).st_mode
        except (FileNotFoundError, ArchivePathInvalid) as failure:
            raise _refusal(ArchiveLinkInvalid, member, "is a hard link to no file before it") from failure
        if source == components or not stat.S_ISREG(mode):
            raise _refusal(ArchiveLinkInvalid, member, "is a hard link to something else than a file before it")
        return os.dup(self.branch.fd), source[-1]

    def _put(self, member: Member, name: str, make: Callable[[], Made]) -> Made:
        """Make the entry; an earlier one of that name gives way, unless it is a directory."""
        try:
            return make()
        except FileExistsError:
            try:
                os.unlink(name, dir_fd=self.branch.fd)
            except IsADirectoryError:
                raise _refusal(ArchivePathInvalid, member, "stands where the archive has a directory") from None
            return make()

    def _go(self, member: Member, parents: list[str], make: bool = True) -> None:
        """Go to the directory that holds the member; what is missing on the way is made."""
        branch = self.branch
        while branch.names != parents[: len(branch.names)]:
            branch.up()
        for name in parents[len(branch.names) :]:
            try:
                branch.down(name)
            except FileNotFoundError:
                if not make:
                    raise
                self._count(member)
                os.mkdir(name, 0o700, dir_fd=branch.fd)
                branch.down(name)
                self._settle(branch.fd, 0o755)
            except OSError as failure:
                if failure.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise _refusal(ArchivePathInvalid, member, "lies below something that is no directory") from failure

    def _settle_directory(self, name: str, mode: int) -> None:
        fd = os.open(name, DIRECTORY, dir_fd=self.branch.fd)
        try:
            self._settle(fd, mode)
        finally:
            os.close(fd)

    def _settle(self, fd: int, mode: int) -> None:
        give(fd, *(self.owner or (os.geteuid(), os.getegid())), mode)


_MAKERS: dict[bytes, Callable[[_Unpacker, Member, list[str]], None]] = {
    tarfile.REGTYPE: _Unpacker._file,
    tarfile.DIRTYPE: _Unpacker._directory,
    tarfile.SYMTYPE: _Unpacker._symlink,
    tarfile.LNKTYPE: _Unpacker._hard_link,
}


def _components(member: Member, name: bytes | None = None) -> list[str]:
    name = member.name if name is None else name
    parts = name.split(b"/")
    if not name or name.startswith(b"/") or b".." in parts or b"\0" in name:
        raise _refusal(ArchivePathInvalid, member, "is empty, absolute, climbs, or holds a NUL byte")
    if len(name) > _PATH_LIMIT or max(map(len, parts)) > _NAME_LIMIT:
        raise _refusal(ArchivePathInvalid, member, "is too long a name")
    if parts[-1] in (b"", b".") and member.type != tarfile.DIRTYPE:
        raise _refusal(ArchivePathInvalid, member, "is named like a directory and is none")
    return [os.fsdecode(part) for part in parts if part not in (b"", b".")]


def _check_link(member: Member, depth: int) -> None:
    """Refuse a link that is empty, absolute, or climbs above the archive's root, read from `depth` levels below it."""
    target = member.link
    if member.size or not target or target.startswith(b"/") or b"\0" in target or len(target) >= _PATH_LIMIT:
        raise _refusal(ArchiveLinkInvalid, member, "is a link that is empty, absolute or too long")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            raise _refusal(ArchiveLinkInvalid, member, "is a link that leaves the archive")


def _check_limit(member: Member, what: str, limit: int, used: int) -> None:
    if used > limit:
        raise _refusal(SizeLimitExceeded, member, f"exceeds the limit of {limit} {what}", limit=limit, used=used)


@contextmanager
def _errors_of(member: Member) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno in _NO_SPACE:
            raise _refusal(InsufficientStagingSpace, member, "finds no space left") from failure
        if failure.errno == errno.EMLINK and member.type == tarfile.LNKTYPE:
            raise _refusal(ArchiveLinkInvalid, member, "is one hard link more than a file may have") from failure
        if failure.errno in _NO_NAME:
            raise _refusal(ArchivePathInvalid, member, "has a name that the file system does not take") from failure
        raise


def _refusal(kind: type[UploadError], member: Member, why: str, **facts: object) -> UploadError:
    shown = repr(os.fsdecode(member.name))[:200]
    # Always encodable as JSON: bytes that are not UTF-8 are shown as \xNN.
    path = member.name[:_PATH_LIMIT].decode("utf-8", "backslashreplace")
    return kind(f"The archive's entry {shown} {why}.", path=path, **facts)
