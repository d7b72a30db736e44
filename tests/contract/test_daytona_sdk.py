"""The full ``daytona`` SDK, sync and async, against a stand-alone daemon: from `create` to `delete`, no control plane.

What ModuleX offers over Daytona are its twelve actions, each with a test of its own in `test_modulex`.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.contract.clients import Driver
from tests.contract.conftest import start
from tests.contract.sdk import Refused, Sdk, make, ready
from tests.githttp import PASSWORD, USER, serve

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made = start(tmp_path_factory.mktemp("alone"), "--standalone", "--processes-grace", "1")
    yield made
    assert made.term() == 0


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, sdk_driver: Driver, daemon: Daemon) -> Sdk:
    return ready(daemon, sdk_driver, request.param)


@pytest.fixture
def box(sdk: Sdk) -> Iterator[Sdk]:
    """The SDK, with a sandbox that is kept as ``box``."""
    sdk("client.create", keep="box")
    yield sdk
    sdk("box.delete")


@pytest.fixture
def place(daemon: Daemon, tmp_path: Path) -> Iterator[str]:
    """A directory that no other test uses."""
    here = daemon.root / "workspace" / tmp_path.name
    here.mkdir(exist_ok=True)
    yield f"/workspace/{tmp_path.name}"
    shutil.rmtree(here)


def names(sdk: Sdk, path: str) -> list[str]:
    return [one["name"] for one in sdk("box.fs.list_files", path)]


def test_files_are_uploaded_described_and_downloaded(box: Sdk, place: str, tmp_path: Path) -> None:
    content = "\0\xff" * 50_000
    box("box.fs.upload_file", {"latin1": content}, f"{place}/d/a")
    (tmp_path / "local").write_bytes(b"local")
    box("box.fs.upload_file", str(tmp_path / "local"), f"{place}/b")
    found = box("box.fs.get_file_info", f"{place}/d/a")
    assert (found["size"], found["is_dir"], found["permissions"]) == (100_000, False, "0644")
    assert box("box.fs.download_file", f"{place}/d/a") == content
    assert box("box.fs.download_file_stream", f"{place}/d/a") == content
    box("box.fs.download_file", f"{place}/b", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"local"


def test_several_files_go_and_come_in_one_request(box: Sdk, place: str) -> None:
    sent = [make("FileUpload", source={"latin1": name * 10}, destination=f"{place}/{name}") for name in "ab"]
    box("box.fs.upload_files", sent)
    asked = [make("FileDownloadRequest", source=f"{place}/{name}") for name in ("a", "b", "missing")]
    came = box("box.fs.download_files", asked)
    assert [one["result"] for one in came] == ["a" * 10, "b" * 10, None]
    assert "missing" in came[2]["error"]


def test_a_stream_is_uploaded(box: Sdk, place: str) -> None:
    box("box.fs.upload_file_stream", {"latin1": "x" * 3_000_000}, f"{place}/streamed")
    assert box("box.fs.get_file_info", f"{place}/streamed")["size"] == 3_000_000


def test_entries_are_made_moved_changed_and_deleted(box: Sdk, place: str) -> None:
    box("box.fs.create_folder", f"{place}/d", "755")
    box("box.fs.upload_file", {"latin1": "1"}, f"{place}/d/a")
    box("box.fs.move_files", f"{place}/d/a", f"{place}/b")
    box("box.fs.set_file_permissions", f"{place}/b", mode="600", owner="alice")
    assert box("box.fs.get_file_info", f"{place}/b")["mode"] == "-rw-------"
    assert sorted(names(box, place)) == ["b", "d"]
    box("box.fs.delete_file", f"{place}/d", recursive=True)
    assert names(box, place) == ["b"]


def test_text_and_names_are_found_and_text_is_replaced(box: Sdk, place: str) -> None:
    box("box.fs.upload_file", {"latin1": "one\ntwo\n"}, f"{place}/a.py")
    assert box("box.fs.find_files", place, "two")[0]["line"] == 2
    assert box("box.fs.search_files", place, "*.py")["files"] == [f"{place}/a.py"]
    assert box("box.fs.replace_in_files", [f"{place}/a.py"], "two", "2")[0]["success"] is True
    assert box("box.fs.download_file", f"{place}/a.py") == "one\n2\n"


def test_a_command_of_a_session_runs_beside_and_is_followed(box: Sdk, place: str) -> None:
    box("box.process.create_session", "s")
    asked = make("SessionExecuteRequest", command=f"cd {place[11:]}; echo a; sleep 0.2; echo b >&2", run_async=True)
    begun = box("box.process.execute_session_command", "s", asked)["cmd_id"]
    assert box("follow", {"kept": "box process"}, "s", begun) == {"stdout": "a\n", "stderr": "b\n"}
    logs = box("box.process.get_session_command_logs", "s", begun)
    assert (logs["stdout"], logs["stderr"], logs["output"]) == ("a\n", "b\n", "a\nb\n")
    assert box("box.process.get_session_command", "s", begun)["exit_code"] == 0
    ran = box("box.process.execute_session_command", "s", make("SessionExecuteRequest", command="pwd"))
    assert ran["stdout"].rstrip().endswith(place)
    assert [one["session_id"] for one in box("box.process.list_sessions")] == ["s"]
    box("box.process.delete_session", "s")


def test_a_session_is_fed(box: Sdk) -> None:
    box("box.process.create_session", "fed")
    asked = make("SessionExecuteRequest", command="read x; echo got $x", run_async=True)
    begun = box("box.process.execute_session_command", "fed", asked)["cmd_id"]
    box("box.process.send_session_command_input", "fed", begun, "it\n")
    assert box("follow", {"kept": "box process"}, "fed", begun)["stdout"] == "got it\n"


def test_a_terminal_takes_what_is_typed_and_tells_its_end(box: Sdk) -> None:
    said = box("pty", {"kept": "box process"}, "t", "stty size; exit 3\n")
    assert "30 100" in said["shown"]
    assert said["exit_code"] == 3
    assert box("box.process.list_pty_sessions") == []


def test_the_code_interpreter_keeps_its_state(box: Sdk) -> None:
    assert box("box.code_interpreter.run_code", "x = 20; print(x)")["stdout"] == "20\n"
    assert box("box.code_interpreter.run_code", "print(x + 1)")["stdout"] == "21\n"
    assert box("box.code_interpreter.run_code", "1 / 0")["error"]["name"] == "ZeroDivisionError"
    made = box("box.code_interpreter.create_context")
    assert [one["id"] for one in box("box.code_interpreter.list_contexts")] == [made["id"]]
    with pytest.raises(Refused, match="DaytonaTimeoutError"):
        box("box.code_interpreter.run_code", "import time; time.sleep(60)", timeout=1)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A repository that takes what is pushed by HTTP."""
    if shutil.which("git") is None:
        pytest.skip("no git in this machine")
    made = tmp_path / "repositories" / "remote"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", made], check=True)
    subprocess.run(["git", "-C", made, "config", "http.receivepack", "true"], check=True)
    return made


