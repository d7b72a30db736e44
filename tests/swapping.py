"""What comes of an attempt while somebody exchanges the things it works on."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentd.errors import AgentError
from agentd.linux import syscalls

SECONDS = 0.3


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Meanwhile a thread exchanges two entries as fast as it can, and puts them back."""
    fds = [os.open(path.parent, os.O_PATH) for path in (one, other)]
    first = other.lstat()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with suppress(FileNotFoundError):
                for _ in range(2):
                    syscalls.renameat2(fds[0], one.name, fds[1], other.name, syscalls.RENAME_EXCHANGE)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        # One exchange of a pair fails while the attempt has taken an entry away, which may come back.
        with suppress(FileNotFoundError):
            if os.path.samestat(one.lstat(), first):
                syscalls.renameat2(fds[0], one.name, fds[1], other.name, syscalls.RENAME_EXCHANGE)
        for fd in fds:
            os.close(fd)


def outcomes(attempt: Callable[[], str]) -> Counter[str]:
    """What came of it, how often: the text, or the name of the error."""
    seen: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            seen[attempt()] += 1
        except AgentError as error:
            seen[type(error).__name__] += 1
    return seen
