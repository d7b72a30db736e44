"""Daytona's toolbox: entries described, listed, made, moved, removed and changed, and the envelope of its errors."""

import os
from pathlib import Path

import pytest

from tests.conftest import Answer, Daemon, StartDaemon
from tests.toolbox import Toolbox


@pytest.fixture
def toolbox(shared: Daemon, home: Path) -> Toolbox:
    return Toolbox(shared, home)


def refused(answer: Answer) -> tuple[int, str]:
    """Status and code, of an answer that is the envelope."""
    said = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert said["source"] == "DAYTONA_DAEMON"
    assert said["statusCode"] == answer.status
    assert said["timestamp"]
    return answer.status, said["code"]


def test_an_entry_is_described_in_the_apis_words(toolbox: Toolbox, home: Path) -> None:
    (home / "a.txt").write_bytes(b"12345")
    os.chown(home / "a.txt", 4001, 4002)
    os.chmod(home / "a.txt", 0o640)
    found = toolbox("GET", "/files/info", path=toolbox.path("a.txt")).json()
    times = found.pop("modTime"), found.pop("modifiedAt")
    assert times[0] == times[1]
    assert times[0].endswith("Z")
    assert found == {
        "name": "a.txt",
        "path": toolbox.path("a.txt"),
        "size": 5,
        "mode": "-rw-r-----",
        "isDir": False,
        "owner": "4001",
        "group": "4002",
        "permissions": "0640",
    }


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_directory_is_listed_as_deep_as_asked(toolbox: Toolbox, home: Path, slash: str) -> None:
    (home / "d/e").mkdir(parents=True)
    (home / "d/f").touch()
    one = toolbox("GET", f"/files{slash}", path=toolbox.path()).json()
    two = toolbox("GET", f"/files{slash}", path=toolbox.path(), depth="2").json()
    assert [(entry["name"], entry["isDir"], entry["mode"][0]) for entry in one] == [("d", True, "d")]
    assert {entry["path"] for entry in two} == {toolbox.path(name) for name in ("d", "d/e", "d/f")}


def test_a_listing_without_a_path_is_that_of_the_workspace(toolbox: Toolbox, home: Path) -> None:
    assert home.name in [entry["name"] for entry in toolbox("GET", "/files").json()]


def test_a_folder_is_made_with_its_mode_and_a_present_one_stays(toolbox: Toolbox, home: Path) -> None:
    made = toolbox("POST", "/files/folder", path=toolbox.path("a/b"), mode="0700")
    again = toolbox("POST", "/files/folder", path=toolbox.path("a/b"), mode="0777")
    assert (made.status, made.body, again.status) == (201, b"", 201)
    assert [(home / name).stat().st_mode & 0o7777 for name in ("a", "a/b")] == [0o755, 0o700]


def test_only_a_recursive_delete_takes_a_directory(toolbox: Toolbox, home: Path) -> None:
    (home / "a/b").mkdir(parents=True)
    assert refused(toolbox("DELETE", "/files", path=toolbox.path("a"))) == (400, "BAD_REQUEST")
    assert (home / "a/b").exists()
    assert toolbox("DELETE", "/files", path=toolbox.path("a"), recursive="true").status == 204
    assert not (home / "a").exists()


def test_a_move_replaces_nothing(toolbox: Toolbox, home: Path) -> None:
    for name in "ab":
        (home / name).write_text(name)
    taken = toolbox("POST", "/files/move", source=toolbox.path("a"), destination=toolbox.path("b"))
    moved = toolbox("POST", "/files/move", source=toolbox.path("a"), destination=toolbox.path("c/d"))
    assert refused(taken) == (409, "CONFLICT")
    assert (moved.status, moved.body, (home / "c/d").read_text()) == (200, b"", "a")


