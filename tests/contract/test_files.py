"""What the published client experiences when it uploads files by parts."""

import filecmp
import os
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.contract.clients import CURRENT, Client, Refused
from tests.contract.conftest import ALICE, MIB, MakeFile
from tests.contract.relay import Relay


def test_a_file_of_64_mib_arrives_byte_for_byte(client: Client, place: str, here: Path, big_file: Path) -> None:
    result = client.upload(big_file, f"{place}/big.bin")
    assert filecmp.cmp(big_file, here / "big.bin", shallow=False)
    assert result.bytes_uploaded == 64 * MIB
    assert (result.session.status, result.session.part_count) == ("completed", 64)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, 3 * MIB, 3 * MIB + 1])
def test_a_file_of_any_size_arrives_whole(
    client: Client, place: str, here: Path, make_file: MakeFile, size: int
) -> None:
    source = make_file(size)
    result = client.upload(source, f"{place}/file")
    assert (here / "file").read_bytes() == source.read_bytes()
    assert (result.bytes_uploaded, result.file_count, result.target_path) == (size, 1, f"{place}/file")


@pytest.mark.parametrize("options", [{}, {"resumable": False, "checksum": "sha256"}])
def test_the_client_goes_by_parts_on_its_own_for_large_or_checked_files(
    client: Client, place: str, here: Path, make_file: MakeFile, options: dict[str, object]
) -> None:
    source = make_file(9 if options else 9 * MIB)
    result = client("files.upload", source, f"{place}/file", **options)
    assert (result.transport, result.session.source_kind) == ("resumable", "restartable_file")
    assert (here / "file").read_bytes() == source.read_bytes()


