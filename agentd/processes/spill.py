"""What holds the output of one process: memory, and where that is too small a file. Nobody else can reach it."""

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Mapping

import msgspec

from agentd.core.eventlog import Stream
from agentd.linux.descriptor import Descriptor

PIECE = 64 << 10
BUFFER = 1 << 20

# Bytes that were taken from a pipe, 0 at its end, None where nothing is there yet; and why they could not be kept.
Taken = tuple[int | None, OSError | None]
# (stream, pipe, position in the file, room there)
Take = Callable[[Stream, int, int, int], Taken]

# Used on the loop's thread alone, between one wait and the next.
_BUFFER = memoryview(bytearray(PIECE))


class Memory:
    """Output that ends with the daemon; see `journal.Journal` for what does not."""

    def __init__(self) -> None:
        self._content = bytearray()

    def __len__(self) -> int:
        return len(self._content)

    def take(self, stream: Stream, pipe: int, most: int) -> Taken:
        """What is in the pipe. most: at most `PIECE`."""
        count = receive(pipe, _BUFFER[:most])
        self._content += _BUFFER[: count or 0]
        return count, None

    def read(self, start: int, length: int) -> bytes:
        return bytes(self._content[start : start + length])


class Spill(Descriptor):
    """A file without a name, so it is gone with its fd. Everything blocks."""

    @classmethod
    def new(cls, directory: int) -> "Spill":
        """directory: fd of the daemon's own. OSError."""
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
            name = f".output-{secrets.token_hex(8)}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=directory)
            os.unlink(name, dir_fd=directory)
        return cls(fd)

    def write(self, content: bytes | bytearray | memoryview, places: Iterable[tuple[int, int]]) -> None:
        """places: (position, length), as many bytes in all as there are."""
        rest = memoryview(content)
        for position, length in places:
            piece, rest = rest[:length], rest[length:]
            while piece:
                written = os.pwrite(self.fd, piece, position)
                piece, position = piece[written:], position + written

    def read(self, places: Iterable[tuple[int, int]]) -> bytes:
        return b"".join(os.pread(self.fd, length, position) for position, length in places)


class Moved(msgspec.Struct):
    """counts: bytes by stream, in their order. ended: streams that are at their end. emptied: nothing was left in the
    pipes. failure: of the disk; what was read is counted all the same, and gone."""

    counts: list[tuple[Stream, int]] = msgspec.field(default_factory=list)
    ended: list[Stream] = msgspec.field(default_factory=list)
    emptied: bool = False
    failure: OSError | None = None


def into(spill: Spill | None) -> Take:
    """Takes from pipes to a file; None loses it."""
    buffer = memoryview(bytearray(BUFFER))

    def take(stream: Stream, pipe: int, position: int, room: int) -> Taken:
        count = receive(pipe, buffer[:room])
        try:
            if count and spill is not None:
                spill.write(buffer[:count], [(position, count)])
        except OSError as error:
            return count, error
        return count, None

    return take


def move(pipes: Mapping[Stream, int], take: Take, places: list[tuple[int, int]]) -> Moved:
    """What is in the pipes, to ``places`` of a file one after the other, until those are full. Blocks."""
    moved = Moved()
    left = dict(pipes)
    while left and places and moved.failure is None:
        for stream in list(left):
            if not places:
                break
            position, room = places[0]
            count, moved.failure = take(stream, left[stream], position, min(room, BUFFER))
            if not count:
                del left[stream]
                if count == 0:
                    moved.ended.append(stream)
                continue
            moved.counts.append((stream, count))
            places[0] = (position + count, room - count)
            if count == room:
                del places[0]
            if moved.failure is not None:
                break
    moved.emptied = not left
    return moved


def receive(fd: int, buffer: memoryview) -> int | None:
    """How many bytes came from a pipe or terminal; 0 at its end, None where nothing is there yet."""
    try:
        return os.readv(fd, [buffer])
    except BlockingIOError:
        return None
    except OSError as error:
        # A terminal that nobody holds open any more (ioctl_tty(2) knows no better).
        if error.errno == errno.EIO:
            return 0
        raise
