"""What a listing promises: all that is there, nothing that is the daemon's, in an order that can be gone on with."""

import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.api.trees import NDJSON, Reader, make
from tests.conftest import Daemon
from tests.process.harness.waiting import eventually

ODD = ["new\nline", "tab\t", " blank ", "quote'\"", "back\\slash", "é", "byte\udcff", "-", "*", ".hidden"]


def test_a_directory_is_listed_by_name_with_all_that_the_contract_says(reader: Reader) -> None:
    make(reader.here, "b", "a/")
    (reader.here / "c").symlink_to("nowhere")
    os.chmod(reader.here / "b", 0o640)
    os.utime(reader.here / "b", (0, 1_000_000_000.25))
    directory, file, link = reader.listed()
    assert file == {
        "name": "b",
        "path": f"{reader.path}/b",
        "is_dir": False,
        "size": 1,
        "type": "file",
        "mode": "0640",
        "permissions": "0640",
        "owner": "root",
        "group": "root",
        "modified_time": "2001-09-09T01:46:40.250000Z",
    }
    assert (directory["is_dir"], directory["type"], link["type"], link["symlink_target"]) == (
        *(True, "dir", "symlink", "nowhere"),
    )


def test_a_listing_says_of_an_entry_what_its_description_says(reader: Reader) -> None:
    make(reader.here, "a")
    info = reader.daemon.call("POST", "/v1/files/info", {"path": f"{reader.path}/a"}).json()
    assert {**reader.listed()[0], "modified_time": None} == {**info, "modified_time": None}


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (None, ["a", "z"]),
        (0, ["a", "z"]),
        (1, ["a", "z"]),
        (2, ["a", "a/b", "z"]),
        (3, ["a", "a/b", "a/b/c", "z"]),
        (1000, ["a", "a/b", "a/b/c", "a/b/c/d", "z"]),
    ],
)
def test_a_depth_of_two_adds_the_grandchildren(reader: Reader, depth: int | None, names: list[str]) -> None:
    make(reader.here, "a/b/c/d", "z")
    assert reader.names(**({} if depth is None else {"depth": depth})) == names


@pytest.mark.parametrize("route", ["files", "entries"])
def test_an_empty_directory_has_no_entries(reader: Reader, route: str) -> None:
    found = reader.get(route).json()
    assert found == ([] if route == "files" else {"entries": [], "errors": []})
    assert reader.lines() == []


def test_names_of_every_kind_come_as_they_are(reader: Reader) -> None:
    make(reader.here, *ODD)
    assert reader.names() == sorted(ODD)
    assert [line["name"] for line in reader.lines()] == sorted(ODD)
    assert [name for page in reader.pages(limit=3) for name in page] == sorted(ODD)


def test_hidden_names_are_left_out_where_that_is_wished(reader: Reader) -> None:
    make(reader.here, ".a/b", "c")
    assert [line["name"] for line in reader.lines(hidden="false", depth=5)] == ["c"]


def test_an_entry_has_what_a_tool_needs_to_compare_it(reader: Reader) -> None:
    make(reader.here, "file")
    os.link(reader.here / "file", reader.here / "other")
    os.chown(reader.here / "file", 12345, 54321)
    found = reader.lines()[0]
    status = (reader.here / "file").stat()
    assert (found["uid"], found["gid"], found["owner"], found["group"]) == (12345, 54321, "12345", "54321")
    assert (found["inode"], found["device"], found["links"]) == (status.st_ino, status.st_dev, 2)
    assert (found["size"], found["allocated"]) == (status.st_size, status.st_blocks * 512)
    assert (found["modified_ns"], found["changed_ns"]) == (status.st_mtime_ns, status.st_ctime_ns)


def test_every_type_of_entry_has_a_word(reader: Reader) -> None:
    os.mkfifo(reader.here / "fifo")
    os.mknod(reader.here / "null", 0o020600, os.makedev(1, 3))
    (reader.here / "link").symlink_to("file")
    make(reader.here, "file", "dir/")
    subprocess.run(["python3", "-c", "import socket; socket.socket(1).bind('socket')"], cwd=reader.here, check=True)
    words = {line["name"]: line["type"] for line in reader.lines()}
    assert words == {
        "fifo": "fifo",
        "null": "char",
        "link": "symlink",
        "file": "file",
        "dir": "dir",
        "socket": "socket",
    }
    assert {entry["type"] for entry in reader.listed()} == {"file", "dir", "symlink", "other"}


