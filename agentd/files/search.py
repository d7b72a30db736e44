"""Files found by what is in them, or by their names, in all of a tree.

Content is read in blocks into one buffer and searched there, not line by line: a line is looked for around each match.
Of a line longer than a block the pieces are searched one by one, so that a match from one to the next is not seen.
A file with a NUL byte in its first block is binary, and passed over like everything that is no regular file. Files are
never mapped into memory: a process that truncates one would end the daemon by a signal (mmap(2), SIGBUS).
"""

import os
from collections.abc import Callable, Generator, Iterable
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

import msgspec

from agentd.errors import AgentError
from agentd.files.globs import Glob, Ignore
from agentd.files.operations import Content, Files
from agentd.files.patterns import Pattern
from agentd.files.traversal import DIRECTORY, Descent
from agentd.linux.identity import Identity
from agentd.linux.places import Place
from agentd.linux.root import Root

BLOCK = 1 << 20  # bytes
_WINDOW = 64 << 10  # bytes, searched at once
LINE_LIMIT = 2000  # bytes of a line that are given
_CUT = "\N{HORIZONTAL ELLIPSIS}"


class Match(msgspec.Struct, frozen=True, gc=False):
    """A line in which the pattern was found. file: absolute. line: from 1. content: without its end, and where it is
    longer than `LINE_LIMIT` what is around the match; U+FFFD for what is not UTF-8."""

    file: str
    line: int
    content: str


class Failure(msgspec.Struct, frozen=True, gc=False):
    """What could not be searched, and why."""

    path: str
    error: str


class Matches(NamedTuple):
    """chunks, rights: for `traversal.batches`."""

    chunks: Generator[list[Match | Failure], None, None]
    rights: tuple[Identity, ...]


class Names(NamedTuple):
    """chunks, rights: for `traversal.batches`."""

    chunks: Generator[list[str], None, None]
    rights: tuple[Identity, ...]


class Search:
    """All methods block, and raise what `Root.open` raises."""

    def __init__(self, root: Root, files: Files) -> None:
        self._root = root
        self._files = files

    def content(self, place: Place, pattern: Pattern, ignore: Ignore) -> Matches:
        """Lines in the files below a directory, or of one file. Raises InvalidRequest for a directory whose content
        the kernel makes."""
        with self._root.open(place.path, os.O_PATH, rights=place.rights) as seen:
            if not S_ISDIR(seen.stat.st_mode):
                return Matches(_in_file(self._files.open(place), seen.path, pattern), seen.rights)
        failures: list[Failure] = []
        descent = self._descent(place, ignore, lambda path, why: failures.append(Failure(path, why)), reads=True)
        return Matches(_in_tree(descent, pattern, failures), descent.rights)

    def names(self, place: Place, glob: Glob, ignore: Ignore) -> Names:
        """Paths of the entries below a directory."""
        descent = self._descent(place, ignore, lambda path, why: None, reads=False)
        return Names(_matching(descent, glob), descent.rights)

    def _descent(self, place: Place, ignore: Ignore, failed: Callable[[str, str], None], *, reads: bool) -> Descent:
        top = self._root.open(place.path, DIRECTORY & ~os.O_NOFOLLOW, rights=place.rights)
        return Descent(self._root, top, skips=below(top.path, ignore), failed=failed, reads=reads)


def below(top: str, ignore: Ignore) -> Callable[[str, str, bool], bool]:
    """`Ignore.skips` as `traversal.Descent` asks it, for a walk that begins at the path ``top``."""
    start = len(top.rstrip("/")) + 1
    return lambda path, name, is_directory: ignore.skips(path[start:] + name, is_directory)


def _matching(descent: Descent, glob: Glob) -> Generator[list[str], None, None]:
    start = len(descent.path)
    for steps in descent.steps():
        path = descent.path
        yield [path + name for name, _ in steps if glob.matches(path[start:] + name, name)]


def _in_file(content: Content, path: str, pattern: Pattern) -> Generator[list[Match | Failure], None, None]:
    with content:
        yield from _Scan(pattern).lines(content.fd, path, content.size)


def _in_tree(
    descent: Descent, pattern: Pattern, failures: list[Failure]
) -> Generator[list[Match | Failure], None, None]:
    scan = _Scan(pattern)
    for steps in descent.steps():
        for name, status in steps:
            if not S_ISREG(status.st_mode) or not status.st_size:
                continue
            path = descent.path + name
            try:
                fd = descent.open(name, status)
                if fd is not None:
                    try:
                        yield from scan.lines(fd, path, status.st_size)
                    finally:
                        os.close(fd)
            except (OSError, AgentError) as error:
                failures.append(Failure(path, getattr(error, "strerror", None) or str(error)))
        yield [*failures]
        failures.clear()


class _Scan:
    """One pattern, and the buffer for the files that it is sought in."""

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        # One byte more, for the end of a last line that has none.
        self._buffer = bytearray(BLOCK + 1)
        self._view = memoryview(self._buffer)[:BLOCK]

    def lines(self, fd: int, path: str, size: int) -> Generator[list[Match | Failure], None, None]:
        """The matches of each block in turn."""
        buffer, view = self._buffer, self._view
        kept, line, total = 0, 1, 0
        while True:
            got = os.readv(fd, [view[kept:]])
            end = kept + got
            if not total and buffer.find(b"\0", 0, end) >= 0:
                return
            total += got
            is_last = not got or (end < BLOCK and total >= size)
            if end < BLOCK and not is_last:
                kept = end
                continue
            if is_last:
                buffer[end] = 10
            whole = end if is_last else buffer.rfind(b"\n", 0, end) + 1 or end
            begin = 0
            while begin < whole:
                stop = self._window(begin, whole)
                yield [*self._matches(path, line, begin, stop)]
                if is_last and stop == whole:
                    return
                line += buffer.count(b"\n", begin, stop)
                begin = stop
            if is_last:
                return
            kept = end - whole
            buffer[:kept] = buffer[whole:end]

    def _window(self, begin: int, end: int) -> int:
        """The end of some whole lines: the worst of expressions has to come back from there within a second."""
        if end - begin <= _WINDOW:
            return end
        found = self._buffer.rfind(b"\n", begin, begin + _WINDOW)
        found = self._buffer.find(b"\n", begin, end) if found < 0 else found
        return end if found < 0 else found + 1

    def _matches(self, path: str, line: int, position: int, end: int) -> Iterable[Match]:
        buffer, search = self._buffer, self._pattern.search
        counted = position
        while position < end and (span := search(buffer, position, end)) is not None:
            start = span[0]
            if start == end:
                return
            line += buffer.count(b"\n", counted, start)
            counted = start
            first = max(buffer.rfind(b"\n", position, start) + 1, position)
            last = buffer.find(b"\n", start, end)
            last = end if last < 0 else last
            yield Match(path, line, self._content(first, start, last))
            position = last + 1

    def _content(self, first: int, start: int, last: int) -> str:
        if last - first <= LINE_LIMIT:
            return self._buffer[first:last].rstrip(b"\r").decode("utf-8", "replace")
        begin = max(first, min(start - LINE_LIMIT // 4, last - LINE_LIMIT))
        end = min(begin + LINE_LIMIT, last)
        text = self._buffer[begin:end].decode("utf-8", "replace")
        return _CUT * (begin > first) + text + _CUT * (end < last)
