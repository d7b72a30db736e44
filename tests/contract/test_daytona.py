"""The generated ``daytona-toolbox-api-client`` against a real daemon: every method that can work, by name.

Two cannot on any server: ``upload_files`` has no parameters and posts nothing, ``download_files`` takes no answer that
is a form. A PTY and an interpreter are connected to by a WebSocket, which this client does not speak.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.contract.clients import Driver, environment
from tests.contract.conftest import start

VERSION = "0.226.1"
PACKAGE = f"daytona-toolbox-api-client=={VERSION}"

# Methods of the client that the daemon does not serve: another product's duty.
LEFT_OUT: dict[str, set[str]] = {
    "InfoApi": set(),
    "FileSystemApi": {"upload_files", "download_files"},
    "ProcessApi": {"connect_pty_session"},
    "InterpreterApi": {"execute_interpreter_code"},
    "GitApi": {
        *("add_remote", "authenticate", "configure_user", "get_git_config", "init_repository", "list_remotes"),
        *("reset_changes", "restore_files", "set_git_config"),
    },
    "PortApi": set(),
    "ServerApi": {"initialize"},
    "SystemApi": set(),
}


class Refused(Exception):
    """kind: of the client's exception. code: of the envelope, where the client understood it."""

    def __init__(self, kind: str, status: int | None, code: str | None, text: str) -> None:
        super().__init__(f"{kind}, {status}, {code}: {text}")
        self.seen = kind, status, code


class Client:
    """``client("FileSystemApi", "list_files", path=...)``: the reply as the client understood it. methods: by class."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        hello = json.loads(driver.read())
        self.version, self.methods = hello["version"], hello["methods"]
        self.host = self.token = ""

    def __call__(self, api: str, method: str, /, *positional: Any, status: int = 200, **named: Any) -> Any:
        asked = {"host": self.host, "token": self.token, "api": api, "method": method}
        self._driver.send({**asked, "positional": positional, "named": named})
        answer = json.loads(self._driver.read())
        if "error" in answer:
            raise Refused(**answer["error"])
        assert answer["status"] == status
        return answer["result"]


def model(name: str, /, **values: Any) -> dict[str, Any]:
    return {"model": name, "values": values}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """In an environment of its own: it has requirements that the daemon's tests have not."""
    with environment(tmp_path_factory.mktemp("daytona") / "client", PACKAGE) as python:
        driver = Driver(None, str(python), "daytona_driver.py")
        yield Client(driver)
        driver.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made = start(tmp_path_factory.mktemp("toolbox"))
    yield made
    assert made.term() == 0


@pytest.fixture(params=["/daytona", "/daytona/toolbox/sb_1"])
def toolbox(request: pytest.FixtureRequest, client: Client, daemon: Daemon) -> Client:
    client.host, client.token = daemon.url + request.param, daemon.token
    return client


@pytest.fixture
def place(daemon: Daemon, tmp_path: Path) -> str:
    (daemon.root / "workspace" / tmp_path.name).mkdir()
    return f"/workspace/{tmp_path.name}"


def test_the_client_is_the_version_that_is_meant(client: Client) -> None:
    assert client.version == VERSION


def test_files_are_uploaded_described_listed_and_downloaded(toolbox: Client, place: str) -> None:
    content = "\0\xff" * 100_000
    uploaded = toolbox("FileSystemApi", "upload_file", f"{place}/d/a", file={"latin1": content})
    assert uploaded == {"name": "a", "path": f"{place}/d/a", "type": "file"}
    found = toolbox("FileSystemApi", "get_file_info", f"{place}/d/a")
    assert (found["size"], found["isDir"], found["permissions"]) == (200_000, False, "0644")
    listed = toolbox("FileSystemApi", "list_files", path=place, depth=2)
    assert [one["name"] for one in listed] == ["d", "a"]
    assert toolbox("FileSystemApi", "download_file", f"{place}/d/a") == content


def test_entries_are_made_moved_changed_and_deleted(toolbox: Client, place: str) -> None:
    toolbox("FileSystemApi", "create_folder", f"{place}/d", "755", status=201)
    toolbox("FileSystemApi", "upload_file", f"{place}/d/a", file={"latin1": "1"})
    toolbox("FileSystemApi", "move_file", f"{place}/d/a", f"{place}/b")
    toolbox("FileSystemApi", "set_file_permissions", f"{place}/b", owner="alice", group="alice", mode="600")
    found = toolbox("FileSystemApi", "get_file_info", f"{place}/b")
    assert (found["owner"], found["group"], found["mode"]) == ("4001", "4001", "-rw-------")
    toolbox("FileSystemApi", "delete_file", f"{place}/d", recursive=True, status=204)
    assert [one["name"] for one in toolbox("FileSystemApi", "list_files", path=place)] == ["b"]


