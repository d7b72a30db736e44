"""A program of a user's: makes executable files and takes a lease on each (fcntl(2), F_SETLEASE), which it keeps as
long as the kernel lets it: whoever opens or executes one meanwhile has to wait for that."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def main(uid: int, directory: str, names: list[str]) -> None:
    os.chdir(directory)
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    for name in names:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o755))
        fcntl.fcntl(os.open(name, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK)
    os.chdir("/")
    print("held", flush=True)
    sys.stdin.read()


@contextmanager
def leased(uid: int, directory: Path, *names: str) -> Iterator[None]:
    """Meanwhile the user has these new files in the directory to itself."""
    command = [sys.executable, __file__, str(uid), str(directory), *names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
