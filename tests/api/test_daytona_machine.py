"""Daytona's toolbox: git, and what is said of the machine."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from agentd import __version__
from tests.conftest import Answer, Daemon
from tests.toolbox import Toolbox

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git in this machine")
AUTHOR = {"author": "Ann", "email": "ann@example.org"}


@pytest.fixture
def toolbox(shared: Daemon, home: Path) -> Toolbox:
    return Toolbox(shared, home)


@pytest.fixture
def repository(home: Path) -> Path:
    """With one commit, and a remote that takes pushes."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", home / "remote"], check=True)
    subprocess.run(["git", "clone", "-q", home / "remote", home / "repo"], check=True, stderr=subprocess.DEVNULL)
    (home / "repo/a").write_text("1")
    setting = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    for command in (["checkout", "-q", "-B", "main"], ["add", "a"], [*setting, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", home / "repo", *command], check=True)
    return home / "repo"


def git(toolbox: Toolbox, operation: str, method: str = "POST", **body: object) -> Answer:
    return toolbox(method, f"/git/{operation}", {"path": toolbox.path("repo"), **body})


def read(toolbox: Toolbox, operation: str) -> Answer:
    return toolbox("GET", f"/git/{operation}", path=toolbox.path("repo"))


@needs_git
def test_a_change_is_staged_committed_and_pushed(toolbox: Toolbox, repository: Path) -> None:
    (repository / "b").write_text("2")
    before = read(toolbox, "status").json()
    assert git(toolbox, "add", files=["."]).status == 200
    made = git(toolbox, "commit", message="second", **AUTHOR).json()
    pushed = git(toolbox, "push", branch="main", set_upstream=True)
    after = read(toolbox, "status").json()
    changed = {"name": "b", "extra": "", "staging": "Untracked", "worktree": "Untracked"}
    assert (before["currentBranch"], before["fileStatus"], before["branchPublished"]) == ("main", [changed], False)
    assert (pushed.status, after["fileStatus"], after["branchPublished"], after["ahead"]) == (200, [], True, 0)
    newest = read(toolbox, "history").json()[0]
    assert (newest["hash"], newest["author"], newest["message"]) == (made["hash"], "Ann", "second")


@needs_git
def test_branches_are_made_listed_checked_out_and_deleted(toolbox: Toolbox, repository: Path) -> None:
    assert git(toolbox, "branches", name="other").status == 201
    assert git(toolbox, "checkout", branch="other").status == 200
    assert read(toolbox, "branches").json() == {"branches": ["main", "other"], "current": "other"}
    git(toolbox, "checkout", branch="main")
    assert git(toolbox, "branches", "DELETE", name="other").status == 204


@needs_git
def test_a_repository_is_cloned_at_a_branch_or_commit_and_pulled(toolbox: Toolbox, repository: Path) -> None:
    git(toolbox, "push", branch="main")
    first = read(toolbox, "history").json()[0]["hash"]
    git(toolbox, "commit", message="empty", allow_empty=True, **AUTHOR)
    git(toolbox, "push", branch="main")
    url, path = toolbox.path("remote"), toolbox.path("clone")
    url = str(toolbox.daemon.root) + url
    assert git(toolbox, "clone", url=url, path=path, commit_id=first).status == 200
    there = toolbox("GET", "/git/status", path=path).json()
    assert (there["detached"], there["currentBranch"]) == (True, "")
    git(toolbox, "checkout", path=path, branch="main")
    assert git(toolbox, "pull", path=path).status == 200


@needs_git
@pytest.mark.parametrize(
    ("operation", "body", "status", "code"),
    [
        ("checkout", {"branch": "nowhere"}, 404, "GIT_BRANCH_NOT_FOUND"),
        ("branches", {"name": "main"}, 409, "GIT_BRANCH_EXISTS"),
        ("commit", {"message": "nothing", **AUTHOR}, 409, "CONFLICT"),
        ("clone", {"url": "/nowhere/at/all", "path": "/workspace/x"}, 404, "GIT_REPO_NOT_FOUND"),
        ("add", {"path": "/workspace", "files": ["."]}, 404, "GIT_REPO_NOT_FOUND"),
        ("pull", {"remote": "nowhere"}, 404, "GIT_REPO_NOT_FOUND"),
    ],
)
def test_what_git_refuses_has_the_apis_code(
    toolbox: Toolbox, repository: Path, operation: str, body: dict[str, str], status: int, code: str
) -> None:
    answer = git(toolbox, operation, **body)
    assert (answer.status, answer.json()["code"], answer.json()["source"]) == (status, code, "DAYTONA_DAEMON")


def test_the_machine_tells_its_version_and_directories(toolbox: Toolbox) -> None:
    assert toolbox("GET", "/version").json() == {"version": __version__}
    assert toolbox("GET", "/work-dir").json() == toolbox("GET", "/project-dir").json() == {"dir": "/workspace"}
    assert toolbox("GET", "/user-home-dir").json() == {"dir": "/root"}


def test_a_port_is_in_use_while_somebody_listens(toolbox: Toolbox) -> None:
    with socket.socket() as listener:
        port = next(port for port in range(3000, 10_000) if listener.connect_ex(("127.0.0.1", port)) != 0)
        listener.close()
    with socket.create_server(("127.0.0.1", port)):
        assert toolbox("GET", f"/port/{port}/in-use").json() == {"isInUse": True}
        assert port in toolbox("GET", "/port").json()["ports"]
    assert toolbox("GET", f"/port/{port}/in-use").json() == {"isInUse": False}


@pytest.mark.parametrize("port", ["80", "10000", "x", "-1", "99999999999999999999"])
def test_other_ports_are_refused(toolbox: Toolbox, port: str) -> None:
    answer = toolbox("GET", f"/port/{port}/in-use")
    assert (answer.status, answer.json()["code"]) == (400, "BAD_REQUEST")


def test_variables_are_changed_for_what_is_started_later(toolbox: Toolbox) -> None:
    def seen() -> str:
        return str(toolbox("POST", "/process/execute", {"command": "echo $ONE:$TWO:$SIX"}).json()["result"])

    toolbox("POST", "/env", {"set": {"ONE": "secret-1", "TWO": "secret-2", "SIX": "6"}})
    before = seen()
    changed = toolbox("POST", "/env", {"set": {"TWO": "2"}, "unset": ["SIX"], "unsetValuePrefix": "secret-"})
    assert (before, changed.status, seen()) == ("secret-1:secret-2:6\n", 200, ":2:\n")
    toolbox("POST", "/env", {"unset": ["TWO"]})


@pytest.mark.parametrize("variables", [{"A=B": "x"}, {"": "x"}, {"A": "a\0b"}, {"A": "x" * 200_000}])
def test_variables_that_cannot_be_are_refused(toolbox: Toolbox, variables: dict[str, str]) -> None:
    assert toolbox("POST", "/env", {"set": variables}).status == 400
    assert toolbox("POST", "/process/execute", {"command": "true"}).json()["exitCode"] == 0


def test_the_load_of_the_machine_is_told(toolbox: Toolbox) -> None:
    load = toolbox("GET", "/system/metrics").json()
    assert load["cpuCount"] >= 1
    assert 0 < load["memUsed"] <= load["memTotal"]
    assert load["diskFree"] + load["diskUsed"] == load["diskTotal"]
