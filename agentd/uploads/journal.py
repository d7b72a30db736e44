"""The journal of an upload: what was promised, in a form that survives the daemon.

A file of one header and then records of 128 bytes, each at its slot, written in order::

    0    magic 8s | version u32 | header bytes u32 | records offset u32 | capacity u32 | salt u64 | checksum u64
    40   header, msgpack
    ...  zeros up to the records offset, a multiple of 4096
         record: type u16 | zero u16 | zero u32 | sequence u64 | payload 104s | checksum u64

The checksum is xxh3-64, of a record seeded with the salt, so that a record of another journal is never taken for
one of this. The room for all parts is allocated when the journal is made: an append never fails for want of space.
128 divides the sector, so a record is there or is not, and what is written at once and has to last lies in one sector:
a slot that is neither zero nor valid, or a valid one behind a zero one, is damage and never the trace of a crash.
"""

import os
import secrets
import struct
import threading
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

import msgspec
import xxhash

from agentd.core.conflict import ConflictMode, Kind
from agentd.core.parts import Digests
from agentd.linux.copying import allocate

MAGIC = b"agentdJ1"
VERSION = 1
PREFIX = struct.Struct("<8sIIIIQQ")
RECORD = struct.Struct("<HHIQ104sQ")
SPARE_RECORDS = 64  # for everything that is not a part
PAGE = 4096
PER_SECTOR = 512 // RECORD.size
_SPAN = RECORD.size - 8
NO_DIGEST = bytes(32)
_ZERO = bytes(RECORD.size)


class JournalDamaged(Exception):
    """The journal cannot be read: its text says where."""


class Limits(msgspec.Struct, frozen=True):
    """The limits that the upload was created under, in bytes and parts at once: they never change afterwards."""

    max_upload_bytes: int
    max_part_bytes: int
    max_concurrency: int
    quota_bytes: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What an upload is. Texts that may hold bytes outside UTF-8 are kept as bytes."""

    upload_id: str
    kind: Kind
    source_kind: str
    target: bytes  # absolute, in the sandbox
    conflict: ConflictMode
    size: int
    part_size: int
    durability: str
    user: str | None
    metadata: bytes  # JSON, as it came
    whole_sha256: bytes | None
    created: float
    lifetime: float
    key: bytes | None  # digest of the idempotency key
    fingerprint: bytes  # digest of the request that the key stands for
    limits: Limits
    secret: str  # names what no sandbox process may guess

    @property
    def durable(self) -> bool:
        """Whether what is acknowledged survives the loss of power."""
        return self.durability == "power"

    @property
    def path(self) -> str:
        return os.fsdecode(self.target)


class Type(IntEnum):
    PART = 1
    INTENT = 2
    ROLLBACK = 3
    PUBLISHED = 4
    ABORT = 5
    EXPIRE = 6
    EXTEND = 7


class Part(NamedTuple):
    """A part was accepted. ``boot`` names the kernel's boot it happened in (16 bytes)."""

    number: int
    length: int
    xxh3: bytes
    sha256: bytes  # 32 bytes, zeros where not declared
    time: float
    boot: bytes

    @classmethod
    def of(cls, number: int, length: int, digests: Digests, time: float, boot: bytes) -> "Part":
        return cls(number, length, digests.xxh3, digests.sha256 or NO_DIGEST, time, boot)

    @property
    def digests(self) -> Digests:
        return Digests(self.xxh3, self.sha256 if self.sha256 != NO_DIGEST else None)


class Intent(NamedTuple):
    """The staged object, of that inode, is about to become the target. ``beside``: it lies next to the target, on the
    target's file system, and not in the upload's directory."""

    inode: int
    method: int
    beside: int
    files: int
    sha256: bytes  # of the whole, where it was checked


class Rollback(NamedTuple):
    """The intent before it was withdrawn: nothing was published."""

    time: float


class Published(NamedTuple):
    """The target shows the content. ``sha256`` is zeros where the whole digest was not asked for."""

    size: int
    files: int
    sha256: bytes
    time: float


class Abort(NamedTuple):
    time: float


class Expire(NamedTuple):
    time: float


class Extend(NamedTuple):
    """The upload may live until ``expires``, whatever the clock did."""

    expires: float


Record = Part | Intent | Rollback | Published | Abort | Expire | Extend

_FORMATS: dict[Type, tuple[type, struct.Struct]] = {
    Type.PART: (Part, struct.Struct("<QQ16s32sd16s")),
    Type.INTENT: (Intent, struct.Struct("<QBBQ32s")),
    Type.ROLLBACK: (Rollback, struct.Struct("<d")),
    Type.PUBLISHED: (Published, struct.Struct("<QQ32sd")),
    Type.ABORT: (Abort, struct.Struct("<d")),
    Type.EXPIRE: (Expire, struct.Struct("<d")),
    Type.EXTEND: (Extend, struct.Struct("<d")),
}
_TYPES = {cls: type_ for type_, (cls, _) in _FORMATS.items()}


