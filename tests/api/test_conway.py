"""Conway's sandboxes: files as JSON, and commands."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Answer, Daemon, StartDaemon


class Conway:
    def __init__(self, daemon: Daemon, home: Path) -> None:
        self.daemon = daemon
        self.place = f"/workspace/{home.name}"

    def call(self, method: str, route: str, body: dict[str, Any] | None = None) -> Answer:
        return self.daemon.call(method, f"/conway/v1/sandboxes/abc/{route}", body)

    def run(self, command: str, **more: Any) -> Answer:
        return self.call("POST", "exec", {"command": command, **more})


@pytest.fixture
def conway(shared: Daemon, home: Path) -> Conway:
    return Conway(shared, home)


def refused(answer: Answer) -> int:
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]
    return answer.status


ROUTES = ["files", "files/upload/json"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_file_gets_its_text_as_it_stands(conway: Conway, home: Path, route: str) -> None:
    answer = conway.call("POST", route, {"path": f"{conway.place}/a/f", "content": "aGk= ü"})
    assert (answer.status, answer.body) == (201, b"")
    assert (home / "a/f").read_text() == "aGk= ü"


@pytest.mark.parametrize("route", ROUTES)
def test_binary_content_comes_in_base64(conway: Conway, home: Path, route: str) -> None:
    body = {"path": f"{conway.place}/f", "content": base64.b64encode(b"\0\xff").decode(), "encoding": "base64"}
    assert conway.call("POST", route, body).status == 201
    assert (home / "f").read_bytes() == b"\0\xff"


@pytest.mark.parametrize("content", ["=", "a", "äöü=", "aGk=\n!"])
def test_what_is_no_base64_is_refused_and_nothing_is_written(conway: Conway, home: Path, content: str) -> None:
    body = {"path": f"{conway.place}/f", "content": content, "encoding": "base64"}
    assert refused(conway.call("POST", "files", body)) == 400
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", {"content": ""}),
        ("text ü\0".encode(), {"content": "text ü\0"}),
        (b"\xff\xfe", {"content": "//4=", "encoding": "base64"}),
    ],
)
def test_a_file_is_given_as_text_or_else_in_base64(
    conway: Conway, home: Path, content: bytes, told: dict[str, str]
) -> None:
    (home / "f").write_bytes(content)
    answer = conway.call("GET", f"files?path={conway.place}/f")
    assert (answer.status, answer.json()) == (200, told)


def test_a_directory_is_listed_one_level_deep(conway: Conway, home: Path) -> None:
    (home / "dir/deep").mkdir(parents=True)
    (home / "file").write_bytes(b"12345")
    found = conway.call("GET", f"files/list?path={conway.place}").json()
    assert found.keys() == {"files"}
    assert [(file["name"], file["isDir"]) for file in found["files"]] == [("dir", True), ("file", False)]
    assert found["files"][1] == {"name": "file", "isDir": False, "size": 5}


def test_a_command_is_for_the_shell_and_its_exit_code_has_both_names(conway: Conway) -> None:
    answer = conway.run("echo out; echo err >&2; exit 3")
    assert answer.status == 200
    assert answer.json() == {"stdout": "out\n", "stderr": "err\n", "exitCode": 3, "exit_code": 3}


def test_a_command_ends_with_its_time(conway: Conway) -> None:
    answer = conway.run("echo begun; sleep 600", timeout=0.3)
    assert (answer.status, answer.json()["stdout"], answer.json()["exitCode"]) == (200, "begun\n", 124)


def test_a_command_begins_in_the_workspace(conway: Conway, home: Path) -> None:
    (home / "here").touch()
    assert conway.run(f"ls {home.name}").json()["stdout"] == "here\n"


@pytest.mark.parametrize("body", [{}, {"command": ""}, {"command": "true", "timeout": 0}, {"command": 1}])
def test_a_command_that_is_none_is_refused(conway: Conway, body: dict[str, Any]) -> None:
    assert refused(conway.call("POST", "exec", body)) == 400


@pytest.mark.parametrize(
    ("method", "route", "status"),
    [
        ("GET", "files?path=/nowhere", 404),
        ("GET", "files?path=/workspace", 400),
        ("GET", "files", 400),
        ("GET", "files/list?path=/nowhere", 404),
        ("GET", "files?path=/workspace/.nullspace/token", 403),
        ("GET", "nothing", 404),
        ("DELETE", "files", 405),
    ],
)
def test_failures_have_the_statuses_and_the_shape_of_this_api(
    conway: Conway, method: str, route: str, status: int
) -> None:
    assert refused(conway.call(method, route)) == status


def test_a_file_over_a_directory_is_a_bad_request(conway: Conway, home: Path) -> None:
    (home / "dir").mkdir()
    assert refused(conway.call("POST", "files", {"path": f"{conway.place}/dir", "content": ""})) == 400


def test_without_a_token_nothing_is_done(conway: Conway) -> None:
    answer = conway.daemon.call("GET", "/conway/v1/sandboxes/abc/files/list", token=None)
    assert refused(answer) == 401


def test_only_the_named_sandbox_is_answered_for(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--sandbox-id", "mine")
    assert daemon.call("GET", "/conway/v1/sandboxes/mine/files/list").status == 200
    assert refused(daemon.call("GET", "/conway/v1/sandboxes/other/files/list")) == 404


def test_more_commands_than_may_run_are_put_off(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--processes-max-running", "1", "--processes-grace", "0.1")
    started = daemon.call("POST", "/v1/exec", {"command": "sleep", "args": ["600"], "background": True})
    assert started.status == 200, started.body
    answer = daemon.call("POST", "/conway/v1/sandboxes/abc/exec", {"command": "true"})
    assert (refused(answer), answer.headers["retry-after"]) == (429, "1")
