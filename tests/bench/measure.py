"""What the kernel says a process has cost, and comparisons of such samples."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
QUIET_SECONDS = 0.1


@dataclass(frozen=True)
class Sample:
    """Seconds. user, system: of all threads of the server."""

    wall: float
    user: float
    system: float

    @property
    def cpu(self) -> float:
        return self.user + self.system

    @property
    def user_share(self) -> float:
        return self.user / self.cpu if self.cpu else float("nan")


@dataclass(frozen=True)
class Ratio:
    """middle: of the medians. low, high: of the single rounds."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} | {self.low:.2f} to {self.high:.2f}"


def spent(pid: int) -> tuple[float, float]:
    """User and system seconds of all threads, those that have ended too: utime and stime of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) * TICK, int(fields[12]) * TICK


def peak_bytes(pid: int) -> int:
    """The largest resident set that the process has had: VmHWM of proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def resident_bytes(pid: int) -> int:
    """What the process has in memory now: VmRSS of proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def quiet(pid: int) -> tuple[float, float]:
    """Waits until the process does nothing; then as `spent`. A process that goes on after its answer is charged too."""
    before = spent(pid)
    while True:
        threading.Event().wait(QUIET_SECONDS)
        if (now := spent(pid)) == before:
            return now
        before = now


def sample(pid: int, act: Callable[[], object]) -> Sample:
    user, system = quiet(pid)
    began = time.perf_counter()
    act()
    wall = time.perf_counter() - began
    now = quiet(pid)
    return Sample(wall, now[0] - user, now[1] - system)


def in_turn(rounds: int, *acts: Callable[[], Sample]) -> list[list[Sample]]:
    """The samples of each of ``acts``: A B A B ..., after one round that does not count where there are several."""
    found: list[list[Sample]] = [[] for _ in acts]
    for _ in range(rounds + (rounds > 1)):
        for act, samples in zip(acts, found, strict=True):
            samples.append(act())
    return [samples[-rounds:] for samples in found]


def median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return statistics.median(map(of, samples))


def ratio(ours: Sequence[Sample], against: Sequence[Sample], of: Callable[[Sample], float]) -> Ratio:
    single = [_divided(of(one), of(other)) for one, other in zip(ours, against, strict=True)]
    return Ratio(_divided(median(ours, of), median(against, of)), min(single), max(single))


def share(samples: Sequence[Sample]) -> Ratio:
    """Of user space in all CPU time."""
    single = [one.user_share for one in samples]
    return Ratio(
        _divided(median(samples, lambda s: s.user), median(samples, lambda s: s.cpu)), min(single), max(single)
    )


def _divided(one: float, other: float) -> float:
    return one / other if other else float("nan")
