"""Entries made, described, linked, removed, and given other owners and modes."""

import os
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.filing import Filing, code, facts

NOBODY, OTHER = 65534, 4242


@pytest.fixture
def files(shared: Daemon, home: Path) -> Filing:
    return Filing(shared, home)


# -- directories


@pytest.mark.parametrize(("user", "owner"), [(None, 0), ("nobody", NOBODY)])
def test_a_directory_is_made_with_all_above_it(files: Filing, home: Path, user: str | None, owner: int) -> None:
    answer = files.op("mkdir", "a/b/c", user=user)
    assert (answer.status, answer.body) == (204, b"")
    assert {facts(home / one) for one in ("a", "a/b", "a/b/c")} == {(owner, owner, "0755")}


def test_a_directory_that_is_there_stays_as_it_is(files: Filing, home: Path) -> None:
    (home / "a").mkdir(mode=0o700)
    (home / "link").symlink_to("a")
    for path in ("a", "link", "a/"):
        assert files.op("mkdir", path, user="nobody").status == 204
    assert facts(home / "a") == (0, 0, "0700")


@pytest.mark.parametrize("path", ["file", "file/below", "file/far/below"])
def test_a_directory_does_not_take_the_place_of_a_file(files: Filing, home: Path, path: str) -> None:
    (home / "file").write_text("x")
    assert code(files.op("mkdir", path)) == (409, "not_a_directory")
    assert (home / "file").read_text() == "x"


# -- modes and owners


@pytest.mark.parametrize(("text", "mode"), [("0640", "0640"), ("755", "0755"), ("7", "0007"), ("4755", "4755")])
def test_a_mode_is_given_in_octal(files: Filing, home: Path, text: str, mode: str) -> None:
    (home / "file").write_text("x")
    answer = files.op("permissions", "file", permissions=text)
    assert (answer.status, answer.body) == (204, b"")
    assert facts(home / "file")[2] == mode == files.op("info", "file").json()["permissions"]


@pytest.mark.parametrize("text", ["", "8", "u+x", "10000", "-1", " 644", "644\n", "0x1ff", "777777777"])
def test_any_other_mode_is_refused(files: Filing, home: Path, text: str) -> None:
    (home / "file").write_text("x")
    assert code(files.op("permissions", "file", permissions=text)) == (400, "invalid_request")


def test_a_mode_is_that_of_what_a_link_leads_to(files: Filing, home: Path) -> None:
    (home / "dir").mkdir()
    (home / "link").symlink_to("dir")
    files.op("permissions", "link", permissions="0711")
    assert facts(home / "dir")[2] == "0711"


def test_an_owner_is_given_by_name_or_number(files: Filing, home: Path) -> None:
    (home / "file").write_text("x")
    answer = files.op("owner", "file", owner="nobody", group=str(OTHER)).json()
    assert (answer["owner"], answer["group"]) == ("nobody", str(OTHER))
    files.op("owner", "file", group="root")
    assert facts(home / "file")[:2] == (NOBODY, 0)


def test_an_owner_is_that_of_what_a_link_leads_to_unless_the_link_is_meant(files: Filing, home: Path) -> None:
    (home / "file").write_text("x")
    (home / "link").symlink_to("file")
    files.op("owner", "link", owner=str(OTHER))
    answer = files.op("owner", "link", owner="nobody", follow=False).json()
    assert (answer["type"], answer["symlink_target"]) == ("symlink", "file")
    assert (facts(home / "file")[0], facts(home / "link")[0]) == (OTHER, NOBODY)


@pytest.mark.parametrize(
    ("body", "word"),
    [({}, "invalid_request"), ({"owner": "no-such"}, "unknown_user"), ({"group": "no-such"}, "unknown_user")],
)
def test_an_owner_that_nobody_is_is_refused(files: Filing, home: Path, body: dict[str, str], word: str) -> None:
    (home / "file").write_text("x")
    assert code(files.op("owner", "file", **body)) == (400, word)


# -- links and what is known of entries


@pytest.mark.parametrize(("user", "owner"), [(None, 0), ("nobody", NOBODY)])
def test_a_symbolic_link_is_made_with_any_target(files: Filing, home: Path, user: str | None, owner: int) -> None:
    answer = files.op("link", "a/link", target="no/such thing", user=user).json()
    assert (answer["type"], answer["symlink_target"]) == ("symlink", "no/such thing")
    assert os.readlink(home / "a/link") == "no/such thing"
    assert facts(home / "a/link")[:2] == facts(home / "a")[:2] == (owner, owner)
    assert files.left() == []


