"""Daytona's toolbox: commands and code that are run to their end, and shell sessions."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UNIT, Daemon
from tests.toolbox import Toolbox


@pytest.fixture
def toolbox(shared: Daemon, home: Path) -> Toolbox:
    return Toolbox(shared, home)


@pytest.fixture
def session(toolbox: Toolbox, tmp_path: Path) -> Iterator[str]:
    """The path of an open session."""
    made = toolbox("POST", "/process/session", {"sessionId": tmp_path.name})
    assert (made.status, made.body) == (201, b"")
    yield f"/process/session/{tmp_path.name}"
    toolbox("DELETE", f"/process/session/{tmp_path.name}")


def execute(toolbox: Toolbox, command: str, **more: Any) -> Any:
    return toolbox("POST", "/process/execute", {"command": command, **more}).json()


def test_a_command_gives_both_streams_and_its_exit_code(toolbox: Toolbox) -> None:
    said = execute(toolbox, "echo out; sleep 0.05; echo err >&2; exit 3")
    assert (said["exitCode"], said["result"], said["truncated"]) == (3, "out\nerr\n", False)


def test_a_command_has_the_directory_and_variables_of_its_call(toolbox: Toolbox) -> None:
    said = execute(toolbox, "basename $PWD; echo $NAME", cwd=toolbox.path(), envs={"NAME": "value"})
    assert said["result"] == f"{toolbox.home.name}\nvalue\n"


def test_what_cannot_be_started_has_the_exit_code_minus_one(toolbox: Toolbox) -> None:
    answer = toolbox("POST", "/process/execute", {"command": "true", "cwd": toolbox.path("missing")})
    assert (answer.status, answer.json()["exitCode"]) == (200, -1)
    assert "missing" in answer.json()["result"]


def test_a_command_that_takes_too_long_is_408_with_what_it_wrote(toolbox: Toolbox) -> None:
    answer = toolbox("POST", "/process/execute", {"command": "echo early; sleep 60", "timeout": 0.2 * UNIT})
    said = answer.json()
    assert (answer.status, said["code"], said["stdout"]) == (408, "PROCESS_EXECUTION_TIMEOUT", "early\n")


@pytest.mark.parametrize(
    ("language", "program", "code"),
    [
        ("python", "python3", "import sys, os\nprint(sys.argv[1], os.environ['NAME'])\nsys.exit(3)"),
        ("javascript", "node", "console.log(process.argv[2], process.env.NAME); process.exit(3)"),
        ("typescript", "deno", "console.log(Deno.args[0], Deno.env.get('NAME') as string); Deno.exit(3)"),
    ],
)
def test_code_is_run_with_arguments_and_variables(toolbox: Toolbox, language: str, program: str, code: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    body = {"language": language, "code": code, "argv": ["one"], "envs": {"NAME": "value"}}
    answer = toolbox("POST", "/process/code-run", body)
    said = answer.json()
    assert (answer.status, said["exitCode"], said["result"]) == (200, 3, "one value\n")
    assert said["artifacts"] == {"charts": []}


def test_code_of_any_length_is_run_and_a_slow_one_ended(toolbox: Toolbox) -> None:
    long = toolbox("POST", "/process/code-run", {"code": f"print(len('{'x' * 300_000}'))"}).json()
    slow = toolbox("POST", "/process/code-run", {"code": "import time; time.sleep(60)", "timeout": 0.2 * UNIT})
    assert (long["result"], slow.status) == ("300000\n", 408)


def test_an_unknown_language_is_refused(toolbox: Toolbox) -> None:
    answer = toolbox("POST", "/process/code-run", {"code": "", "language": "cobol"})
    assert (answer.status, answer.json()["code"]) == (400, "BAD_REQUEST")


# -- sessions


def test_a_session_keeps_its_state_from_one_command_to_the_next(toolbox: Toolbox, session: str) -> None:
    toolbox("POST", f"{session}/exec", {"command": f"cd {toolbox.home}; NAME=value"})
    answer = toolbox("POST", f"{session}/exec", {"command": "basename $PWD; echo $NAME >&2; (exit 3)"})
    said = answer.json()
    expected = {"stdout": f"{toolbox.home.name}\n", "stderr": "value\n", "exitCode": 3}
    assert (answer.status, {key: said[key] for key in expected}) == (200, expected)
    assert sorted(said["output"].split()) == sorted([toolbox.home.name, "value"])


def test_a_session_is_described_with_its_commands(toolbox: Toolbox, session: str) -> None:
    ident = toolbox("POST", f"{session}/exec", {"command": "true"}).json()["cmdId"]
    command = {"id": ident, "command": "true", "exitCode": 0}
    described = {"sessionId": session.rpartition("/")[2], "commands": [command]}
    assert toolbox("GET", session).json() == described
    assert described in toolbox("GET", "/process/session").json()
    assert toolbox("GET", f"{session}/command/{ident}").json() == command


@pytest.mark.parametrize("key", ["runAsync", "async"])
def test_a_command_in_the_background_is_fed_and_followed(toolbox: Toolbox, session: str, key: str) -> None:
    begun = toolbox("POST", f"{session}/exec", {"command": "read line; echo got $line; sleep 60", key: True})
    command = f"{session}/command/{begun.json()['cmdId']}"
    assert (begun.status, begun.headers["content-type"]) == (202, "application/json")
    assert "exitCode" not in toolbox("GET", command).json()
    assert toolbox("POST", f"{command}/input", {"data": "this\n"}).status == 204
    while not (logs := toolbox("GET", f"{command}/logs").json())["stdout"]:
        pass
    assert logs == {"output": "got this\n", "stdout": "got this\n", "stderr": ""}


def test_input_for_a_command_that_has_ended_is_410(toolbox: Toolbox, session: str) -> None:
    ident = toolbox("POST", f"{session}/exec", {"command": "true"}).json()["cmdId"]
    answer = toolbox("POST", f"{session}/command/{ident}/input", {"data": "x"})
    assert (answer.status, answer.json()["code"]) == (410, "COMMAND_ALREADY_COMPLETED")


def test_a_session_that_has_ended_takes_no_command(toolbox: Toolbox, session: str) -> None:
    toolbox("POST", f"{session}/exec", {"command": "exit 3"})
    answer = toolbox("POST", f"{session}/exec", {"command": "true"})
    assert (answer.status, answer.json()["code"]) == (410, "SESSION_ENDED")


def test_a_second_session_of_a_name_is_409_and_an_unknown_one_404(toolbox: Toolbox, session: str) -> None:
    again = toolbox("POST", "/process/session", {"sessionId": session.rpartition("/")[2]})
    assert (again.status, again.json()["code"]) == (409, "CONFLICT")
    assert toolbox("DELETE", session).status == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/exec"), ("GET", "/command/x/logs")):
        body = json.dumps({"command": "true"}).encode() if method == "POST" else None
        answer = toolbox(method, session + path, body)
        assert (answer.status, answer.json()["code"]) == (404, "NOT_FOUND")
