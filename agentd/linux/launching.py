"""The launcher (see `linux.launcher`) in Python, for where machine code cannot run: ``python launching.py SOCKET ...``.

It runs with the daemon's environment, not the program's, which could name libraries to load (LD_PRELOAD) while it has
the daemon's rights; the program's comes with the orders, each variable ended by NUL. It imports no more than it needs.
"""

import errno
import os
import signal
import struct
import sys

SAME = 0xFFFFFFFF  # setresuid(2): the id that there is
ORDERS = struct.Struct(
    "=iIIii"
)  # paths, uid, gid (each may be SAME), groups (-1: those there are), environment's bytes
REPORT = struct.Struct("=2i")  # minus errno, step
IDS, DIRECTORY, PROGRAM = 1, 2, 3
NOT_HERE = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def main(control: int, strings: list[str]) -> None:
    """Waits for its orders, obeys them, and becomes the program, or reports why it cannot."""
    os.set_inheritable(control, False)
    orders = b"".join(iter(lambda: os.read(control, 1 << 16), b""))
    if len(orders) < ORDERS.size:
        return
    paths, uid, gid, count, size = ORDERS.unpack_from(orders)
    end = len(orders) - size
    groups, variables = orders[ORDERS.size : end], orders[end:].split(b"\0")[:-1]
    if len(groups) != 4 * max(count, 0):
        return  # not all of them: the daemon is gone
    step = IDS
    try:
        if count >= 0:
            os.setgroups(struct.unpack(f"={count}I", groups))
        for change, number in ((os.setresgid, gid), (os.setresuid, uid)):
            if number != SAME:
                change(number, number, number)
        step = DIRECTORY
        os.chdir(".")
        step = PROGRAM
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
            signal.signal(ignored, signal.SIG_DFL)
        _execute(strings[:paths], strings[paths:], dict(one.split(b"=", 1) for one in variables))
    except OSError as error:
        os.write(control, REPORT.pack(-(error.errno or errno.EIO), step))


def _execute(paths: list[str], argv: list[str], env: dict[bytes, bytes]) -> None:
    """The first of the paths that can be; OSError, the one that tells most, as execvp(3)."""
    refused: OSError = FileNotFoundError(errno.ENOENT, "there is no path")
    for path in paths:
        try:
            os.execve(path, argv, env)  # noqa: S606
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            if refused.errno != errno.EACCES:
                refused = error
    raise refused


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
    os._exit(127)
