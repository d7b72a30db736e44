"""All that a program started, found and ended, wherever it went.

A leader is marked before its first instruction, and everything that it forks and executes inherits the mark: two hard
limits (setrlimit(2)) that bind nobody in any kernel since 2.6, RLIMIT_RSS, which is the mark, and RLIMIT_LOCKS, which
is `TOP` less the mark. Nobody can raise them without CAP_SYS_RESOURCE, and whoever lowers one has a pair that is no
mark, and can be no other's: it is still known between which marks its own was. So a process without a capability cannot
take its mark away nor pass for somebody else's. Where it has spoilt it, it is ended with whatever it may belong to,
unless one of its ancestors tells to whom it does. In gVisor, which lets nobody set RLIMIT_LOCKS and writes no core
files, RLIMIT_CORE is the other half.
A process with CAP_SYS_RESOURCE, as root's are in many sandboxes, may take its mark away. It is found still while one of
its ancestors is; one that left them all behind is not, but where it has a cgroup.
Blocking.
"""

import functools
import os
import resource
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

from agentd.linux.cgroups import Cgroup
from agentd.linux.descriptor import Descriptor
from agentd.linux.pidfd import has_ended
from agentd.linux.steps import Pause, Steps, finish
from agentd.linux.threads import Pool

STOP = Pool("stop", 8)
_SWEEPS = 1000
# Sweeps that wait for everything to have stopped; what sleeps in the kernel does not.
_PATIENCE = 30
# Sweeps of a second with SIGKILL after which those that are there still will not hear it before their system call is
# over, as one to a file system of a user's that does not answer: then they end without another instruction.
_DEAF = 10
# Seconds between two looks at what cannot be waited for.
_LOOK = 0.02
_DEAD = b"ZX"
_STOPPED = b"Tt"
# resource.h; the module resource has no names for them.
RSS, LOCKS = 5, 10
TOP = 1 << 62


def put_mark(pid: int, mark: int) -> int:
    """Marks a process that runs nothing of anybody's yet. The mark, from 1 to `TOP`; 0 where that cannot be done."""
    try:
        for number, value in ((RSS, mark), (_half()[0], TOP - mark)):
            resource.prlimit(pid, number, (value, value))
    except (OSError, ValueError):  # the daemon itself has less
        return 0
    return mark


@functools.cache
def _half() -> tuple[int, bytes]:
    """The limit that goes with RLIMIT_RSS, and its name in proc_pid_limits(5)."""
    try:
        resource.prlimit(0, LOCKS, resource.prlimit(0, LOCKS))
    except OSError:
        return resource.RLIMIT_CORE, b"Max core file size"
    return LOCKS, b"Max file locks"


def is_stopped(pid: int) -> bool:
    """By a signal, or a debugger."""
    with suppress(OSError):
        return _stat(pid)[1] in _STOPPED
    return False


def end_all(marks: Collection[int], leaders: Collection[int], grace: float, cgroups: Collection[Cgroup] = ()) -> None:
    """`end_in_steps`, waited for in this thread."""
    finish(end_in_steps(marks, leaders, grace, cgroups))


def end_in_steps(
    marks: Collection[int], leaders: Collection[int], grace: float, cgroups: Collection[Cgroup] = ()
) -> Steps[None]:
    """SIGTERM to everything of these marks and cgroups, at most ``grace`` seconds, then SIGKILL until nothing is left
    that could run.

    leaders: their pids, for where there are no marks. What forks faster than it can be found is stopped first.
    """
    if grace > 0:
        yield from _ask({*find(marks, leaders, spoilt=True)}.union(*(cgroup.pids() for cgroup in cgroups)), grace)
    for cgroup in cgroups:
        left = cgroup.pids()
        cgroup.kill()
        yield from _gone(left, 1.0)
    before, same = dict[int, bytes](), 0
    for sweep in range(_SWEEPS):
        found = find(marks, leaders, spoilt=True)
        if not found:
            return
        if sweep >= _PATIENCE or all(state in _STOPPED for state in found.values()):
            same = same + 1 if found.keys() == before.keys() else 0
            if same == _DEAF:
                return
            _send(found, signal.SIGKILL)
            yield from _gone(found, 1.0)
            before = found
        else:
            _send([pid for pid, state in found.items() if state not in _STOPPED], signal.SIGSTOP)


