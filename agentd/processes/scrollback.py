"""The newest of what a terminal showed, for any number of readers, each at a pace of its own.

It may be in memory that outlives the daemon (memfd_create(2)), which may be killed between any two instructions. A
terminal is read straight into that memory, over zeros, and how much came is written down after it: so what is beyond
the account is found by where the zeros begin. Only NULs that came last of all are lost then, which show nothing.
"""

import asyncio
import mmap
import os
from collections.abc import AsyncIterator

import msgspec

from agentd.linux.descriptor import Descriptor
from agentd.processes.journal import Damaged

PIECE = 64 << 10
# The kernel gives no more of a terminal at once.
_TURN = 4096
_ZEROS = bytes(_TURN)
_PAGE = 4096
# The last byte is the version of the layout: a page of words, the ring, and the record of what the terminal is.
_MAGIC = int.from_bytes(b"agentdT\1", "little")
_VERSION, _CAPACITY, _RECORD, _END, _TAKING, _SEEN = range(6)
_MOST = 1 << 32


class Piece(msgspec.Struct, frozen=True):
    """cursor: the place of ``content``, in bytes since the terminal was opened. skipped: bytes before it that the
    reader asked for, and that are gone."""

    cursor: int
    content: bytes
    skipped: int = 0

    @property
    def next(self) -> int:
        """The cursor of what follows."""
        return self.cursor + len(self.content)


class Scrollback:
    """Keeps the last ``capacity`` bytes, in memory: what is typed has to be seen at once.

    file: fd of the memory, where it is to outlive the daemon. closed: there will be no more.
    """

    def __init__(self, capacity: int, file: int = -1) -> None:
        self.closed = False
        self._capacity = capacity
        self._size = capacity + _TURN
        flags = mmap.MAP_SHARED if file >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        view = memoryview(mmap.mmap(file, _PAGE + self._size, flags))
        self._words = view[:_PAGE].cast("Q")
        self._ring = view[_PAGE:]
        self._changed = asyncio.Event()

    @classmethod
    def new(cls, capacity: int, record: bytes) -> tuple["Scrollback", Descriptor]:
        """With the memory that outlives the daemon wherever its fd is held. OSError."""
        file = Descriptor(os.memfd_create("agentd-terminal", os.MFD_CLOEXEC))
        end = _PAGE + capacity + _TURN
        os.ftruncate(file.fd, end + len(record))
        os.pwrite(file.fd, record, end)
        made = cls(capacity, file.fd)
        made._words[_CAPACITY], made._words[_RECORD] = capacity, len(record)
        made._words[_VERSION] = _MAGIC
        return made, file

    @classmethod
    def found(cls, file: int) -> tuple["Scrollback", bytes]:
        """As an earlier daemon left it, and the record. Damaged, OSError."""
        first = memoryview(os.pread(file, _PAGE, 0).ljust(_PAGE, b"\0")).cast("Q")
        capacity, record = first[_CAPACITY], first[_RECORD]
        end = _PAGE + capacity + _TURN
        if first[_VERSION] != _MAGIC or max(capacity, record) > _MOST or os.fstat(file).st_size != end + record:
            raise Damaged("what the terminal showed is not of this version, or not whole")
        found = cls(capacity, file)
        if found._words[_TAKING] == found.end + 1:
            start, until = found._next()
            found._words[_END] += len(bytes(found._ring[start:until]).rstrip(b"\0"))
        return found, os.pread(file, record, end)

    @property
    def end(self) -> int:
        """How many bytes there were."""
        return self._words[_END]

    @property
    def seen(self) -> int:
        """The cursor up to which somebody has read."""
        return self._words[_SEEN]

    @seen.setter
    def seen(self, cursor: int) -> None:
        self._words[_SEEN] = cursor

    def take(self, terminal: int) -> int:
        """How many bytes came from this fd; 0 at its end. OSError as read(2) has it. Readers are told by `tell`."""
        start, until = self._next()
        self._ring[start:until] = _ZEROS[: until - start]
        self._words[_TAKING] = self.end + 1
        count = os.readv(terminal, [self._ring[start:until]])
        self._words[_END] += count
        return count

    def tell(self) -> None:
        """There is more."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        self.closed = True
        self.tell()

    def read(self, cursor: int, limit: int = PIECE) -> Piece | None:
        """What there is from ``cursor`` on, at most ``limit`` bytes; None at the end."""
        start = max(cursor, self.end - self._capacity)
        if start >= self.end:
            return None
        length = min(limit, self.end - start)
        place = start % self._size
        content = bytes(self._ring[place : place + length])
        content += bytes(self._ring[: length - len(content)])
        return Piece(start, content, start - cursor)

    async def follow(self, cursor: int) -> AsyncIterator[Piece]:
        """Everything from ``cursor`` on, as it comes, until `close`."""
        while True:
            piece = self.read(cursor)
            if piece is not None:
                cursor = piece.next
                yield piece
            elif self.closed:
                return
            else:
                await self._changed.wait()

    def _next(self) -> tuple[int, int]:
        """Where in the ring the next bytes go."""
        start = self.end % self._size
        return start, min(start + _TURN, self._size)
