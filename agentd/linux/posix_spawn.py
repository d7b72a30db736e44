"""posix_spawn(3) as libc has it, with what ``os.posix_spawn`` leaves out: the directory and the controlling terminal.

The child shares the daemon's memory until it executes (clone(2), CLONE_VM | CLONE_VFORK), so a start costs the same
however large the daemon is, only the calling thread waits for it, and the child has that thread's credentials.
``posix_spawn_file_actions_addfchdir_np`` is in glibc since 2.29 and in musl since 1.1.24.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80
# Opaque types: room for the largest of any libc (posix_spawnattr_t has 336 bytes in glibc, sigset_t 128).
_OPAQUE = 1024
_NO_SIGNALS, _ALL_SIGNALS = bytes(128), b"\xff" * 128

_libc = ctypes.CDLL(None, use_errno=True)
_Buffer = ctypes.Array[ctypes.c_char]


def posix_spawn(
    path: str,
    argv: Sequence[str],
    env: Sequence[str],
    *,
    cwd: int,
    fds: Sequence[tuple[int, int]],
    terminal: bool = False,
) -> int:
    """Starts the program at ``path`` in a session of its own, every signal unblocked and at its default; its pid.

    env: ``NAME=value``. cwd: fd of a directory, also O_PATH; a relative ``path`` begins there. fds: (ours, the
    child's); ours are above the child's highest number, and the child gets no others, all being close-on-exec.
    terminal: fd 0 is a terminal, which becomes the controlling one. Blocks until the program runs; OSError with the
    errno of whatever step failed.
    """
    with _made("posix_spawn_file_actions") as actions, _made("posix_spawnattr") as attributes:
        _check(_libc.posix_spawnattr_setsigmask(attributes, _NO_SIGNALS))
        _check(_libc.posix_spawnattr_setsigdefault(attributes, _ALL_SIGNALS))
        _check(_libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID)))
        _check(_libc.posix_spawn_file_actions_addfchdir_np(actions, cwd))
        for ours, theirs in fds:
            _check(_libc.posix_spawn_file_actions_adddup2(actions, ours, theirs))
        if terminal:
            # A session leader that opens a terminal gets it as the controlling one (tty_ioctl(4)).
            _check(_libc.posix_spawn_file_actions_addopen(actions, 0, b"/proc/self/fd/1", os.O_RDWR, 0))
        pid = ctypes.c_int()
        _check(
            _libc.posix_spawn(ctypes.byref(pid), os.fsencode(path), actions, attributes, _strings(argv), _strings(env))
        )
        return pid.value


@contextmanager
def _made(kind: str) -> Iterator[_Buffer]:
    made = ctypes.create_string_buffer(_OPAQUE)
    _check(getattr(_libc, f"{kind}_init")(made))
    try:
        yield made
    finally:
        getattr(_libc, f"{kind}_destroy")(made)


def _strings(values: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(values) + 1))(*map(os.fsencode, values), None)


def _check(code: int) -> None:
    """These functions return the errno."""
    if code:
        raise OSError(code, os.strerror(code))