def test_a_stream_that_cannot_seek_is_spooled_and_arrives(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    source = make_file(9 * MIB + 1)
    result = client("files.upload_file", {"stream": source}, f"{place}/file")
    assert (result.transport, result.session.source_kind) == ("resumable", "spooled_stream")
    assert (here / "file").read_bytes() == source.read_bytes()


def test_an_open_file_arrives(client: Client, place: str, here: Path, make_file: MakeFile) -> None:
    source = make_file(2 * MIB + 5)
    client.upload({"open": source}, f"{place}/file")
    assert (here / "file").read_bytes() == source.read_bytes()


def test_a_session_says_what_the_client_needs_to_go_by(client: Client, place: str) -> None:
    session = client.create(f"{place}/file", 3 * MIB + 1, metadata={"kept": ["but", "not", "echoed"]})
    assert (session.part_size, session.part_count, session.next_part, session.accepted_bytes) == (MIB, 4, 0, 0)
    assert (session.status, session.conflict, session.target_path) == ("created", "merge", f"{place}/file")
    assert session.created_at == session.updated_at < session.expires_at
    quota = "machine_staging_quota_bytes" if client.version == CURRENT else "sandbox_staging_quota_bytes"
    expected = {"max_upload_bytes": 2 << 30, "max_part_bytes": MIB, "max_concurrency": 4, quota: 1 << 30}
    assert vars(session.limits) == expected


def test_progress_ends_with_every_byte_completed(client: Client, place: str, here: Path, make_file: MakeFile) -> None:
    client.start("files.upload_file", make_file(3 * MIB), f"{place}/file", resumable=True)
    progress = client.finish_with_progress()[1]
    phases = [phase for phase, _, _ in progress]
    assert phases == ["created", *["uploading"] * 3, "completing", "completed"]
    assert progress[-1] == ["completed", 3 * MIB, 3]


def test_fewer_parts_at_once_are_enough(client: Client, place: str, here: Path, make_file: MakeFile) -> None:
    source = make_file(3 * MIB)
    client.upload(source, f"{place}/file", max_concurrency=1)
    assert (here / "file").read_bytes() == source.read_bytes()


def test_a_relative_target_is_meant_from_the_workspace(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    result = client.upload(make_file(5), f"{here.name}/./sub//file")
    assert result.target_path == f"{place}/sub/file"
    assert (here / "sub/file").stat().st_size == 5


def test_a_file_without_a_target_gets_its_own_name_in_the_workspace(
    client: Client, sandbox: Daemon, make_file: MakeFile
) -> None:
    source = make_file(5)
    result = client.upload(source, None)
    assert result.target_path == f"/workspace/{source.name}"
    (sandbox.root / "workspace" / source.name).unlink()


@pytest.mark.parametrize(
    "name", ["two words", 'it\'s "quoted" `$HOME`; \\ %2F ?a=b&c#d', "naïve-日本", "a" * 255, "\n\t"]
)
def test_a_name_arrives_as_it_is(client: Client, place: str, here: Path, make_file: MakeFile, name: str) -> None:
    result = client.upload(make_file(5), f"{place}/{name}")
    assert os.listdir(here) == [name]
    assert result.target_path == f"{place}/{name}"


def test_a_user_owns_the_file_and_the_directories_made_for_it(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    client.upload(make_file(5), f"{place}/sub/file", user="alice")
    owners = [(found.stat().st_uid, found.stat().st_gid) for found in (here, here / "sub", here / "sub/file")]
    assert owners == [(ALICE, ALICE)] * 3
    info = client("files.info", f"{place}/sub/file")
    assert (info.owner, info.group, info.type, info.size) == ("alice", "alice", "file", 5)


def test_a_relative_target_is_meant_from_the_home_of_the_user(
    client: Client, sandbox: Daemon, make_file: MakeFile
) -> None:
    result = client.upload(make_file(5), "uploaded", user="alice")
    assert result.target_path == "/home/alice/uploaded"
    (sandbox.root / "home/alice/uploaded").unlink()


def test_a_user_may_be_padded_or_blank(client: Client, place: str, here: Path, make_file: MakeFile) -> None:
    padded = client.create(f"{place}/padded", 0, user=" alice ")
    blank = client.create(f"{place}/blank", 0, user=" ")
    client.complete(padded)
    client.complete(blank)
    assert (here / "padded").stat().st_uid == ALICE
    assert (here / "blank").stat().st_uid == os.geteuid()


def test_a_resumed_upload_still_belongs_to_its_user(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    session = client.create(f"{here.name}/file", 5, user="alice")
    result = client.resume(session.upload_id, make_file(5))
    assert (session.user, result.target_path) == ("alice", f"/home/alice/{here.name}/file")


def test_an_unknown_user_is_refused_before_a_byte_is_sent(client: Client, place: str, make_file: MakeFile) -> None:
    with pytest.raises(Refused) as refused:
        client.upload(make_file(5), f"{place}/file", user="nobody-here")
    assert refused.value.word == (client.any_error, "unknown_user")
    assert refused.value.upload_id is None


@pytest.mark.parametrize(("user", "owner"), [(None, ALICE + 1), ("alice", ALICE)])
def test_an_overwritten_file_keeps_its_mode_and_changes_its_owner_only_for_a_user(
    client: Client, place: str, here: Path, make_file: MakeFile, user: str | None, owner: int
) -> None:
    here.mkdir()
    (here / "file").write_text("old")
    os.chown(here / "file", ALICE + 1, ALICE + 1)
    (here / "file").chmod(0o640)
    client.upload(make_file(5), f"{place}/file", user=user)
    found = (here / "file").stat()
    assert (found.st_uid, found.st_mode & 0o7777, found.st_size) == (owner, 0o640, 5)


def test_the_result_names_the_path_that_files_info_resolves(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    (here / "real").mkdir(parents=True)
    (here / "link").symlink_to("real")
    result = client.upload(make_file(5), f"{place}/link/file")
    assert result.target_path == f"{place}/real/file" == client("files.info", f"{place}/link/file").path


def test_losing_the_answer_of_files_info_costs_only_the_resolved_path(
    client: Client, place: str, here: Path, make_file: MakeFile, relay: Relay
) -> None:
    (here / "real").mkdir(parents=True)
    (here / "link").symlink_to("real")
    relay.drop_answer("/files/info")
    result = client.at(relay.url).upload(make_file(5), f"{place}/link/file")
    assert result.target_path == f"{place}/link/file"
    assert (here / "real/file").exists()
