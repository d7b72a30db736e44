"""Pseudoterminals (pty(7), ioctl_tty(2)): made, and resized."""

import errno
import fcntl
import os
import struct
import termios
from contextlib import ExitStack

from agentd.errors import Unavailable
from agentd.linux.descriptor import Descriptor
from agentd.linux.oserrors import Table, os_errors

# asm-generic/ioctls.h and termbits.h, of x86_64 and aarch64 alike; the module termios has no names for them.
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_TIOCGPTPEER = 0x5441
_IUTF8 = 0x4000

_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
_NO_PEER = (errno.EINVAL, errno.ENOTTY)
_NONE = (Unavailable, "the machine has no terminal to give; end one and repeat")
_MEANINGS: Table = {errno.ENOSPC: _NONE, errno.ENOENT: _NONE, errno.ENXIO: _NONE, errno.EIO: _NONE}


def open_terminal(cols: int, rows: int) -> tuple[Descriptor, Descriptor]:
    """(ours, the child's): a new terminal of that size in cells. Ours is non-blocking.

    It edits and echoes lines and turns ^C into a signal, as termios(3) has it at first, and erases whole characters of
    UTF-8. Unavailable where the machine has none.
    """
    with ExitStack() as closing, os_errors("open", "/dev/ptmx", _MEANINGS):
        ours = closing.enter_context(Descriptor(os.open("/dev/ptmx", _FLAGS | os.O_NONBLOCK)))
        fcntl.ioctl(ours.fd, _TIOCSPTLCK, struct.pack("i", 0))
        theirs = closing.enter_context(Descriptor(_other_end(ours.fd)))
        modes = termios.tcgetattr(theirs.fd)
        modes[0] |= _IUTF8
        termios.tcsetattr(theirs.fd, termios.TCSANOW, modes)
        resize(ours.fd, cols, rows)
        closing.pop_all()
        return ours, theirs


def resize(fd: int, cols: int, rows: int) -> None:
    """Its size in cells; where that changes, the terminal's foreground process group gets SIGWINCH (TIOCSWINSZ)."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def size_of(fd: int) -> tuple[int, int]:
    """Columns and rows (TIOCGWINSZ)."""
    rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    return cols, rows


def _other_end(fd: int) -> int:
    """By TIOCGPTPEER, which needs no path to where devpts is mounted; by its name where the kernel has no such call."""
    try:
        return fcntl.ioctl(fd, _TIOCGPTPEER, _FLAGS)
    except OSError as error:
        if error.errno not in _NO_PEER:
            raise
    (number,) = struct.unpack("I", fcntl.ioctl(fd, _TIOCGPTN, bytes(4)))
    return os.open(f"/dev/pts/{number}", _FLAGS)
