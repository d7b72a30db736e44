"""What the published client raises when an upload cannot go on: class, reason, upload_id and retryable."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UNIT, Daemon, StartDaemon
from tests.contract.clients import AS_ARCHIVE, CURRENT, Client, Refused
from tests.contract.conftest import MIB, MakeFile

NOBODYS = "0" * 64


def word(refused: pytest.ExceptionInfo[Refused]) -> tuple[object, ...]:
    return (*refused.value.word, refused.value.upload_id, refused.value.retryable)


def test_a_wrong_digest_of_the_whole_publishes_nothing_and_the_right_one_then_does(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    source = make_file(5)
    session = client.create(f"{place}/file", 5)
    client.part(session, 0, source)
    with pytest.raises(Refused) as refused:
        client.complete(session, whole_checksum_sha256=NOBODYS)
    assert word(refused) == ("UploadChecksumError", "whole_checksum_mismatch", session.upload_id, False)
    assert not here.exists()
    client.complete(session, whole_checksum_sha256=hashlib.sha256(source.read_bytes()).hexdigest())
    assert (here / "file").exists()


def test_the_digest_declared_at_create_is_checked_too(
    client: Client, place: str, here: Path, make_file: MakeFile
) -> None:
    session = client.create(f"{place}/file", 5, whole_checksum_sha256=NOBODYS)
    client.part(session, 0, make_file(5))
    with pytest.raises(Refused) as refused:
        client.complete(session)
    assert word(refused) == ("UploadChecksumError", "whole_checksum_mismatch", session.upload_id, False)
    assert not here.exists()


def test_a_part_that_does_not_have_its_digest_is_refused_and_may_be_sent_again(
    client: Client, place: str, make_file: MakeFile
) -> None:
    source = make_file(2 * MIB)
    session = client.create(f"{place}/file", 2 * MIB)
    with pytest.raises(Refused) as refused:
        client.part(session, 1, source, part_sha256=NOBODYS)
    assert word(refused) == ("UploadChecksumError", "invalid_part_checksum", session.upload_id, True)
    assert refused.value.part_number == 1
    assert client.status(session).accepted_bytes == 0
    assert client.part(session, 1, source).accepted_bytes == MIB


def test_a_part_may_be_sent_again_but_never_with_other_bytes(client: Client, place: str, make_file: MakeFile) -> None:
    source = make_file(2 * MIB)
    session = client.create(f"{place}/file", MIB)
    client.part(session, 0, source)
    assert client.part(session, 0, source).status == "staged"
    source.write_bytes(bytes(MIB))
    with pytest.raises(Refused) as refused:
        client.part(session, 0, source)
    assert word(refused) == ("UploadChecksumError", "invalid_part_checksum", session.upload_id, False)


def test_a_part_beyond_the_last_is_refused(client: Client, place: str, make_file: MakeFile) -> None:
    session = client.create(f"{place}/file", 2 * MIB)
    with pytest.raises(Refused) as refused:
        client.part(session, 2, make_file(3 * MIB))
    assert word(refused) == ("UploadStateError", "part_out_of_range", session.upload_id, False)
    assert refused.value.part_number == 2


@pytest.mark.parametrize(("number", "length"), [(0, MIB - 1), (0, MIB + 1), (1, 1), (1, 3), (1, 0)])
def test_a_part_of_another_length_is_refused(
    client: Client, place: str, make_file: MakeFile, number: int, length: int
) -> None:
    session = client.create(f"{place}/file", MIB + 2)
    with pytest.raises(Refused) as refused:
        client.part(session, number, make_file(2 * MIB), length=length)
    assert word(refused) == ("UploadStateError", "part_size_mismatch", session.upload_id, False)
    assert refused.value.part_number == number


def test_complete_says_which_parts_are_missing(client: Client, place: str, here: Path, make_file: MakeFile) -> None:
    session = client.create(f"{place}/file", 4 * MIB)
    assert client.part(session, 1, make_file(4 * MIB)).next_part == 0
    with pytest.raises(Refused) as refused:
        client.complete(session)
    assert word(refused) == ("UploadStateError", "missing_parts", session.upload_id, False)
    assert refused.value.details.missing == [[0, 0], [2, 3]]
    assert not here.exists()


def test_an_aborted_upload_takes_nothing_more(client: Client, place: str, make_file: MakeFile) -> None:
    session = client.create(f"{place}/file", 5)
    assert client.abort(session) is client.abort(session) is None
    assert client.status(session).status == "aborted"
    attempts: list[Any] = [lambda: client.part(session, 0, make_file(5)), lambda: client.complete(session)]
    for attempt in attempts:
        with pytest.raises(Refused) as refused:
            attempt()
        assert word(refused) == ("UploadStateError", "upload_aborted", session.upload_id, False)


def test_an_aborted_upload_cannot_be_resumed(client: Client, place: str, make_file: MakeFile) -> None:
    session = client.create(f"{place}/file", 5)
    client.abort(session)
    with pytest.raises(Refused) as refused:
        client.resume(session.upload_id, make_file(5))
    assert word(refused) == ("FileUploadError", "upload_aborted", session.upload_id, False)


def test_a_completed_upload_takes_nothing_more(client: Client, place: str, here: Path, make_file: MakeFile) -> None:
    source = make_file(5)
    session = client.upload(source, f"{place}/file").session
    attempts: list[Any] = [
        lambda: client.part(session, 0, source),
        lambda: client.abort(session),
        lambda: client.complete(session, whole_checksum_sha256=NOBODYS),
    ]
    for attempt in attempts:
        with pytest.raises(Refused) as refused:
            attempt()
        assert word(refused) == ("UploadStateError", "upload_already_completed", session.upload_id, False)
    assert (here / "file").read_bytes() == source.read_bytes()


def test_an_expired_upload_takes_nothing_more(client: Client, hasty: Daemon, place: str, make_file: MakeFile) -> None:
    client = client.at(hasty.url, token=hasty.token)
    session = expired(client, place)
    attempts: list[Any] = [lambda: client.part(session, 0, make_file(5)), lambda: client.complete(session)]
    for attempt in attempts:
        with pytest.raises(Refused) as refused:
            attempt()
        assert word(refused) == ("UploadExpiredError", "upload_expired", session.upload_id, False)


def test_an_expired_upload_cannot_be_resumed(client: Client, hasty: Daemon, place: str, make_file: MakeFile) -> None:
    client = client.at(hasty.url, token=hasty.token)
    session = expired(client, place)
    with pytest.raises(Refused) as refused:
        client.resume(session.upload_id, make_file(5))
    assert word(refused) == ("FileUploadError", "upload_expired", session.upload_id, False)


def expired(client: Client, place: str) -> Any:
    """A session whose lifetime is over; each look at it takes a round trip."""
    session = client.create(f"{place}/file", 5)
    for _ in range(int(2000 * UNIT)):
        if client.status(session).status == "expired":
            return session
    raise AssertionError("it does not expire")


@pytest.mark.parametrize(
    ("size", "reason", "retryable"),
    [(3 << 30, "size_limit_exceeded", False), (3 << 29, "insufficient_staging_space", True)],
)
def test_a_file_beyond_the_limits_is_refused_before_a_byte_is_sent(
    client: Client, place: str, tmp_path: Path, size: int, reason: str, retryable: bool
) -> None:
    source = tmp_path / "sparse"
    source.touch()
    with source.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(Refused) as refused:
        client("files.upload_file", source, f"{place}/file")
    assert word(refused) == ("UploadLimitError", reason, None, retryable)


def test_the_quota_counts_what_open_uploads_declared_until_they_end(client: Client, place: str) -> None:
    first = client.create(f"{place}/first", 600 * MIB)
    with pytest.raises(Refused) as refused:
        client.create(f"{place}/second", 600 * MIB)
    assert word(refused) == ("UploadLimitError", "insufficient_staging_space", None, True)
    assert first.reserved_staging_bytes == 600 * MIB
    client.abort(first)
    client.abort(client.create(f"{place}/second", 600 * MIB))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """An archive with one ordinary file before the entry in question."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("ordinary"))
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        archive.addfile(entry)
    return made.getvalue()


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (member("../outside"), "directory_extract_invalid_path"),
        (member("/outside"), "directory_extract_invalid_path"),
        (member("sub/../../outside"), "directory_extract_invalid_path"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "directory_extract_invalid_symlink"),
        (member("link", tarfile.SYMTYPE, "../outside"), "directory_extract_invalid_symlink"),
        (member("fifo", tarfile.FIFOTYPE), "directory_extract_unsupported_entry"),
        (member("device", tarfile.CHRTYPE), "directory_extract_unsupported_entry"),
        (b"no archive".ljust(10240, b"!"), "directory_extract_unsupported_entry"),
    ],
    ids=["dots", "absolute", "deep-dots", "absolute-link", "leaving-link", "fifo", "device", "garbage"],
)
def test_an_archive_that_would_leave_its_directory_publishes_nothing(
    client: Client, place: str, here: Path, tmp_path: Path, archive: bytes, reason: str
) -> None:
    source = tmp_path / "archive"
    source.write_bytes(archive)
    session = client.create(place, len(archive), **AS_ARCHIVE)
    client.part(session, 0, source)
    with pytest.raises(Refused) as refused:
        client.complete(session)
    assert word(refused) == ("UploadPathError", reason, session.upload_id, False)
    assert not here.exists()


