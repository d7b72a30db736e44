"""What a written file is: whole, in its place at once, with the right owner and mode, by whatever route it came."""

import base64
import json
import os
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer, Daemon
from tests.filing import FORM, Filing, code, facts, form
from tests.uploading import content_of

NOBODY, OTHER = 65534, 4242
MIB = 1 << 20

Write = Callable[..., Answer]


@pytest.fixture
def files(shared: Daemon, home: Path) -> Filing:
    return Filing(shared, home)


def access_list(path: Path) -> bytes:
    """b"" where it has only a mode."""
    name = "system.posix_acl_access"
    return os.getxattr(path, name) if name in os.listxattr(path) else b""


def by_json(files: Filing, path: str, content: bytes, user: str | None = None) -> Answer:
    text = base64.b64encode(content).decode()
    return files.op("write", path, content=text, encoding="base64", user=user)


def by_put(files: Filing, path: str, content: bytes, user: str | None = None) -> Answer:
    return files.put(path, content, **({"user": user} if user else {}))


def by_form(files: Filing, path: str, content: bytes, user: str | None = None) -> Answer:
    query = f"&user={user}" if user else ""
    return files.send(path, form(("file", content)), "POST", query, **FORM)


def by_post(files: Filing, path: str, content: bytes, user: str | None = None) -> Answer:
    return files.send(path, content, "POST", f"&user={user}" if user else "")


def by_batch(files: Filing, path: str, content: bytes, user: str | None = None) -> Answer:
    manifest = {"files": [{"path": files.path(path), "field": "file0"}], "user": user}
    body = form(("manifest", json.dumps(manifest).encode()), ("file0", content))
    answer = files.daemon.call("POST", "/v1/files/batch-write", body, FORM)
    assert [result["status"] for result in answer.json()["results"]] == ["success"]
    return answer


ROUTES = [by_json, by_put, by_form, by_post, by_batch]
routes = pytest.mark.parametrize("write", ROUTES)


@routes
@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1])
def test_the_file_is_what_was_sent(files: Filing, home: Path, write: Write, size: int) -> None:
    content = content_of(size)
    assert write(files, "a/b/file", content).status in (200, 204)
    assert (home / "a/b/file").read_bytes() == content
    assert files.left() == []


@routes
@pytest.mark.parametrize(("user", "owner"), [(None, 0), ("nobody", NOBODY)])
def test_a_new_file_and_its_new_parents_are_the_users(
    files: Filing, home: Path, write: Write, user: str | None, owner: int
) -> None:
    write(files, "a/b/file", b"new", user)
    assert facts(home / "a/b/file") == (owner, owner, "0644")
    assert facts(home / "a") == facts(home / "a/b") == (owner, owner, "0755")


@routes
@pytest.mark.parametrize(("user", "owner"), [(None, OTHER), ("nobody", NOBODY)])
def test_a_replaced_file_keeps_its_mode_and_its_owner_unless_a_user_is_named(
    files: Filing, home: Path, write: Write, user: str | None, owner: int
) -> None:
    (home / "file").write_bytes(b"the old one, which is longer")
    os.chown(home / "file", OTHER, OTHER)
    (home / "file").chmod(0o4640)
    write(files, "file", b"new", user)
    assert (home / "file").read_bytes() == b"new"
    assert facts(home / "file") == (owner, owner, "0640")


def test_a_replaced_file_keeps_its_attributes_and_its_access_list(files: Filing, home: Path) -> None:
    lines = [(1, 6, -1), (2, 4, NOBODY), (4, 0, -1), (16, 6, -1), (32, 0, -1)]  # linux/posix_acl_xattr.h
    rights = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *line) for line in lines)
    (home / "file").write_text("old")
    os.setxattr(home / "file", "user.note", b"kept")
    os.setxattr(home / "file", "system.posix_acl_access", rights)
    files.write("file", user="nobody")
    assert os.getxattr(home / "file", "user.note") == b"kept"
    assert os.getxattr(home / "file", "system.posix_acl_access") == rights
    assert facts(home / "file") == (NOBODY, NOBODY, "0660")


