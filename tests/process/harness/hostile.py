"""A process of the sandbox that signals whatever it may: ``hostile.py UID kill PID`` or ``hostile.py UID stop``.

It starts as root and gives its rights away. ``kill`` sends SIGKILL to every thread of the process PID, over and over,
until that has ended or it is told to end itself (SIGTERM); ``stop`` sends SIGSTOP to all of its user's processes. Then
it prints how often it did.
"""

import os
import signal
import sys
from contextlib import suppress


def kill(pid: int) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(PermissionError, ProcessLookupError):
            os.kill(int(thread), signal.SIGKILL)  # of a thread, whose ids are asked for


def stop() -> None:
    with suppress(PermissionError, ProcessLookupError):
        os.kill(-1, signal.SIGSTOP)


def main(uid: int, what: str, *pids: str) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    print("begun", flush=True)
    rounds = 0
    with suppress(FileNotFoundError):
        while not told:
            kill(int(pids[0])) if what == "kill" else stop()
            rounds += 1
    print(rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
