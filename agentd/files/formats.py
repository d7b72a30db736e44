"""Archives, written front to back: `Tar` (POSIX.1-2001 pax) and `Zip` (PKWARE APPNOTE 6.3.9).

For each member ``begin(member) + content(piece) + ... + finish()``, then what ``end()`` gives; ``close()`` in any case.
No member is held once it is written. What a zip has to repeat at its end waits in a temporary file.
"""

import os
import struct
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from stat import S_IMODE, S_ISDIR, S_ISLNK
from typing import Protocol

import msgspec

PIECE = 1 << 20  # bytes


class Member(msgspec.Struct, frozen=True):
    """name: relative, without a slash at its end. size: bytes of content. target: of a symbolic link. same: name of an
    earlier member that is the same file, where the format has hard links. content: all of it, None where it follows."""

    name: str
    status: os.stat_result
    size: int = 0
    target: str = ""
    same: str = ""
    content: bytes | None = b""
    owner: str = ""
    group: str = ""


class Format(Protocol):
    """Each call gives the next bytes of the archive."""

    has_hard_links: bool

    def begin(self, member: Member) -> bytes: ...

    def content(self, piece: bytes) -> bytes: ...

    def finish(self) -> bytes: ...

    def end(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Plain:
    """No compression."""

    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class Tar:
    """Names and links that are not ASCII are pax records, and those that are not UTF-8 have ``hdrcharset=BINARY``."""

    has_hard_links = True

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor
        self._total = 0

    def begin(self, member: Member) -> bytes:
        status = member.status
        header = tarfile.TarInfo(member.name)
        header.mode, header.uid, header.gid = S_IMODE(status.st_mode), status.st_uid, status.st_gid
        header.uname, header.gname = member.owner, member.group
        header.mtime, header.size = int(status.st_mtime), member.size
        if S_ISDIR(status.st_mode):
            header.type = tarfile.DIRTYPE
        elif S_ISLNK(status.st_mode):
            header.type, header.linkname = tarfile.SYMTYPE, member.target
        elif member.same:
            header.type, header.linkname = tarfile.LNKTYPE, member.same
        return self._written(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + (member.content or b""))

    def content(self, piece: bytes) -> bytes:
        return self._written(piece)

    def finish(self) -> bytes:
        return self._written(bytes(-self._total % tarfile.BLOCKSIZE))

    def end(self) -> Iterator[bytes]:
        yield self._written(bytes(2 * tarfile.BLOCKSIZE))
        yield self._written(bytes(-self._total % tarfile.RECORDSIZE))
        yield self._compressor.flush()

    def close(self) -> None:
        pass

    def _written(self, raw: bytes) -> bytes:
        self._total += len(raw)
        return self._compressor.compress(raw)


_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_MOST = 0xFFFFFFFF  # what a field of 32 bits holds stands for "see the zip64 field"
_LARGE = _MOST - (_MOST >> 6)  # deflate adds a little to what it cannot make smaller (RFC 1951)
_NEEDED, _UNIX = 45, 3 << 8
_FOLLOWS, _UTF8 = 1 << 3, 1 << 11
_STORED, _DEFLATED = 0, 8
_SPOOL = 4 << 20  # bytes in memory


class _Record(msgspec.Struct):
    """What the end of the archive says of a member."""

    name: bytes
    flags: int
    method: int
    when: tuple[int, int]
    extra: bytes
    attributes: int
    offset: int
    crc: int = 0
    packed: int = 0
    size: int = 0


class Zip:
    """Deflated. Modes and links are as Unix has them, times in UTC (field 0x5455). Names that are not UTF-8 are there
    as their bytes."""

    has_hard_links = False

    def __init__(self, level: int) -> None:
        self._level = level
        self._offset = 0
        self._count = 0
        self._directory = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115 - see close
        self._record = _Record(b"", 0, 0, (0, 0), b"", 0, 0)
        self._packer: zlib._Compress | None = None
        self._is_wide = False

    def begin(self, member: Member) -> bytes:
        status = member.status
        is_directory = S_ISDIR(status.st_mode)
        name = os.fsencode(member.name) + b"/" * is_directory
        seconds = int(status.st_mtime)
        extra = struct.pack("<2HBi", 0x5455, 5, 1, seconds) if -(1 << 31) <= seconds < 1 << 31 else b""
        attributes = (status.st_mode & 0xFFFF) << 16 | 0x10 * is_directory
        flags = _UTF8 if _is_utf8(name) else 0
        self._record = record = _Record(name, flags, _STORED, _dos(seconds), extra, attributes, self._offset)
        if member.content is None:
            record.flags |= _FOLLOWS
            record.method = _DEFLATED
            self._packer = zlib.compressobj(self._level, zlib.DEFLATED, -zlib.MAX_WBITS)
            return self._written(self._local(record, member.size > _LARGE))
        content = os.fsencode(member.target) if S_ISLNK(status.st_mode) else member.content
        packed = _deflated(content, self._level) if content else b""
        if len(packed) < len(content):
            record.method = _DEFLATED
        else:
            packed = content
        record.crc, record.packed, record.size = zlib.crc32(content), len(packed), len(content)
        return self._written(self._local(record, False) + packed)

    def content(self, piece: bytes) -> bytes:
        assert self._packer is not None
        record = self._record
        record.crc = zlib.crc32(piece, record.crc)
        record.size += len(piece)
        return self._packed(self._packer.compress(piece))

    def finish(self) -> bytes:
        record, end = self._record, b""
        if self._packer is not None:
            end = self._packed(self._packer.flush())
            form = "<4sI2Q" if self._is_wide else "<4s3I"
            end += self._written(struct.pack(form, b"PK\x07\x08", record.crc, record.packed, record.size))
            self._packer = None
        self._directory.write(self._central(record))
        self._count += 1
        return end

    def end(self) -> Iterator[bytes]:
        start, size = self._offset, self._directory.tell()
        self._directory.seek(0)
        while piece := self._directory.read(PIECE):
            yield self._written(piece)
        count = self._count
        if count >= 0xFFFF or start >= _MOST or size >= _MOST:
            end_64 = _END_64.pack(b"PK\x06\x06", 44, _UNIX | _NEEDED, _NEEDED, 0, 0, count, count, size, start)
            yield end_64 + _LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)
        short = min(count, 0xFFFF)
        yield _END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, _MOST), min(start, _MOST), 0)

    def close(self) -> None:
        self._directory.close()

    def _local(self, record: _Record, wide: bool) -> bytes:
        """wide: its sizes, which follow, take 64 bits."""
        self._is_wide = wide
        sizes = (_MOST, _MOST) if wide else (record.packed, record.size)
        extra = (struct.pack("<2H2Q", 1, 16, 0, 0) if wide else b"") + record.extra
        how = (_NEEDED, record.flags, record.method, *record.when, record.crc, *sizes, len(record.name), len(extra))
        return _LOCAL.pack(b"PK\x03\x04", *how) + record.name + extra

    def _central(self, record: _Record) -> bytes:
        wide = [number for number in (record.size, record.packed, record.offset) if number >= _MOST]
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        extra += record.extra
        size, packed, offset = (min(number, _MOST) for number in (record.size, record.packed, record.offset))
        how = (record.flags, record.method, *record.when, record.crc, packed, size, len(record.name), len(extra))
        head = _CENTRAL.pack(b"PK\x01\x02", _UNIX | _NEEDED, _NEEDED, *how, 0, 0, 0, record.attributes, offset)
        return head + record.name + extra

    def _packed(self, packed: bytes) -> bytes:
        self._record.packed += len(packed)
        return self._written(packed)

    def _written(self, raw: bytes) -> bytes:
        self._offset += len(raw)
        return raw


def _deflated(content: bytes, level: int) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _dos(seconds: int) -> tuple[int, int]:
    """Time and date as MS-DOS had them: from 1980 to 2107, every two seconds."""
    year, month, day, hour, minute, second = time.gmtime(min(max(seconds, 315532800), 4354819198))[:6]
    return hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day
