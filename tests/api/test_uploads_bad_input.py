"""What each route refuses, in whose words, and that a refusal takes nothing away from what was accepted before."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import MOST, PART
from tests.conftest import Daemon, StartDaemon
from tests.uploading import Client, answer_on, as_json, content_of, reason, sha256, tar_of

CONTENT = content_of(2 * PART + 1)
ASKED = {"kind": "file", "source_kind": "restartable_file", "target_path": "bad", "content_length": 10}


@pytest.fixture(autouse=True, scope="module")
def nothing_unforeseen_happens(shared: Daemon) -> Any:
    """No bad input of this module may make a traceback in the log or a 500."""
    yield
    lines = shared.log()
    assert [line for line in lines if line.get("status") == 500] == []
    assert "Traceback" not in json.dumps(lines)


def post(client: Client, body: bytes, path: str = "/uploads") -> tuple[int, str]:
    answer = client.call("POST", path, body, {"Content-Type": "application/json"})
    assert b"Traceback" not in answer.body
    assert isinstance(answer.json(), dict)
    return reason(answer)


# -- create

BROKEN = [b"{", b"nonsense", b'{"kind":}', b"[]", b"null", b'"text"', b"7", b"\xff\xfe", b"[" * 100_000, b'{"a":NaN}']


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:8]))
def test_a_create_that_is_no_json_object_is_an_invalid_request(client: Client, body: bytes) -> None:
    assert post(client, body) == (400, "invalid_request")


@pytest.mark.parametrize("field", ASKED)
def test_a_create_without_a_required_field_is_an_invalid_request(client: Client, field: str) -> None:
    left = {key: value for key, value in ASKED.items() if key != field}
    assert post(client, as_json(left)) == (400, "invalid_request")


WRONG: list[dict[str, Any]] = [
    *({"kind": value} for value in ("tree", "", None, 7, ["file"])),
    *({"source_kind": value} for value in ("x", None)),
    *({"target_path": value} for value in (None, 7, ["a"])),
    *({"content_length": value} for value in (-1, "10", None, 1.5, 1 << 64, 10**40, True, [])),
    *({"conflict": value} for value in ("overwrite", None, "")),
    *({"archive_format": value} for value in ("zip", "tar", 1)),
    *({"checksum_algorithm": value} for value in ("md5", None)),
    *({"whole_checksum_sha256": value} for value in ("", "0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n", 5)),
    *({"metadata": value} for value in ([], "x", None)),
    *({"user": value} for value in (5, ["root"], {})),
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_field_of_the_wrong_type_or_value_is_an_invalid_request(client: Client, change: dict[str, Any]) -> None:
    assert post(client, as_json(ASKED | change)) == (400, "invalid_request")


def test_unknown_fields_of_a_create_are_ignored(client: Client) -> None:
    assert client.create("unknown-fields", 1, colour="green").status == 200


@pytest.mark.parametrize(
    "value", ["\ud800", 10**400, 1e308, {"a": {"b": ["\udfff"]}}, {"\udc80": 1}], ids=lambda v: repr(v)[:20]
)
def test_odd_metadata_is_stored_or_refused(client: Client, value: object) -> None:
    assert post_status(client, as_json(ASKED | {"metadata": {"key": value}})) in (200, 400)


def post_status(client: Client, body: bytes) -> int:
    return client.call("POST", "/uploads", body, {"Content-Type": "application/json"}).status


def test_json_that_is_too_long_is_refused(client: Client) -> None:
    assert post(client, as_json(ASKED | {"metadata": {"long": "x" * (1 << 20)}})) == (413, "request_too_large")


@pytest.mark.parametrize("key", ["", " ", "k" * 256, "tab\there", "\xe9\xff"])
def test_a_malformed_key_is_an_invalid_request(client: Client, key: str) -> None:
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    assert reason(client.call("POST", "/uploads", as_json(ASKED), headers)) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["\0", "a\0b", "n" * 256, "/" + "a/" * 2048, "ü" * 128, "\ud800", "/", ".."])
def test_a_path_that_no_file_system_takes_is_refused_at_create(client: Client, path: str) -> None:
    status, code = post(client, as_json(ASKED | {"target_path": path}))
    assert (status, code) in ((400, "invalid_path"), (400, "invalid_request"), (409, "target_conflict"))


RESERVED = [
    "/workspace/.nullspace",
    "/workspace/.nullspace/",
    "/workspace/.nullspace/x",
    "/workspace/.nullspace/uploads/v1/up_0/data",
    ".nullspace/x",
    "/workspace/./.nullspace/x",
    "//workspace//.nullspace//x",
    "/workspace/x/../.nullspace/x",
    "/../workspace/.nullspace/x",
    "/link-to-workspace/.nullspace/x",
    "/link-to-reserved/x",
    "/link-to-reserved",
    "/link-to-token",
]


@pytest.mark.parametrize("kind", ["file", "directory_tar"])
@pytest.mark.parametrize("path", RESERVED)
def test_the_reserved_tree_is_refused_in_every_spelling(client: Client, path: str, kind: str) -> None:
    root = client.daemon.root
    (root / "workspace/x").mkdir(exist_ok=True)
    for name, leads_to in (("workspace", ""), ("reserved", "/.nullspace"), ("token", "/.nullspace/token")):
        if not (link := root / f"link-to-{name}").is_symlink():
            link.symlink_to(f"/workspace{leads_to}")
    assert post(client, as_json(ASKED | {"target_path": path, "kind": kind})) == (403, "permission_denied")


def test_the_reserved_tree_is_refused_when_a_link_to_it_appears_after_the_create(
    client: Client, home: Path, target: str
) -> None:
    session = client.begin(f"{target}/file", len(CONTENT))
    client.send(session, CONTENT)
    (home / "target").symlink_to("/workspace/.nullspace")
    assert reason(client.complete(session)) == (403, "permission_denied")
    assert not (client.daemon.root / "workspace/.nullspace/file").exists()


@pytest.mark.parametrize("user", ["no-such-user", "4294967296", "-1", "root:x", "a\0b", "\udcff", "x" * 5000])
def test_an_unknown_user_is_refused_before_a_byte_is_sent(client: Client, user: str) -> None:
    assert post(client, as_json(ASKED | {"user": user})) == (400, "unknown_user")


def test_a_size_over_the_limit_is_refused_with_the_limit(client: Client, target: str) -> None:
    answer = client.create(target, MOST + 1)
    assert reason(answer) == (413, "size_limit_exceeded")
    assert answer.json()["error_detail"]["details"] == {"limit": MOST, "requested": MOST + 1}
    assert client.create(target, MOST).status == 200


def test_the_quota_counts_what_is_declared_until_the_upload_ends(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon("--uploads-quota-bytes", "1000"))
    first = client.begin("a", 600)
    refused = client.create("b", 401)
    assert reason(refused) == (507, "insufficient_staging_space")
    assert refused.json()["error_detail"]["details"] == {"limit": 1000, "used": 600, "requested": 401}
    assert client.begin("b", 400)["limits"]["machine_staging_quota_bytes"] == 1000
    client.abort(first)
    assert client.create("c", 600).status == 200


def test_more_open_uploads_than_allowed_are_refused_until_one_ends(start_daemon: StartDaemon) -> None:
    client = Client(start_daemon("--uploads-max-sessions", "2"))
    first = client.begin("a", 0)
    client.begin("b", 1)
    assert reason(client.create("c", 1)) == (429, "capacity_exceeded")
    assert client.complete(first).status == 200
    assert client.create("c", 1).status == 200


# -- parts


@pytest.mark.parametrize("number", ["-1", "3", "99999999999999999999999"])
def test_a_part_number_that_there_is_not_is_out_of_range(client: Client, target: str, number: str) -> None:
    session = client.begin(target, len(CONTENT))
    answer = client.call("PUT", f"/uploads/{session['upload_id']}/parts/{number}", b"x")
    assert reason(answer) == (400, "part_out_of_range")


@pytest.mark.parametrize("number", ["x", "1.5", "0x1", "", "1e1", "%00"])
def test_a_part_number_that_is_no_number_is_refused(client: Client, target: str, number: str) -> None:
    session = client.begin(target, len(CONTENT))
    answer = client.call("PUT", f"/uploads/{session['upload_id']}/parts/{number}", b"x")
    assert answer.status in (400, 404)


@pytest.mark.parametrize(("number", "length"), [(0, 0), (0, PART - 1), (0, PART + 1), (2, 0), (2, 2), (1, 1)])
def test_a_part_of_the_wrong_length_is_refused(client: Client, target: str, number: int, length: int) -> None:
    session = client.begin(target, len(CONTENT))
    assert reason(client.part(session, number, bytes(length))) == (400, "part_size_mismatch")
    assert client.status(session)["accepted_bytes"] == 0


@pytest.mark.parametrize("length", [0, PART - 1, PART + 1, 100 * PART])
def test_a_part_in_chunks_of_the_wrong_length_is_refused(client: Client, target: str, length: int) -> None:
    session = client.begin(target, len(CONTENT))
    path = f"/uploads/{session['upload_id']}/parts/0"
    assert reason(client.call("PUT", path, iter([bytes(length)]))) == (400, "part_size_mismatch")
    assert client.part(session, 0, CONTENT[:PART]).status == 200


def test_a_part_in_chunks_of_the_right_length_is_accepted(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    pieces = iter([CONTENT[:1], CONTENT[1:PART]])
    answer = client.call("PUT", f"/uploads/{session['upload_id']}/parts/0", pieces)
    assert answer.json()["accepted_bytes"] == PART


@pytest.mark.parametrize("digest", ["0", "x" * 64, "0" * 65, " ", "sha256:" + "0" * 64])
def test_a_malformed_part_digest_is_an_invalid_request(client: Client, target: str, digest: str) -> None:
    session = client.begin(target, len(CONTENT))
    assert reason(client.part(session, 0, CONTENT[:PART], digest)) == (400, "invalid_request")


def test_a_part_digest_may_be_written_in_capitals(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    assert client.part(session, 0, CONTENT[:PART], sha256(CONTENT[:PART]).upper()).status == 200
    assert client.part(session, 0, CONTENT[:PART]).status == 200


def test_a_part_with_another_digest_is_refused_and_may_be_sent_again(client: Client, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    answer = client.part(session, 0, CONTENT[:PART], sha256(b"other"))
    assert reason(answer) == (400, "invalid_part_checksum")
    assert answer.json()["retryable"] is True
    assert client.status(session)["next_part"] == 0
    assert client.part(session, 0, CONTENT[:PART]).status == 200


@pytest.mark.parametrize("first", ["", None])
@pytest.mark.parametrize("second", ["", None])
def test_other_bytes_for_an_accepted_part_are_a_conflict_and_change_nothing(
    client: Client, home: Path, target: str, first: str | None, second: str | None
) -> None:
    session = client.begin(target, PART)
    assert client.part(session, 0, CONTENT[:PART], first).status == 200
    assert reason(client.part(session, 0, bytes(PART), second)) == (409, "invalid_part_checksum")
    assert client.part(session, 0, CONTENT[:PART], second).status == 200
    assert client.complete(session).status == 200
    assert (home / "target").read_bytes() == CONTENT[:PART]


def test_a_replay_whose_body_is_not_what_its_digest_says_is_refused(client: Client, target: str) -> None:
    session = client.begin(target, PART)
    assert client.part(session, 0, CONTENT[:PART], None).status == 200
    assert reason(client.part(session, 0, CONTENT[:PART], sha256(b""))) == (400, "invalid_part_checksum")


@pytest.mark.parametrize("path", ["", "/parts/0", "/complete"])
@pytest.mark.parametrize("upload_id", ["up_none", "..", "%2e%2e", "%00", "%ff", "a" * 3000])
def test_an_upload_that_there_is_not_is_not_found(client: Client, upload_id: str, path: str) -> None:
    method = {"": "GET", "/parts/0": "PUT", "/complete": "POST"}[path]
    answer = client.call(method, f"/uploads/{upload_id}{path}")
    assert answer.status == 404
    assert answer.json()["code"] in ("upload_not_found", "not_found")


# -- ends


@pytest.mark.parametrize("end", ["abort", "complete"])
def test_nothing_is_taken_after_the_end_and_each_refusal_says_which_end_it_was(
    client: Client, target: str, end: str
) -> None:
    session = client.begin(target, PART)
    client.send(session, CONTENT)
    assert getattr(client, end)(session).status in (200, 204)
    wanted = (409, "upload_aborted" if end == "abort" else "upload_already_completed")
    assert reason(client.part(session, 0, CONTENT[:PART])) == wanted
    assert reason(client.part(session, 9, b"")) == wanted
    assert reason(client.complete(session) if end == "abort" else client.abort(session)) == wanted


def test_aborting_what_is_completed_leaves_the_target(client: Client, home: Path, target: str) -> None:
    session = client.put(target, CONTENT).json()["session"]
    assert reason(client.abort(session)) == (409, "upload_already_completed")
    assert (home / "target").read_bytes() == CONTENT


def test_complete_with_holes_names_them_as_ranges(client: Client, home: Path, target: str) -> None:
    content = content_of(10 * PART)
    session = client.begin(target, len(content))
    client.send(session, content, (2, 5, 9))
    answer = client.complete(session)
    assert reason(answer) == (409, "missing_parts")
    assert answer.json()["error_detail"]["details"] == {"missing": [[0, 1], [3, 4], [6, 8]]}
    assert client.status(session)["status"] == "uploading"
    client.send(session, content)
    assert client.complete(session, sha256(content)).status == 200
    assert (home / "target").read_bytes() == content


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"whole_checksum_sha256": "short"}', b'{"whole_checksum_sha256": 1}'])
def test_a_complete_that_cannot_be_read_changes_nothing(client: Client, target: str, body: bytes) -> None:
    session = client.begin(target, PART)
    client.send(session, CONTENT)
    assert post(client, body, f"/uploads/{session['upload_id']}/complete") == (400, "invalid_request")
    assert client.status(session)["status"] == "staged"


def test_ten_clients_that_disagree_about_a_part_leave_one_whole_version(
    client: Client, home: Path, target: str
) -> None:
    session = client.begin(target, PART)
    versions = [bytes([n]) * PART for n in range(10)]
    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(lambda body: put_status(client, session, body), versions))
    assert set(statuses) <= {200, 409, 0}
    assert statuses.count(200) == 1
    assert client.complete(session).status == 200
    assert (home / "target").read_bytes() == versions[statuses.index(200)]


def put_status(client: Client, session: Any, body: bytes) -> int:
    """0 where the connection was shut because a newer writer came."""
    try:
        return client.part(session, 0, body).status
    except ConnectionError:
        return 0


# -- archives

HEADER = tar_of({"f": b""})[:512]


def member(name: str, kind: bytes = b"0", link: str = "") -> bytes:
    """A header with a valid checksum."""
    head = bytearray(HEADER)
    head[0:100] = name.encode().ljust(100, b"\0")
    head[156:157] = kind
    head[157:257] = link.encode().ljust(100, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


BAD_ARCHIVES = {
    "absolute": (member("/etc/x"), "directory_extract_invalid_path"),
    "dot-dot": (member("../x"), "directory_extract_invalid_path"),
    "inner dot-dot": (member("a/../../x"), "directory_extract_invalid_path"),
    "absolute link": (member("l", b"2", "/etc/passwd"), "directory_extract_invalid_symlink"),
    "link that leaves": (member("l", b"2", "../x"), "directory_extract_invalid_symlink"),
    "empty link": (member("l", b"2", ""), "directory_extract_invalid_symlink"),
    "FIFO": (member("p", b"6"), "directory_extract_unsupported_entry"),
    "character device": (member("d", b"3"), "directory_extract_unsupported_entry"),
    "block device": (member("d", b"4"), "directory_extract_unsupported_entry"),
    "through its own link": (
        member("l", b"2", ".") + member("d", b"5") + member("l/x"),
        "directory_extract_invalid_path",
    ),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
@pytest.mark.parametrize("conflict", ["merge", "replace", "error"])
def test_an_archive_that_reaches_out_is_refused_and_leaves_nothing(
    client: Client, home: Path, target: str, kind: str, conflict: str
) -> None:
    bad, wanted = BAD_ARCHIVES[kind]
    archive = (member("before") + bad).ljust(10240, b"\0")
    session = client.begin_tar(target, archive, conflict=conflict)
    client.send(session, archive)
    assert reason(client.complete(session)) == (422, wanted)
    assert list(home.iterdir()) == []
    assert client.status(session)["status"] == "staged"
    assert client.abort(session).status == 204


@pytest.mark.parametrize(
    "archive", [b"no tar at all" * 100, tar_of({"f": b"x" * 600})[:700], bytes(511), b"\0" * 1024 + b"x"]
)
def test_what_is_no_archive_is_refused_or_empty(client: Client, target: str, archive: bytes) -> None:
    answer = client.put_tar(target, archive)
    assert answer.status in (200, 422), answer.body


def test_an_archive_cannot_write_into_the_reserved_tree(client: Client) -> None:
    archive = tar_of({".nullspace": None, ".nullspace/planted": b"x"})
    answer = client.put_tar("/workspace", archive)
    assert answer.status == 403, answer.body
    assert not (client.daemon.root / "workspace/.nullspace/planted").exists()


def test_the_workspace_itself_is_not_replaced(client: Client, home: Path) -> None:
    (home / "kept").write_bytes(b"x")
    answer = client.put_tar("/workspace", tar_of({"new": b"x"}), conflict="replace")
    assert answer.status in (403, 409), answer.body
    assert (home / "kept").exists()
    assert (client.daemon.root / "workspace/.nullspace/lock").exists()


def test_a_part_that_is_too_long_is_refused_before_its_body_is_read(client: Client, target: str) -> None:
    session = client.begin(target, PART)
    connection = client.open_part(session, 0, 1 << 40, "Expect: 100-continue")
    answer = answer_on(connection)
    assert answer is not None
    assert reason(answer) == (400, "part_size_mismatch")
