"""What the published client experiences when it uploads a directory."""

from pathlib import Path

import pytest

from tests.contract.clients import AS_ARCHIVE, Client
from tests.contract.conftest import ALICE, MIB, MakeFile
from tests.contract.trees import entries, grow


def test_a_directory_arrives_with_its_links_modes_and_names(
    client: Client, place: str, here: Path, tmp_path: Path
) -> None:
    source = grow(tmp_path / "source")
    result = client.upload_dir(source, place)
    assert entries(here) == entries(source)
    assert (result.kind, result.target_path, result.file_count) == ("directory_tar", place, 12)
    assert result.bytes_uploaded == result.session.content_length > 2 * MIB


def test_an_empty_directory_arrives(client: Client, place: str, here: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = client.upload_dir(tmp_path / "empty", place)
    assert entries(here) == {}
    assert (result.file_count, result.bytes_uploaded) == (0, 10240)


def test_a_directory_given_to_upload_arrives_below_the_target_that_ends_with_a_slash(
    client: Client, place: str, here: Path, tmp_path: Path
) -> None:
    source = grow(tmp_path / "source")
    result = client("files.upload", source, f"{place}/")
    assert result.target_path == f"{place}/source"
    assert entries(here / "source") == entries(source)


def test_what_is_ignored_does_not_arrive(client: Client, place: str, here: Path, tmp_path: Path) -> None:
    source = grow(tmp_path / "source")
    (source / ".nullspaceignore").write_text("nested/\n!none\n")
    client.upload_dir(source, place, ignore_patterns=["naïve-*", "empty"])
    left = {name for name in entries(source) if not name.startswith(("nested", "naïve", "empty"))}
    assert entries(here).keys() == left


def test_a_user_owns_all_of_the_directory(client: Client, place: str, here: Path, tmp_path: Path) -> None:
    client.upload_dir(grow(tmp_path / "source"), f"{place}/sub", user="alice")
    assert {found.lstat().st_uid for found in (here, *here.rglob("*"))} == {ALICE}


def test_a_relative_directory_is_meant_from_the_workspace(
    client: Client, place: str, here: Path, tmp_path: Path
) -> None:
    assert client.upload_dir(grow(tmp_path / "source"), here.name).target_path == place
    assert (here / "none").exists()


def test_a_directory_merges_by_default_and_replaces_what_has_the_same_name(
    client: Client, place: str, here: Path, tmp_path: Path
) -> None:
    source = grow(tmp_path / "source")
    (here / "nested").mkdir(parents=True)
    (here / "nested/kept").write_text("kept")
    (here / "none").write_text("old")
    client.upload_dir(source, place)
    assert (here / "nested/kept").read_text() == "kept"
    assert entries(here).keys() - entries(source).keys() == {"nested/kept"}
    assert (here / "none").read_bytes() == b""


def test_a_directory_resumes_where_it_was_left(
    client: Client, place: str, here: Path, tmp_path: Path, make_file: MakeFile
) -> None:
    source = grow(tmp_path / "source")
    first = client.upload_dir(source, f"{place}/first")
    session = client.create(
        f"{place}/second",
        first.session.content_length,
        **AS_ARCHIVE,
        whole_checksum_sha256=first.session.whole_checksum_sha256,
    )
    result = client.resume(session.upload_id, source)
    assert (result.resumed, result.file_count, result.target_path) == (True, 12, f"{place}/second")
    assert entries(here / "second") == entries(source)


@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_a_directory_arrives_where_nothing_was_in_any_conflict_mode(
    client: Client, place: str, here: Path, tmp_path: Path, conflict: str
) -> None:
    source = grow(tmp_path / "source")
    client.upload_dir(source, f"{place}/sub", conflict=conflict)
    assert entries(here / "sub") == entries(source)
