"""Marks of daemons that died: all of theirs, but those that are spared."""

import os
from itertools import islice
from pathlib import Path

import pytest

from agentd.linux.descriptor import Descriptor
from agentd.processes import marks
from agentd.processes.marks import Marks


def test_they_are_all_of_a_daemon_s_but_those_that_are_spared() -> None:
    first, other = 7 << 32, 9 << 32
    mine = Marks([other, first], [first + 5, other + 1])
    assert all(mark in mine for mark in (first + 1, first + 4, first + 6, other + 2, other + (1 << 32) - 1))
    assert not any(mark in mine for mark in (0, first, first + 5, other, other + 1, other + (1 << 32), 8 << 32))
    assert [*islice(mine, 5)] == [first + 1, first + 2, first + 3, first + 4, first + 6]
    assert len(mine) == 2 * ((1 << 32) - 1) - 2


def test_a_mark_is_of_the_daemon_that_made_it() -> None:
    first = marks.new_first()
    assert all(marks.first_of(marks.new_mark(first)) == first for _ in range(100))
    assert all(marks.new_mark(first) in Marks([first]) for _ in range(100))


@pytest.mark.parametrize("content", [b"", b"0\n", b"\xff 12 nonsense", b"5 -1"])
def test_what_makes_no_sense_is_none(tmp_path: Path, content: bytes) -> None:
    with Descriptor(os.open(tmp_path, os.O_RDONLY)) as directory:
        assert marks.written(directory.fd) == frozenset()
        marks.write(directory.fd, [1 << 32, 3 << 32])
        assert marks.written(directory.fd) == {1 << 32, 3 << 32}
        (tmp_path / "marks").write_bytes(content)
        assert marks.written(directory.fd) == frozenset()
        marks.remove(directory.fd)
        marks.remove(directory.fd)