def test_times_that_no_calendar_has_do_no_harm(reader: Reader) -> None:
    make(reader.here, "old", "new")
    os.utime(reader.here / "old", ns=(0, -(1 << 62)))
    os.utime(reader.here / "new", ns=(0, (1 << 63) - 1))
    assert len(reader.listed()) == len(reader.lines()) == 2


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_go_through_a_tree_once_each_directory_before_what_is_in_it(reader: Reader, limit: int) -> None:
    make(reader.here, "a/b/c", "a/b/d", "a/e", "a.x", "b/", "c")
    pages = reader.pages(limit=limit, depth=10)
    assert [name for page in pages for name in page] == reader.names(depth=10)
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages[-1]) <= limit


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_go_through_a_tree_backwards_too(reader: Reader, limit: int) -> None:
    make(reader.here, "a/b/c", "a/b/d", "a/e", "b/", "c")
    found = [name for page in reader.pages(limit=limit, depth=10, sort="-name") for name in page]
    assert found == ["c", "b", "a", "a/e", "a/b", "a/b/d", "a/b/c"]


@pytest.mark.parametrize("sort", ["name", "size", "modified"])
@pytest.mark.parametrize("limit", [1, 2, 10])
def test_pages_come_in_the_order_that_is_wished_and_in_its_reverse(reader: Reader, sort: str, limit: int) -> None:
    order = {"name": ["a", "b", "c", "d"], "size": ["d", "a", "c", "b"], "modified": ["c", "d", "b", "a"]}[sort]
    for name, size, modified in (("a", 5, 9), ("b", 9, 7), ("c", 5, 1), ("d", 1, 1)):
        (reader.here / name).write_bytes(bytes(size))
        os.utime(reader.here / name, (modified, modified))
    assert [name for page in reader.pages(limit=limit, sort=sort) for name in page] == order
    assert [name for page in reader.pages(limit=limit, sort=f"-{sort}") for name in page] == order[::-1]


def test_what_is_there_all_the_time_is_given_once_whatever_comes_and_goes(reader: Reader) -> None:
    make(reader.here, *(f"{number:03}" for number in range(0, 100, 2)))
    page = reader.get("entries", limit=10).json()
    first = [entry["name"] for entry in page["entries"]]
    (reader.here / first[-1]).unlink()
    (reader.here / first[0]).unlink()
    make(reader.here, "000a", "019", "099")
    rest = reader.get("entries", cursor=page["cursor"]).json()
    assert [entry["name"] for entry in rest["entries"]] == ["019", *(f"{n:03}" for n in range(20, 100, 2)), "099"]


def test_a_page_goes_on_behind_a_directory_that_is_gone(reader: Reader) -> None:
    make(reader.here, "a/x", "a/y", "b")
    page = reader.get("entries", limit=2, depth=2).json()
    subprocess.run(["rm", "-r", reader.here / "a"], check=True)
    assert [entry["name"] for entry in reader.get("entries", depth=2, cursor=page["cursor"]).json()["entries"]] == ["b"]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_go_on_behind_names_that_are_not_shown(reader: Reader, limit: int) -> None:
    make(reader.here, *(f".{number}" for number in range(10)), "a", "b", "c")
    assert [name for page in reader.pages(limit=limit, hidden="false") for name in page] == ["a", "b", "c"]