@routes
@pytest.mark.parametrize("mask", [[], [(2, 7, NOBODY), (16, 6, -1)]])
def test_a_new_file_gets_what_its_directory_has_for_new_ones(
    files: Filing, home: Path, write: Write, mask: list[tuple[int, int, int]]
) -> None:
    lines = sorted([(1, 7, -1), (4, 5, -1), (32, 1, -1), *mask])
    rights = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *line) for line in lines)
    os.setxattr(home, "system.posix_acl_default", rights)
    os.close(os.open(home / "made", os.O_WRONLY | os.O_CREAT, 0o666))
    write(files, "file", b"new", None)
    assert access_list(home / "file") == access_list(home / "made")
    assert facts(home / "file") == facts(home / "made")


@routes
def test_a_link_is_written_through_and_stays(files: Filing, home: Path, write: Write) -> None:
    (home / "there").mkdir()
    (home / "link").symlink_to("there/file")
    write(files, "link", b"one")
    write(files, "link", b"two")
    assert os.readlink(home / "link") == "there/file"
    assert (home / "there/file").read_bytes() == b"two"


def test_a_reader_sees_the_old_content_or_the_new_and_nothing_between(files: Filing, home: Path) -> None:
    (home / "file").write_bytes(b"0" * MIB)
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            content = (home / "file").read_bytes()
            seen.add(content[:1] + str(len(content)).encode() + content[-1:])

    reader = threading.Thread(target=look)
    reader.start()
    for digit in range(1, 10):
        files.put("file", str(digit).encode() * MIB)
    done.set()
    reader.join()
    assert seen <= {f"{digit}{MIB}{digit}".encode() for digit in range(10)}


def test_the_old_content_stays_with_those_who_have_it_open_or_linked(files: Filing, home: Path) -> None:
    (home / "file").write_text("old")
    os.link(home / "file", home / "other")
    with (home / "file").open() as opened:
        files.write("file", "new")
        assert opened.read() == "old"
    assert (home / "other").read_text() == "old"


def test_a_written_program_can_be_run_at_once(files: Filing, home: Path) -> None:
    script = home / "run"
    script.write_text("")
    script.chmod(0o755)
    for _ in range(20):
        files.put("run", b"#!/bin/sh\nexit 7\n")
        assert os.waitstatus_to_exitcode(os.system(str(script))) == 7


def test_the_answer_of_a_json_write_describes_the_file(files: Filing, home: Path) -> None:
    (home / "dir").mkdir()
    (home / "link").symlink_to("dir")
    answer = files.write("link/file", "text", user="nobody").json()
    assert answer["path"] == files.path("dir/file")
    said = [answer[key] for key in ("name", "type", "is_dir", "size", "mode", "permissions", "owner")]
    assert said == ["file", "file", False, 4, "0644", "0644", "nobody"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"content": "a\udcffb"}, b"a\xffb"),
        ({"content": "naïve 日本 \U0001f600"}, "naïve 日本 \U0001f600".encode()),
        ({"content": "/+8=", "encoding": "base64"}, b"\xff\xef"),
    ],
)
def test_content_is_text_or_base64(files: Filing, home: Path, body: dict[str, str], expected: bytes) -> None:
    assert files.op("write", "file", **body).status == 200
    assert (home / "file").read_bytes() == expected


@pytest.mark.parametrize(
    "body",
    [
        {"content": "no base64!", "encoding": "base64"},
        {"content": "AAA", "encoding": "base64"},
        {"content": "ä", "encoding": "base64"},
        {"content": "\ud800"},
        {"content": "x", "encoding": "latin-1"},
        {"content": None},
        {},
    ],
)
def test_content_that_is_neither_is_refused(files: Filing, home: Path, body: dict[str, object]) -> None:
    assert code(files.op("write", "file", **body)) == (400, "invalid_request")
    assert list(home.iterdir()) == []


