"""What the routes of section 3.1 and 3.2 promise: commands, their output, their input and their end."""

import base64
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.waiting import eventually
from tests.processes import BOB, Shell, running, with_bob
from tests.uploading import reset


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("processes")
    variables = place / "variables"
    variables.write_text("# a comment\nCREATED=yes=no\n")
    daemon = with_bob(place, "--processes-environment-file", str(variables))
    yield daemon
    assert daemon.term() == 0


@pytest.fixture
def shell(sandbox: Daemon) -> Shell:
    return Shell(sandbox)


def test_a_program_gets_its_arguments_as_they_are(shell: Shell) -> None:
    found = shell.exec("printf", "%s|", "a b", "$HOME", "*", "").json()
    assert (found["stdout"], found["stderr"], found["exit_code"]) == ("a b|$HOME|*||", "", 0)


def test_a_line_for_the_shell_is_the_shell_s(shell: Shell) -> None:
    found = shell.run("X=1; echo $X | tr 1 2; echo err >&2; exit 3")
    assert (found["stdout"], found["stderr"], found["exit_code"], found["reason"]) == ("2\n", "err\n", 3, "exited")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"command": "no-such-program"}, 404, "exec_failed"),
        ({"command": ""}, 400, "exec_failed"),
        ({"command": "/etc/passwd"}, 403, "permission_denied"),
        ({"command": "true", "cwd": "/nowhere"}, 404, "not_found"),
        ({"command": "true", "cwd": "/etc/passwd"}, 409, "not_a_directory"),
        ({"command": "true", "cwd": "/workspace/.nullspace"}, 403, "permission_denied"),
        ({"command": "true", "cwd": "../workspace/.nullspace"}, 403, "permission_denied"),
        ({"command": "true", "user": "nobody-here"}, 400, "unknown_user"),
        ({"command": "true", "args": ["x"], "shell": True}, 400, "invalid_request"),
        ({"command": "true", "envs": {"A=B": "x"}}, 400, "exec_failed"),
        ({"command": "a\0b"}, 400, "exec_failed"),
        ({"command": "true", "timeout_secs": -1}, 400, "invalid_request"),
        ({"command": "true", "stdin_base64": "?"}, 400, "invalid_request"),
        ({"command": "true", "stdin": "\ud800"}, 400, "invalid_request"),
        ({"command": "true", "args": ["x" * 200_000]}, 400, "exec_failed"),
    ],
)
def test_what_cannot_be_run_is_refused_and_says_why(shell: Shell, body: object, status: int, code: str) -> None:
    answer = shell.call("POST", "/exec", body)
    assert (answer.status, answer.json()["code"]) == (status, code)


def test_nothing_of_the_daemon_s_environment_reaches_a_command(shell: Shell) -> None:
    found = shell.run("env", envs={"MINE": "a\nb"}, user="bob")["stdout"]
    assert "AGENTD" not in found
    assert "NOTIFY" not in found
    assert "MINE=a\nb\n" in found
    assert "CREATED=yes=no\n" in found


def test_a_user_is_who_the_command_runs_as(shell: Shell, sandbox: Daemon) -> None:
    assert shell.run("id -u; touch made-by-bob", user=" bob ")["stdout"] == f"{BOB}\n"
    assert (sandbox.root / "workspace/made-by-bob").stat().st_uid == BOB


def test_a_relative_directory_is_meant_from_the_workspace(shell: Shell, sandbox: Daemon) -> None:
    (sandbox.root / "workspace/sub").mkdir()
    assert shell.run("pwd", cwd="sub")["stdout"] == f"{sandbox.root}/workspace/sub\n"
    assert shell.run("pwd")["stdout"] == f"{sandbox.root}/workspace\n"


def test_time_that_is_up_is_told_with_the_output_so_far(shell: Shell) -> None:
    answer = shell.exec("echo said; sleep 1000 & wait", shell=True, timeout_secs=0.2 * UNIT)
    body = answer.json()
    assert (answer.status, body["code"]) == (504, "exec_timeout")
    assert body["details"]["stdout"] == "said\n"
    assert shell.detail(body["details"]["pid"])["reason"] == "timed_out"


def test_bytes_that_are_no_text_are_sent_exactly_too(shell: Shell) -> None:
    found = shell.run(r"printf '\377\0x'; printf 'é' >&2")
    assert (found["stdout"], found["stderr"]) == ("�\0x", "é")
    assert base64.b64decode(found["stdout_base64"]) == b"\xff\0x"
    assert "stderr_base64" not in found


