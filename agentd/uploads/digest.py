"""Digests of what is staged, read back, as a rule from the page cache. All functions here block."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable

import xxhash

from agentd.core.parts import Span
from agentd.linux.copying import Stopped

PIECE = 256 << 10  # bytes; stays in a core's cache between read and hash


def _pieces(fd: int, span: Span, stop: Callable[[], bool]) -> Iterable[memoryview]:
    """Fewer bytes where the file ends before."""
    buffer = memoryview(bytearray(max(0, min(PIECE, span.length))))
    position, end = span.offset, span.offset + span.length
    while position < end:
        if stop():
            raise Stopped
        got = os.preadv(fd, [buffer[: min(PIECE, end - position)]], position)
        if got == 0:
            return
        yield buffer[:got]
        position += got


class WholeDigest:
    """SHA-256 of a staging file, as far as it is there: it follows the accepted prefix, and the end takes little."""

    def __init__(self) -> None:
        self.position = 0
        self._hasher = hashlib.sha256()

    def advance(self, fd: int, upto: int, stop: Callable[[], bool]) -> bytes:
        """Hashes on to the byte ``upto`` and gives the digest so far. One thread at a time. Stopped, OSError."""
        for piece in _pieces(fd, Span(self.position, upto - self.position), stop):
            self._hasher.update(piece)
            self.position += len(piece)
        if self.position < upto:
            raise OSError(errno.EIO, "the staging file ends too early")
        return self._hasher.digest()


def first_changed(fd: int, parts: list[tuple[int, Span, bytes]], stop: Callable[[], bool]) -> int | None:
    """The first of ``parts`` (number, place, xxh3-128) whose bytes are not what was accepted; None where all are."""
    for number, span, expected in parts:
        hasher = xxhash.xxh3_128()
        for piece in _pieces(fd, span, stop):
            hasher.update(piece)
        if hasher.digest() != expected:
            return number
    return None
