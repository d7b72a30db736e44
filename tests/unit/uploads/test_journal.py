import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.core.conflict import ConflictMode, Kind
from agentd.uploads import journal
from agentd.uploads.journal import Abort, Header, Intent, Journal, JournalDamaged, Limits, Part, Published, Record
from tests.faults import fuse


def header(**changes: object) -> Header:
    values: dict[str, object] = {
        "upload_id": "up_1", "kind": Kind.FILE, "source_kind": "restartable_file", "target": b"/workspace/\xff x",
        "conflict": ConflictMode.MERGE, "size": 30, "part_size": 10, "durability": "process", "user": None,
        "metadata": b"{}", "whole_sha256": None, "created": time.time(), "lifetime": 60.0, "key": b"k",
        "fingerprint": b"f", "limits": Limits(1, 2, 3, 4), "secret": "s",
    }  # fmt: skip
    return Header(**{**values, **changes})  # type: ignore[arg-type]


RECORDS: list[Record] = [
    Part(0, 10, b"x" * 16, b"s" * 32, 1.5, b"b" * 16),
    Part(2, 10, b"y" * 16, bytes(32), 2.5, b"b" * 16),
    Intent(2, 3, 1, 4, b"w" * 32),
    Published(30, 1, b"w" * 32, 3.5),
    Abort(4.5),
]


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def written(fd: int) -> Journal:
    made = journal.create(fd, header(), 3)
    for record in RECORDS:
        made.append(fd, [record])
    return made


def test_what_was_written_is_read_back(fd: int, written: Journal) -> None:
    read, records, damage = journal.read(fd)
    before, after = ((one.header, one.salt, one.offset, one.capacity, one.used) for one in (read, written))
    assert before == after
    assert (records, damage) == (RECORDS, None)


def test_a_header_of_many_pages_is_read_back(fd: int) -> None:
    made = journal.create(fd, header(metadata=b"m" * 100_000), 3)
    assert journal.read(fd)[0].header == made.header


def test_appending_within_the_capacity_takes_no_space(fd: int) -> None:
    made = journal.create(fd, header(), 3)
    size, blocks = os.fstat(fd).st_size, os.fstat(fd).st_blocks
    made.append(fd, [RECORDS[0]] * (3 + journal.SPARE_RECORDS))
    assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) == (size, blocks)


def test_a_flipped_bit_in_the_header_is_found(fd: int, written: Journal) -> None:
    for position in range(0, 200, 7):
        flip(fd, position)
        with pytest.raises(JournalDamaged):
            journal.read(fd)
        flip(fd, position)


def test_a_flipped_bit_in_a_record_is_found_and_those_before_it_stay(fd: int, written: Journal) -> None:
    for slot in range(len(RECORDS)):
        for position in (0, 20, 127):
            flip(fd, written.offset + slot * 128 + position)
            _, records, damage = journal.read(fd)
            assert records == RECORDS[:slot]
            assert damage is not None
            flip(fd, written.offset + slot * 128 + position)


def test_an_erased_record_before_others_is_found(fd: int, written: Journal) -> None:
    os.pwrite(fd, bytes(128), written.offset + 128)
    _, records, damage = journal.read(fd)
    assert records == RECORDS[:1]
    assert damage is not None


def test_a_record_of_another_journal_is_not_taken(fd: int, tmp_path: Path) -> None:
    made = journal.create(fd, header(), 3)
    foreign = journal.encode_record(RECORDS[0], 0, made.salt ^ 1)
    os.pwrite(fd, foreign, made.offset)
    assert journal.read(fd)[2] is not None


@pytest.mark.parametrize("size", [0, 10, 39, 60, 4096])
def test_a_short_file_is_damaged_or_just_empty_of_records(fd: int, written: Journal, size: int) -> None:
    os.ftruncate(fd, size)
    if size < 4096:
        with pytest.raises(JournalDamaged):
            journal.read(fd)
    else:
        assert journal.read(fd)[1] == []


def test_a_failed_append_takes_no_slot(fd: int, written: Journal) -> None:
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    used = written.used
    with pytest.raises(OSError, match="Bad file descriptor"):
        written.append(read_only, [Abort(1.0)])
    os.close(read_only)
    written.append(fd, [Abort(2.0)])
    assert written.used == used + 1
    assert journal.read(fd)[1][-1] == Abort(2.0)


def test_records_that_threads_append_at_once_are_all_read_back(fd: int) -> None:
    made = journal.create(fd, header(), 400)
    records = [Part(number, 10, bytes(16), bytes(32), 1.5, bytes(16)) for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda record: made.append(fd, [record]), records))
    _, found, damage = journal.read(fd)
    assert damage is None
    assert sorted(found) == records


def flip(fd: int, position: int) -> None:
    (byte,) = os.pread(fd, 1, position)
    os.pwrite(fd, bytes([byte ^ 0x10]), position)


@pytest.fixture
def unsyncable(tmp_path: Path) -> Iterator[int]:
    """An empty file of a file system that refuses fsync(2)."""
    source, place = tmp_path / "source", tmp_path / "place"
    for path in (source, place):
        path.mkdir()
    (source / "journal").touch()
    with ExitStack() as stack:
        try:
            stack.enter_context(fuse.volume(source, place, fuse.FSYNC))
        except OSError as error:
            pytest.skip(f"{error}")
        yield stack.enter_context((place / "journal").open("r+b", 0)).fileno()


def test_a_record_that_could_not_be_synced_is_taken_back(unsyncable: int) -> None:
    made = journal.create(unsyncable, header(), 3)
    made.append(unsyncable, RECORDS[:1])
    with pytest.raises(PermissionError):
        made.append(unsyncable, [Abort(1.0)], durable=True)
    assert journal.read(unsyncable)[1:] == (RECORDS[:1], None)
    made.append(unsyncable, RECORDS[1:2])
    assert journal.read(unsyncable)[1:] == (RECORDS[:2], None)
