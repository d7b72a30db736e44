"""What one process wrote while that is little, and the account of it, in memory that outlives the daemon.

The memory is a memfd (memfd_create(2)) that a service manager holds too (see `linux.notify.FdStore`). The daemon may
be killed between any two instructions. Everything that changes is a word of eight bytes, which is there or not; and
bytes leave a pipe and enter the file by splice(2) at the file's own position, which the kernel moves in the same call:
so what is beyond the account, at most one piece, is found by where the position stands.

Laid out as: a page of words, with the ending as JSON in it; the runs of the log, as a ring of two words each; the
memory; the record of what the process is, as JSON.
"""

import errno
import mmap
import os

from agentd.core.eventlog import EventLog, Stream
from agentd.linux.descriptor import Descriptor
from agentd.processes.spill import Taken, receive

# The last byte is the version of the layout.
_MAGIC = int.from_bytes(b"agentdP\1", "little")
_PAGE = 4096
_ENDING_AT = 1024
_ENTRIES = 1 << 16
_TABLE_AT, _MEMORY_AT = _PAGE, _PAGE + 16 * _ENTRIES
_MOST_MEMORY = 1 << 30
_MOST_RECORD = 16 << 20
_MOST_CAPACITY = 1 << 50
# Of file systems, kernels and filters that know no splice(2).
_NO_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
# The numbers of the words.
_VERSION, _MEMORY, _CAPACITY, _HEAD, _RECORD, _ENDING = range(6)
_END, _RUNS, _TAKING, _SPILLED, _LOST_HEAD, _LOST_FLOOR = range(6, 12)
_INPUT, _FEEDING, _INPUT_ENDED = 12, 13, 14

_STREAMS = tuple(Stream)


class Damaged(ValueError):
    """What was found is not what was left."""


