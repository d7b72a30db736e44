import pytest

from agentd.core.paths import absolute, tidy


@pytest.mark.parametrize(
    ("path", "cwd", "home", "expected"),
    [
        ("/a/b", "/c", "/h", "/a/b"),
        ("a", "/c", "/h", "/c/a"),
        ("a", None, "/h", "/h/a"),
        ("a", None, None, "/workspace/a"),
        ("../a", None, None, "/workspace/../a"),
    ],
)
def test_relative_paths_begin_where_the_contract_says(
    path: str, cwd: str | None, home: str | None, expected: str
) -> None:
    assert absolute(path, cwd=cwd, home=home, workspace="/workspace") == expected


def test_dots_and_slashes_go_but_a_step_up_stays() -> None:
    assert tidy("//a/./b//../c/") == "/a/b/../c"
    assert tidy("/") == "/"