@pytest.mark.parametrize(
    "target", ["/workspace/.nullspace/file", "//workspace/./../workspace/.nullspace", ".nullspace/a/b"]
)
def test_a_target_in_the_reserved_tree_is_refused(client: Client, make_file: MakeFile, target: str) -> None:
    with pytest.raises(Refused) as refused:
        client.upload(make_file(5), target)
    assert word(refused) == ("PermissionError", "permission_denied", None, False)


def test_an_upload_that_never_was_is_not_found(client: Client, make_file: MakeFile) -> None:
    with pytest.raises(Refused) as refused:
        client.resume("up_never", make_file(5))
    assert refused.value.word == ("NotFoundError", "upload_not_found")
    with pytest.raises(Refused) as refused:
        client("client.abort_upload_session", "up_never")
    assert refused.value.word == ("NotFoundError", "upload_not_found")


def test_information_on_what_is_not_there_is_not_found(client: Client, place: str) -> None:
    with pytest.raises(Refused) as refused:
        client("files.info", f"{place}/missing")
    assert refused.value.word == ("NotFoundError", "not_found")
    assert refused.value.request_id is not None


def test_a_wrong_token_is_an_error_of_authorization(client: Client, place: str) -> None:
    with pytest.raises(Refused) as refused:
        client.at(client.url, token="wrong").create(f"{place}/file", 5)
    assert refused.value.word == ("AuthError", "unauthorized")


def test_a_key_that_comes_back_with_another_request_is_refused(client: Client, place: str) -> None:
    key = f"key of {place}"
    session = client.create(f"{place}/file", 5, idempotency_key=key)
    assert client.create(f"{place}/file", 5, idempotency_key=key).upload_id == session.upload_id
    with pytest.raises(Refused) as refused:
        client.create(f"{place}/other", 5, idempotency_key=key)
    assert refused.value.word == (client.any_error, "idempotency_key_reused")


def test_one_upload_too_many_is_refused_at_once(client: Client, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--uploads-max-sessions", "1")
    client = client.at(daemon.url, token=daemon.token)
    first = client.create("first", 5)
    with pytest.raises(Refused) as refused:
        client.create("second", 5)
    assert refused.value.word == ("QuotaExceededError", "capacity_exceeded")
    client.abort(first)
    assert client.create("second", 5).status == "created"


def test_a_daemon_of_another_name_says_so_in_the_words_of_the_client(client: Client, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--sandbox-id", "another")
    with pytest.raises(Refused) as refused:
        client.at(daemon.url, token=daemon.token).create("file", 5)
    code = "machine_not_found" if client.version == CURRENT else "sandbox_not_found"
    assert refused.value.word == ("NotFoundError", code)
