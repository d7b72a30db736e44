"""What a pattern for names means."""

import pytest

from agentd.errors import InvalidRequest
from agentd.files.globs import Glob, Ignore


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.py", "a.py", True),
        ("*.py", "x/y/a.py", True),
        ("*.py", "x/a.pyc", False),
        ("*", "x/.hidden", True),
        ("a?c", "abc", True),
        ("a?c", "aéc", True),
        ("a?c", "a\udcffc", True),
        ("a\udcff*", "a\udcff.txt", True),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[]x]", "]", True),
        (r"\*", "*", True),
        (r"\*", "a", False),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "other/src/a.py", False),
        ("src/*.py", "src/x/a.py", False),
        ("src/**/*.py", "src/a.py", True),
        ("src/**/*.py", "src/x/y/a.py", True),
        ("**/test/*", "a/b/test/c", True),
        ("src/**", "src/a/b", True),
        ("src/**", "src", False),
        ("new\nline*", "new\nline.txt", True),
        ("a.b", "axb", False),
        ("[", "[", True),
    ],
)
def test_a_glob_takes_names_and_paths(pattern: str, path: str, matches: bool) -> None:
    assert Glob(pattern).matches(path, path.rpartition("/")[2]) is matches


@pytest.mark.parametrize(
    ("patterns", "path", "is_directory", "skips"),
    [
        ("*.log", "a/b.log", False, True),
        ("*.log\n!keep.log", "a/keep.log", False, False),
        ("!keep.log\n*.log", "a/keep.log", False, True),
        ("build/", "x/build", True, True),
        ("build/", "x/build", False, False),
        ("/build", "x/build", True, False),
        ("/build", "build", True, True),
        ("a/b", "a/b", False, True),
        ("a/b", "x/a/b", False, False),
        ("a/**", "a", True, False),
        ("a/**", "a/x/y", False, True),
        ("**/b", "x/y/b", True, True),
        ("# no\n\n", "# no", False, False),
        (r"\#yes", "#yes", False, True),
        (r"\!yes", "!yes", False, True),
        ("end  ", "end", False, True),
        ("end\\  ", "end ", False, True),
        ("*\n!*/\n!*.py", "a/b.py", False, False),
        ("*\n!*/\n!*.py", "a/b.txt", False, True),
        ("*\n!*/\n!*.py", "a", True, False),
        ("", "a", False, False),
    ],
)
def test_what_is_ignored_is_what_git_would_ignore(patterns: str, path: str, is_directory: bool, skips: bool) -> None:
    assert Ignore(patterns.split("\n")).skips(path, is_directory) is skips


@pytest.mark.parametrize("pattern", ["", "/", "[z-a]", "x" * 5000])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        Glob(pattern)


def test_stars_do_not_make_a_pattern_slow() -> None:
    assert not Glob("*a" * 100 + "b").matches("a" * 255, "a" * 255)
