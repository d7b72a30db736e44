"""Shell sessions over HTTP."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import UNIT, Answer, Daemon, StartDaemon
from tests.terminals import lives, screen

SESSIONS = "/v1/machines/m/sessions"


class Shell:
    """One session of a daemon."""

    def __init__(self, daemon: Daemon, **body: Any) -> None:
        self._daemon = daemon
        answer = daemon.call("POST", SESSIONS, body)
        assert answer.status == 201, answer.body
        self.path = f"{SESSIONS}/{answer.json()['session_id']}"

    def call(self, method: str, path: str = "", body: dict[str, Any] | None = None, **headers: str) -> Answer:
        return self._daemon.call(method, self.path + path, body, headers)

    def run(self, command: str, **fields: Any) -> Any:
        answer = self.call("POST", "/exec", {"command": command, **fields})
        assert answer.status == 200, answer.body
        return answer.json()

    def begin(self, command: str, **fields: Any) -> str:
        """The path of a command that runs by itself."""
        return f"/commands/{self.run(command, run_async=True, **fields)['command_id']}"


@pytest.fixture
def shell(shared: Daemon) -> Iterator[Shell]:
    shell = Shell(shared)
    yield shell
    shell.call("DELETE")


def events(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.body
    return [json.loads(line) for line in answer.body.splitlines() if line]


def test_a_session_keeps_its_state_and_its_streams_apart(shell: Shell) -> None:
    assert shell.run("cd /; x=1; f() { echo f$1; }")["exit_code"] == 0
    assert shell.run("pwd; f $x; echo err >&2; (exit 9)") == {
        "command_id": "cmd_2",
        "exit_code": 9,
        "session_ended": False,
        "stdout": "/\nf1\n",
        "stderr": "err\n",
        "truncated": False,
    }


def test_the_least_limit_of_open_files_is_enough_for_a_session(start_daemon: StartDaemon) -> None:
    shell = Shell(start_daemon("--processes-open-files", "128"))
    assert shell.run("ulimit -n; exec 9</dev/null; (true | cat)")["stdout"] == "128\n"
    assert shell.run("echo more >&2; (exit 3)")["exit_code"] == 3


def test_a_session_begins_as_it_was_asked_to(shared: Daemon) -> None:
    shell = Shell(shared, session_id="mine", shell="sh", envs={"NAME": "value"}, cwd="/workspace")
    assert shell.run("basename $(pwd); echo $NAME")["stdout"] == "workspace\nvalue\n"
    report = shell.call("GET").json()
    assert (report["session_id"], report["shell"], report["running"], report["exit_code"]) == ("mine", "sh", True, None)
    assert [command["state"] for command in report["commands"]] == ["ended"]
    assert "mine" in [each["session_id"] for each in shared.call("GET", SESSIONS).json()]
    assert shared.call("POST", SESSIONS, {"session_id": "mine"}).status == 409
    assert shell.call("DELETE").status == 204
    assert shell.call("GET").json()["code"] == "session_not_found"


def test_output_that_is_no_text_is_there_as_bytes_too(shell: Shell) -> None:
    ran = shell.run("printf '\\377'; cat >&2", stdin_base64="/v8=")
    assert (ran["stdout"], ran["stdout_base64"]) == ("\ufffd", "/w==")
    assert (ran["stderr"], ran["stderr_base64"]) == ("\ufffd\ufffd", "/v8=")


def test_a_command_that_runs_by_itself_is_fed_and_followed(shell: Shell) -> None:
    path = shell.begin("while read x; do echo got $x; done", stdin="one\n")
    assert shell.call("GET", path).json()["state"] in ("waiting", "running")
    assert shell.call("POST", f"{path}/stdin", {"data": "two\n", "close": True}).status == 204
    started, *pieces, end = events(shell.call("GET", f"{path}/stream"))
    assert (started["type"], end["type"], end["exit_code"]) == ("started", "exit", 0)
    assert "".join(piece["data"] for piece in pieces) == "got one\ngot two\n"
    assert shell.call("GET", f"{path}/logs").json()["stdout"] == "got one\ngot two\n"
    assert shell.call("POST", f"{path}/stdin", {"data": "late"}).json()["code"] == "conflict"


def test_a_stream_goes_on_from_a_cursor(shell: Shell) -> None:
    path = shell.begin("echo one; echo two")
    first = events(shell.call("GET", f"{path}/stream"))
    again = events(shell.call("GET", f"{path}/stream?cursor={first[0]['cursor'] + 4}"))
    assert "".join(piece["data"] for piece in again if piece["type"] == "stdout") == "two\n"


def test_a_stream_can_be_server_sent_events(shell: Shell) -> None:
    answer = shell.call("GET", shell.begin("echo one") + "/stream", None, Accept="text/event-stream")
    assert answer.headers["content-type"] == "text/event-stream"
    assert b"event: stdout\n" in answer.body


@pytest.mark.parametrize(("command", "code"), [("exit 3", 3), ("set -e; false", 1), ("exec sh -c 'exit 4'", 4)])
def test_the_end_of_the_shell_is_the_end_of_the_session_and_said(shell: Shell, command: str, code: int) -> None:
    ran = shell.run(command)
    assert (ran["exit_code"], ran["session_ended"]) == (code, True)
    refused = shell.call("POST", "/exec", {"command": "true"})
    assert (refused.status, refused.json()["code"]) == (410, "session_ended")
    assert shell.call("GET").json()["exit_code"] == code


def test_a_timeout_ends_the_session_and_gives_what_there_was(shell: Shell) -> None:
    answer = shell.call("POST", "/exec", {"command": "echo before; sleep 1000", "timeout_secs": 0.3})
    assert (answer.status, answer.json()["code"]) == (504, "exec_timeout")
    assert answer.json()["details"]["stdout"] == "before\n"
    assert shell.call("POST", "/exec", {"command": "true"}).status == 410


def test_the_same_key_runs_a_command_once(shell: Shell) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = [shell.call("POST", "/exec", {"command": "x=$((x + 1)); echo $x"}, **headers) for _ in range(2)]
    assert [answer.json()["stdout"] for answer in answers] == ["1\n", "1\n"]
    assert shell.call("POST", "/exec", {"command": "other"}, **headers).status == 422


def test_a_command_of_a_mebibyte_is_taken_and_one_with_a_nul_is_not(shell: Shell) -> None:
    assert shell.run(f"x='{'é' * (1 << 19)}'; printf %s \"$x\" | wc -c")["stdout"].strip() == str(1 << 20)
    refused = shell.call("POST", "/exec", {"command": "echo \0"})
    assert (refused.status, refused.json()["code"]) == (400, "invalid_request")
    assert "NUL" in refused.json()["error"]


async def test_shells_end_with_a_daemon_that_dies(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    shell = Shell(daemon)
    async with screen(daemon) as terminal:
        opened = await terminal.open()
        pids = (shell.call("GET").json()["pid"], opened["pid"])
        daemon.kill9()
    async with asyncio.timeout(10 * UNIT):
        while any(map(lives, pids)):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "fields", [{"stdin": "\ud800"}, {"stdin_base64": "%"}, {"stdin": "x", "stdin_base64": "eA=="}, {"timeout_secs": -1}]
)
def test_input_that_cannot_be_given_is_refused(shell: Shell, fields: dict[str, object]) -> None:
    assert shell.call("POST", "/exec", {"command": "true", **fields}).status == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"session_id": "../x"}, 400),
        ({"shell": "fish"}, 400),
        ({"cwd": "/no/such/place"}, 404),
        ({"cwd": "/workspace/.nullspace"}, 403),
        ({"user": "nobody-here"}, 400),
    ],
)
def test_a_session_that_cannot_be_opened_is_refused_and_none_is_left(
    shared: Daemon, body: dict[str, str], status: int
) -> None:
    before = len(shared.call("GET", SESSIONS).json())
    assert shared.call("POST", SESSIONS, body).status == status
    assert len(shared.call("GET", SESSIONS).json()) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", ""), ("DELETE", ""), ("POST", "/exec"), ("GET", "/commands/cmd_1"), ("GET", "/commands/cmd_1/logs")),
        *(("GET", "/commands/cmd_1/stream"), ("POST", "/commands/cmd_1/stdin")),
    ],
)
def test_a_session_or_command_that_is_not_there_is_404(shared: Daemon, shell: Shell, method: str, path: str) -> None:
    body = {"command": "true"} if method == "POST" else None
    assert shared.call(method, f"{SESSIONS}/none{path}", body).json()["code"] == "session_not_found"
    if "commands" in path:
        assert shell.call(method, path, body).json()["code"] == "command_not_found"
