"""What this process has open, for tests of what must not stay open."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.process.harness.waiting import eventually


def opened() -> Counter[str]:
    """How many fds of each kind: a path, or what proc_pid_fd(5) shows in its place."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[os.readlink(f"/proc/self/fd/{fd}")] += 1
    return found


@contextmanager
def nothing_stays_open() -> Iterator[None]:
    """What earlier tests have dropped may be closed meanwhile, and threads of theirs open something for a moment."""
    gc.collect()
    before = opened()
    yield
    assert eventually(lambda: not opened() - before), opened() - before
