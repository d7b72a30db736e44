"""How much of the machine is in use: processor, memory, disk, network. Read when somebody asks, at no other time.

Sources: proc_stat(5), proc_meminfo(5), proc_pid_net(5) (net/dev), statvfs(3); and where a control group of version 2
above the daemon sets a limit, that group's own files (the kernel's admin-guide/cgroup-v2): inside a container the
machine's figures say nothing. All of this blocks.
"""

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import msgspec

# A share of the time is told over at least so many seconds, lest two who ask at once see noise.
WINDOW = 1.0
CGROUPS = "/sys/fs/cgroup"
_TICKS = os.sysconf("SC_CLK_TCK")


class Sample(msgspec.Struct, frozen=True):
    """time: Unix seconds. cpu_percent: of all processors together, 0 to 100, since the sample before (the first: since
    the meter was made). Sizes and counts in bytes; those of the network since its interfaces came up, without lo."""

    time: float
    cpu_percent: float
    cpu_count: int
    memory_used: int
    memory_total: int
    disk_used: int
    disk_total: int
    received: int
    sent: int


class _Moment(msgspec.Struct, frozen=True):
    """When, and how many seconds of processor time had been used until then."""

    at: float
    used: float


class Meter:
    """directory: fd on the file system that counts as the disk. cgroups: where that file system is mounted."""

    def __init__(self, directory: int, cgroups: str = CGROUPS) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._levels = list(_levels(cgroups))
        self._last = self._told = _Moment(time.monotonic(), self._cpu_seconds())

    def sample(self) -> Sample:
        used, total = self._memory()
        disk = os.fstatvfs(self._directory)
        received, sent = _network()
        count = self._cpus()
        return Sample(
            time=time.time(),
            cpu_percent=self._cpu_percent(count),
            cpu_count=math.ceil(count),
            memory_used=used,
            memory_total=total,
            disk_used=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            disk_total=disk.f_blocks * disk.f_frsize,
            received=received,
            sent=sent,
        )

    def _cpu_percent(self, count: float) -> float:
        with self._lock:
            now = _Moment(time.monotonic(), self._cpu_seconds())
            if now.at - self._told.at >= WINDOW:
                self._last, self._told = self._told, now
            seconds = now.at - self._last.at
            share = (now.used - self._last.used) / (seconds * count) if seconds > 0 else 0.0
        return round(min(max(100 * share, 0.0), 100.0), 2)

    def _cpus(self) -> float:
        """How many processors may be used at once; a control group may allow a part of one."""
        return min([float(len(os.sched_getaffinity(0))), *(quota for quota, _ in self._quotas())])

    def _quotas(self) -> Iterator[tuple[float, str]]:
        for level in self._levels:
            quota, _, period = (_text(f"{level}/cpu.max") or "max").partition(" ")
            if quota.isdigit() and int(period or 0):
                yield int(quota) / int(period), level

    def _cpu_seconds(self) -> float:
        """Of the group whose quota is the smallest, else of the machine."""
        for _, level in sorted(self._quotas()):
            usage = _fields(_text(f"{level}/cpu.stat")).get("usage_usec")
            if usage is not None:
                return usage / 1e6
        ticks = [int(number) for number in (_text("/proc/stat") or "cpu 0 0 0 0 0").split("\n", 1)[0].split()[1:9]]
        idle = sum(ticks[3:5])
        return (sum(ticks) - idle) / _TICKS

    def _memory(self) -> tuple[int, int]:
        """Used and total: of the group whose limit is the smallest, else of the machine."""
        found = _fields(_text("/proc/meminfo"))
        total = found.get("MemTotal:", 0) << 10
        used = total - (found.get("MemAvailable:", 0) << 10)
        for level in self._levels:
            limit, current = _text(f"{level}/memory.max"), _text(f"{level}/memory.current")
            if limit and limit.isdigit() and current and current.isdigit() and int(limit) < total:
                cache = _fields(_text(f"{level}/memory.stat")).get("inactive_file", 0)
                total, used = int(limit), max(0, int(current) - cache)
        return used, total


def _levels(cgroups: str) -> Iterator[str]:
    """The daemon's control group and those above it, as far as they can be seen."""
    for line in (_text("/proc/self/cgroup") or "").splitlines():
        if line.startswith("0::/"):
            parts = [part for part in line[4:].split("/") if part and part != ".."]
            for length in range(len(parts), -1, -1):
                level = "/".join((cgroups, *parts[:length]))
                if os.path.exists(f"{level}/cgroup.controllers"):
                    yield level


def _network() -> tuple[int, int]:
    """Received and sent."""
    received = sent = 0
    for line in (_text("/proc/self/net/dev") or "").splitlines():
        name, colon, numbers = line.partition(":")
        if colon and name.strip() != "lo":
            fields = numbers.split()
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent


def _fields(text: str | None) -> dict[str, int]:
    """Lines of a name and a number."""
    found: dict[str, int] = {}
    for line in (text or "").splitlines():
        name, *rest = line.split()
        if rest and rest[0].isdigit():
            found[name] = int(rest[0])
    return found


def _text(path: str) -> str | None:
    with suppress(OSError):
        with open(path) as file:
            return file.read().strip()
    return None