def test_input_given_at_once_is_all_there_is(shell: Shell) -> None:
    assert shell.exec("cat", stdin="héllo").json()["stdout"] == "héllo"
    assert shell.exec("cat", stdin_base64="/w==").json()["stdout_base64"] == "/w=="
    assert shell.exec("cat").json()["stdout"] == ""


def test_a_repeated_request_with_its_key_runs_once(shell: Shell) -> None:
    answers: list[object] = []
    ask = lambda: answers.append(shell.exec("sleep 0.2; echo $$ | tee -a once", shell=True, key="once").json())  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[0] == answers[1] == answers[2]
    assert shell.run("wc -l < once")["stdout"].strip() == "1"
    assert shell.exec("echo other", shell=True, key="once").json()["code"] == "idempotency_key_reused"


def test_a_client_that_leaves_leaves_the_command_running(shell: Shell, sandbox: Daemon) -> None:
    connection = sandbox.connect()
    body = b'{"command":"echo begun; read x < /workspace/none; sleep 0.3; echo done","shell":true,"tags":{"left":"1"}}'
    head = f"POST /v1/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {sandbox.token}\r\nContent-Length: {len(body)}"
    connection.sendall(f"{head}\r\n\r\n".encode() + body)
    assert eventually(lambda: shell.call("GET", "/processes?tag=left=1").json() != [])
    reset(connection)
    (found,) = shell.call("GET", "/processes?tag=left=1").json()
    assert found["running"]
    assert shell.wait(found["pid"])["exit_code"] == 0
    assert shell.logs(found["pid"])["stdout"] == "begun\ndone\n"


def test_a_command_in_the_background_is_answered_at_once_and_outlives_the_time_of_an_answer(shell: Shell) -> None:
    begun = time.monotonic()
    pid = shell.begin("sleep 0.4; echo done", timeout_secs=0.1)
    assert time.monotonic() - begun < 5 * UNIT
    assert {"pid": pid, "command": "sleep 0.4; echo done", "running": True} in shell.call("GET", "/processes").json()
    assert shell.wait(pid)["exit_code"] == 0


def test_whoever_is_not_running_has_its_last_word_and_its_status_readable(shell: Shell) -> None:
    pid = shell.begin("head -c 3000000 /dev/zero; echo end >&2; exit 5")
    listed = lambda: next(p for p in shell.call("GET", "/processes").json() if p["pid"] == pid)  # noqa: E731
    while listed()["running"]:
        pass
    logs = shell.logs(pid)
    assert (len(logs["stdout"]), logs["stderr"], logs["exit_code"]) == (3_000_000, "end\n", 5)


def test_logs_only_ever_grow_also_in_the_middle_of_a_character(shell: Shell) -> None:
    pid = shell.begin(r"for b in '\303' '\251' '\342' '\202' '\254' '\377' x; do printf $b; read l; done")
    seen = [""]
    for _ in range(7):
        shell.post(pid, "stdin", data="\n")
        seen.append(shell.logs(pid)["stdout"])
    shell.wait(pid)
    seen.append(shell.logs(pid)["stdout"])
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
    assert seen[-1] == "é€�x"


def test_logs_have_both_streams_as_they_came(shell: Shell) -> None:
    pid = shell.begin("echo 1; sleep 0.05; echo 2 >&2; sleep 0.05; echo 3")
    shell.wait(pid)
    logs = shell.logs(pid)
    assert (logs["stdout"], logs["stderr"], logs["output"]) == ("1\n3\n", "2\n", "1\n2\n3\n")


def test_input_can_be_sent_piece_by_piece_again_and_to_its_end(shell: Shell) -> None:
    pid = shell.begin("cat")
    assert shell.post(pid, "stdin", data="one", offset=0) == 204
    assert shell.post(pid, "stdin", data="one two", offset=0) == 204
    assert shell.post(pid, "stdin", data="x", offset=99) == 409
    assert shell.post(pid, "stdin", data_base64="/w==", close=True) == 204
    assert shell.wait(pid)["stdin_bytes"] == 8
    assert base64.b64decode(shell.logs(pid)["stdout_base64"]) == b"one two\xff"
    assert shell.post(pid, "stdin", data="late") == 409


