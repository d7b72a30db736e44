"""All that a program started, found and ended, wherever it went.

A leader is started with a mark (see `linux.spawn`) that everything it forks and executes inherits. A process that takes
its own mark away is still found while one of its ancestors is; one that also left them all behind is not, but where it
has a cgroup.
Blocking.
"""

import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress

from agentd.linux.cgroups import Cgroup
from agentd.linux.threads import Pool

STOP = Pool("stop", 8)
_SWEEPS = 1000
# Sweeps that wait for everything to have stopped; what sleeps in the kernel does not.
_PATIENCE = 30
_DEAD = b"ZX"
_STOPPED = b"Tt"


def end_all(marks: Collection[int], leaders: Collection[int], grace: float, cgroups: Collection[Cgroup] = ()) -> None:
    """SIGTERM to everything of these marks and cgroups, at most ``grace`` seconds, then SIGKILL until nothing is left.

    leaders: their pids, for where there are no marks. What forks faster than it can be found is stopped first.
    """
    if grace > 0:
        _ask({*find(marks, leaders)}.union(*(cgroup.pids() for cgroup in cgroups)), grace)
    for cgroup in cgroups:
        left = cgroup.pids()
        cgroup.kill()
        _gone(left, 1.0)
    for sweep in range(_SWEEPS):
        found = find(marks, leaders)
        if not found:
            return
        if sweep >= _PATIENCE or all(state in _STOPPED for state in found.values()):
            _send(found, signal.SIGKILL)
            _gone(found, 1.0)
        else:
            _send([pid for pid, state in found.items() if state not in _STOPPED], signal.SIGSTOP)


def signal_all(marks: Collection[int], leaders: Collection[int], number: int) -> None:
    """The signal to everything of these marks that there is now."""
    _send(find(marks, leaders), number)


def find(marks: Collection[int], leaders: Collection[int]) -> dict[int, bytes]:
    """Pid to state (proc_pid_stat(5)) of what lives. marks: may be a range."""
    states: dict[int, bytes] = {}
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with suppress(OSError):
            parent, state = _stat(pid)
            states[pid] = state
            children.setdefault(parent, []).append(pid)
    own = os.getpid()
    queue = [pid for pid in states if pid in leaders or (pid != own and (mark := _mark(pid)) and mark in marks)]
    found: dict[int, bytes] = {}
    while queue:
        pid = queue.pop()
        if pid not in found and pid in states:
            found[pid] = states[pid]
            queue += children.get(pid, [])
    return {pid: state for pid, state in found.items() if state not in _DEAD}


def _ask(found: Collection[int], grace: float) -> None:
    _send(found, signal.SIGTERM)
    # What is stopped takes its signal once it goes on.
    _send(found, signal.SIGCONT)
    _gone(found, grace)


def _gone(pids: Collection[int], seconds: float) -> None:
    """Waits until all have ended, at most so long."""
    deadline = time.monotonic() + seconds
    with ExitStack() as closing:
        poll, left = select.poll(), 0
        for pid in pids:
            with suppress(OSError):
                fd = os.pidfd_open(pid)
                closing.callback(os.close, fd)
                poll.register(fd, select.POLLIN)
                left += 1
        while left and (patience := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(patience * 1000):
                poll.unregister(fd)
                left -= 1


def _send(pids: Collection[int], number: int) -> None:
    # Parents come before their children, mostly: a shell whose child was killed would go on for a moment.
    for pid in sorted(pids):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> tuple[int, bytes]:
    """Parent and state."""
    state, parent, _ = _read(pid, "stat").rpartition(b") ")[2].split(b" ", 2)
    return int(parent), state


def _mark(pid: int) -> int:
    """The soft RLIMIT_RTTIME (proc_pid_limits(5)); 0 where there is none."""
    with suppress(OSError):
        _, _, line = _read(pid, "limits").partition(b"Max realtime timeout")
        if (found := line.split(None, 1)[:1]) and found[0].isdigit():
            return int(found[0])
    return 0


def _read(pid: int, name: str) -> bytes:
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