def signal_all(marks: Collection[int], leaders: Collection[int], number: int) -> None:
    """The signal to everything of these marks that there is now."""
    _send(find(marks, leaders), number)


def find(marks: Collection[int], leaders: Collection[int], *, spoilt: bool = False) -> dict[int, bytes]:
    """Pid to state (proc_pid_stat(5)) of what lives. spoilt: also those that have spoilt their mark, where that may
    have been the one of ``marks``, or where these are several."""
    parents: dict[int, int] = {}
    states: dict[int, bytes] = {}
    ranges: dict[int, range] = {}
    for pid in _pids():
        with suppress(OSError):
            parents[pid], states[pid] = _stat(pid)
            ranges[pid] = _marks_of(pid)
    limited = ranges.pop(os.getpid(), range(0))
    queue = [*leaders]
    queue += [pid for pid, possible in ranges.items() if len(possible) == 1 and possible.start in marks]
    if spoilt and not limited:
        lost = [pid for pid, possible in ranges.items() if len(possible) > 1 and _is_lost(pid, parents, ranges)]
        queue += [pid for pid in lost if len(marks) > 1 or any(mark in ranges[pid] for mark in marks)]
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: dict[int, bytes] = {}
    while queue:
        pid = queue.pop()
        if pid not in found and pid in states:
            found[pid] = states[pid]
            queue += children.get(pid, [])
    return {pid: state for pid, state in found.items() if state not in _DEAD}


def _is_lost(pid: int, parents: Mapping[int, int], ranges: Mapping[int, range]) -> bool:
    """Whether no ancestor tells whose it is: the daemon has taken it in (see `processes.reaper`), or PID 1 where the
    daemon could not, or has been started anew."""
    while len(ranges.get(pid, ())) > 1:
        pid = parents[pid]
    return pid in (1, os.getpid())


def _ask(found: Collection[int], grace: float) -> Steps[None]:
    _send(found, signal.SIGTERM)
    # What is stopped takes its signal once it goes on.
    _send(found, signal.SIGCONT)
    yield from _gone(found, grace)


def _gone(pids: Collection[int], seconds: float) -> Steps[None]:
    """Waits until all have ended, at most so long. Without pidfds (gVisor until 2026) there is nothing but to look
    again and again: they need not be children."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        with Descriptor(_pidfd(pid)) as one:
            while _lives(pid) if one.fd < 0 else not has_ended(one.fd):
                patience = deadline - time.monotonic()
                if patience <= 0:
                    return
                yield Pause(one.fd, patience if one.fd >= 0 else min(patience, _LOOK))


def _pidfd(pid: int) -> int:
    """-1 where there is none."""
    with suppress(OSError):
        return os.pidfd_open(pid)
    return -1


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return _stat(pid)[1] not in _DEAD
    return False


def _send(pids: Collection[int], number: int) -> None:
    # Parents come before their children, mostly: a shell whose child was killed would go on for a moment.
    for pid in sorted(pids):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int, thread: str = "") -> tuple[int, bytes]:
    """Parent and state. A process whose first thread has ended looks dead; then it is the state of another one."""
    state, parent, *more = _read(pid, f"{thread}stat").rpartition(b") ")[2].split(b" ", 18)
    if state in _DEAD and int(more[15]) > 1 and not thread:
        for one in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                state = min(state, _stat(pid, f"task/{one}/")[1], key=_DEAD.count)
    return int(parent), state


def _marks_of(pid: int) -> range:
    """Its mark; several where it spoilt that; none where it has none (proc_pid_limits(5))."""
    with suppress(OSError):
        text = _read(pid, "limits")
        mark, rest = (_hard(text, name) for name in (b"Max resident set", _half()[1]))
        if rest == 0 and _half()[0] == resource.RLIMIT_CORE:  # many programs want no core file, and mean no harm
            rest = None if mark is None else TOP - mark
        if mark is not None and rest is not None:
            return range(mark, TOP - rest + 1)
    return range(0)


def _hard(text: bytes, name: bytes) -> int | None:
    """The hard limit of that name; None for none."""
    words = text.partition(name)[2].split(None, 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def _read(pid: int, name: str) -> bytes:
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
