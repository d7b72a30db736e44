"""What the published client experiences when something is at its target already."""

import os
from pathlib import Path

import pytest

from tests.contract.clients import Client, Refused
from tests.contract.conftest import MakeFile
from tests.contract.trees import entries, grow

CONFLICT = ("UploadConflictError", "target_conflict")


def publish(client: Client, source: Path, target: str, conflict: str) -> object:
    """A file through the low-level client, whose helper has no choice of conflict mode."""
    session = client.create(target, source.stat().st_size, conflict=conflict)
    client.part(session, 0, source)
    return client.complete(session)


@pytest.mark.parametrize("conflict", ["merge", "replace"])
def test_a_file_takes_the_place_of_a_file(
    client: Client, place: str, here: Path, make_file: MakeFile, conflict: str
) -> None:
    here.mkdir()
    (here / "file").write_text("old")
    source = make_file(5)
    publish(client, source, f"{place}/file", conflict)
    assert (here / "file").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_a_file_goes_where_nothing_is(
    client: Client, place: str, here: Path, make_file: MakeFile, conflict: str
) -> None:
    publish(client, make_file(5), f"{place}/sub/file", conflict)
    assert (here / "sub/file").stat().st_size == 5


def test_a_file_in_mode_error_is_refused_at_once_where_a_file_is(client: Client, place: str, here: Path) -> None:
    here.mkdir()
    (here / "file").write_text("old")
    with pytest.raises(Refused) as refused:
        client.create(f"{place}/file", 5, conflict="error")
    assert (refused.value.word, refused.value.path) == (CONFLICT, f"{place}/file")
    assert (refused.value.upload_id, refused.value.retryable) == (None, False)
    assert (here / "file").read_text() == "old"


def test_a_file_in_mode_error_is_refused_at_the_end_where_a_file_came_meanwhile(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    session = client.create(f"{place}/file", 5, conflict="error")
    client.part(session, 0, make_file(5))
    here.mkdir()
    (here / "file").write_text("newer")
    with pytest.raises(Refused) as refused:
        client.complete(session)
    assert (refused.value.word, refused.value.upload_id) == (CONFLICT, session.upload_id)
    assert (here / "file").read_text() == "newer"
    assert client.status(session).status == "staged"


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_a_file_never_takes_the_place_of_a_directory(client: Client, place: str, here: Path, conflict: str) -> None:
    (here / "sub/deeper").mkdir(parents=True)
    with pytest.raises(Refused) as refused:
        client.create(f"{place}/sub", 5, conflict=conflict)
    assert refused.value.word == CONFLICT
    assert os.listdir(here / "sub") == ["deeper"]


def test_the_upload_helper_says_that_a_directory_is_in_the_way(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    here.mkdir()
    with pytest.raises(Refused) as refused:
        client.upload(make_file(5), place)
    assert (refused.value.word, refused.value.path) == (CONFLICT, place)


def test_a_file_is_refused_where_a_file_stands_on_the_way(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    here.mkdir()
    (here / "file").write_text("old")
    with pytest.raises(Refused) as refused:
        client.upload(make_file(5), f"{place}/file/below")
    assert refused.value.word == CONFLICT


def test_a_replaced_directory_has_nothing_left_of_the_old_one(
    client: Client, place: str, here: Path, tmp_path: Path
) -> None:
    source = grow(tmp_path / "source")
    (here / "nested/old").mkdir(parents=True)
    (here / "old").write_text("old")
    client.upload_dir(source, place, conflict="replace")
    assert entries(here) == entries(source)


def test_a_directory_in_mode_error_is_refused_where_one_is(
    client: Client, place: str, here: Path, tmp_path: Path
) -> None:
    here.mkdir()
    with pytest.raises(Refused) as refused:
        client.upload_dir(grow(tmp_path / "source"), place, conflict="error")
    assert (refused.value.word, refused.value.path) == (CONFLICT, place)
    assert entries(here) == {}


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_a_directory_never_takes_the_place_of_a_file(
    client: Client, place: str, here: Path, tmp_path: Path, conflict: str
) -> None:
    here.mkdir()
    (here / "file").write_text("old")
    with pytest.raises(Refused) as refused:
        client.upload_dir(grow(tmp_path / "source"), f"{place}/file", conflict=conflict)
    assert refused.value.word == CONFLICT
    assert (here / "file").read_text() == "old"


@pytest.mark.parametrize("clash", ["nested", "none"])
def test_a_merge_is_refused_where_a_directory_meets_a_file(
    client: Client, place: str, here: Path, tmp_path: Path, clash: str
) -> None:
    source = grow(tmp_path / "source")
    here.mkdir()
    if (source / clash).is_dir():
        (here / clash).write_text("old")
    else:
        (here / clash).mkdir()
    with pytest.raises(Refused) as refused:
        client.upload_dir(source, place)
    assert refused.value.word == CONFLICT
    assert refused.value.upload_id is not None
    assert (here / clash).is_dir() != (source / clash).is_dir()
