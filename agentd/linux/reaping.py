"""Learns that a child has ended, and fetches what became of it, without ever waiting for it longer than wanted.

Neither is sure to be had soon. Whoever traces a process, as its own user may, has its end first and can keep it from
its parent for good (ptrace(2)). And what waits for a file system that does not answer does not even heed SIGKILL.
"""

import errno
import os
import resource
import select
import time
from collections import deque
from contextlib import closing, suppress

Found = tuple[int, resource.struct_rusage]

_own: set[int] = set()
_left: deque[int] = deque()
_watched: dict[int, int] = {}


def own(pid: int) -> None:
    """A child that was started here: somebody is going to reap it."""
    _own.add(pid)


def reap_strays() -> int:
    """Reaps the children that nobody started here, which a child has made its siblings (clone(2), CLONE_PARENT). How
    many. Does not block, and leaves for the next time what an end of our own that nobody has fetched yet hides."""
    count = 0
    with suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid not in _own:
            os.waitid(os.P_PID, found.si_pid, os.WEXITED | os.WNOHANG)
            count += 1
    return count


def ending(pid: int) -> int:
    """An fd that can be read from the child's end on: its pidfd (pidfd_open(2)). Where there are none, as in gVisor
    until 2026, it is one end of a pipe, whose other one `notice` closes. OSError (EMFILE, ENFILE)."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    _let_go(pid)  # of an earlier child
    _watched[pid] = theirs
    notice()
    return ours


def notice() -> None:
    """Tells of the children that have ended since. To be called at every SIGCHLD; does not block."""
    for pid in [*_watched]:
        with suppress(ChildProcessError):  # it was reaped already
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
        _let_go(pid)


def _let_go(pid: int) -> None:
    fd = _watched.pop(pid, None)
    if fd is not None:
        os.close(fd)


def reaped(pid: int) -> Found | None:
    """Its status, as waitpid(2) has it, and its usage; None where neither is to be had yet. ChildProcessError where
    it is no child, or not any more."""
    try:
        found, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        _own.discard(pid)
        raise
    if not found:
        return None
    _own.discard(pid)
    return status, usage


def reap(pid: int, patience: float) -> Found | None:
    """As `reaped`, after at most so many seconds; None where a later `sweep` will. Blocks."""
    deadline = time.monotonic() + patience
    with suppress(OSError), closing(select.epoll()) as epoll:
        fd = os.pidfd_open(pid)
        try:
            # The pidfd can be read from the child's end on; an edge is there once more when a tracer lets go of it.
            epoll.register(fd, select.EPOLLIN | select.EPOLLET)
            while (found := reaped(pid)) is None and (left := deadline - time.monotonic()) > 0:
                epoll.poll(left)
        finally:
            os.close(fd)
        if found is not None:
            return found
    _left.append(pid)
    return None


def sweep() -> None:
    """Reaps what could not be reaped before. Does not block."""
    with suppress(IndexError):
        for _ in range(len(_left)):
            pid = _left.popleft()
            with suppress(ChildProcessError):
                if reaped(pid) is None:
                    _left.append(pid)