def test_a_kill_reaches_everything_and_can_be_repeated(shell: Shell) -> None:
    pid = shell.begin("setsid sleep 1000 & echo $!; trap '' TERM; while :; do sleep 1; done")
    assert eventually(lambda: bool(shell.logs(pid)["stdout"]))
    child = int(shell.logs(pid)["stdout"])
    assert shell.post(pid, "kill") == 204
    assert not Path(f"/proc/{child}").exists()
    found = shell.detail(pid)
    assert (found["exit_code"], found["signal"], found["running"]) == (137, "SIGKILL", False)
    assert shell.post(pid, "kill") == 204


@pytest.mark.parametrize(("name", "status"), [("USR1", 204), ("sigusr1", 204), (10, 204), ("NONE", 400), (0, 400)])
def test_a_signal_is_sent_by_name(shell: Shell, name: object, status: int) -> None:
    pid = shell.begin("trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.02; done")
    assert eventually(lambda: "ready" in shell.logs(pid)["stdout"])
    assert shell.post(pid, "signal", signal=name) == status
    if status != 204:
        assert shell.post(pid, "signal", signal="KILL", tree=True) == 204
    assert shell.wait(pid)["exit_code"] == (7 if status == 204 else 137)


def test_a_wait_says_how_it_stands_when_its_time_is_up(shell: Shell) -> None:
    pid = shell.begin("sleep 1000")
    assert shell.wait(pid, 0.05)["running"]
    assert shell.post(pid, "kill") == 204


@pytest.mark.parametrize("path", ["", "/logs", "/stream", "/output"])
def test_nobody_knows_a_process_that_never_was(shell: Shell, path: str) -> None:
    answer = shell.call("GET", f"/processes/999999999{path}")
    assert (answer.status, answer.json()["code"]) == (404, "process_not_found")


def test_limits_of_a_request_are_kept(shell: Shell) -> None:
    found = shell.run("ulimit -n; yes", limits={"open_files": 200, "output_bytes": 10_000})
    assert (found["stdout"][:4], found["reason"]) == ("200\n", "output_limit")
    answer = shell.exec("sleep", "1000", limits={"wall_secs": 0.1})
    assert answer.json()["code"] == "exec_timeout"


def test_more_output_than_an_answer_takes_is_cut_and_said(shell: Shell) -> None:
    found = shell.run("head -c 10000000 /dev/zero | tr '\\0' x")
    assert (found["stdout"], found["truncated"]) == ("x" * (4 << 20), True)
    raw = shell.call("GET", f"/processes/{found['pid']}/output?offset=9999990").body
    assert raw == b"x" * 10


def test_both_prefixes_serve_the_same_processes(sandbox: Daemon) -> None:
    pid = Shell(sandbox, "/v1/sandboxes/s").begin("echo x")
    assert Shell(sandbox).wait(pid)["exit_code"] == 0


def test_the_daemon_answers_while_commands_run(shell: Shell, sandbox: Daemon) -> None:
    pids = [shell.begin("while :; do :; done") for _ in range(4)]
    begun = time.monotonic()
    assert sandbox.call("GET", "/livez", token=None).status == 200
    assert time.monotonic() - begun < 5 * UNIT
    for pid in pids:
        assert shell.post(pid, "kill", grace_secs=0) == 204


def test_a_command_s_user_may_not_reach_the_daemon(shell: Shell, sandbox: Daemon) -> None:
    script = f"kill -9 {sandbox.pid}; cat /proc/{sandbox.pid}/environ; ls {sandbox.root}/workspace/.nullspace"
    found = shell.run(script, user="bob")
    assert found["stdout"] == ""
    assert os.path.exists(f"/proc/{sandbox.pid}")


def test_a_storm_of_forks_and_a_hog_leave_the_daemon_serving(tmp_path: Path) -> None:
    limits = ("--processes-user-processes", "200", "--processes-memory-bytes", "1GiB")
    with running(tmp_path / "storm", *limits) as daemon:
        shell = Shell(daemon)
        hog = shell.begin("head -c 100G /dev/zero | tail", user="bob")
        storm = shell.begin("f() { f | f & }; f; while :; do sleep 0.01; done", user="bob")
        begun = time.monotonic()
        assert all(daemon.call("GET", "/livez", token=None).status == 200 for _ in range(10))
        assert time.monotonic() - begun < 10 * UNIT
        assert shell.run("echo still here")["stdout"] == "still here\n"
        assert [shell.post(pid, "kill", grace_secs=0) for pid in (storm, hog)] == [204, 204]