def test_git_works_over_http_with_a_password(box: Sdk, place: str, remote: Path) -> None:
    who, repo = {"username": USER, "password": PASSWORD}, f"{place}/repo"
    with serve(remote.parent) as site:
        box("box.git.clone", f"{site.url}/remote", repo, **who)
        box("box.fs.upload_file", {"latin1": "1"}, f"{repo}/a")
        assert box("box.git.status", repo)["file_status"][0]["name"] == "a"
        box("box.git.add", repo, ["."])
        made = box("box.git.commit", repo, "first", "Ann", "ann@example.org")["sha"]
        box("box.git.push", repo, **who)
        box("box.git.pull", repo, **who)
        box("box.git.create_branch", repo, "other")
        box("box.git.checkout_branch", repo, "other")
    assert sorted(box("box.git.branches", repo)["branches"]) == ["main", "other"]
    seen = subprocess.run(["git", "-C", remote, "rev-parse", "main"], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == made


def test_the_sandbox_tells_of_itself(box: Sdk) -> None:
    assert box("box.get_work_dir") == "/workspace"
    assert box("box.get_user_home_dir") == "/root"
    assert box("box.get_metrics_latest")["mem_total"] > 0
    box("box.update_env", {"TOLD": "1"})
    assert box.run("box", "echo $TOLD") == (0, "1\n")
    with pytest.raises(Refused, match="DaytonaNotFoundError"):
        box("box.process.get_entrypoint_session")


def test_labels_and_intervals_are_kept(box: Sdk) -> None:
    assert box("box.set_labels", {"a": "b"}) == {"a": "b"}
    box("box.set_autostop_interval", 30)
    box("box.set_auto_delete_interval", 60)
    box("box.set_ttl", 90)
    box("box.refresh_activity")
    ident = box("box.model_dump")["id"]
    found = box("client.get", ident)
    assert (found["labels"], found["auto_stop_interval"], found["auto_delete_interval"]) == ({"a": "b"}, 30, 60)
    assert found["auto_destroy_at"] is not None


def test_several_sandboxes_at_once_have_processes_and_variables_of_their_own(sdk: Sdk, place: str) -> None:
    for name in ("one", "two", "three"):
        sdk.create(name, name=f"{name}-{sdk.style}", env_vars={"WHO": name})
        sdk(f"{name}.process.create_session", "same")
    sdk.run("one", f"cd {place[11:]}; echo shared > file; sleep 600 & echo $! > pid")
    assert [sdk.run(name, "echo $WHO")[1] for name in ("one", "two", "three")] == ["one\n", "two\n", "three\n"]
    assert sdk.run("two", f"cat {place[11:]}/file") == (0, "shared\n")
    _, pid = sdk.run("two", f"cat {place[11:]}/pid")
    sdk("two.stop")
    os.kill(int(pid), 0)
    sdk("one.delete")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert sdk.run("three", "echo $WHO") == (0, "three\n")
    for name in ("two", "three"):
        sdk(f"{name}.delete")