def test_permissions_are_owner_group_and_mode(toolbox: Toolbox, home: Path) -> None:
    (home / "a").touch()
    done = toolbox("POST", "/files/permissions", path=toolbox.path("a"), owner="4001", group="4002", mode="4750")
    found = (home / "a").stat()
    assert (done.status, found.st_uid, found.st_gid, found.st_mode & 0o7777) == (200, 4001, 4002, 0o4750)
    wrong = toolbox("POST", "/files/permissions", path=toolbox.path("a"), mode="9")
    assert refused(wrong) == (400, "BAD_REQUEST")


def test_text_is_found_by_line_as_it_stands(toolbox: Toolbox, home: Path) -> None:
    (home / "a").write_text("x\na.b\naxb\n")
    (home / "b").write_text("nothing")
    found = toolbox("GET", "/files/find", path=toolbox.path(), pattern="a.b").json()
    assert found == [{"file": toolbox.path("a"), "line": 2, "content": "a.b"}]
    assert toolbox("GET", "/files/find", path=toolbox.path(), pattern="zzz").json() == []


def test_names_are_found_by_pattern(toolbox: Toolbox, home: Path) -> None:
    for name in ("a.py", "b.txt"):
        (home / name).touch()
    found = toolbox("GET", "/files/search", path=toolbox.path(), pattern="*.py").json()
    assert found == {"files": [toolbox.path("a.py")]}
    assert toolbox("GET", "/files/search", path=toolbox.path(), pattern="*.c").json() == {"files": []}


def test_text_is_replaced_with_a_result_for_each_file(toolbox: Toolbox, home: Path) -> None:
    (home / "a").write_text("1.1 121")
    files = [toolbox.path("a"), toolbox.path("missing")]
    done = toolbox("POST", "/files/replace", {"files": files, "pattern": "1.1", "newValue": "2"})
    first, second = done.json()
    assert (done.status, first, (home / "a").read_text()) == (200, {"file": files[0], "success": True}, "2 121")
    assert (second["file"], second["success"]) == (files[1], False)
    assert "missing" in second["error"]


@pytest.mark.parametrize(
    ("method", "where", "query", "expected"),
    [
        ("GET", "/files/info", {"path": "/workspace/missing"}, (404, "FILE_NOT_FOUND")),
        ("GET", "/files/info", {"path": ""}, (400, "INVALID_FILE_PATH")),
        ("GET", "/files/info", {}, (400, "BAD_REQUEST")),
        ("GET", "/files", {"path": "/workspace/.nullspace"}, (403, "FILE_ACCESS_DENIED")),
        ("GET", "/files", {"path": "/workspace", "depth": "0"}, (400, "BAD_REQUEST")),
        ("GET", "/files/download", {"path": "/workspace"}, (400, "BAD_REQUEST")),
        ("GET", "/files/download", {"path": "/workspace/.nullspace/token"}, (403, "FILE_ACCESS_DENIED")),
        ("GET", "/nowhere", {}, (404, "NOT_FOUND")),
        ("PATCH", "/files", {}, (405, "BAD_REQUEST")),
    ],
)
def test_a_refusal_is_one_envelope(
    toolbox: Toolbox, method: str, where: str, query: dict[str, str], expected: tuple[int, str]
) -> None:
    answer = toolbox(method, where, **query)
    assert refused(answer) == expected
    assert (answer.json()["path"], answer.json()["method"]) == (f"/daytona{where}", method)


def test_without_the_token_the_envelope_says_so(shared: Daemon) -> None:
    answer = shared.call("GET", "/daytona/files", token=None)
    assert refused(answer) == (401, "UNAUTHORIZED")


def test_both_mounts_lead_to_the_same_rows(shared: Daemon, home: Path) -> None:
    (home / "a").touch()
    toolbox = Toolbox(shared, home, "/daytona/toolbox/any")
    assert toolbox("GET", "/files/info", path=toolbox.path("a")).json()["name"] == "a"


def test_another_sandboxs_requests_are_not_found(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--sandbox-id", "mine")
    assert daemon.call("GET", "/daytona/toolbox/mine/version").status == 200
    assert daemon.call("GET", "/daytona/version").status == 200
    assert refused(daemon.call("GET", "/daytona/toolbox/other/version")) == (404, "NOT_FOUND")