def test_a_hard_link_is_one_more_name_of_a_file(files: Filing, home: Path) -> None:
    (home / "file").write_text("x")
    (home / "dir").mkdir()
    assert files.op("link", "a/name", target=files.path("file"), hard=True).status == 200
    assert (home / "a/name").samefile(home / "file")
    assert files.op("stat", "file").json()["nlink"] == 2
    assert code(files.op("link", "other", target=files.path("dir"), hard=True)) == (409, "is_a_directory")
    assert code(files.op("link", "other", target=files.path("missing"), hard=True)) == (404, "not_found")


@pytest.mark.parametrize("hard", [False, True])
def test_a_link_replaces_nothing(files: Filing, home: Path, hard: bool) -> None:
    (home / "file").write_text("x")
    (home / "there").write_text("y")
    for place in ("there", "file"):
        assert code(files.op("link", place, target=files.path("file"), hard=hard)) == (409, "conflict")
    assert (home / "there").read_text() == "y"
    assert files.left() == []


def test_stat_tells_of_a_link_itself_or_of_what_it_leads_to(files: Filing, home: Path) -> None:
    (home / "file").write_text("text")
    os.setxattr(home / "file", "user.note", b"1")
    (home / "link").symlink_to("file")
    link, file = files.op("stat", "link").json(), files.op("stat", "link", follow=True).json()
    assert (link["type"], link["symlink_target"], link["inode"]) == ("symlink", "file", (home / "link").lstat().st_ino)
    found = (home / "file").stat()
    assert (file["inode"], file["modified_ns"], file["blocks"]) == (found.st_ino, found.st_mtime_ns, found.st_blocks)
    assert (file["size"], file["xattrs"], file["uid"], "symlink_target" in file) == (4, ["user.note"], 0, False)


def test_a_broken_link_is_there(files: Filing, home: Path) -> None:
    (home / "link").symlink_to("nowhere")
    assert files.op("exists", "link").json() == {"exists": True}
    assert files.op("info", "link").json()["symlink_target"] == "nowhere"
    assert code(files.op("read", "link")) == (404, "not_found")
    assert files.op("remove", "link").status == 204


# -- removing


def test_a_tree_is_removed_with_all_that_is_in_it(files: Filing, home: Path) -> None:
    (home / "tree/a/b").mkdir(parents=True)
    (home / "tree/a/file").write_text("x")
    (home / "tree/link").symlink_to(home)
    os.mkfifo(home / "tree/fifo")
    (home / "tree/a").chmod(0)
    answer = files.op("remove", "tree")
    assert (answer.status, answer.body) == (204, b"")
    assert list(home.iterdir()) == []
    assert files.left() == []


def test_a_link_is_removed_and_not_what_it_leads_to(files: Filing, home: Path) -> None:
    (home / "dir").mkdir()
    (home / "dir/kept").write_text("x")
    (home / "link").symlink_to("dir")
    assert files.op("remove", "link").status == 204
    assert [path.name for path in home.iterdir()] == ["dir"]
    assert (home / "dir/kept").exists()


@pytest.mark.parametrize(
    "path", ["/", "/workspace", "/workspace/.", "/workspace/.nullspace", "/workspace/.nullspace/writes"]
)
def test_the_daemons_own_tree_is_not_removed_nor_what_holds_it(files: Filing, path: str) -> None:
    assert files.op("remove", path).status in (400, 403)
    assert (files.daemon.root / "workspace/.nullspace/token").exists()


def test_an_empty_path_names_nothing(files: Filing) -> None:
    for name in ("remove", "mkdir", "info", "exists", "read", "stat"):
        assert code(files.daemon.call("POST", f"/v1/files/{name}", {"path": "", "user": "nobody"})) == (
            400,
            "invalid_path",
        )
    for body in ({"old_path": "", "new_path": "x"}, {"old_path": "x", "new_path": ""}):
        assert code(files.daemon.call("POST", "/v1/files/rename", body)) == (400, "invalid_path")
    assert code(files.daemon.call("PUT", "/v1/file?path=", b"x")) == (400, "invalid_path")
    assert files.daemon.call("POST", "/v1/files/info", {"path": "."}).json()["path"] == "/workspace"


def test_a_deep_tree_is_removed(files: Filing, home: Path) -> None:
    fd = os.open(home, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    assert files.op("remove", "d").status == 204
    assert list(home.iterdir()) == []
