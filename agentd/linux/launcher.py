"""What runs first in every process that is started: a launcher, which waits until all is ready and becomes the program.

It begins with the ids and rights of the daemon and does nothing before it has its orders. Until then the daemon bounds
and marks it and puts it into its cgroup; then it takes on the user's ids for good, enters its directory and executes
the program, both as that user. So nothing of a user's ever runs without its bounds, and no thread of the daemon ever
has an id of a user's, by which that user could end it (kill(2) asks for the target's real and saved uid), slow it down
(sched_setscheduler(2) asks for the effective one) or trace it. Once the launcher has the user's ids, that user may
signal it, but not trace it: its memory is not dumpable until it is the program's (ptrace(2)).

Orders and report go over a socket, see `linux.launching`. Its end instead of orders: the launcher ends. Its end instead
of a report: the program runs.

There are two. One is machine code without libc, assembled from the launcher_*.s beside this file, in a sealed memfd;
its exec costs 0.1 ms. It looks at nothing of the environment, which is the program's. Where it cannot run (another
machine, vm.memfd_noexec, no /proc) it is the daemon's own Python, which costs some 20 ms.
"""

import errno
import logging
import math
import os
import platform
import signal
import socket
import struct
import sys
import threading
import time
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from fcntl import F_ADD_SEALS, F_DUPFD_CLOEXEC, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from typing import NamedTuple

import msgspec

from agentd.errors import Unavailable
from agentd.linux import launching, syscalls
from agentd.linux.descendants import is_stopped
from agentd.linux.identity import Change
from agentd.linux.launching import ORDERS, REPORT, SAME
from agentd.linux.posix_spawn import posix_spawn
from agentd.linux.reaping import own, reap, sweep
from agentd.linux.steps import Pause, Steps, finish

# Each the file that `as` and `objcopy` make of launcher_MACHINE.s, in Base64.
CODE = {
    "x86_64": """
f0VMRgIBAQAAAAAAAAAAAAIAPgABAAAAsABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAACAAAAAAAAAAEAAAAFAAAAAAAAAAAAAAAAAEAA
AAAAAAAAQAAAAAAA4AEAAAAAAADgAQAAAAAAAAAQAAAAAAAAUeV0ZAYAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
EAAAAAAAAABIieNIi3MQMe0PtgZI/8aD6DB4B2vtCgHF6+6J774CAAAAugEAAAC4SAAAAA8FSIHsABAAAInvSInmugAQAAAxwA8FhcAPjtYAAABB
vwEAAACLfCQMhf94FEiNdCQUuHQAAAAPBYXAD4idAAAAi3wkCIn+ifq4dwAAAA8FhcAPiIYAAACLfCQEif6J+rh1AAAADwWFwHhzQb8CAAAASI09
iQAAALhQAAAADwWFwHhbQb8DAAAAiwQkTI1jGE2NLMRIiwNMjXTDELv+////TTnsdDZJizwkSYPECEyJ7kyJ8rg7AAAADwWD+/MPRdiD+P5024P4
83TWg/jsdNGD+Nx0zIP42HTHicOJ2FBEiXwkBInvSInmuggAAAC4AQAAAA8Fv38AAAC45wAAAA8FLgCQ
""",
    "aarch64": """
f0VMRgIBAQAAAAAAAAAAAAIAtwABAAAAsABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAACAAAAAAAAAAEAAAAFAAAAAAAAAAAAAAAAAEAA
AAAAAAAAQAAAAAAABAIAAAAAAAAEAgAAAAAAAAAAAQAAAAAAUeV0ZAYAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
EAAAAAAAAADzAwCRYQpA+RQAgFJJAYBSIBRAOADAAHFkAABUlAIJG/z//xfgAxQqQQCA0iIAgNIoA4DSAQAA1P8HQNHgAxQq4QMAkQIAgtLoB4DS
AQAA1B8AAHGNBwBUNQCAUuAPQLmgAPg34VMAkegTgNIBAADU4AX4N+ALQLnhAwAq4gMAKqgSgNIBAADUIAX4N+AHQLnhAwAq4gMAKmgSgNIBAADU
YAT4N1UAgFJABQAQKAaA0gEAANTAA/g3dQCAUukDQLl2YgCR1w4Ji2kCQPl4DgmLGEMAkTkAgBLfAhfrYAIAVMCGQPjhAxeq4gMYqqgbgNIBAADU
PzcAMTkDgBofCAAxwP7/VB80ADGA/v9UH1AAMUD+/1QfkAAxAP7/VB+gADHA/f9U+QMAKuADGSrgV74p4AMUKuEDAJECAYDSCAiA0gEAANTgD4BS
yAuA0gEAANQuAAAA
""",
}
_MFD_EXEC = 0x10  # memfd_create(2), since Linux 6.3
_MOST_ORDERS = 4096  # what the machine code reads
_LAST_FD = 2**32 - 1
_REAP_SECONDS = 1.0
_PROMPT = 0.05  # seconds in which almost every program runs
_LOOK_SECONDS = 1.0  # between two looks at one that does not
# A file system may let an exec wait: one over the network, one that is fetched as it is read.
_PATIENCE = 60.0