def encode_header(header: Header, capacity: int) -> tuple[bytes, int]:
    """The journal's beginning, padded to the records offset, and the salt it was made with."""
    payload = msgspec.msgpack.encode(header)
    offset = -(-(PREFIX.size + len(payload)) // PAGE) * PAGE
    salt = secrets.randbits(64)
    fields = (MAGIC, VERSION, len(payload), offset, capacity, salt)
    checksum = xxhash.xxh3_64_intdigest(PREFIX.pack(*fields, 0) + payload)
    return (PREFIX.pack(*fields, checksum) + payload).ljust(offset, b"\0"), salt


def encode_record(record: Record, sequence: int, salt: int) -> bytes:
    """The 128 bytes of ``record`` in slot ``sequence``."""
    type_ = _TYPES[type(record)]
    payload = _FORMATS[type_][1].pack(*record).ljust(104, b"\0")
    head = RECORD.pack(type_, 0, 0, sequence, payload, 0)[:_SPAN]
    return head + xxhash.xxh3_64_intdigest(head, salt).to_bytes(8, "little")


class Journal(msgspec.Struct, eq=False):
    """A journal that was read or made. It holds no file descriptor: who appends brings one."""

    header: Header
    salt: int
    offset: int  # where the records begin, in bytes
    capacity: int  # records that the file has room for
    used: int = 0  # slots that are taken
    _turn: threading.Lock = msgspec.field(default_factory=threading.Lock)

    def append(self, fd: int, records: list[Record], *, durable: bool = False) -> None:
        """Writes ``records`` into the next slots with one call. Blocks. On an error no slot counts as taken.

        durable: fdatasync(2) of the file.

        Threads take turns; records are found in the order in which they were appended.
        """
        with self._turn:
            data = b"".join(encode_record(record, self.used + i, self.salt) for i, record in enumerate(records))
            position = self.offset + self.used * RECORD.size
            try:
                write_at(fd, data, position)
                if durable:
                    os.fdatasync(fd)
            except OSError:
                with suppress(OSError):  # what was refused must not be found after a crash
                    write_at(fd, bytes(len(data)), position)
                raise
            self.used += len(records)

    @property
    def room(self) -> int:
        """Records that fit into the sector of the next slot: those that reach the disk together or not at all."""
        return PER_SECTOR - self.used % PER_SECTOR

    @property
    def spare(self) -> int:
        """Slots that are not taken."""
        return self.capacity - self.used

    @property
    def bytes_used(self) -> int:
        return self.offset + self.used * RECORD.size


def write_at(fd: int, data: bytes | memoryview, position: int) -> None:
    """All of ``data``; pwrite(2) may take less at once."""
    while data:
        written = os.pwrite(fd, data, position)
        data, position = data[written:], position + written


def create(fd: int, header: Header, parts: int) -> Journal:
    """Writes a new journal into the empty file ``fd``, with room for ``parts`` parts. Blocks."""
    capacity = parts + SPARE_RECORDS
    beginning, salt = encode_header(header, capacity)
    room = capacity * RECORD.size
    if allocate(fd, 0, len(beginning) + room):
        os.ftruncate(fd, len(beginning) + room)
        write_at(fd, beginning, 0)
    else:
        write_at(fd, beginning + bytes(room), 0)
    return Journal(header, salt, len(beginning), capacity)


def epitaph(fd: int, header: Header) -> bytes:
    """A journal with the records of that in ``fd`` and with ``header``, and room for no more. Blocks."""
    records = read(fd)[1]
    beginning, salt = encode_header(header, len(records))
    return beginning + b"".join(encode_record(record, slot, salt) for slot, record in enumerate(records))


def read(fd: int) -> tuple[Journal, list[Record], str | None]:
    """The journal in ``fd``, its records, and where it is damaged (None: it is whole). Blocks.

    Raises JournalDamaged where not even the header can be believed.
    """
    data = _whole(fd)
    header, salt, offset, capacity = _decode_header(data)
    journal = Journal(header, salt, offset, capacity)
    records: list[Record] = []
    for slot, position in enumerate(range(offset, len(data) - RECORD.size + 1, RECORD.size)):
        chunk = data[position : position + RECORD.size]
        if chunk == _ZERO:
            if data[position:].lstrip(b"\0"):
                return journal, records, f"record {slot} is empty and there are records behind it"
            break
        record = _decode_record(chunk, slot, salt)
        if record is None:
            return journal, records, f"record {slot} has a wrong checksum"
        records.append(record)
        journal.used = slot + 1
    return journal, records, None


def _whole(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    data = bytearray()
    while len(data) < size:
        piece = os.pread(fd, size - len(data), len(data))
        if not piece:
            break
        data += piece
    return bytes(data)


def _decode_header(data: bytes) -> tuple[Header, int, int, int]:
    if len(data) < PREFIX.size:
        raise JournalDamaged("the file is shorter than a header")
    magic, version, length, offset, capacity, salt, checksum = PREFIX.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise JournalDamaged("the file does not begin like a journal of this version")
    payload = data[PREFIX.size : PREFIX.size + length]
    expected = xxhash.xxh3_64_intdigest(PREFIX.pack(magic, version, length, offset, capacity, salt, 0) + payload)
    if len(payload) != length or checksum != expected:
        raise JournalDamaged("the header has a wrong checksum")
    try:
        header = msgspec.msgpack.decode(payload, type=Header)
    except msgspec.DecodeError as error:
        raise JournalDamaged(f"the header cannot be decoded: {error}") from None
    return header, salt, offset, capacity


def _decode_record(chunk: bytes, slot: int, salt: int) -> Record | None:
    type_, _, _, sequence, payload, checksum = RECORD.unpack(chunk)
    if sequence != slot or type_ not in _FORMATS or xxhash.xxh3_64_intdigest(chunk[:_SPAN], salt) != checksum:
        return None
    cls, format_ = _FORMATS[type_]
    return cls(*format_.unpack_from(payload))  # type: ignore[no-any-return]
