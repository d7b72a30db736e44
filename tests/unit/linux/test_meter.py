"""What the machine is used for, against what this process knows of it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.linux import meter
from agentd.linux.meter import Meter
from tests.conftest import UNIT

GIB = 1 << 30


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_sample_is_of_this_machine(directory: int, tmp_path: Path) -> None:
    before = time.time()
    sample = Meter(directory, "/nowhere").sample()
    disk = os.statvfs(tmp_path)
    assert before <= sample.time <= time.time()
    assert sample.cpu_count == len(os.sched_getaffinity(0))
    assert sample.memory_total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < sample.memory_used < sample.memory_total
    assert sample.disk_total == disk.f_blocks * disk.f_frsize
    assert 0 < sample.disk_used <= sample.disk_total
    assert min(sample.received, sample.sent) >= 0


def test_work_is_seen_in_the_next_sample(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "WINDOW", 0.1)
    watch = Meter(directory, "/nowhere")
    spin(0.3 * UNIT)
    assert 50 / os.sysconf("SC_NPROCESSORS_ONLN") <= watch.sample().cpu_percent <= 100


def test_two_who_ask_at_once_see_the_same_stretch_of_time(directory: int) -> None:
    watch = Meter(directory, "/nowhere")
    spin(0.1)
    first, second = watch.sample(), watch.sample()
    assert abs(first.cpu_percent - second.cpu_percent) < 50


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """The top of a tree of control groups, as far as a container sees one."""
    made = tmp_path / "cgroup"
    made.mkdir()
    (made / "cgroup.controllers").write_text("cpu memory\n")
    (made / "cpu.stat").write_text("usage_usec 1000000\nuser_usec 1\n")
    (made / "cpu.max").write_text("50000 100000\n")
    (made / "memory.max").write_text(f"{GIB}\n")
    (made / "memory.current").write_text(f"{GIB // 2}\n")
    (made / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 4}\n")
    return made


def test_the_limits_of_a_control_group_are_the_machine(directory: int, group: Path) -> None:
    watch = Meter(directory, str(group))
    sample = watch.sample()
    assert (sample.cpu_count, sample.memory_total, sample.memory_used) == (1, GIB, GIB // 4)
    (group / "cpu.stat").write_text("usage_usec 900000000\n")
    assert watch.sample().cpu_percent == 100


def test_a_control_group_without_limits_says_nothing(directory: int, group: Path) -> None:
    (group / "cpu.max").write_text("max 100000\n")
    (group / "memory.max").write_text("max\n")
    sample, machine = Meter(directory, str(group)).sample(), Meter(directory, "/nowhere").sample()
    assert (sample.cpu_count, sample.memory_total) == (machine.cpu_count, machine.memory_total)


@pytest.mark.parametrize("name", ["cpu.max", "cpu.stat", "memory.max", "memory.current", "memory.stat"])
@pytest.mark.parametrize("content", [None, "", "nonsense\n", "-1 0\n"])
def test_files_that_are_missing_or_strange_are_not_believed(
    directory: int, group: Path, name: str, content: str | None
) -> None:
    (group / name).unlink()
    if content is not None:
        (group / name).write_text(content)
    sample = Meter(directory, str(group)).sample()
    assert sample.memory_total > 0
    assert sample.cpu_count > 0
