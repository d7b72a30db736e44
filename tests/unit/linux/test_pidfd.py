"""What the kernel says of a process to one that is not its parent."""

import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from agentd.linux.pidfd import exit_status, has_ended, is_pidfd


@pytest.mark.parametrize(
    ("end", "expected"),
    [(lambda one: one.communicate(b"3\n"), 3), (lambda one: (one.kill(), one.wait()), -signal.SIGKILL)],
)
def test_the_status_of_what_was_reaped_is_told_or_nothing(
    end: Callable[["subprocess.Popen[bytes]"], object], expected: int
) -> None:
    with subprocess.Popen(["sh", "-c", "read code; exit $code"], stdin=subprocess.PIPE) as one:
        fd = os.pidfd_open(one.pid)
        assert (has_ended(fd), is_pidfd(fd), is_pidfd(0)) == (False, True, False)
        end(one)
        status = exit_status(fd, 0)
        assert status is None or os.waitstatus_to_exitcode(status) == expected
        assert has_ended(fd)
        os.close(fd)


def test_of_what_nobody_reaps_nothing_is_told() -> None:
    with subprocess.Popen(["true"]) as one:
        fd = os.pidfd_open(one.pid)
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        assert (has_ended(fd), exit_status(fd, 0.01)) == (True, None)
        os.close(fd)
