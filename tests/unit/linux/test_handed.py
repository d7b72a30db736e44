"""What a service manager hands over is taken once, by whom it is meant for (sd_listen_fds(3))."""

import os
import subprocess
import sys

import pytest

from agentd.linux.handed import take_handed

# The program is given two pipes' ends as fds 3 and 4, as a service manager would.
PROGRAM = """
import os, sys
from agentd.linux.handed import take_handed
os.environ["LISTEN_PID"] = str(os.getpid())
found = take_handed(os.environ)
print(found == [("web", 3), ("unknown", 4)], [os.get_inheritable(fd) for fd in (3, 4)])
print([name for name in os.environ if name.startswith("LISTEN_")], take_handed(os.environ))
"""


def test_fds_are_taken_with_their_names_once_and_no_child_gets_them() -> None:
    script = f"exec 3</dev/null 4</dev/null; LISTEN_FDS=2 LISTEN_FDNAMES=web exec {sys.executable} -c '{PROGRAM}'"
    done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().splitlines() == ["True [False, False]", "[] []"]


@pytest.mark.parametrize("pid", ["1", "", None])
def test_what_is_meant_for_another_process_is_left_but_not_handed_on(pid: str | None) -> None:
    environment = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", **({} if pid is None else {"LISTEN_PID": pid})}
    assert take_handed(environment) == []
    assert environment == {}


def test_variables_that_make_no_sense_are_an_error() -> None:
    with pytest.raises(ValueError, match="LISTEN_FDS is 'many'"):
        take_handed({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"})


def test_fds_that_are_not_there_are_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        take_handed({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(1 << 20)})
