"""A child's end is fetched as soon as it is to be had, and nobody is held up by whoever keeps it back."""

import errno
import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from agentd.linux.reaping import ending, notice, reap, reaped, sweep
from tests.conftest import UNIT
from tests.process.harness.oldkernel import without
from tests.process.harness.tracer import held


def started(*argv: str) -> int:
    return os.posix_spawnp(argv[0], argv, os.environ)


def test_one_that_has_ended_is_reaped_at_once_with_its_usage() -> None:
    found = reap(started("sh", "-c", "exit 3"), 10 * UNIT)
    assert found is not None
    assert os.waitstatus_to_exitcode(found[0]) == 3
    assert found[1].ru_maxrss > 0


def test_one_that_runs_is_not_waited_for_any_longer_and_reaped_later() -> None:
    pid = started("sleep", "1000")
    assert (reaped(pid), reap(pid, 0.01)) == (None, None)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    sweep()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(bool(os.geteuid()), reason="the tracer becomes its user, which takes root")
def test_one_that_is_traced_is_reaped_when_its_tracer_lets_go_of_it() -> None:
    pid = started("sleep", "1000")
    ends: list[object] = []
    with held(0, pid):
        began = time.monotonic()
        assert (reaped(pid), reap(pid, 0.01)) == (None, None)
        assert time.monotonic() - began < 5 * UNIT
        waiting = threading.Thread(target=lambda: ends.append(reap(pid, 20 * UNIT)))
        waiting.start()
    waiting.join()
    assert isinstance(ends[0], tuple)
    assert ends[0][0] == signal.SIGKILL


def is_over(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_without_pidfds_the_end_of_a_child_is_told_by_its_signal() -> None:
    first, second = started("sleep", "1000"), started("sleep", "1000")
    one, other = without(["pidfd_open"], lambda: (ending(first), ending(second)))
    assert (is_over(one), is_over(other)) == (False, False)
    for pid in (first, second):
        assert not is_over(other)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        notice()
        assert is_over(one)
    assert is_over(other)
    assert [reaped(pid) is not None for pid in (first, second)] == [True, True]
    os.close(one)
    os.close(other)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_without_pidfds_a_child_that_has_ended_before_is_over_at_once(code: int) -> None:
    pid = started("true")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    fd = without(["pidfd_open"], lambda: ending(pid), code)
    assert is_over(fd)
    assert reaped(pid) is not None
    os.close(fd)


def test_what_is_no_child_of_ours_is_nobody_s_to_reap() -> None:
    with pytest.raises(ChildProcessError):
        reaped(os.getpid())
