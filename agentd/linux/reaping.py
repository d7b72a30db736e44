"""Fetches what became of a child that has ended or was killed, without ever waiting for it longer than wanted.

Neither is sure to be had soon. Whoever traces a process, as its own user may, has its end first and can keep it from
its parent for good (ptrace(2)). And what waits for a file system that does not answer does not even heed SIGKILL.
"""

import os
import resource
import select
import time
from collections import deque
from contextlib import closing, suppress

Found = tuple[int, resource.struct_rusage]

_left: deque[int] = deque()


def reaped(pid: int) -> Found | None:
    """Its status, as waitpid(2) has it, and its usage; None where neither is to be had yet. ChildProcessError where
    it is no child, or not any more."""
    found, status, usage = os.wait4(pid, os.WNOHANG)
    return (status, usage) if found else None


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