class Journal:
    """descriptor: of the memfd. log: the account as it was found, or an empty one. memory: how many bytes it holds."""

    def __init__(self, descriptor: Descriptor, memory: int) -> None:
        self.fd = descriptor.fd
        self.memory = memory
        self._descriptor = descriptor
        self._map = mmap.mmap(self.fd, _MEMORY_AT + memory)
        view = memoryview(self._map)
        self._words = view[:_PAGE].cast("Q")
        self._table = view[_TABLE_AT:_MEMORY_AT].cast("Q")
        self._lengths = dict.fromkeys(Stream, 0)
        self._last: Stream | None = None

    @classmethod
    def new(cls, capacity: int, head: int, memory: int, record: bytes) -> "Journal":
        """OSError."""
        descriptor = Descriptor(os.memfd_create("agentd-process", os.MFD_CLOEXEC))
        os.ftruncate(descriptor.fd, _MEMORY_AT + memory + len(record))
        os.pwrite(descriptor.fd, record, _MEMORY_AT + memory)
        journal = cls(descriptor, memory)
        for number, value in ((_MEMORY, memory), (_CAPACITY, capacity), (_HEAD, head), (_RECORD, len(record))):
            journal._words[number] = value
        journal._words[_VERSION] = _MAGIC
        return journal

    @classmethod
    def found(cls, descriptor: Descriptor) -> "Journal":
        """Damaged, also where another version of the daemon has left it; OSError."""
        size = os.fstat(descriptor.fd).st_size
        first = memoryview(os.pread(descriptor.fd, _PAGE, 0).ljust(_PAGE, b"\0")).cast("Q")
        memory, record, capacity, head = (first[number] for number in (_MEMORY, _RECORD, _CAPACITY, _HEAD))
        if first[_VERSION] != _MAGIC or memory > _MOST_MEMORY or record > _MOST_RECORD or capacity > _MOST_CAPACITY:
            raise Damaged("it is not of this version")
        if size != _MEMORY_AT + memory + record or head >= capacity or first[_ENDING] > _PAGE - _ENDING_AT:
            raise Damaged("its sizes do not fit each other")
        return cls(descriptor, memory)

    @property
    def record(self) -> bytes:
        return os.pread(self.fd, self._words[_RECORD], _MEMORY_AT + self.memory)

    @property
    def ending(self) -> bytes:
        """Empty until it is set, once."""
        return self._map[_ENDING_AT : _ENDING_AT + self._words[_ENDING]]

    @ending.setter
    def ending(self, content: bytes) -> None:
        self._map[_ENDING_AT : _ENDING_AT + len(content)] = content
        self._words[_ENDING] = len(content)

    @property
    def input_bytes(self) -> int:
        return self._words[_INPUT]

    @input_bytes.setter
    def input_bytes(self, count: int) -> None:
        self._words[_INPUT] = count

    @property
    def feeding(self) -> bool:
        """Whether input is being handed over, of which nobody can tell afterwards how much was."""
        return self._words[_FEEDING] != 0

    @feeding.setter
    def feeding(self, feeding: bool) -> None:
        self._words[_FEEDING] = feeding

    @property
    def input_ended(self) -> bool:
        """Whether there is to be no more input."""
        return self._words[_INPUT_ENDED] != 0

    @input_ended.setter
    def input_ended(self, ended: bool) -> None:
        self._words[_INPUT_ENDED] = ended

    @property
    def spilled(self) -> int:
        """The inode number of the file that has the output, and no more this memory; 0 before that."""
        return self._words[_SPILLED]

    # -- output

    def __len__(self) -> int:
        """How much output the memory holds."""
        return self._words[_END]

    def resume(self, spill: int | None) -> EventLog:
        """The account as the last daemon left it, with what it had taken beyond that. spill: fd of the file that it was
        spilled to; None where there is none. Damaged."""
        words, end = self._words, self._words[_END]
        capacity, count = words[_CAPACITY], words[_RUNS]
        runs = [self._run(number) for number in range(max(0, count - _ENTRIES + 1), count)]
        starts = [start for _, start, _ in runs]
        if self.spilled and spill is None:
            self.lose(0, end)
        lost = (words[_LOST_HEAD], words[_LOST_FLOOR]) if words[_LOST_FLOOR] else None
        missing = not self.spilled and lost is None and end > self.memory
        if starts != sorted(starts) or (end and not runs) or (runs and starts[-1] > end) or missing:
            raise Damaged("the account of its output makes no sense")
        log = EventLog.resumed(capacity, words[_HEAD], end, runs, lost)
        self._lengths, self._last = dict(log.lengths), runs[-1][0] if runs else None
        if words[_TAKING] >> 1 == end and not (self.spilled and spill is None):
            file, place = (self.fd, _MEMORY_AT + end) if spill is None else (spill, next(log.place(end, 1))[0])
            more = os.lseek(file, 0, os.SEEK_CUR) - place
            if 0 < more <= capacity:
                stream = _STREAMS[words[_TAKING] & 1]
                self._append(stream, more)
                log.append(stream, more)
        return log

    def take(self, stream: Stream, pipe: int, most: int) -> Taken:
        """What is in the pipe, into the memory, which has room for it."""
        return self._taken(stream, pipe, self.fd, _MEMORY_AT + len(self), most)

    def take_to(self, file: int, stream: Stream, pipe: int, position: int, room: int) -> Taken:
        """What is in the pipe, to a place in a file; what the file does not take is gone. Blocks."""
        count, failure = self._taken(stream, pipe, file, position, room)
        return (count, None) if failure is None else (self.discard(stream, pipe, position, room)[0], failure)

    def discard(self, stream: Stream, pipe: int, position: int, room: int) -> Taken:
        """What is in the pipe is counted, and gone, where the place in the file cannot be had. Blocks."""
        count = receive(pipe, memoryview(bytearray(room)))
        self._append(stream, count or 0)
        return count, None

    def read(self, start: int, length: int) -> bytes:
        return self._map[_MEMORY_AT + start : _MEMORY_AT + start + length]

    def spill(self, file: int, position: int) -> None:
        """From now on output is in ``file``, where the next of it goes to ``position``; the memory is given back."""
        os.lseek(file, position, os.SEEK_SET)
        self._words[_SPILLED] = os.fstat(file).st_ino
        start = -(-_MEMORY_AT // mmap.PAGESIZE) * mmap.PAGESIZE
        if (length := (_MEMORY_AT + self.memory - start) & -mmap.PAGESIZE) > 0:
            self._map.madvise(mmap.MADV_REMOVE, start, length)

    def lose(self, head: int, floor: int) -> None:
        """What lies between is gone."""
        self._words[_LOST_HEAD] = head
        self._words[_LOST_FLOOR] = floor

    def _taken(self, stream: Stream, pipe: int, file: int, position: int, room: int) -> Taken:
        os.lseek(file, position, os.SEEK_SET)
        self._words[_TAKING] = self._words[_END] << 1 | _STREAMS.index(stream)
        try:
            count = os.splice(pipe, file, room, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None, None
        except OSError as error:
            if error.errno not in _NO_SPLICE:
                return None, error
            return self._copied(stream, pipe, file, position, room)
        self._append(stream, count)
        return count, None

    def _copied(self, stream: Stream, pipe: int, file: int, position: int, room: int) -> Taken:
        """Where splice(2) does not work: one piece may be lost where the daemon dies."""
        buffer = memoryview(bytearray(room))
        count = receive(pipe, buffer)
        if count:
            os.pwrite(file, buffer[:count], position)
            self._append(stream, count)
        return count, None

    def _append(self, stream: Stream, count: int) -> None:
        if not count:
            return
        words, end = self._words, self._words[_END]
        if stream is not self._last:
            slot = words[_RUNS] % _ENTRIES * 2
            self._table[slot] = end << 1 | _STREAMS.index(stream)
            self._table[slot + 1] = self._lengths[stream]
            words[_RUNS] += 1
            self._last = stream
        words[_END] = end + count
        self._lengths[stream] += count

    def _run(self, number: int) -> tuple[Stream, int, int]:
        slot = number % _ENTRIES * 2
        return _STREAMS[self._table[slot] & 1], self._table[slot] >> 1, self._table[slot + 1]