# Too little of something, for the moment; and how many seconds until the next look.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
_PAUSE = 10.0

_log = logging.getLogger("agentd.processes")


class Refused(NamedTuple):
    """What the launcher could not do. step: of `linux.launching`."""

    error: OSError
    step: int


class Launcher(msgspec.Struct, frozen=True):
    """argv: its own, before the number of the socket. path: of what is executed, or else its fd. is_native: it is
    machine code, so that it can be given the program's environment."""

    argv: tuple[str, ...]
    path: str = ""
    fd: int = -1
    is_native: bool = True

    def begin(
        self,
        paths: Sequence[str],
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: int,
        fds: Mapping[int, int],
        terminal: bool = False,
    ) -> "Launch":
        """Starts it in a session of its own, where it waits for its orders. OSError as posix_spawn(3) gives it.

        paths: of the program, tried one after the other as execvp(3) does. cwd: fd of the working directory. fds: by
        number in the child, our fds; they stay the caller's. terminal: as in `posix_spawn`.
        """
        sweep()
        number = max(fds) + 1
        variables = [f"{name}={value}" for name, value in env.items()]
        ours, theirs = socket.socketpair()
        with ExitStack() as failing, ExitStack() as closing:
            failing.callback(ours.close)
            closing.callback(theirs.close)

            def above(fd: int) -> int:
                """The fd, or a copy, above all of the child's: no dup2 hits what a later one, or the exec, needs."""
                if fd <= number:
                    fd = fcntl(fd, F_DUPFD_CLOEXEC, number + 1)
                    closing.callback(os.close, fd)
                return fd

            pairs = [(above(fd), child) for child, fd in (*fds.items(), (number, theirs.fileno()))]
            path = self.path or f"/proc/self/fd/{above(self.fd)}"
            with suppress(OSError):  # before Linux 5.11; what is opened here is close-on-exec without it
                syscalls.close_range(3, _LAST_FD, syscalls.CLOSE_RANGE_CLOEXEC)
            words = [*self.argv, str(number), *paths, *argv]
            around = variables if self.is_native else [f"{name}={value}" for name, value in os.environ.items()]
            pid = posix_spawn(path, words, around, cwd=cwd, fds=pairs, terminal=terminal)
            own(pid)
            failing.pop_all()
        told = b"" if self.is_native else b"".join(os.fsencode(one) + b"\0" for one in variables)
        return Launch(pid, ours, len(paths), told)


