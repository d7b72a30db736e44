"""What large uploads and many of them cost the daemon. The figures are printed (pytest -rP)."""

import mmap
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.crowd import Crowd
from tests.process.harness.journals import leave_uploads
from tests.process.harness.sender import Sender
from tests.process.harness.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 * UNIT)]

MiB, GiB = 1 << 20, 1 << 30
RAISED = ("--uploads-part-size", "8MiB", "--uploads-max-upload-bytes", "200GiB", "--uploads-quota-bytes", "200GiB")
CALLS = 300


@contextmanager
def _content(path: Path, size: int) -> Iterator[mmap.mmap]:
    """``size`` bytes that take no room: zeros with a random page here and there."""
    chance = random.Random(size)
    with path.open("w+b") as file:
        os.truncate(path, size)
        for _ in range(100):
            file.seek(chance.randrange(size - 4096))
            file.write(chance.randbytes(4096))
        file.flush()
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _peak(daemon: Daemon) -> int:
    """The largest resident set that the daemon has had, in bytes: VmHWM of proc(5)."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_two_gibibytes_in_four_parts_at_once_take_less_than_100_mebibytes_of_memory(site: Site, tmp_path: Path) -> None:
    daemon = site.start("", *RAISED)
    idle = _peak(daemon)
    with _content(tmp_path / "source", 2 * GiB) as content:
        sender = Sender(site.place / "target", content)
        with Crowd(daemon, sender, range(sender.create(daemon)["part_count"])):
            pass
        sender.complete(daemon)
    print(f"peak {_peak(daemon) / MiB:.0f} MiB, idle {idle / MiB:.0f} MiB")
    assert _peak(daemon) < 100 * MiB


def test_a_hundred_gibibytes_cost_only_what_of_them_was_sent(site: Site, tmp_path: Path) -> None:
    daemon = site.start("", *RAISED)
    with _content(tmp_path / "source", 100 * GiB) as content:
        large, small = Sender(site.place / "large", content), Sender(site.place / "small", content[: 8 * MiB])
        count, size = large.create(daemon)["part_count"], large.session["part_size"]
        small.create(daemon)
        for number in (0, count // 2, count - 1):
            large.put(daemon, number)
        assert large.status(daemon)["next_part"] == 1
        used = (site.uploads / large.session["upload_id"] / "data").stat().st_blocks * 512
        times = _interleaved(*(lambda url=url: daemon.call("GET", url, token=None) for url in (large.url, small.url)))
    print(f"on the disk {used / MiB:.0f} MiB; status: large {times[0] * 1e3:.2f} ms, small {times[1] * 1e3:.2f} ms")
    assert used <= 3 * size + MiB
    assert times[0] < 3 * times[1]
    large.abort(daemon)


def test_a_thousand_uploads_with_a_hundred_thousand_parts_are_recovered_soon(site: Site) -> None:
    began = time.monotonic()
    site.start().term()
    empty = time.monotonic() - began
    site.uploads.rmdir()
    leave_uploads(site.uploads, 1000, 100)
    began = time.monotonic()
    daemon = site.start()
    full = time.monotonic() - began
    print(f"start with 100,000 parts {full:.2f} s, with none {empty:.2f} s; peak {_peak(daemon) / MiB:.0f} MiB")
    items = daemon.call("GET", "/v1/uploads", token=None).json()["items"]
    assert [(one["next_part"], one["accepted_bytes"]) for one in items] == [(100, 100 * 4096)] * 1000
    assert full < 30 * UNIT


def _interleaved(*calls: Callable[[], object]) -> list[float]:
    """The median time of each call, in seconds, measured in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(CALLS):
        for call, found in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
    return [statistics.median(one) for one in times]
