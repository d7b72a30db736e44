"""Waiting for what a daemon does on its own, such as forgetting an upload."""

import time
from collections.abc import Callable

from tests.conftest import UNIT

LONGEST = 10 * UNIT
PAUSE = 0.01


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether ``holds()`` becomes true in time."""
    deadline = time.monotonic() + LONGEST
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)  # noqa: TID251 - nothing tells from outside when a clean-up is over
    return True
