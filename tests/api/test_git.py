"""What the git routes promise, with real repositories."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Answer, Daemon
from tests.processes import BOB, with_bob

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git in this machine")

WHO = {"author_name": "Ann Ö", "author_email": "ann@example.org"}
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = with_bob(tmp_path_factory.mktemp("git"))
    yield daemon
    assert daemon.term() == 0


def ask(daemon: Daemon, operation: str, **body: Any) -> Answer:
    return daemon.call("POST", f"/v1/git/{operation}", body)


@pytest.fixture
def git(sandbox: Daemon, tmp_path: Path) -> Ask:
    """``git("commit", message=...)``: the answer to a POST about the repository of this test, which has to be 200."""

    def call(operation: str, **body: Any) -> Any:
        answer = ask(sandbox, operation, **{"path": tmp_path.name, **body})
        assert answer.status == 200, answer.body
        return answer.json()

    return call


@pytest.fixture
def see(sandbox: Daemon, tmp_path: Path) -> Ask:
    """``see("status")``: the answer to a GET about the repository of this test."""
    return lambda what, query="": sandbox.call("GET", f"/v1/git/{what}?path={tmp_path.name}{query}").json()


@pytest.fixture
def here(sandbox: Daemon, tmp_path: Path) -> Path:
    """The repository of this test, from outside: nothing committed yet."""
    made = sandbox.root / "workspace" / tmp_path.name
    run("init", "-q", "-b", "main", made)
    return made


@pytest.fixture
def committed(here: Path, git: Ask) -> Path:
    """The same with one commit, of the file ``a``."""
    (here / "a").write_text("1\n")
    git("commit", message="first", add_all=True, **WHO)
    return here


def run(*arguments: object) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    made = subprocess.run(["git", *identity, *map(str, arguments)], stdout=subprocess.PIPE, check=True)
    return made.stdout.decode("utf-8", "surrogateescape").strip()


def test_a_new_repository_has_a_branch_without_commits(here: Path, see: Ask) -> None:
    (here / "new").touch()
    changed = [{"path": "new", "status": "??", "staged": False, "unstaged": True}]
    assert see("status") == {"detached": False, "clean": False, "changed": changed, "branch": "main"}
    assert see("log") == {"commits": []}
    assert see("branch") == {"branches": [], "current": "main"}


def test_a_commit_is_told_and_listed(here: Path, git: Ask, see: Ask) -> None:
    (here / "a").write_text("1\n")
    sha = git("commit", message="first: ä\n\n# no comment\n", add_all=True, **WHO)["sha"]
    (commit,) = see("log")["commits"]
    assert (commit["sha"], commit["author_name"], commit["author_email"]) == (sha, "Ann Ö", "ann@example.org")
    assert (commit["message"], commit["date"][:2], run("-C", here, "rev-parse", "HEAD")) == (
        "first: ä\n\n# no comment",
        "20",
        sha,
    )
    assert see("status") == {"detached": False, "clean": True, "changed": [], "branch": "main"}


def test_the_log_is_as_long_as_asked_for_and_newest_first(committed: Path, git: Ask, see: Ask) -> None:
    for number in range(3):
        (committed / "a").write_text(str(number))
        git("commit", message=f"m{number}", files=["a"], **WHO)
    assert [commit["message"] for commit in see("log", "&limit=2")["commits"]] == ["m2", "m1"]
    assert len(see("log")["commits"]) == 4


def test_what_is_staged_is_told_apart_from_what_is_not(committed: Path, git: Ask, see: Ask) -> None:
    (committed / "a").write_text("2\n")
    (committed / "b").write_text("b")
    (committed / "c").write_text("c")
    git("add", files=["b"])
    assert {change["path"]: (change["status"], change["staged"]) for change in see("status")["changed"]} == {
        "a": (".M", False),
        "b": ("A.", True),
        "c": ("??", False),
    }
    git("add")
    assert all(change["staged"] for change in see("status")["changed"])


def test_a_rename_has_both_names_and_a_deletion_is_staged_too(committed: Path, git: Ask, see: Ask) -> None:
    (committed / "gone").write_text("x")
    git("commit", message="m", add_all=True, **WHO)
    (committed / "gone").unlink()
    (committed / "a").rename(committed / "new name")
    git("add", files=[])
    assert see("status")["changed"] == [
        {"path": "gone", "status": "D.", "staged": True, "unstaged": False},
        {"path": "new name", "status": "R.", "staged": True, "unstaged": False, "original_path": "a"},
    ]


def test_names_travel_whatever_bytes_they_have(committed: Path, git: Ask, see: Ask) -> None:
    for name in (b"\xff\n", b"-f", "ü".encode(), b'"q"', b":(top)x"):
        (committed / os.fsdecode(name)).write_bytes(name)
    assert {change["path"] for change in see("status")["changed"]} == {"\udcff\n", "-f", "ü", '"q"', ":(top)x"}
    git("add", files=["-f", "\udcff\n"])
    assert {change["path"] for change in see("status")["changed"] if change["staged"]} == {"\udcff\n", "-f"}


def test_ten_thousand_files_are_told(here: Path, see: Ask) -> None:
    (here / "many").mkdir()
    for number in range(10_000):
        (here / f"many/{number:05}").touch()
    changed = see("status")["changed"]
    assert (len(changed), changed[-1]["path"]) == (10_000, "many/09999")


def test_branches_are_made_changed_and_deleted(committed: Path, git: Ask, see: Ask) -> None:
    git("branch", name="side", action="create")
    assert see("branch") == {"branches": ["main", "side"], "current": "main"}
    git("checkout", ref="side")
    git("checkout", ref="deep/er", create=True)
    (committed / "b").touch()
    git("commit", message="m", add_all=True, **WHO)
    git("checkout", ref="main")
    git("branch", name="side", action="delete")
    git("branch", name="deep/er", action="delete", force=True)
    assert see("branch") == {"branches": ["main"], "current": "main"}


def test_a_detached_head_has_no_branch(committed: Path, git: Ask, see: Ask) -> None:
    git("checkout", ref=run("-C", committed, "rev-parse", "HEAD"))
    assert see("status") == {"detached": True, "clean": True, "changed": []}
    assert see("branch") == {"branches": ["main"]}


def test_a_file_in_conflict_is_not_staged(committed: Path, git: Ask, see: Ask, sandbox: Daemon) -> None:
    git("checkout", ref="side", create=True)
    for branch in ("side", "main"):
        git("checkout", ref=branch)
        (committed / "a").write_text(branch)
        git("commit", message=branch, add_all=True, **WHO)
    for key, value in (("pull.rebase", "false"), ("user.name", "t"), ("user.email", "t@t")):
        run("-C", committed, "config", key, value)
    answer = ask(sandbox, "pull", path=committed.name, remote=".", branch="side")
    assert (answer.status, answer.json()["code"]) == (422, "git_error")
    assert "CONFLICT" in answer.json()["error"]
    assert see("status")["changed"] == [{"path": "a", "status": "UU", "staged": False, "unstaged": True}]


def test_a_submodule_is_one_entry(committed: Path, git: Ask, see: Ask) -> None:
    run("-c", "protocol.file.allow=always", "-C", committed, "submodule", "--quiet", "add", "./", "sub")
    assert {change["path"] for change in see("status")["changed"]} == {".gitmodules", "sub"}


def test_a_clone_pushes_and_pulls(sandbox: Daemon, committed: Path, git: Ask, see: Ask, tmp_path: Path) -> None:
    bare, clone = tmp_path / "bare.git", f"{tmp_path.name}-clone"
    run("clone", "-q", "--bare", committed, bare)
    answer = ask(sandbox, "clone", url=str(bare), path=f"deep/{clone}", branch="main")
    assert answer.json() == {"path": f"/workspace/deep/{clone}"}
    run("-C", committed, "remote", "add", "origin", bare)
    (committed / "a").write_text("2\n")
    git("commit", message="second", add_all=True, **WHO)
    assert "HEAD -> main" in git("push", set_upstream=True)["summary"]
    assert (see("status")["ahead"], see("status")["behind"]) == (0, 0)
    assert "a | 2 +-" in ask(sandbox, "pull", path=f"deep/{clone}").json()["summary"]
    assert (sandbox.root / "workspace/deep" / clone / "a").read_text() == "2\n"


def test_a_shallow_clone_has_the_newest_commits_alone(sandbox: Daemon, committed: Path, git: Ask) -> None:
    (committed / "b").touch()
    git("commit", message="m", add_all=True, **WHO)
    ask(sandbox, "clone", url=f"file://{committed}", path=f"{committed.name}-s", depth=1)
    log = sandbox.call("GET", f"/v1/git/log?path={committed.name}-s").json()
    assert [commit["message"] for commit in log["commits"]] == ["m"]


def test_the_workspace_takes_a_clone_although_the_daemon_lives_in_it(
    start_daemon: Any, committed: Path, tmp_path: Path
) -> None:
    (committed / ".nullspace").mkdir()
    (committed / ".nullspace/token").write_text("forged")
    run("-C", committed, "add", "-A")
    run("-C", committed, "commit", "-q", "-m", "hostile")
    daemon = start_daemon()
    token = (daemon.root / "workspace/.nullspace/token").read_text()
    assert ask(daemon, "clone", url=str(committed), path="/workspace").json() == {"path": "/workspace"}
    assert sorted(os.listdir(daemon.root / "workspace")) == [".git", ".nullspace", "a"]
    run("-C", daemon.root / "workspace", "reset", "-q", "--hard")
    status = daemon.call("GET", "/v1/git/status").json()
    assert (status["clean"], (daemon.root / "workspace/.nullspace/token").read_text()) == (True, token)
    again = ask(daemon, "clone", url=str(committed), path="/workspace")
    assert (again.status, again.json()["code"]) == (409, "conflict")


def test_the_daemon_s_own_tree_is_never_committed(start_daemon: Any) -> None:
    daemon = start_daemon()
    run("init", "-q", daemon.root / "workspace")
    (daemon.root / "workspace/a").touch()
    assert ask(daemon, "commit", path="/workspace", message="m", add_all=True, **WHO).status == 200
    assert run("-C", daemon.root / "workspace", "ls-files") == "a"


def test_a_failed_clone_into_the_workspace_leaves_nothing(start_daemon: Any) -> None:
    daemon = start_daemon()
    answer = ask(daemon, "clone", url="/nothing/here", path="/workspace")
    assert (answer.status, answer.json()["details"]["exit_code"]) == (422, 128)
    assert os.listdir(daemon.root / "workspace") == [".nullspace"]


def test_what_a_user_makes_is_the_user_s(sandbox: Daemon, tmp_path: Path) -> None:
    home = sandbox.root / "home/bob"
    source = tmp_path / "source"
    run("init", "-q", source)
    run("-C", source, "commit", "-q", "--allow-empty", "-m", "m")
    os.chown(tmp_path, BOB, BOB)
    run("clone", "-q", "--bare", source, home / f"{tmp_path.name}.git")
    shutil.copytree(home / f"{tmp_path.name}.git", home / "b.git", dirs_exist_ok=True)
    subprocess.run(["chown", "-R", f"{BOB}:{BOB}", home], check=True)
    answer = ask(sandbox, "clone", url="./b.git", path="mine", user="bob")
    assert answer.json() == {"path": "/home/bob/mine"}
    assert {found.stat().st_uid for found in (home / "mine").rglob("*")} == {BOB}
    root = sandbox.call("GET", "/v1/git/status?path=/home/bob/mine").json()
    assert "dubious ownership" in root["error"]


@pytest.mark.parametrize(
    ("operation", "body", "status", "code"),
    [
        ("clone", {"url": "--upload-pack=touch /tmp/x"}, 400, "invalid_request"),
        ("clone", {"url": "https://u:p@127.0.0.1:9/x"}, 400, "invalid_request"),
        ("clone", {"url": "x", "depth": 0}, 400, "invalid_request"),
        ("clone", {"url": "x", "path": "/workspace/.nullspace/x"}, 403, "permission_denied"),
        ("clone", {"url": "ext::sh -c true"}, 422, "git_error"),
        ("checkout", {"ref": "--orphan"}, 400, "invalid_request"),
        ("branch", {"name": "-D"}, 400, "invalid_request"),
        ("branch", {"name": "a..b"}, 422, "git_error"),
        ("branch", {"name": "x", "action": "rename"}, 400, "invalid_request"),
        ("commit", {"message": ""}, 400, "invalid_request"),
        ("commit", {"message": "\ud800"}, 400, "invalid_request"),
        ("commit", {"message": "m", "author_name": "\0", "author_email": "\udcff"}, 400, "exec_failed"),
        ("add", {"files": ["\0"]}, 400, "exec_failed"),
        ("checkout", {"ref": "\udcff"}, 422, "git_error"),
        ("commit", {"message": "m", "author_name": "alone"}, 400, "invalid_request"),
        ("commit", {"message": "nothing staged"}, 422, "git_error"),
        ("add", {"files": ["missing"]}, 422, "git_error"),
        ("pull", {"remote": "--all"}, 400, "invalid_request"),
        ("pull", {"remote": "nowhere"}, 422, "git_error"),
        ("push", {"branch": "-d"}, 400, "invalid_request"),
        ("checkout", {"ref": "x", "path": "/nowhere"}, 404, "not_found"),
        ("checkout", {"ref": "x", "path": "/workspace"}, 422, "git_error"),
        ("checkout", {"ref": "x", "user": "nobody-here"}, 400, "unknown_user"),
    ],
)
def test_what_cannot_be_done_is_refused(
    sandbox: Daemon, committed: Path, operation: str, body: dict[str, Any], status: int, code: str
) -> None:
    path = f"{committed.name}-new" if operation == "clone" else committed.name
    answer = ask(sandbox, operation, **{"path": path, **body})
    assert (answer.status, answer.json()["code"]) == (status, code)


def test_a_sandbox_without_git_says_what_to_do(start_daemon: Any) -> None:
    answer = start_daemon("--processes-path", "/nowhere").call("GET", "/v1/git/status")
    assert (answer.status, answer.json()["code"]) == (501, "not_implemented")
    assert "install" in answer.json()["error"]


def test_git_leaves_no_trace_among_the_processes(sandbox: Daemon, committed: Path) -> None:
    assert not [one for one in sandbox.call("GET", "/v1/processes").json() if "git" in one["command"]]
