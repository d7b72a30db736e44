"""A process of the sandbox that swaps whatever it may for whatever it likes: ``attacker.py UID OUTSIDE``.

It starts as root in the directory that it is to own, gives its rights away and swaps until it is told to end (SIGTERM);
then it prints how often it did. What the daemon removed or moved meanwhile it makes again.
"""

import ctypes
import itertools
import os
import signal
import sys
from contextlib import suppress

EXCHANGE = 2  # rename(2)
AT_FDCWD = -100
libc = ctypes.CDLL(None, use_errno=True)

# Where a link leads that a directory is swapped for, by the number of its slot.
DIRECTORIES = ["/private", "/workspace/.nullspace/kept", "../../../../..{outside}", "{outside}", "/home/eve", "/etc"]
DIRECTORIES += ["/proc/self/root{outside}", "..", "/tmp", "../../.."]
FILES = ["/private/secret", "/etc/config", "/etc/shadow", "/home/eve/secret", "/workspace/.nullspace/kept/secret"]
FILES += ["{outside}/secret", "../../../../outside/secret", "/tmp/roots", "/proc/self/root{outside}/secret", "file0"]


def exchange(one: str, other: str) -> None:
    libc.renameat2(AT_FDCWD, one.encode(), AT_FDCWD, other.encode(), EXCHANGE)


def make(path: str, content: str | None = None) -> None:
    """A file, or a directory with something in it, unless there is one of this user's."""
    with suppress(OSError):
        if content is not None:
            with open(path, "x") as file:
                file.write(content)
            return
        os.makedirs(f"{path}/deep", exist_ok=True)
        for name in ("secret", "deep/secret"):
            make(f"{path}/{name}", "mine")


def repair(outside: str) -> None:
    for number, target in enumerate(DIRECTORIES):
        make(f"slot{number}")
        with suppress(OSError):
            os.symlink(target.format(outside=outside), f"way{number}")
    for number, target in enumerate(FILES):
        make(f"file{number}", "mine")
        with suppress(OSError):
            os.symlink(target.format(outside=outside), f"link{number}")
    for place in ("../given/tree", "../made", "../decoy/kept", "slot0/deep/deeper"):
        make(place)
    make("../given/one", "one")
    for source, place in (("/private", "../trap"), ("/private", "../tmp"), ("/private/secret", "../../tmp/link")):
        with suppress(OSError):
            os.symlink(source, place)
    make("../../tmp/file", "mine")


def attack(round_: int) -> None:
    for number in range(len(DIRECTORIES)):
        exchange(f"slot{number}", f"way{number}")
        exchange(f"file{number}", f"link{number}")
    number = round_ % len(DIRECTORIES)
    exchange(f"slot{number}/deep", f"way{(number + 3) % len(DIRECTORIES)}")
    exchange(f"slot{number}/secret", f"link{(number + 7) % len(FILES)}")
    exchange("../made", "../trap")
    exchange("../given/tree", "../tmp")
    exchange("../../tmp/file", "../../tmp/link")
    with suppress(OSError):
        os.chmod(f"slot{number}", (0o755, 0o1777, 0o000, 0o2775)[round_ // 10 % 4])
    with suppress(OSError):
        os.rename(f"slot{number}", "gone")
        os.rename("gone", f"slot{number}")
    with suppress(OSError):
        os.link(f"file{number}", f"file{number}.hard")
        os.replace(f"file{number}.hard", f"file{(number + 1) % len(FILES)}")
    if round_ % 50 < 2:
        exchange("../.nullspace", "../decoy")
    if round_ % 200 == 0:
        exchange("../arena", "../decoy")
        exchange("../arena", "../decoy")


def main(uid: int, outside: str) -> None:
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0o022)
    for round_ in itertools.count():
        if round_ % 20 == 0:
            repair(outside)
        attack(round_)
        if ended and round_ % 50 >= 2:
            print(round_)
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