@pytest.mark.slow
def test_a_directory_of_100_000_entries_is_listed_whole_in_every_way(reader: Reader) -> None:
    for number in range(100_000):
        if number % 50_000 == 0:
            make(reader.here, first := str(number))
        else:
            os.link(reader.here / first, f"{reader.here}/{number}")
    expected = sorted(map(str, range(100_000)))
    assert sorted(reader.names()) == expected
    assert sorted(line["name"] for line in reader.lines()) == expected
    assert [line["name"] for line in reader.lines(sort="name")] == expected
    assert [name for page in reader.pages(limit=10_000) for name in page] == expected


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "bnVsbA", "WyJzaXplIiwgMCwgImEiXQ", "W10", "Ww" * 3000])
def test_a_cursor_of_something_else_is_refused(reader: Reader, cursor: str) -> None:
    answer = reader.get("entries", cursor=cursor)
    assert (answer.status, answer.json()["code"]) == (400, "invalid_request")


def test_an_order_by_size_is_for_one_directory(reader: Reader) -> None:
    assert reader.get("entries", sort="size", depth=2).status == 400


def test_lines_in_an_order_come_whole_and_with_a_limit_end_with_the_cursor(reader: Reader) -> None:
    make(reader.here, "a", "b", "c")
    assert [line["name"] for line in reader.lines(sort="-name")] == ["c", "b", "a"]
    *first, last = reader.lines(limit=2)
    assert [line["name"] for line in first] == ["a", "b"]
    assert [line["name"] for line in reader.lines(cursor=last["cursor"])] == ["c"]


@pytest.mark.parametrize("route", ["files", "entries"])
@pytest.mark.parametrize(
    ("path", "status"), [("none", 404), ("file", 409), ("loop", 409), ("x" * 300, 400), ("a\0b", 400)]
)
def test_what_is_no_directory_is_refused_before_the_answer_begins(
    reader: Reader, route: str, path: str, status: int
) -> None:
    make(reader.here, "file")
    (reader.here / "loop").symlink_to("loop")
    assert reader.get(route, path=f"{reader.path}/{path}").status == status
    assert reader.get(route, NDJSON, path=f"{reader.path}/{path}").status == status


def test_a_link_to_a_directory_is_followed_as_the_place_asked_for_and_nowhere_else(reader: Reader) -> None:
    make(reader.here, "real/x")
    (reader.here / "link").symlink_to("real")
    assert [entry["path"] for entry in reader.listed(path=f"{reader.path}/link")] == [f"{reader.path}/real/x"]
    assert reader.names(depth=9) == ["link", "real", "real/x"]


def test_the_reserved_tree_is_never_listed(shared: Daemon) -> None:
    for headers in ({}, NDJSON):
        for route in ("files", "entries"):
            body = shared.call("GET", f"/v1/{route}?path=/&depth=9&limit=10000", None, headers).body
            assert b"workspace" in body
            assert b".nullspace" not in body


def test_a_directory_deeper_than_any_path_is_listed_to_its_end(reader: Reader) -> None:
    subprocess.run(
        ["python3", "-c", "import os\nfor _ in range(1100): os.mkdir('dir'); os.chdir('dir')"],
        cwd=reader.here,
        check=True,
    )
    assert len(reader.lines(depth=5000)) == len(reader.listed(depth=5000)) == 1100


@pytest.mark.parametrize("count", [9_999, 10_001])
def test_a_large_directory_comes_whole(reader: Reader, count: int) -> None:
    many(reader.here, count)
    expected = {str(number) for number in range(count)}
    assert (set(names := reader.names()), len(names)) == (expected, count)
    found = [name for page in reader.pages(limit=4000) for name in page]
    assert found == sorted(expected)


def test_a_client_that_leaves_ends_the_listing(reader: Reader) -> None:
    many(reader.here, 20_000)
    with reader.daemon.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /v1/files?path={reader.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {reader.daemon.token}"
        connection.sendall(f"{request}\r\n\r\n".encode())
        assert connection.recv(100)
        assert fds_below(reader) > 0
    assert eventually(lambda: fds_below(reader) == 0)


def many(here: Path, count: int) -> None:
    """Entries with the names 0 to ``count`` - 1, which are one file."""
    here.joinpath("0").touch()
    for number in range(1, count):
        os.link(here / "0", f"{here}/{number}")


def fds_below(reader: Reader) -> int:
    """How many fds the daemon has open in the directory."""
    count = 0
    for fd in Path(f"/proc/{reader.daemon.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += os.readlink(fd).startswith(str(reader.here))
    return count
