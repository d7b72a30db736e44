"""Orphans: what a process of ours left behind becomes the daemon's child, and is reaped here when it ends.

The daemon is PID 1, or a subreaper, so that what escaped its parents stays below it. Nobody is robbed of an exit
status: the kernel gives orphans to the main thread, while every program that is started belongs to the thread of the
pool SPAWN that started it; so the main thread reaps first what is its own (waitid(2), __WNOTHREAD), then what nobody
has started.
"""

import os
import signal
import threading
from contextlib import suppress

from agentd.linux.reaping import notice, reap_strays
from agentd.linux.syscalls import WNOTHREAD, become_subreaper


class Reaper:
    """To be started and stopped on the main thread."""

    def __init__(self) -> None:
        self.reaped = 0

    def start(self) -> None:
        """From now on SIGCHLD reaps; what ended before, too."""
        assert threading.current_thread() is threading.main_thread()
        if os.getpid() != 1:
            with suppress(OSError):  # old ones of gVisor know no subreapers
                become_subreaper()
        # A child's end must interrupt no system call (signal(7)), and the loop is woken by Python's handler.
        signal.signal(signal.SIGCHLD, lambda *_: self.reap())
        signal.siginterrupt(signal.SIGCHLD, False)
        self.reap()

    def stop(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def reap(self) -> None:
        """Every orphan that has ended."""
        notice()
        with suppress(ChildProcessError):
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | WNOTHREAD) is not None:
                self.reaped += 1
        self.reaped += reap_strays()