def test_a_json_write_takes_more_than_other_json(files: Filing, home: Path) -> None:
    content = content_of(9 * MIB)
    assert by_json(files, "file", content).status == 200
    assert (home / "file").read_bytes() == content
    assert code(files.op("info", "x" * 2 * MIB)) == (413, "request_too_large")


@pytest.mark.parametrize("route", ["json", "put"])
def test_conflict_error_leaves_what_is_there(files: Filing, home: Path, route: str) -> None:
    def write() -> Answer:
        return files.put("file", b"new", conflict="error") if route == "put" else files.write("file", conflict="error")

    assert write().status in (200, 204)
    (home / "file").write_text("old")
    assert code(write()) == (409, "conflict")
    assert (home / "file").read_text() == "old"


MAKERS: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o666),
    "disk": lambda path: os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(7, 99)),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("act", ["write", "append"])
def test_what_is_no_file_is_neither_written_nor_replaced(files: Filing, home: Path, kind: str, act: str) -> None:
    MAKERS[kind](home / "thing")
    before = (home / "thing").lstat().st_ino
    assert code(files.op(act, "thing", content="x")) == (409, "conflict")
    assert (home / "thing").lstat().st_ino == before


@pytest.mark.parametrize("act", ["write", "append"])
def test_a_character_device_is_given_the_bytes(files: Filing, home: Path, act: str) -> None:
    os.mknod(home / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert files.op(act, "null", content="gone").status == 200
    assert stat.S_ISCHR((home / "null").lstat().st_mode)


@pytest.mark.parametrize("act", ["write", "append", "read"])
def test_a_directory_has_no_content(files: Filing, home: Path, act: str) -> None:
    (home / "dir").mkdir()
    assert code(files.op(act, "dir", content="x")) == (409, "is_a_directory")


def test_a_file_has_nothing_below_it(files: Filing, home: Path) -> None:
    (home / "file").write_text("x")
    assert code(files.write("file/below")) == (409, "not_a_directory")
    assert code(files.put("file/below", b"x")) == (409, "not_a_directory")
    assert files.op("exists", "file/below").json() == {"exists": False}


# -- reading


@pytest.mark.parametrize(
    ("content", "text"), [(b"", ""), ("ä\r\n\0".encode(), "ä\r\n\0"), (b"a\xffb", "a�b"), (b"\xc3", "�")]
)
def test_text_is_read_with_what_is_no_utf_8_replaced(files: Filing, home: Path, content: bytes, text: str) -> None:
    (home / "file").write_bytes(content)
    assert files.op("read", "file").json() == {"content": text, "encoding": "utf8", "size": len(content)}
    read = files.op("read", "file", encoding="base64").json()
    assert base64.b64decode(read["content"]) == content


def test_what_is_missing_is_not_found(files: Filing) -> None:
    for act in ("read", "info", "stat", "remove"):
        assert code(files.op(act, "missing")) == (404, "not_found")
    assert code(files.op("permissions", "missing", permissions="0600")) == (404, "not_found")
    assert files.op("exists", "missing").json() == {"exists": False}


def test_a_file_too_large_for_one_answer_is_refused(files: Filing, home: Path) -> None:
    with (home / "file").open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert code(files.op("read", "file")) == (413, "request_too_large")


# -- appending


def test_appended_content_stands_behind_what_was_there(files: Filing, home: Path) -> None:
    assert files.op("append", "a/log", content="one,", user="nobody").json()["size"] == 4
    inode = (home / "a/log").stat().st_ino
    assert files.op("append", "a/log", content="two").json()["size"] == 7
    assert (home / "a/log").read_text() == "one,two"
    assert (home / "a/log").stat().st_ino == inode
    assert facts(home / "a/log") == (NOBODY, NOBODY, "0644")


def test_appends_at_once_do_not_tear_each_other(files: Filing, home: Path) -> None:
    lines = [f"{number:02}" * 50_000 for number in range(12)]
    threads = [
        threading.Thread(target=files.op, args=("append", "log"), kwargs={"content": f"{line}\n"}) for line in lines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((home / "log").read_text().splitlines()) == lines
