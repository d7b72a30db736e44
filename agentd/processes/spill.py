"""The file that holds the output of one process where memory is too small for it. Nobody else can reach it."""

import errno
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agentd.core.eventlog import Stream
from agentd.linux.descriptor import Descriptor

BUFFER = 1 << 20


class Spill(Descriptor):
    """Has no name, so it is gone with its fd. directory: fd of the daemon's own. Everything blocks."""

    def __init__(self, directory: int) -> None:
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
            name = f".output-{secrets.token_hex(8)}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=directory)
            os.unlink(name, dir_fd=directory)
        super().__init__(fd)

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


@dataclass(slots=True)
class Moved:
    """counts: bytes by stream, in their order. ended: streams that are at their end. emptied: nothing was left in the
    pipes. failure: of the disk; what was read is counted all the same, and gone."""

    counts: list[tuple[Stream, int]] = field(default_factory=list)
    ended: list[Stream] = field(default_factory=list)
    emptied: bool = False
    failure: OSError | None = None


def move(pipes: Mapping[Stream, int], spill: Spill | None, places: list[tuple[int, int]]) -> Moved:
    """What is in the pipes, written to ``places`` of ``spill`` one after the other, until those are full. Blocks.

    spill: None loses it."""
    moved = Moved()
    left = dict(pipes)
    buffer = memoryview(bytearray(BUFFER))
    while left and places and moved.failure is None:
        for stream in list(left):
            if not places:
                break
            position, room = places[0]
            count = receive(left[stream], buffer[:room])
            if not count:
                del left[stream]
                if count == 0:
                    moved.ended.append(stream)
                continue
            moved.counts.append((stream, count))
            places[0] = (position + count, room - count)
            if count == room:
                del places[0]
            try:
                if spill is not None:
                    spill.write(buffer[:count], [(position, count)])
            except OSError as error:
                moved.failure = error
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