def test_text_and_names_are_found_and_text_is_replaced(toolbox: Client, place: str) -> None:
    toolbox("FileSystemApi", "upload_file", f"{place}/a.py", file={"latin1": "one\ntwo\n"})
    found = toolbox("FileSystemApi", "find_in_files", place, "two")
    assert found == [{"file": f"{place}/a.py", "line": 2, "content": "two"}]
    assert toolbox("FileSystemApi", "search_files", place, "*.py") == {"files": [f"{place}/a.py"]}
    asked = model("ReplaceRequest", files=[f"{place}/a.py"], pattern="two", newValue="2")
    assert toolbox("FileSystemApi", "replace_in_files", asked) == [{"file": f"{place}/a.py", "success": True}]


def test_commands_and_code_are_run(toolbox: Client, place: str) -> None:
    asked = model("ExecuteRequest", command="echo $A; exit 3", cwd=place, envs={"A": "1"}, timeout=30)
    said = toolbox("ProcessApi", "execute_command", asked)
    assert (said["exitCode"], said["result"]) == (3, "1\n")
    asked = model("CodeRunRequest", code="import sys; print(sys.argv[1:])", language="python", argv=["x"], timeout=30)
    said = toolbox("ProcessApi", "code_run", asked)
    assert (said["exitCode"], said["result"]) == (0, "['x']\n")


def test_a_session_runs_commands_and_is_fed(toolbox: Client, tmp_path: Path) -> None:
    ident = tmp_path.name
    toolbox("ProcessApi", "create_session", model("CreateSessionRequest", sessionId=ident), status=201)
    asked = model("SessionExecuteRequest", command="read x; echo got $x", runAsync=True)
    begun = toolbox("ProcessApi", "session_execute_command", ident, asked, status=202)["cmdId"]
    said = model("SessionSendInputRequest", data="it\n")
    toolbox("ProcessApi", "send_input", ident, begun, said, status=204)
    ran = toolbox("ProcessApi", "session_execute_command", ident, model("SessionExecuteRequest", command="echo b"))
    assert (ran["exitCode"], ran["stdout"], ran["output"]) == (0, "b\n", "b\n")
    logs = toolbox("ProcessApi", "get_session_command_logs", ident, begun)
    assert logs == {"output": "got it\n", "stdout": "got it\n", "stderr": ""}
    assert toolbox("ProcessApi", "get_session_command", ident, begun)["exitCode"] == 0
    commands = toolbox("ProcessApi", "get_session", ident)["commands"]
    assert [one["id"] for one in commands] == [begun, ran["cmdId"]]
    assert ident in [one["sessionId"] for one in toolbox("ProcessApi", "list_sessions")]
    toolbox("ProcessApi", "delete_session", ident, status=204)


def test_a_terminal_is_opened_sized_and_ended(toolbox: Client, place: str, tmp_path: Path) -> None:
    ident = tmp_path.name
    asked = model("PtyCreateRequest", id=ident, cwd=place, cols=90, rows=20, envs={"A": "1"})
    assert toolbox("ProcessApi", "create_pty_session", asked, status=201) == {"sessionId": ident}
    sized = toolbox("ProcessApi", "resize_pty_session", ident, model("PtyResizeRequest", cols=91, rows=21))
    assert (sized["cols"], sized["rows"], sized["active"], sized["cwd"]) == (91, 21, True, place)
    assert toolbox("ProcessApi", "get_pty_session", ident) == sized
    assert sized in toolbox("ProcessApi", "list_pty_sessions")["sessions"]
    assert toolbox("ProcessApi", "delete_pty_session", ident)


def test_an_interpreter_is_started_listed_and_ended(toolbox: Client, place: str) -> None:
    made = toolbox("InterpreterApi", "create_interpreter_context", model("CreateContextRequest", cwd=place))
    assert (made["cwd"], made["language"], made["active"]) == (place, "python", True)
    assert made in toolbox("InterpreterApi", "list_interpreter_contexts")["contexts"]
    toolbox("InterpreterApi", "delete_interpreter_context", made["id"])
    assert made not in toolbox("InterpreterApi", "list_interpreter_contexts")["contexts"]


