"""What the published client is told of changes to files."""

from pathlib import Path
from typing import Any

import pytest

from tests.contract.clients import Client, Refused


def watch(client: Client, path: str, *steps: list[Any], last: str = "last", **named: Any) -> Any:
    """Watches while the client takes the steps, and writes a file ``last`` then."""
    end = [["write", f"{path}/{last}", ""]] if last else []
    return client("watch", path, *steps, *end, last=last, **named)


def words(seen: Any, name: str) -> list[str]:
    return [event for event, about, _ in seen.told if about == name]


def test_a_write_is_told_as_watchers_expect_it(client: Client, here: Path, place: str) -> None:
    here.mkdir()
    (here / "old").write_text("one")
    seen = watch(client, place, ["write", f"{place}/old", "two"], ["write", f"{place}/file", "one"])
    assert words(seen, "old") == ["write"]
    assert words(seen, "file") == ["create", "chmod", "write"]
    assert {path for _, name, path in seen.told if name == "file"} == {f"{place}/file"}
    assert seen.ended == [None]


def test_modes_names_and_removals_are_told(client: Client, here: Path, place: str) -> None:
    here.mkdir()
    (here / "file").write_text("content")
    steps = [
        ["set_permissions", f"{place}/file", "0600"],
        ["rename", f"{place}/file", f"{place}/other"],
        ["remove", f"{place}/other"],
    ]
    seen = watch(client, place, *steps)
    assert words(seen, "file") == ["chmod", "rename"]
    assert words(seen, "other") == ["rename", "remove"]


@pytest.mark.parametrize("recursive", [True, False])
def test_nested_changes_are_told_to_those_who_asked_for_them(
    client: Client, here: Path, place: str, recursive: bool
) -> None:
    (here / "sub").mkdir(parents=True)
    steps = [["write", f"{place}/sub/new/file", "content"], ["make_dir", f"{place}/top"]]
    seen = watch(client, place, *steps, recursive=recursive)
    nested = {(name, path) for _, name, path in seen.told if name.startswith("sub/")}
    wanted = {(name, f"{place}/{name}") for name in ("sub/new", "sub/new/file")}
    assert nested == (wanted if recursive else set())
    assert words(seen, "top")[0] == "create"


def test_a_watch_ends_when_its_time_is_up(client: Client, here: Path, place: str) -> None:
    here.mkdir()
    assert watch(client, place, last="", timeout=0.3).ended == [None]


def test_a_directory_that_is_removed_ends_its_watch_with_an_error(client: Client, here: Path, place: str) -> None:
    here.mkdir()
    (ended,) = watch(client, place, ["remove", place], last="").ended
    assert "was removed" in ended


def test_what_is_not_there_cannot_be_watched(client: Client, place: str) -> None:
    with pytest.raises(Refused) as refused:
        watch(client, f"{place}/missing")
    assert refused.value.word == (client.any_error, "watch_error")


def test_an_unknown_user_cannot_watch(client: Client, here: Path, place: str) -> None:
    here.mkdir()
    with pytest.raises(Refused, match="unknown_user"):
        watch(client, place, user="nobody-knows")
    assert watch(client, place, user="alice").ended == [None]
