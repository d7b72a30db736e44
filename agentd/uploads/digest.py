"""Digests of a whole staging file, read back from the page cache. All functions here block."""

import hashlib
import os
from collections.abc import Callable, Iterable

import xxhash

from agentd.core.parts import Span
from agentd.uploads.copying import Stopped

PIECE = 1 << 20


def _pieces(fd: int, span: Span, stop: Callable[[], bool]) -> Iterable[memoryview]:
    buffer = memoryview(bytearray(min(PIECE, span.length)))
    position, end = span.offset, span.offset + span.length
    while position < end:
        if stop():
            raise Stopped
        got = os.preadv(fd, [buffer[: min(PIECE, end - position)]], position)
        if got == 0:
            return
        yield buffer[:got]
        position += got


def sha256_of(fd: int, size: int, stop: Callable[[], bool]) -> bytes:
    """SHA-256 of the first ``size`` bytes; Stopped as soon as ``stop`` says so."""
    hasher = hashlib.sha256()
    for piece in _pieces(fd, Span(0, size), stop):
        hasher.update(piece)
    return hasher.digest()


def first_changed(fd: int, parts: list[tuple[int, Span, bytes]], stop: Callable[[], bool]) -> int | None:
    """The first of ``parts`` (number, place, xxh3-128) whose bytes are not what was accepted; None where all are."""
    for number, span, expected in parts:
        hasher = xxhash.xxh3_128()
        for piece in _pieces(fd, span, stop):
            hasher.update(piece)
        if hasher.digest() != expected:
            return number
    return None