class Launch:
    """A launcher that waits for its orders. pid: also of the program; it is the caller's to reap. To be closed."""

    def __init__(self, pid: int, control: socket.socket, paths: int, environment: bytes) -> None:
        self.pid = pid
        self._control = control
        self._paths = paths
        self._environment = environment

    def go(self, change: Change) -> Steps[Refused | None]:
        """Has it become the program; None when it has. Unavailable where it is kept from it.

        What is refused or raised leaves a process to `kill`.
        """
        groups = change.groups or ()
        count = -1 if change.groups is None else len(groups)
        uid, gid = (SAME if number < 0 else number for number in (change.uid, change.gid))
        orders = ORDERS.pack(self._paths, uid, gid, count, len(self._environment))
        orders += struct.pack(f"={len(groups)}I", *groups)
        if len(orders) > _MOST_ORDERS:
            return Refused(OSError(errno.EINVAL, "too many groups"), launching.IDS)
        self._control.settimeout(_PATIENCE)
        try:
            self._control.sendall(orders + self._environment)
            self._control.shutdown(socket.SHUT_WR)
            report = yield from self._report()
        except (BrokenPipeError, ConnectionResetError):
            return None  # somebody has killed it already, the kernel for want of memory
        except TimeoutError:
            raise Unavailable("the process was stopped by its user, and took no orders; repeat") from None
        if len(report) != REPORT.size:
            return None
        number, step = REPORT.unpack(report)
        return Refused(OSError(-number, os.strerror(-number)), step)

    def _report(self) -> Steps[bytes]:
        """A user may hold up the exec of his own files (a lease, fcntl(2)): it is not waited for long in one step."""
        deadline = time.monotonic() + _PATIENCE
        self._control.settimeout(_PROMPT)
        with suppress(TimeoutError):
            return self._control.recv(REPORT.size)
        self._control.setblocking(False)
        while True:
            yield Pause(self._control.fileno(), _LOOK_SECONDS)
            with suppress(BlockingIOError):
                return self._control.recv(REPORT.size)
            if is_stopped(self.pid):
                raise Unavailable("the process was stopped by its user before it ran; repeat")
            if time.monotonic() > deadline:
                what = f"the program did not run within {_PATIENCE:g} s: its file system is too slow; repeat later"
                raise Unavailable(what)

    def kill(self) -> None:
        """Ends and reaps it; where it sleeps in the kernel, a later start does the latter."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        reap(self.pid, _REAP_SECONDS)

    def close(self) -> None:
        self._control.close()


PYTHON = Launcher((sys.executable, "-I", "-S", launching.__file__), sys.executable, is_native=False)


class _Choice:
    """The machine code where that runs, else `PYTHON`. Blocks for a moment, the first time; and again after a while
    where the machine code was kept from running by what may pass."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chosen: Launcher | None = None
        self._next_trial = 0.0

    def __call__(self) -> Launcher:
        with self._lock:
            if self._chosen is None or time.monotonic() >= self._next_trial:
                self._chosen = self._tried()
            return self._chosen

    def _tried(self) -> Launcher:
        self._next_trial = math.inf
        try:
            return native()
        except (OSError, Unavailable) as error:
            if isinstance(error, OSError) and error.errno in _PASSING:
                self._next_trial = time.monotonic() + _PAUSE
            _log.warning("each program is started by way of Python, which takes longer: %s", error)
            return PYTHON


launcher = _Choice()


def native() -> Launcher:
    """The machine code, tried out. OSError, Unavailable where it cannot run."""
    if (machine := platform.machine()) not in CODE:
        raise OSError(errno.ENOEXEC, f"there is no machine code for {machine}")
    fd = _sealed(a2b_base64(CODE[machine]))
    try:
        made = Launcher(("agentd-launcher",), fd=fd)
        _try(made)
    except BaseException:
        os.close(fd)
        raise
    return made


def _sealed(content: bytes) -> int:
    """An fd of a file in memory that can be executed, and not changed."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("agentd-launcher", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create("agentd-launcher", flags)
    os.write(fd, content)
    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
    return fd


def _try(made: Launcher) -> None:
    """With no path at all it says that there is none."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    top = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        launch = made.begin((), (), {}, cwd=top, fds=dict.fromkeys(range(3), null))
    finally:
        os.close(null)
        os.close(top)
    try:
        refused = finish(launch.go(Change(-1, -1, None)))
    finally:
        launch.kill()
        launch.close()
    if refused is None or (refused.error.errno, refused.step) != (errno.ENOENT, launching.PROGRAM):
        raise OSError(errno.ENOEXEC, "its machine code does not run here")
