"""What becomes a program waits until it is told to, and is nobody's but the daemon's until then."""

import base64
import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agentd.errors import Unavailable
from agentd.linux import launcher as module
from agentd.linux import launching
from agentd.linux.identity import Change
from agentd.linux.launcher import CODE, PYTHON, Launch, Launcher, _Choice, native
from agentd.linux.reaping import reap
from agentd.linux.steps import finish
from tests.conftest import UNIT
from tests.process.harness.deaf import deaf
from tests.process.harness.tracer import held
from tests.process.harness.waiting import eventually
from tests.unit.linux.conftest import BOB

AS_BOB = Change(BOB, BOB, (BOB,))
Begin = Callable[..., Launch]


@pytest.fixture
def begin(launcher: Launcher, top: Path) -> Iterator[Begin]:
    """Starts a launcher for a line of the shell; what it writes goes to the workspace's ``out``."""
    cwd, null = os.open(top / "workspace", os.O_PATH), os.open("/dev/null", os.O_RDWR)
    out = os.open(top / "workspace/out", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    os.fchmod(out, 0o666)

    def begin(line: str, paths: tuple[str, ...] = ("/bin/sh",), **env: str) -> Launch:
        fds = {0: null, 1: out, 2: out}
        return launcher.begin(paths, ("sh", "-c", line), {"PATH": "/usr/bin:/bin", **env}, cwd=cwd, fds=fds)

    yield begin
    for fd in (cwd, null, out):
        os.close(fd)


@contextmanager
def no_more_fds() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def ended(launch: Launch) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1])


def fact(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(name + ":")).split()[1:]


def assembled(machine: str, place: Path) -> bytes:
    """The source of the machine code, translated here."""
    prefix = "" if machine == os.uname().machine else f"{machine}-linux-gnu-"
    if shutil.which(f"{prefix}as") is None or shutil.which(f"{prefix}objcopy") is None:
        pytest.skip(f"no assembler for {machine}")
    source = Path(module.__file__).with_name(f"launcher_{machine}.s")
    made, code = str(place / "made.o"), place / "code"
    subprocess.run([f"{prefix}as", "-o", made, source], check=True)
    subprocess.run([f"{prefix}objcopy", "-O", "binary", "-j", ".text", made, code], check=True)
    return code.read_bytes()


@pytest.mark.parametrize("machine", CODE)
def test_the_machine_code_is_what_its_source_says(machine: str, tmp_path: Path) -> None:
    text = base64.b64encode(assembled(machine, tmp_path)).decode()
    assert textwrap.wrap(text, 112) == CODE[machine].split()


def test_the_machine_code_cannot_be_changed() -> None:
    made = native()
    with pytest.raises(PermissionError):
        os.write(made.fd, b"x")
    with pytest.raises(PermissionError):
        fcntl.fcntl(made.fd, fcntl.F_ADD_SEALS, 0)
    os.close(made.fd)


def test_it_is_the_daemon_s_until_it_is_told_to_go(begin: Begin, top: Path) -> None:
    with closing(begin("echo ran")) as launch:
        assert fact(launch.pid, "Uid") == [str(os.geteuid())] * 4
        assert (top / "workspace/out").read_text() == ""
        assert finish(launch.go(AS_BOB)) is None
        assert ended(launch) == 0
    assert (top / "workspace/out").read_text() == "ran\n"


def test_without_orders_it_ends_and_nothing_runs(begin: Begin, top: Path) -> None:
    launch = begin("echo ran")
    launch.close()
    assert ended(launch) == 127
    assert (top / "workspace/out").read_text() == ""


def test_one_that_is_killed_meanwhile_has_run_as_far_as_one_can_tell(begin: Begin) -> None:
    with closing(begin("echo ran")) as launch:
        os.kill(launch.pid, signal.SIGKILL)
        assert finish(launch.go(AS_BOB)) is None
        assert ended(launch) == -signal.SIGKILL


def test_one_that_its_user_has_stopped_is_not_waited_for(begin: Begin) -> None:
    with closing(begin("echo ran")) as launch:
        os.kill(launch.pid, signal.SIGSTOP)
        assert eventually(lambda: fact(launch.pid, "State")[0] == "T")
        with pytest.raises(Unavailable, match="stopped by its user"):
            finish(launch.go(AS_BOB))
        launch.kill()


def test_one_that_is_stopped_and_takes_no_orders_holds_up_nobody(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    with closing(begin("true", **{f"V{number}": "x" * 100_000 for number in range(9)})) as launch:
        os.kill(launch.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable, match="stopped by its user"):
            finish(launch.go(AS_BOB))
        launch.kill()


def test_one_whose_end_is_kept_back_is_not_waited_for(begin: Begin) -> None:
    with closing(begin("echo ran")) as launch, held(0, launch.pid):
        launch.kill()
    reap(launch.pid, 10 * UNIT)


def test_nothing_that_has_the_daemon_s_rights_heeds_the_program_s_environment(begin: Begin, top: Path) -> None:
    with closing(begin("true", LD_PRELOAD="/no/such/library")) as launch:
        assert finish(launch.go(AS_BOB)) is None
        assert ended(launch) == 0
    # The shell's own loader complains, which is bob's.
    assert (top / "workspace/out").read_text().count("/no/such/library") == 1


@pytest.mark.parametrize(
    ("paths", "number"),
    [
        ((), errno.ENOENT),
        (("/missing", "/etc/passwd/x"), errno.ENOTDIR),
        (("/missing", "/etc/passwd", "/missing"), errno.EACCES),
        (("/" + "x" * 300, "/missing"), errno.ENOENT),
    ],
)
def test_of_several_refusals_the_one_that_tells_most_is_reported(
    begin: Begin, paths: tuple[str, ...], number: int
) -> None:
    with closing(begin("true", paths)) as launch:
        refused = finish(launch.go(AS_BOB))
        assert ended(launch) == 127
    assert refused is not None
    assert (refused.error.errno, refused.step) == (number, launching.PROGRAM)


def test_one_with_more_groups_than_can_be_told_does_not_run_with_fewer(begin: Begin) -> None:
    with closing(begin("true")) as launch:
        refused = finish(launch.go(Change(BOB, BOB, tuple(range(5000)))))
        launch.kill()
    assert refused is not None
    assert refused.step == launching.IDS


def test_an_id_that_is_none_is_refused_and_nothing_runs(begin: Begin, top: Path) -> None:
    with closing(begin("echo ran")) as launch:
        refused = finish(launch.go(Change(BOB, BOB, (launching.SAME,))))
        assert ended(launch) == 127
    assert refused is not None
    assert refused.step == launching.IDS
    assert (top / "workspace/out").read_text() == ""


def test_one_that_sleeps_in_a_file_system_that_does_not_answer_is_given_up(
    begin: Begin, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    (top / "deaf").mkdir()
    with deaf(top / "deaf"):
        with closing(begin("true", (str(top / "deaf/program"),))) as launch:
            with pytest.raises(Unavailable, match="file system is too slow"):
                finish(launch.go(Change(-1, -1, None)))
            launch.kill()
    reap(launch.pid, 10 * UNIT)


def test_what_failed_for_want_of_something_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = _Choice()
    monkeypatch.setattr(module, "_PAUSE", 0)
    with no_more_fds():
        assert choose() is PYTHON
    assert choose().is_native
    os.close(choose().fd)


def test_what_failed_for_good_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = _Choice()
    monkeypatch.setattr(module, "_PAUSE", 0)
    with monkeypatch.context() as without:
        without.setattr(module, "CODE", {})
        assert choose() is PYTHON
    assert choose() is PYTHON
