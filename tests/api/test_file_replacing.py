"""Text replaced in files: what counts as a match, what is left alone, and whose the file is then."""

import os
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.filing import Filing, code, facts

NOBODY, OTHER = 65534, 4242


@pytest.fixture
def files(shared: Daemon, home: Path) -> Filing:
    return Filing(shared, home)


def replace(files: Filing, names: list[str], pattern: str, replacement: str, **more: object) -> tuple[int, ...]:
    """Replacements, files modified, skipped and binary."""
    paths = [files.path(name) for name in names]
    answer = files.op("replace", files=paths, pattern=pattern, replacement=replacement, **more)
    assert answer.status == 200, answer.body
    found = answer.json()
    return tuple(found[key] for key in ("replacements", "files_modified", "files_skipped", "binary_files_skipped"))


def test_every_match_in_every_file_is_replaced_and_counted(files: Filing, home: Path) -> None:
    (home / "one").write_text("cat cat dog")
    (home / "two").write_text("dog")
    (home / "three").write_text("a cat")
    assert replace(files, ["one", "two", "three"], "cat", "cow") == (3, 2, 1, 0)
    assert [(home / name).read_text() for name in ("one", "two", "three")] == ["cow cow dog", "dog", "a cow"]


@pytest.mark.parametrize(
    ("text", "pattern", "replacement", "after"),
    [
        ("price: $5.00", "$5.00", "$6.00", "price: $6.00"),
        ("f(x) f(y)", "f(x)", "g(x)", "g(x) f(y)"),
        ("a.c abc", "a.c", "-", "- abc"),
        ("abc adc", "a.c", r"\1", r"\1 \1"),
        ("v1 v22", r"v\\d+".replace("\\\\", "\\"), "v", "v v"),
        ("[x", "[x", "y", "y"),
        ("naïve 日本", "日", "\n", "naïve \n本"),
        ("one\ntwo\n", "(?m)^t", "T", "one\nTwo\n"),
    ],
)
def test_a_pattern_is_a_text_where_the_file_has_it_and_else_an_expression(
    files: Filing, home: Path, text: str, pattern: str, replacement: str, after: str
) -> None:
    (home / "file").write_text(text)
    replace(files, ["file"], pattern, replacement)
    assert (home / "file").read_text() == after


def test_a_pattern_can_be_said_to_be_one_or_the_other(files: Filing, home: Path) -> None:
    (home / "file").write_text("abc a.c")
    assert replace(files, ["file"], "ab.", "-", literal=True) == (0, 0, 1, 0)
    assert replace(files, ["file"], "a.c", "-", literal=False) == (2, 1, 0, 0)
    answer = files.op("replace", files=[files.path("file")], pattern="a(", replacement="", literal=False)
    assert code(answer) == (400, "invalid_request")


@pytest.mark.parametrize(("user", "owner"), [(None, OTHER), ("nobody", NOBODY)])
def test_an_edited_file_keeps_its_mode_and_its_owner_unless_a_user_is_named(
    files: Filing, home: Path, user: str | None, owner: int
) -> None:
    (home / "file").write_text("old")
    os.chown(home / "file", OTHER, OTHER)
    (home / "file").chmod(0o640)
    assert replace(files, ["file"], "old", "new", user=user) == (1, 1, 0, 0)
    assert facts(home / "file") == (owner, owner, "0640")


def test_binary_and_unmatched_files_stay_untouched(files: Filing, home: Path) -> None:
    (home / "binary").write_bytes(b"old\0old")
    (home / "text").write_bytes(b"\xff\xfe none")
    before = [(home / name).stat().st_ino for name in ("binary", "text")]
    assert replace(files, ["binary", "text"], "old", "new", user="nobody") == (0, 0, 1, 1)
    assert [(home / name).stat().st_ino for name in ("binary", "text")] == before


@pytest.mark.parametrize(("name", "status", "word"), [("missing", 404, "not_found"), ("dir", 409, "is_a_directory")])
def test_nothing_is_changed_where_one_of_the_files_is_none(
    files: Filing, home: Path, name: str, status: int, word: str
) -> None:
    (home / "dir").mkdir()
    (home / "file").write_text("old")
    paths = [files.path("file"), files.path(name)]
    assert code(files.op("replace", files=paths, pattern="old", replacement="new")) == (status, word)
    assert (home / "file").read_text() == "old"


@pytest.mark.parametrize("pattern", ["", "x" * 5000])
def test_a_pattern_has_some_length(files: Filing, home: Path, pattern: str) -> None:
    (home / "file").write_text("old")
    answer = files.op("replace", files=[files.path("file")], pattern=pattern, replacement="new")
    assert code(answer) == (400, "invalid_request")


def test_no_expression_takes_long(files: Filing, home: Path) -> None:
    (home / "file").write_text("a" * 200_000 + "b")
    assert replace(files, ["file"], "(a+)+$", "-") == (0, 0, 1, 0)
