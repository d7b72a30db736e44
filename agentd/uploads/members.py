"""The members of a tar archive, read from a file that may be hostile.

The layout is that of pax(1) in POSIX.1-2001 ("ustar Interchange Format", "pax Header Block") with the long names of GNU
tar ("././@LongLink", tar(5)). `tarfile` decodes the 512 byte header; what goes between headers is read here, because
`tarfile` keeps every member, reads extended headers of any size, recurses on chains of them and takes a header with a
bad checksum for the end of the archive.

Names are bytes as they stand in the archive. A pax value is UTF-8, or raw bytes under ``hdrcharset=BINARY``: either way
the value is the file name, so ``hdrcharset`` needs no attention. Other records (times, owners, xattrs) are ignored.
"""

import os
import tarfile
from collections.abc import Callable, Iterator

import msgspec

from agentd.errors import ArchiveEntryUnsupported

BLOCK = 512
EXTENDED_HEADER_LIMIT = 1024 * 1024  # bytes that one extended header may take in memory

_ZEROS = bytes(BLOCK)
_KNOWN = (b"path", b"linkpath", b"size")
_LONG_NAMES = {tarfile.GNUTYPE_LONGNAME: b"path", tarfile.GNUTYPE_LONGLINK: b"linkpath"}
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, *_LONG_NAMES)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)


class Member(msgspec.Struct, frozen=True):
    """One member. offset: of its first header; body, size: where its content lies (bytes). mode: 12 bits."""

    offset: int
    name: bytes
    type: bytes  # a typeflag of tarfile; REGTYPE for both kinds of regular files
    mode: int
    link: bytes
    body: int
    size: int


def read_members(fd: int, start: int, end: int, look: Callable[[], None]) -> Iterator[Member]:
    """The members of the archive in ``fd[0:end]``, from the header at `start` on, then a check that nothing follows.

    `look` is called before every header and every MiB of padding; what it raises ends the reading.
    Raises ArchiveEntryUnsupported (facts: offset in bytes) where the archive is damaged, cut short, or sparse; OSError.
    """
    offset = first = start
    records: dict[bytes, bytes] = {}
    while (block := _read(fd, offset, BLOCK, end)) != _ZEROS:
        look()
        header = _decode(block, offset)
        body = offset + BLOCK
        if header.type in _EXTENDED:
            if not 0 <= header.size <= EXTENDED_HEADER_LIMIT:
                raise damaged(offset, f"an extended header of {header.size} bytes")
            content = _read(fd, body, header.size, end)
            records.update(_records(header.type, content, offset))
            offset = body + _padded(header.size)
            continue
        member = _member(header, records, first, body)
        content_size = member.size if member.type == tarfile.REGTYPE else 0
        if body + content_size > end:
            raise damaged(offset, "the archive ends within a file")
        yield member
        offset = first = body + _padded(content_size)
        records = {}
    if records:
        raise damaged(first, "an extended header without its member")
    _check_padding(fd, offset, end, look)


def damaged(offset: int, what: str) -> ArchiveEntryUnsupported:
    """The error for bytes that are no tar archive."""
    return ArchiveEntryUnsupported(f"The archive is damaged at byte {offset}: {what}.", offset=offset)


def _read(fd: int, offset: int, size: int, end: int) -> bytes:
    content = os.pread(fd, size, offset) if offset + size <= end else b""
    if len(content) < size:
        raise damaged(offset, "it ends before its end-of-archive marker")
    return content


def _decode(block: bytes, offset: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as failure:
        raise damaged(offset, f"no tar header ({failure})") from failure


def _member(header: tarfile.TarInfo, records: dict[bytes, bytes], first: int, body: int) -> Member:
    size = header.size
    if digits := records.get(b"size"):
        if not digits.isdigit() or len(digits) > 20:
            raise damaged(first, "a size that is no number")
        size = int(digits)
    if size < 0:
        raise damaged(first, "a negative size")
    return Member(
        offset=first,
        name=records.get(b"path") or header.name.encode("utf-8", "surrogateescape"),
        type=tarfile.REGTYPE if header.type in _REGULAR else header.type,
        mode=header.mode & 0o7777,
        link=records.get(b"linkpath") or header.linkname.encode("utf-8", "surrogateescape"),
        body=body,
        size=size,
    )


def _records(kind: bytes, content: bytes, offset: int) -> dict[bytes, bytes]:
    if kind in _LONG_NAMES:
        return {_LONG_NAMES[kind]: content.partition(b"\0")[0]}
    records = dict(_pax_records(content, offset))
    if kind == tarfile.XGLTYPE:
        if any(known in records for known in _KNOWN):
            raise damaged(offset, "a global header that names members")
        return {}
    return records


def _pax_records(content: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    """The records "LENGTH KEY=VALUE\\n" that concern us; an empty value takes back what came before."""
    position = 0
    while position < len(content):
        space = content.find(b" ", position, position + 20)
        digits = content[position:space]
        stop = position + int(digits) if space > 0 and digits.isdigit() else 0
        equals = content.find(b"=", space + 1, stop)
        if not space < equals < stop <= len(content) or content[stop - 1] != ord("\n"):
            raise damaged(offset, "a malformed extended header")
        key = content[space + 1 : equals]
        if key.startswith(b"GNU.sparse."):
            raise damaged(offset, "a sparse member, which is not supported")
        if key in _KNOWN:
            yield key, content[equals + 1 : stop - 1]
        position = stop


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _check_padding(fd: int, offset: int, end: int, look: Callable[[], None]) -> None:
    while offset < end:
        look()
        piece = _read(fd, offset, min(end - offset, EXTENDED_HEADER_LIMIT), end)
        if piece.strip(b"\0"):
            raise damaged(offset, "something follows the end-of-archive marker")
        offset += len(piece)
