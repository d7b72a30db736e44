"""A program of a user's: traces a process, kills it, and keeps its end to itself until its own standard input ends."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SEIZE = 0x4206


def main(uid: int, pid: int) -> None:
    libc = ctypes.CDLL(None)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if libc.ptrace(_SEIZE, pid, None, None) == 0:
        os.kill(pid, signal.SIGKILL)
        print("held", flush=True)
        sys.stdin.read()


@contextmanager
def held(uid: int, pid: int) -> Iterator[None]:
    """Meanwhile the process is dead, and its parent may not know how it ended."""
    command = [sys.executable, __file__, str(uid), str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "held\n"
        yield
        tracer.communicate()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