@pytest.mark.skipif(shutil.which("git") is None, reason="no git in this machine")
def test_git_works_from_clone_to_push(toolbox: Client, daemon: Daemon, place: str) -> None:
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", daemon.root / place[1:] / "remote"], check=True)
    repo = f"{place}/repo"
    toolbox("GitApi", "clone_repository", model("GitCloneRequest", url=f"{daemon.root}{place}/remote", path=repo))
    toolbox("FileSystemApi", "upload_file", f"{repo}/a", file={"latin1": "1"})
    status = toolbox("GitApi", "get_status", repo)
    untracked = {"name": "a", "extra": "", "staging": "Untracked", "worktree": "Untracked"}
    assert status["fileStatus"] == [untracked]
    toolbox("GitApi", "add_files", model("GitAddRequest", path=repo, files=["."]))
    author = {"author": "Ann", "email": "ann@example.org"}
    made = toolbox("GitApi", "commit_changes", model("GitCommitRequest", path=repo, message="first", **author))
    assert toolbox("GitApi", "get_commit_history", repo)[0]["hash"] == made["hash"]
    toolbox("GitApi", "push_changes", model("GitPushRequest", path=repo, set_upstream=True))
    toolbox("GitApi", "pull_changes", model("GitPullRequest", path=repo))


@pytest.mark.skipif(shutil.which("git") is None, reason="no git in this machine")
def test_git_branches_are_made_checked_out_and_deleted(toolbox: Client, daemon: Daemon, place: str) -> None:
    setting = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    for command in (["init", "-q", "-b", "main"], [*setting, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", daemon.root / place[1:], *command], check=True)
    toolbox("GitApi", "create_branch", model("GitBranchRequest", path=place, name="other"), status=201)
    toolbox("GitApi", "checkout_branch", model("GitCheckoutRequest", path=place, branch="other"))
    assert toolbox("GitApi", "list_branches", place) == {"branches": ["main", "other"], "current": "other"}
    toolbox("GitApi", "checkout_branch", model("GitCheckoutRequest", path=place, branch="main"))
    toolbox("GitApi", "delete_branch", model("GitDeleteBranchRequest", path=place, name="other"), status=204)


def test_the_machine_tells_of_itself(toolbox: Client) -> None:
    assert toolbox("InfoApi", "get_version")["version"]
    assert toolbox("InfoApi", "get_work_dir") == {"dir": "/workspace"}
    assert toolbox("InfoApi", "get_user_home_dir") == {"dir": "/root"}
    assert isinstance(toolbox("PortApi", "get_ports")["ports"], list)
    assert toolbox("PortApi", "is_port_in_use", 9998) == {"isInUse": False}
    assert toolbox("SystemApi", "get_system_metrics")["memTotal"] > 0
    toolbox("ServerApi", "update_env", model("UpdateEnvRequest", set={"DAYTONA_TEST": "1"}))
    said = toolbox("ProcessApi", "execute_command", model("ExecuteRequest", command="echo $DAYTONA_TEST"))
    assert said["result"] == "1\n"


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (("FileSystemApi", "get_file_info", "/workspace/missing"), ("NotFoundException", 404, "FILE_NOT_FOUND")),
        (("FileSystemApi", "download_file", "/workspace"), ("BadRequestException", 400, "BAD_REQUEST")),
        (
            ("FileSystemApi", "download_file", "/workspace/.nullspace/token"),
            ("ForbiddenException", 403, "FILE_ACCESS_DENIED"),
        ),
        (("FileSystemApi", "move_file", "/home", "/etc"), ("ConflictException", 409, "CONFLICT")),
        (("ProcessApi", "get_session", "nobody"), ("NotFoundException", 404, "NOT_FOUND")),
        (("ProcessApi", "get_pty_session", "nobody"), ("NotFoundException", 404, "NOT_FOUND")),
        (("ProcessApi", "get_entrypoint_session"), ("NotFoundException", 404, "NOT_FOUND")),
        (("ProcessApi", "get_entrypoint_logs"), ("NotFoundException", 404, "NOT_FOUND")),
        (("GitApi", "get_status", "/workspace"), ("NotFoundException", 404, "GIT_REPO_NOT_FOUND")),
        (
            ("ProcessApi", "execute_command", model("ExecuteRequest", command="sleep 60", timeout=1)),
            ("ApiException", 408, "PROCESS_EXECUTION_TIMEOUT"),
        ),
    ],
)
def test_a_refusal_is_the_exception_that_its_callers_know(
    toolbox: Client, asked: tuple[Any, ...], seen: tuple[str, int, str]
) -> None:
    with pytest.raises(Refused) as refused:
        toolbox(*asked)
    assert refused.value.seen == seen


def test_every_method_of_the_topics_served_is_called_here_or_named_as_left_out(client: Client) -> None:
    called = re.findall(r'"(\w+Api)", "(\w+)"', Path(__file__).read_text())
    for api, left_out in LEFT_OUT.items():
        assert {method for name, method in called if name == api} == {*client.methods[api]} - left_out
