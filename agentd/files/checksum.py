"""Digests of a file, several in one reading."""

import hashlib
import os
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Protocol

import xxhash

from agentd.errors import StorageFailed
from agentd.files.operations import Files
from agentd.linux.places import Place

ALGORITHMS = ("sha256", "sha512", "sha1", "md5", "blake2b", "xxh3_128", "xxh3_64")
_PIECE = 1 << 20  # bytes


class Hasher(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Checksum:
    """A reading that has begun: `chunks`, for `traversal.batches`, gives nothing, but afterwards `size` (bytes) and
    `digests` (hex, by algorithm) are those of what was read."""

    def __init__(self, files: Files, place: Place, algorithms: Sequence[str]) -> None:
        """algorithms: of `ALGORITHMS`. Blocks, and raises what `Files.open` raises."""
        self._content = files.open(place)
        self._hashers = {name: _hasher(name) for name in algorithms}
        self.path = place.path
        self.size = 0

    @property
    def chunks(self) -> Generator[list[None], None, None]:
        """Once. Not kept: with a generator of its own in it, what is dropped would stay open for a while."""
        return self._read()

    @property
    def digests(self) -> dict[str, str]:
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def _read(self) -> Generator[list[None], None, None]:
        buffer = memoryview(bytearray(_PIECE))
        with closing(self._content) as content:
            while got := self._next(content.fd, buffer):
                for hasher in self._hashers.values():
                    hasher.update(buffer[:got])
                self.size += got
                yield []

    def _next(self, fd: int, buffer: memoryview) -> int:
        try:
            return os.preadv(fd, [buffer], self.size)
        except OSError as error:
            raise StorageFailed(f"{self.path!r} could not be read to its end: {error.strerror}") from error


def _hasher(name: str) -> Hasher:
    made: Hasher = getattr(xxhash, name)() if name.startswith("xxh") else hashlib.new(name, usedforsecurity=False)
    return made
