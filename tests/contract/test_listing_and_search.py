"""What the published client experiences when it lists directories and searches files."""

import os
from pathlib import Path

import pytest

from tests.api.trees import make
from tests.contract.clients import Client, Refused
from tests.contract.conftest import ALICE

ODD = ["new\nline", " blank ", "é", "quote'\"", "*", ".hidden"]


def names(client: Client, place: str, **named: object) -> list[str]:
    return [entry.path.removeprefix(f"{place}/") for entry in client("files.list", place, **named)]


def test_a_listed_file_has_all_that_the_contract_promises(client: Client, place: str, here: Path) -> None:
    make(here, "file")
    os.chmod(here / "file", 0o640)
    os.chown(here / "file", ALICE, ALICE)
    os.utime(here / "file", (0, 1_000_000_000.5))
    (found,) = client("files.list", place)
    assert (found.name, found.path, found.type, found.is_dir, found.size) == ("file", f"{place}/file", "file", False, 4)
    assert (found.mode, found.permissions, found.owner, found.group) == ("0640", "0640", "alice", "alice")
    assert found.modified_time.startswith("2001-09-09")


def test_directories_and_links_say_what_they_are(client: Client, place: str, here: Path) -> None:
    make(here, "dir/")
    (here / "link").symlink_to("dir")
    directory, link = client("files.list", place)
    assert (directory.type, directory.is_dir) == ("dir", True)
    assert (link.type, link.is_dir, link.symlink_target) == ("symlink", False, "dir")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, ["a", "b"]),
        ({"depth": 0}, ["a", "b"]),
        ({"depth": 1}, ["a", "b"]),
        ({"depth": 2}, ["a", "a/c", "b"]),
        ({"depth": 3, "user": "alice"}, ["a", "a/c", "a/c/d", "b"]),
    ],
)
def test_a_depth_of_two_adds_the_grandchildren(
    client: Client, place: str, here: Path, named: dict[str, object], expected: list[str]
) -> None:
    make(here, "a/c/d", "b")
    assert names(client, place, **named) == expected


def test_names_of_every_kind_are_listed_and_found(client: Client, place: str, here: Path) -> None:
    make(here, *ODD)
    assert names(client, place) == sorted(ODD)
    assert client("files.search_files", place, "*") == [f"{place}/{name}" for name in sorted(ODD)]


def test_a_large_directory_is_listed_whole(client: Client, place: str, here: Path) -> None:
    make(here, "0")
    for number in range(1, 12_000):
        os.link(here / "0", here / str(number))
    assert len(client("files.list", place)) == 12_000


def test_lines_are_found_by_their_content(client: Client, place: str, here: Path) -> None:
    make(here, "b/")
    (here / "binary").write_bytes(b"import os\n\0")
    (here / "a.py").write_text("import os\nimport sys\n")
    (here / "b/c.py").write_text("x\n\nimport os\n")
    found = client("files.find_files", place, "^import (os|re)$")
    assert [vars(match) for match in found] == [
        {"file": f"{place}/a.py", "line": 1, "content": "import os"},
        {"file": f"{place}/b/c.py", "line": 3, "content": "import os"},
    ]


@pytest.mark.parametrize("pattern", ["f(x", "(?=x)", "[", "*"])
def test_what_is_no_expression_is_found_as_it_stands(client: Client, place: str, here: Path, pattern: str) -> None:
    here.mkdir()
    (here / "file").write_text(f"one\n-{pattern}-\n")
    assert [match.line for match in client("files.find_files", place, pattern)] == [2]


def test_files_are_found_by_their_names_at_any_depth(client: Client, place: str, here: Path) -> None:
    make(here, "a.py", "b/c/d.py", "b/c/d.txt")
    assert client("files.search_files", place, "*.py") == [f"{place}/a.py", f"{place}/b/c/d.py"]


def test_nothing_found_is_an_empty_list(client: Client, place: str, here: Path) -> None:
    here.mkdir()
    assert client("files.list", place) == []
    assert client("files.find_files", place, "x") == client("files.search_files", place, "x") == []


def test_a_relative_path_begins_at_the_home_of_the_user(client: Client, place: str) -> None:
    client("files.make_dir", place.rpartition("/")[2], user="alice")
    assert place.rpartition("/")[2] in {found.name for found in client("files.list", "/home/alice")}
    assert client("files.list", place.rpartition("/")[2], user="alice") == []


@pytest.mark.parametrize("call", [("list",), ("find_files", "x"), ("search_files", "x")])
def test_what_is_not_there_is_not_found(client: Client, place: str, call: tuple[str, ...]) -> None:
    method, *pattern = call
    with pytest.raises(Refused) as refused:
        client(f"files.{method}", place, *pattern)
    assert refused.value.word == ("NotFoundError", "not_found")


@pytest.mark.parametrize("call", [("list",), ("find_files", "x"), ("search_files", "x")])
def test_the_reserved_tree_is_refused(client: Client, call: tuple[str, ...]) -> None:
    method, *pattern = call
    with pytest.raises(Refused) as refused:
        client(f"files.{method}", "/workspace/.nullspace", *pattern)
    assert refused.value.word == ("PermissionError", "permission_denied")
