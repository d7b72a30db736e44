"""A daemon on a kernel without openat2(2), as old ones are, and those whose seccomp filter does not know the call."""

import ctypes
import errno
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from agentd.linux import syscalls

T = TypeVar("T")

_OPENAT2 = 437  # on every architecture
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# seccomp(2): load the number of the call; if it is openat2, ENOSYS; else let it pass.
_FILTER = b"".join(
    struct.pack("HBBI", *step)
    for step in ((0x20, 0, 0, 0), (0x15, 0, 1, _OPENAT2), (0x06, 0, 0, _ERRNO | errno.ENOSYS), (0x06, 0, 0, _ALLOW))
)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


def without_openat2(fn: Callable[[], T]) -> T:
    """``fn``, called in a thread for which that call is missing, as it is for every process that it starts."""
    outcome: list[T] = []
    missing: list[bool] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_Program(4, _FILTER)), 0, 0)
        try:
            syscalls.openat2(syscalls.AT_FDCWD, ".", 0, 0)
        except OSError as error:
            missing.append(error.errno == errno.ENOSYS)
        if missing == [True]:
            outcome.append(fn())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if missing != [True]:
        pytest.skip("only a privileged process may filter its system calls")
    return outcome[0]
