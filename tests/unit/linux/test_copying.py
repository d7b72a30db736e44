"""Copying between files, within a file system and across two."""

import os
import random
import subprocess

import pytest

from agentd.linux.copying import Stopped, copy_file, copy_range

CONTENT = random.Random(7).randbytes(300_000)


@pytest.fixture(params=["same file system", "another file system"])
def folders(request, tmp_path):
    """Two directories, on one file system and on two."""
    target = tmp_path / "target"
    target.mkdir()
    mounted = request.param == "another file system"
    if mounted and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", target]).returncode:
        pytest.skip("may not mount")
    yield tmp_path, target
    if mounted:
        subprocess.run(["umount", target], check=True)


def test_range_arrives_at_its_offset(folders):
    source, target = folders
    (source / "a").write_bytes(CONTENT)
    with open(source / "a", "rb") as read, open(target / "b", "wb") as write:
        copy_range(read.fileno(), write.fileno(), 250_001, 333, 77)
    assert (target / "b").read_bytes() == bytes(77) + CONTENT[333 : 333 + 250_001]


def test_holes_stay_holes(folders):
    source, target = folders
    with open(source / "a", "wb") as file:
        os.pwrite(file.fileno(), CONTENT, 9 << 20)
        file.truncate(32 << 20)
    with open(source / "a", "rb") as read, open(target / "b", "wb") as write:
        copy_file(read.fileno(), write.fileno(), 32 << 20)
    found = (target / "b").stat()
    assert (found.st_size, found.st_blocks * 512 < 1 << 20) == (32 << 20, True)
    assert (target / "b").read_bytes()[9 << 20 :].startswith(CONTENT)


@pytest.mark.parametrize("size", [0, 1, 4096, 300_000])
def test_no_more_than_the_stated_size_is_copied(folders, size):
    source, target = folders
    (source / "a").write_bytes(CONTENT)
    with open(source / "a", "rb") as read, open(target / "b", "wb") as write:
        copy_file(read.fileno(), write.fileno(), size)
    assert (target / "b").read_bytes() == CONTENT[:size]


def test_source_that_ends_early_is_an_error(folders):
    source, target = folders
    (source / "a").write_bytes(CONTENT)
    with (
        open(source / "a", "rb") as read,
        open(target / "b", "wb") as write,
        pytest.raises(OSError, match="ends early"),
    ):
        copy_range(read.fileno(), write.fileno(), len(CONTENT) + 1)


def test_file_that_no_kernel_copy_takes_is_copied_by_hand(tmp_path):
    with open("/proc/self/status", "rb") as read, open(tmp_path / "b", "w+b") as write:
        copy_range(read.fileno(), write.fileno(), 100)
        assert os.pread(write.fileno(), 5, 0) == b"Name:"


def test_what_the_disk_says_comes_out_as_it_is(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    with (
        open(tmp_path / "a", "rb") as read,
        open(tmp_path / "a", "rb") as not_writable,
        pytest.raises(OSError, match="Bad file"),
    ):
        copy_range(read.fileno(), not_writable.fileno(), 10)


def test_stop_is_asked_before_each_piece(folders):
    source, target = folders
    (source / "a").write_bytes(CONTENT)
    with open(source / "a", "rb") as read, open(target / "b", "wb") as write, pytest.raises(Stopped):
        copy_file(read.fileno(), write.fileno(), len(CONTENT), lambda: True)
