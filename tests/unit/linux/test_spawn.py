"""What a program that is started finds around it, and what is said where it cannot be."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentd.errors import AgentError, ExecFailed, PermissionDenied, ProgramNotFound, Unavailable
from agentd.linux import syscalls
from agentd.linux.identity import Identity
from agentd.linux.launcher import Launcher
from agentd.linux.spawn import Child, Limits, Settings, spawn
from agentd.linux.steps import finish
from tests.unit.linux.conftest import BOB

ROOT = Identity(0, 0, (0,), "root", "/root")
SOFT = 512
REPORT = """
import json, os, resource, signal
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "signals": [status[name].strip() for name in ("SigBlk", "SigIgn")],
    "fds": os.listdir("/proc/self/fd"), "cwd": os.getcwd(), "env": dict(os.environ),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "memory": resource.getrlimit(resource.RLIMIT_AS), "leader": os.getsid(0) == os.getpid() == os.getpgrp(),
    "oom": open("/proc/self/oom_score_adj").read().strip(), "nice": os.getpriority(os.PRIO_PROCESS, 0),
}))
"""
Run = Callable[..., bytes]


@pytest.fixture
def run(top: Path, launcher: Launcher) -> Iterator[Run]:
    """Starts a program by way of each launcher and gives what it wrote, both streams together."""
    cwd, null = os.open(top / "workspace", os.O_PATH), os.open("/dev/null", os.O_RDWR)

    def run(
        *argv: str, identity: Identity = ROOT, settings: Settings | None = None, more: Any = None, **named: Any
    ) -> bytes:
        reader, writer = os.pipe()
        fds = {0: null, 1: writer, 2: writer, **(more or {})}
        env = {"PATH": os.environ["PATH"], **named.pop("env", {})}
        settings = msgspec.structs.replace(settings or Settings(SOFT), launcher=launcher)
        try:
            more = {"cwd": cwd, **named}
            child = finish(spawn(argv, identity=identity, env=env, fds=fds, settings=settings, **more))
        finally:
            os.close(writer)
        with open(reader, "rb") as output, child:
            return output.read() + (b"" if reap(child) == 0 else b"failed")

    yield run
    os.close(cwd)
    os.close(null)


def reap(child: Child) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])


@pytest.fixture
def report(run: Run) -> Callable[..., Any]:
    return lambda **named: json.loads(run(sys.executable, "-c", REPORT, **named))


def status(text: bytes) -> dict[str, list[str]]:
    """Of /proc/PID/status."""
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in text.decode().splitlines())}


def test_a_program_is_its_user_in_everything_and_has_no_capability(run: Run) -> None:
    found = status(run("cat", "/proc/self/status", identity=Identity(BOB, BOB, (BOB, 40077), "bob", "/")))
    assert (found["Uid"], found["Gid"], found["Groups"]) == ([str(BOB)] * 4, [str(BOB)] * 4, [str(BOB), "40077"])
    assert {int(found[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


def test_the_daemon_s_own_user_keeps_what_it_has(run: Run) -> None:
    found, own = status(run("cat", "/proc/self/status")), status(Path("/proc/self/status").read_bytes())
    assert [found[name] for name in ("Uid", "Gid", "CapEff")] == [own[name] for name in ("Uid", "Gid", "CapEff")]


def test_a_program_leads_a_session_of_its_own_with_signals_and_fds_as_new(report: Any) -> None:
    leaked, _ = os.pipe()
    os.set_inheritable(leaked, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        found = report()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        os.close(leaked)
        os.close(_)
    assert found["leader"]
    # Python itself ignores SIGPIPE and SIGXFSZ.
    assert (int(found["signals"][0], 16), int(found["signals"][1], 16) & ~(1 << 12 | 1 << 24)) == (0, 0)
    assert sorted(found["fds"]) == ["0", "1", "2", "3"]  # the last is that of the listing


def test_the_environment_is_what_was_given_and_no_more(report: Any) -> None:
    found = report(env={"LC_ALL": "C.UTF-8", "odd.name": "x=y\n\udcff"})["env"]
    assert found == {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "odd.name": "x=y\n\udcff"}


def test_the_directory_is_the_one_of_the_fd_whatever_it_is_called_by_now(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/here").touch()
    fd = os.open(tmp_path / "old", os.O_PATH)
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "old").mkdir()
    assert run("ls", cwd=fd) == b"here\n"
    os.close(fd)


def test_limits_are_there_from_the_first_instruction(run: Run) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert run("sh", "-c", "ulimit -Sn") == b"%d\n" % SOFT
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_limits_bind_what_is_started_and_nobody_else(report: Any) -> None:
    limits = Limits(memory_bytes=1 << 40, open_files=100)
    found = report(limits=limits, settings=Settings(SOFT, oom_score_adj=321))
    assert found["memory"] == [1 << 40, 1 << 40]
    assert found["files"][1] == 100
    assert found["oom"] == "321"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(("asked", "most", "bound"), [(None, 5, 5), (9, 5, 5), (3, 5, 3), (9, None, 9)])
def test_a_request_has_its_limits_below_those_of_the_server(
    asked: int | None, most: int | None, bound: int | None
) -> None:
    assert Limits(cpu_seconds=asked).within(Limits(cpu_seconds=most)) == Limits(cpu_seconds=bound)


def test_a_niceness_is_of_the_child_and_of_no_other_thread(report: Any) -> None:
    found: list[Any] = []
    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=lambda: found.append(report(settings=Settings(SOFT, nice=before + 3))))
    thread.start()
    thread.join()
    assert found[0]["nice"] == before + 3
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_fds_of_any_number_are_the_child_s_whatever_ours_are(run: Run) -> None:
    (a, a_end), (b, b_end) = os.pipe(), os.pipe()
    os.write(a_end, b"a")
    os.write(b_end, b"b")
    for fd in (a_end, b_end):
        os.close(fd)
    # The numbers of the child are those of the other one here.
    assert run("sh", "-c", f"cat /dev/fd/{a} /dev/fd/{b}", more={a: b, b: a}) == b"ba"
    for fd in (a, b):
        os.close(fd)


def test_a_terminal_becomes_the_controlling_one_and_the_user_s(run: Run, bob: Identity) -> None:
    ours, theirs = os.openpty()
    script = "tty > /dev/tty && stat -c %u $(tty) && ps -o tty= -p $$"
    child_fds = {0: theirs, 1: theirs, 2: theirs}
    run("sh", "-c", script, more=child_fds, terminal=True, identity=bob)
    name, text = os.ttyname(theirs), b""
    while text.count(b"\n") < 3:  # what a terminal's other end gets comes a little later
        text += os.read(ours, 1000)
    assert text.decode().split() == [name, str(BOB), name.removeprefix("/dev/")]
    for fd in (ours, theirs):
        os.close(fd)


def test_a_program_is_looked_for_in_the_path_it_gets(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/tool").mkdir()
    (tmp_path / "b/tool").write_text("#!/bin/sh\necho b\n")
    (tmp_path / "c/tool").write_text("#!/bin/sh\necho c\n")
    (tmp_path / "c/tool").chmod(0o755)
    path = ":".join(str(tmp_path / name) for name in ("missing", "a", "b", "c"))
    assert run("tool", env={"PATH": path}) == b"c\n"


def test_a_relative_program_is_meant_from_its_directory(run: Run, top: Path) -> None:
    (top / "workspace/tool").write_text("#!/bin/sh\necho here\n")
    (top / "workspace/tool").chmod(0o755)
    assert run("./tool") == b"here\n"


@pytest.mark.parametrize(
    ("content", "mode", "error", "status"),
    [
        (None, 0, ProgramNotFound, 404),
        ("#!/no/such/interpreter\n", 0o755, ProgramNotFound, 404),
        ("#!/bin/sh\n", 0o644, PermissionDenied, 403),
        ("neither\n", 0o755, ExecFailed, 400),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(
    run: Run, tmp_path: Path, content: str | None, mode: int, error: type[AgentError], status: int
) -> None:
    place = tmp_path / "program"
    if content is not None:
        place.write_text(content)
        place.chmod(mode)
    with pytest.raises(error, match="program") as caught:
        run(str(place))
    assert (caught.value.status, caught.value.facts["program"]) == (status, str(place))


def test_a_program_that_is_nowhere_in_the_path_is_not_found(run: Run) -> None:
    with pytest.raises(ProgramNotFound, match="not in PATH"):
        run("no-such-program")


def test_directories_in_the_path_that_are_closed_to_the_user_do_not_count(run: Run, top: Path, bob: Identity) -> None:
    (top / "workspace/tool").mkdir()
    path = f"{top}/private:{top}/workspace:/etc/passwd"
    with pytest.raises(ProgramNotFound, match="not in PATH"):
        run("tool", identity=bob, env={"PATH": path})
    assert run("true", identity=bob, env={"PATH": f"{path}:{os.environ['PATH']}"}) == b""


def test_a_program_that_root_alone_may_execute_is_refused_to_others(run: Run, tmp_path: Path, bob: Identity) -> None:
    shutil.copy("/bin/true", tmp_path / "tool")
    (tmp_path / "tool").chmod(0o700)
    assert run("tool", env={"PATH": str(tmp_path)}) == b""
    with pytest.raises((PermissionDenied, ProgramNotFound)):
        run("tool", identity=bob, env={"PATH": str(tmp_path)})


def test_a_user_with_more_processes_than_allowed_gets_no_other(run: Run) -> None:
    crowded = Identity(40979, 40979, (), "crowded", "/")
    with ExitStack() as stack:
        for _ in range(2):
            other = subprocess.Popen(["sleep", "1000"], user=crowded.uid, group=crowded.gid, extra_groups=[])
            stack.enter_context(other)
            stack.callback(other.kill)
        with pytest.raises(Unavailable, match="no process"):
            run("true", identity=crowded, limits=Limits(processes=1))
        assert run("true", identity=crowded, limits=Limits(processes=9)) == b""


@pytest.mark.parametrize("argv", [(), ("",), ("a\0b",), ("true", "\ud800"), ("true", "x" * 200_000)])
def test_arguments_that_no_program_can_get_are_refused(run: Run, argv: tuple[str, ...]) -> None:
    with pytest.raises(ExecFailed):
        run(*argv)


@pytest.mark.parametrize("env", [{"": "x"}, {"a=b": "x"}, {"A": "\0"}])
def test_variables_that_no_program_can_get_are_refused(run: Run, env: dict[str, str]) -> None:
    with pytest.raises(ExecFailed):
        run("true", env=env)


def test_a_directory_that_the_user_may_not_enter_is_refused(run: Run, top: Path, bob: Identity) -> None:
    fd = os.open(top / "private", os.O_PATH)
    with pytest.raises(PermissionDenied, match=r"bob.*directory"):
        run("true", identity=bob, cwd=fd)
    os.close(fd)


def test_a_thread_is_itself_again_after_a_start_that_failed(run: Run, bob: Identity) -> None:
    def ids() -> list[list[str]]:
        found = status(Path("/proc/thread-self/status").read_bytes())
        return [found[name] for name in ("Uid", "Gid", "Groups", "CapEff", "CapPrm")]

    before = ids()
    with pytest.raises(ProgramNotFound):
        run("no-such-program", identity=bob)
    assert ids() == before


def test_one_who_is_not_root_starts_programs_as_itself_alone(
    run: Run, launcher: Launcher, unprivileged: Callable[[Callable[[], object]], object], eve: Identity
) -> None:
    if launcher.path:
        pytest.skip("bob may not execute this one, which is the tests'")
    own = Identity(BOB, BOB, (BOB,), "bob", "/")
    assert unprivileged(lambda: run("id", "-u", identity=own)) == f"{BOB}\n".encode()
    assert "not root with CAP_CHOWN" in str(unprivileged(lambda: run("true", identity=eve)))


def test_root_without_power_over_users_starts_its_own_programs_and_lives_on(run: Run, bob: Identity) -> None:
    outcome: list[object] = []

    def job() -> None:
        syscalls.capset(syscalls.capget()._replace(effective=0, permitted=0))
        outcome.append(run("id", "-u"))
        try:
            run("id", identity=bob)
        except PermissionDenied as error:
            outcome.append(error.detail)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert outcome[0] == b"0\n"
    assert "not root with CAP_CHOWN" in str(outcome[1])
