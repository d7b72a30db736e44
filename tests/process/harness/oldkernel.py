"""A daemon for which system calls are missing, as on old kernels, in gVisor, and under seccomp filters that do not know
them: those answer ENOSYS, or EPERM."""

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable, Collection
from typing import TypeVar

import pytest

T = TypeVar("T")

_OF_MACHINE = {
    "x86_64": {"copy_file_range": 326, "fallocate": 285, "inotify_init1": 294, "memfd_create": 319}
    | {"name_to_handle_at": 303, "renameat2": 316, "statx": 332, "sync_file_range": 277},
    "aarch64": {"copy_file_range": 285, "fallocate": 47, "inotify_init1": 26, "memfd_create": 279}
    | {"name_to_handle_at": 264, "renameat2": 276, "statx": 291, "sync_file_range": 84},
}
NUMBERS = {
    "pidfd_send_signal": 424,
    "pidfd_open": 434,
    "close_range": 436,
    "openat2": 437,
    "faccessat2": 439,
    **_OF_MACHINE[os.uname().machine],
}
# Resources of prlimit64(2), which is missing for these alone.
_PRLIMIT = {"x86_64": 302, "aarch64": 261}[os.uname().machine]
LIMITS = {"RLIMIT_LOCKS": 10}
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


def without(calls: Collection[str], fn: Callable[[], T], code: int = errno.ENOSYS) -> T:
    """``fn``, called in a thread for which these of `NUMBERS` fail with ``code``, as for all processes it starts. Also
    `LIMITS`, which nobody may set or ask for then."""
    outcome: list[T] = []
    filtered: list[bool] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        # seccomp(2): load the number of the call; for each that is missing: if it is this, the error; else let it pass.
        steps = [(0x20, 0, 0, 0)]
        for call in calls:
            if call in LIMITS:  # by its second argument, after which the number is loaded again
                steps += [(0x15, 0, 4, _PRLIMIT), (0x20, 0, 0, 24), (0x15, 0, 1, LIMITS[call])]
                steps += [(0x06, 0, 0, _ERRNO | errno.EPERM), (0x20, 0, 0, 0)]
            else:
                steps += [(0x15, 0, 1, NUMBERS[call]), (0x06, 0, 0, _ERRNO | code)]
        steps.append((0x06, 0, 0, _ALLOW))
        packed = b"".join(struct.pack("HBBI", *step) for step in steps)
        filtered.append(
            libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_Program(len(steps), packed)), 0, 0) == 0
        )
        if filtered == [True]:
            outcome.append(fn())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if filtered != [True]:
        pytest.skip("only a privileged process may filter its system calls")
    return outcome[0]


def without_openat2(fn: Callable[[], T]) -> T:
    return without(["openat2"], fn)
