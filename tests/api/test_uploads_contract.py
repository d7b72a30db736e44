"""What each upload route promises, word for word (wire contract, sections 1.1 to 1.8)."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import MOST, PART
from tests.conftest import Daemon
from tests.uploading import Client, as_json, content_of, piece, reason, sha256, tar_of

SESSION = {
    *("upload_id", "kind", "source_kind", "target_path", "content_length", "accepted_bytes"),
    *("reserved_staging_bytes", "part_size", "part_count", "max_concurrency", "status", "conflict"),
    *("checksum_algorithm", "limits", "created_at", "updated_at", "expires_at"),
    *("user", "next_part", "archive_format", "whole_checksum_sha256"),
}
LIMITS = {"max_upload_bytes", "max_part_bytes", "max_concurrency"}
CONTENT = content_of(2 * PART + 1)


def test_create_wraps_the_session_and_every_other_route_answers_it_bare(client: Client, target: str) -> None:
    created = client.create(target, len(CONTENT))
    session = created.json()["session"]
    assert created.json().keys() == {"session"}
    assert session.keys() == SESSION
    assert client.status(session).keys() == SESSION
    assert client.part(session, 0, CONTENT[:PART]).json().keys() == SESSION


def test_a_new_session_says_everything_that_was_asked_for(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT), conflict="error", whole_checksum_sha256=sha256(CONTENT))
    said = {"kind": "file", "source_kind": "restartable_file", "target_path": target, "content_length": len(CONTENT)}
    said |= {"accepted_bytes": 0, "reserved_staging_bytes": len(CONTENT), "part_size": PART, "part_count": 3}
    said |= {"status": "created", "conflict": "error", "checksum_algorithm": "sha256", "user": None, "next_part": 0}
    said |= {"archive_format": None, "whole_checksum_sha256": sha256(CONTENT), "max_concurrency": 4}
    assert {key: session[key] for key in said} == said
    assert re.fullmatch(r"[A-Za-z0-9_-]+", session["upload_id"])


@pytest.mark.parametrize(
    ("prefix", "quota"),
    [
        ("/v1/machines/m", "machine_staging_quota_bytes"),
        ("/v1/sandboxes/s", "sandbox_staging_quota_bytes"),
        ("/v1", "machine_staging_quota_bytes"),
    ],
)
def test_the_name_of_the_quota_depends_on_the_prefix_alone(
    shared: Daemon, target: str, prefix: str, quota: str
) -> None:
    session = Client(shared, prefix).begin(target, 1)
    assert session["limits"].keys() == {*LIMITS, quota}
    assert session["limits"]["max_upload_bytes"] == MOST
    assert session["limits"]["max_part_bytes"] == PART
    assert all(type(value) is int for value in session["limits"].values())


def test_complete_answers_three_keys_and_a_full_session(client: Client, target: str) -> None:
    answer = client.put(target, CONTENT)
    body = answer.json()
    assert answer.status == 200
    assert body.keys() == {"session", "published_bytes", "published_file_count"}
    assert body["session"].keys() == SESSION
    assert (body["session"]["status"], body["published_bytes"]) == ("completed", len(CONTENT))
    assert body["published_file_count"] == 1


def test_a_directory_is_published_with_the_archives_length_as_its_bytes(client: Client, target: str) -> None:
    archive = tar_of({"sub": None, "sub/a": b"one", "b": b"two"})
    answer = client.put_tar(target, archive)
    assert answer.status == 200, answer.body
    assert answer.json()["published_bytes"] == len(archive)
    assert answer.json()["session"]["archive_format"] == "tar"
    assert answer.json()["published_file_count"] == 2


def test_the_status_goes_from_created_to_completed(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    seen = [client.status(session)["status"]]
    for number in (2, 0, 1):
        seen.append(client.part(session, number, piece(session, CONTENT, number)).json()["status"])
    seen.append(client.complete(session).json()["session"]["status"])
    assert seen == ["created", "uploading", "uploading", "staged", "completed"]
    assert client.status(session)["status"] == "completed"


def test_next_part_is_the_lowest_missing_number_and_null_at_the_end(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    seen = []
    for number in (1, 0, 2):
        body = client.part(session, number, piece(session, CONTENT, number)).json()
        seen.append((body["next_part"], body["accepted_bytes"]))
    assert seen == [(0, PART), (2, 2 * PART), (None, len(CONTENT))]


def test_times_are_rfc_3339_and_an_accepted_part_moves_them_on(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    later = client.part(session, 0, CONTENT[:PART]).json()
    times = {key: [datetime.fromisoformat(one[key]) for one in (session, later)] for key in session if "_at" in key}
    assert times.keys() == {"created_at", "updated_at", "expires_at"}
    assert all(time.tzinfo is not None for pair in times.values() for time in pair)
    assert times["created_at"][0] == times["created_at"][1]
    assert times["updated_at"][1] > times["updated_at"][0]
    assert times["expires_at"][1] > times["expires_at"][0]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART, MOST])
def test_a_file_of_any_size_arrives_intact(client: Client, home: Path, target: str, size: int) -> None:
    content = content_of(size)
    session = client.begin(target, size)
    assert session["part_count"] == -(-size // PART)
    assert session["next_part"] == (0 if size else None)
    client.send(session, content)
    assert client.complete(session, sha256(content)).status == 200
    assert (home / "target").read_bytes() == content


def test_an_empty_file_is_staged_from_the_start_and_has_no_part_to_send(client: Client, target: str) -> None:
    session = client.begin(target, 0)
    assert session["status"] == "staged"
    assert reason(client.part(session, 0, b"")) == (400, "part_out_of_range")


def test_complete_needs_no_body(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT)
    answer = client.call("POST", f"/uploads/{session['upload_id']}/complete")
    assert answer.status == 200
    assert (home / "target").read_bytes() == CONTENT


def test_abort_answers_204_without_a_body_as_often_as_it_is_asked(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    answers = [client.abort(session) for _ in range(3)]
    assert [(one.status, one.body) for one in answers] == [(204, b"")] * 3
    assert client.status(session)["status"] == "aborted"


def test_every_answer_carries_a_request_id_and_takes_over_the_callers(client: Client, target: str) -> None:
    session = client.begin(target, 1)
    path = f"/uploads/{session['upload_id']}"
    assert client.call("GET", path).headers["x-request-id"]
    assert client.call("GET", path, headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"


def test_an_upload_error_has_only_the_keys_of_the_contract(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    answer = client.part(session, 7, b"x")
    body = answer.json()
    assert (answer.status, body["code"], body["retryable"]) == (400, "file_upload_error", False)
    detail = body["error_detail"]
    allowed = {"reason", "message", "retryable", "upload_id", "request_id", "path", "part_number", "details"}
    assert detail.keys() <= allowed
    assert (detail["reason"], detail["upload_id"], detail["part_number"]) == (
        "part_out_of_range",
        session["upload_id"],
        7,
    )
    assert detail["request_id"] == body["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("user", [None, "", "  "])
def test_a_blank_user_is_no_user(client: Client, home: Path, target: str, user: str | None) -> None:
    assert client.put(target, CONTENT, user=user).json()["session"]["user"] is None
    assert (home / "target").stat().st_uid == 0


@pytest.mark.parametrize("user", ["nobody", " nobody ", "65534"])
def test_a_user_is_trimmed_looked_up_and_becomes_the_owner(client: Client, home: Path, target: str, user: str) -> None:
    session = client.put(target, CONTENT, user=user).json()["session"]
    assert session["user"] == user.strip()
    assert (home / "target").stat().st_uid == 65534


def test_a_relative_target_begins_in_the_workspace(client: Client, home: Path) -> None:
    answer = client.put(f"{home.name}/./made//target", CONTENT)
    assert answer.json()["session"]["target_path"] == f"/workspace/{home.name}/made/target"
    assert (home / "made/target").read_bytes() == CONTENT


def test_a_relative_target_begins_in_the_named_users_home(client: Client, shared: Daemon, home: Path) -> None:
    (shared.root / "etc").mkdir(exist_ok=True)
    (shared.root / "etc/passwd").write_text(
        f"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/none:/bin/sh\nann:x:4001:4001::/workspace/{home.name}:/bin/sh\n"
    )
    try:
        session = client.put("note", CONTENT, user="ann").json()["session"]
    finally:
        (shared.root / "etc/passwd").unlink()
    assert session["target_path"] == f"/workspace/{home.name}/note"
    assert (home / "note").stat().st_uid == 4001


NAMES = ["a b", "quo\"te's", "new\nline", "tab\t", "dollar $HOME `x`", "*?[", "-rf", "ünï", "back\\slash", "n" * 255]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_odd_characters_arrives_as_it_is(client: Client, home: Path, name: str) -> None:
    answer = client.put(f"/workspace/{home.name}/{name}", CONTENT)
    assert answer.status == 200, answer.body
    assert answer.json()["session"]["target_path"] == f"/workspace/{home.name}/{name}"
    assert [entry.name for entry in home.iterdir()] == [name]


def test_a_name_that_is_not_utf8_travels_as_a_lone_surrogate_in_both_directions(client: Client, home: Path) -> None:
    asked = {"kind": "file", "source_kind": "restartable_file", "content_length": 0}
    path = f"/workspace/{home.name}/\udcff\udc80"
    body = as_json({**asked, "target_path": path})
    session = client.call("POST", "/uploads", body, {"Content-Type": "application/json"}).json()["session"]
    assert session["target_path"] == path
    assert client.status(session)["target_path"] == path
    assert client.complete(session).json()["session"]["target_path"] == path
    assert [entry.name for entry in home.iterdir()] == ["\udcff\udc80"]


# -- keys


def test_the_same_key_and_body_give_the_same_session(client: Client, target: str) -> None:
    first = client.create(target, 5, key=f"key {target}")
    assert client.create(target, 5, key=f"key {target}").json() == first.json()
    assert client.begin(target, 5)["upload_id"] != first.json()["session"]["upload_id"]


def test_the_same_key_with_another_body_is_refused(client: Client, target: str) -> None:
    client.begin(target, 5, key=f"key {target}")
    assert reason(client.create(target, 6, key=f"key {target}")) == (422, "idempotency_key_reused")
    assert reason(client.create(target, 5, key=f"key {target}", metadata={"a": 1}))[0] == 422


def test_concurrent_creates_with_one_key_make_one_session(client: Client, target: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: client.begin(target, 5, key=f"key {target}")["upload_id"], range(8)))
    assert len(set(made)) == 1


def test_a_key_whose_create_was_refused_may_be_used_again(client: Client, target: str) -> None:
    assert client.create(target, MOST + 1, key=f"key {target}").status == 413
    assert client.create(target, 5, key=f"key {target}").status == 200


def test_the_metadata_is_stored_and_never_echoed(client: Client, target: str) -> None:
    session = client.begin(target, 5, metadata={"colour": "green-and-blue", "n": [1, None]})
    journal = client.daemon.root / "workspace/.nullspace/uploads/v1" / session["upload_id"] / "journal"
    assert b"green-and-blue" in journal.read_bytes()
    assert b"green-and-blue" not in client.call("GET", f"/uploads/{session['upload_id']}").body


# -- complete


def test_a_repeated_complete_answers_the_same_bytes(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT)
    first = client.complete(session, sha256(CONTENT))
    again = [client.complete(session, sha256(CONTENT)), client.complete(session)]
    assert [one.body for one in again] == [first.body] * 2


def test_concurrent_completes_join_and_answer_the_same_bytes(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.complete(session, sha256(CONTENT)), range(8)))
    assert {one.status for one in answers} == {200}
    assert len({one.body for one in answers}) == 1


def test_another_digest_after_the_end_is_refused(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT)
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert reason(client.complete(session, sha256(b""))) == (409, "upload_already_completed")


def test_a_wrong_whole_digest_publishes_nothing_and_the_right_one_still_can(
    client: Client, home: Path, target: str
) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT)
    assert reason(client.complete(session, sha256(b""))) == (409, "whole_checksum_mismatch")
    assert client.status(session)["status"] == "staged"
    assert list(home.iterdir()) == []
    assert client.complete(session, sha256(CONTENT)).status == 200


def test_the_digest_that_was_declared_at_create_is_checked_though_complete_gives_none(
    client: Client, home: Path, target: str
) -> None:
    session = client.begin(target, len(CONTENT), whole_checksum_sha256=sha256(b"other"))
    client.send(session, CONTENT)
    assert reason(client.complete(session)) == (409, "whole_checksum_mismatch")
    assert list(home.iterdir()) == []


def test_conflict_error_is_refused_at_create_and_again_at_complete(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, len(CONTENT), conflict="error")
    client.send(session, CONTENT)
    (home / "target").write_bytes(b"was here first")
    assert reason(client.create(target, 1, conflict="error")) == (409, "target_conflict")
    answer = client.complete(session)
    assert reason(answer) == (409, "target_conflict")
    assert answer.json()["error_detail"]["upload_id"] == session["upload_id"]
    assert (home / "target").read_bytes() == b"was here first"


def test_the_list_has_the_newest_first_and_the_ended_too(client: Client, target: str) -> None:
    sessions = [client.begin(target, 5) for _ in range(3)]
    client.abort(sessions[0])
    answer = client.call("GET", "/uploads").json()
    assert answer.keys() == {"items", "quarantined"}
    ours: list[Any] = [one for one in answer["items"] if one["target_path"] == target]
    assert [one["upload_id"] for one in ours] == [one["upload_id"] for one in reversed(sessions)]
    assert [one["status"] for one in ours] == ["created", "created", "aborted"]
