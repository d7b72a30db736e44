"""The newest of what a terminal showed, for any number of readers, each at a pace of its own."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

PIECE = 64 << 10


@dataclass(frozen=True, slots=True)
class Piece:
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

    end: how many bytes there were. closed: there will be no more.
    """

    def __init__(self, capacity: int) -> None:
        self.end = 0
        self.closed = False
        self._capacity = capacity
        self._kept = bytearray()
        self._changed = asyncio.Event()

    def append(self, content: bytes | memoryview) -> None:
        self._kept += content
        self.end += len(content)
        del self._kept[: max(0, len(self._kept) - self._capacity)]
        self._notify()

    def close(self) -> None:
        self.closed = True
        self._notify()

    def read(self, cursor: int, limit: int = PIECE) -> Piece | None:
        """What there is from ``cursor`` on, at most ``limit`` bytes; None at the end."""
        first = self.end - len(self._kept)
        start = max(cursor, first)
        if start >= self.end:
            return None
        content = bytes(self._kept[start - first : start - first + limit])
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

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
