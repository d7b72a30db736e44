"""Bugs seen in upload servers of the field, each of which would break one of these."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.api.conftest import PART
from tests.conftest import StartDaemon
from tests.uploading import Client, answer_on, content_of, piece, reason, sha256, tar_of

CONTENT = content_of(3 * PART)


def test_completing_while_a_stored_part_is_retried_does_not_truncate(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT)
    with client.open_part(session, 1, PART) as retry:
        retry.sendall(CONTENT[PART : PART + 10])
        assert client.complete(session, sha256(CONTENT)).status == 200
    assert (home / "target").read_bytes() == CONTENT


def test_a_retry_that_is_cut_does_not_delete_the_good_part(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT)
    with client.open_part(session, 1, PART) as retry:
        retry.sendall(b"garbage")
    assert client.status(session)["accepted_bytes"] == len(CONTENT)
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert (home / "target").read_bytes() == CONTENT


def test_a_first_try_that_is_cut_leaves_nothing_that_counts(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, PART)
    with client.open_part(session, 0, PART) as cut:
        cut.sendall(b"garbage")
    assert reason(client.complete(session)) == (409, "missing_parts")
    client.send(session, CONTENT)
    assert client.complete(session).status == 200
    assert (home / "target").read_bytes() == CONTENT[:PART]


def test_gaps_are_not_accepted(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT, (0, 2))
    answer = client.complete(session)
    assert answer.json()["error_detail"]["details"] == {"missing": [[1, 1]]}
    assert list(home.iterdir()) == []


def test_an_upload_is_not_complete_because_its_last_part_came_first(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT, (2,))
    assert client.status(session)["status"] == "uploading"
    assert client.status(session)["accepted_bytes"] == PART
    assert reason(client.complete(session)) == (409, "missing_parts")


def test_two_completes_at_once_write_the_target_once(client: Client, home: Path, target: str) -> None:
    archive = tar_of({f"f{n}": b"x" * n for n in range(50)})
    session = client.begin_tar(target, archive, conflict="error")
    client.send(session, archive)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.complete(session, sha256(archive)), range(6)))
    assert {(one.status, one.body) for one in answers} == {(200, answers[0].body)}
    assert len(list((home / "target").iterdir())) == 50


def test_a_failed_complete_leaves_the_target_as_it_was(client: Client, home: Path, target: str) -> None:
    (home / "target").write_bytes(b"precious")
    before = (home / "target").stat()
    session = client.begin(target, len(CONTENT))
    client.send(session, CONTENT)
    assert client.complete(session, sha256(b"wrong")).status == 409
    assert (home / "target").read_bytes() == b"precious"
    assert (home / "target").stat().st_ino == before.st_ino


def test_a_failed_complete_leaves_the_tree_as_it_was(client: Client, home: Path, target: str) -> None:
    (home / "target/sub").mkdir(parents=True)
    (home / "target/sub/precious").write_bytes(b"precious")
    archive = tar_of({"new": b"x", "sub/precious": None})
    assert reason(client.put_tar(target, archive)) == (409, "target_conflict")
    assert [entry.name for entry in (home / "target").iterdir()] == ["sub"]
    assert (home / "target/sub/precious").read_bytes() == b"precious"


def test_an_abandoned_upload_does_not_stay_for_ever(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--uploads-lifetime", "0.3", "--uploads-retention", "0.3", "--uploads-part-size", "1000")
    client = Client(daemon)
    session = client.begin("abandoned", len(CONTENT))
    client.send(session, CONTENT, (0,))
    place = daemon.root / "workspace/.nullspace/uploads/v1"
    gone = threading.Event()
    for _ in range(100):
        if not list(place.iterdir()):
            break
        gone.wait(0.1)
    assert list(place.iterdir()) == []
    assert client.call("GET", f"/uploads/{session['upload_id']}").status == 404


def test_what_cannot_be_read_after_a_restart_is_said_and_kept_apart(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--uploads-part-size", "1000")
    client = Client(daemon)
    broken, whole = client.begin("broken", len(CONTENT)), client.begin("whole", len(CONTENT))
    client.send(whole, CONTENT)
    daemon.kill9()
    uploads = daemon.root / "workspace/.nullspace/uploads/v1"
    (uploads / broken["upload_id"] / "journal").write_bytes(b"nonsense")
    daemon.restart()
    answer = client.call("GET", f"/uploads/{broken['upload_id']}")
    assert reason(answer) == (409, "upload_state_lost")
    assert client.call("GET", "/uploads").json()["quarantined"] == [broken["upload_id"]]
    assert client.complete(whole, sha256(CONTENT)).status == 200


def test_a_target_in_the_reserved_tree_is_refused(client: Client) -> None:
    answer = client.create("/workspace/.nullspace/uploads/v1/mine", 1)
    assert reason(answer) == (403, "permission_denied")


def test_two_targets_with_one_stem_do_not_share_a_place(client: Client, home: Path, target: str) -> None:
    first, second = client.begin(f"{target}.txt", PART), client.begin(f"{target}.json", PART)
    client.send(first, b"1" * PART)
    client.send(second, b"2" * PART)
    assert (client.complete(first).status, client.complete(second).status) == (200, 200)
    assert (home / "target.txt").read_bytes() == b"1" * PART
    assert (home / "target.json").read_bytes() == b"2" * PART


def test_two_uploads_to_one_target_end_with_the_later_complete_alone(client: Client, home: Path, target: str) -> None:
    first, second = client.begin(target, PART), client.begin(target, 2 * PART)
    client.send(first, b"1" * PART)
    client.send(second, b"2" * PART * 2)
    assert (client.complete(second).status, client.complete(first).status) == (200, 200)
    assert (home / "target").read_bytes() == b"1" * PART


def test_a_bad_owner_is_found_out_before_anything_is_sent(client: Client, home: Path, target: str) -> None:
    assert reason(client.create(target, 1, user="no-such-user")) == (400, "unknown_user")
    assert list(home.iterdir()) == []


def test_nothing_in_a_path_is_expanded(client: Client, home: Path) -> None:
    names = ["$HOME", "${PATH}", "~", "~root", "`id`", "$(id)", "%d", "{a,b}", "*"]
    for name in names:
        assert client.put(f"/workspace/{home.name}/{name}", b"").status == 200
    assert {entry.name for entry in home.iterdir()} == set(names)


def test_readers_never_see_a_size_between_the_old_and_the_new(client: Client, home: Path, target: str) -> None:
    old, new = b"o" * 5000, b"n" * 3 * PART
    (home / "target").write_bytes(old)
    seen, over = set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add((home / "target").read_bytes())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(read)
        answers = [client.put(target, content) for content in (new, old, new, old, new)]
        over.set()
    assert {one.status for one in answers} == {200}
    assert seen <= {old, new}


def test_who_has_the_old_file_open_keeps_the_old_content(client: Client, home: Path, target: str) -> None:
    (home / "target").write_bytes(b"old")
    os.link(home / "target", home / "other-name")
    with (home / "target").open("rb") as held:
        client.put(target, CONTENT)
        assert held.read() == b"old"
    assert (home / "other-name").read_bytes() == b"old"


def test_a_stale_writer_cannot_change_what_a_newer_one_sent(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, PART)
    stale = client.open_part(session, 0, PART)
    stale.sendall(b"s" * 10)
    client.send(session, CONTENT)
    with suppress(OSError):
        stale.sendall(b"s" * (PART - 10))
    assert answer_on(stale) is None
    client.complete(session)
    assert (home / "target").read_bytes() == CONTENT[:PART]


def test_a_part_that_is_sent_again_while_it_is_sent_is_stored_once(client: Client, home: Path, target: str) -> None:
    session = client.begin(target, len(CONTENT))

    def send(number: int) -> int:
        try:
            return client.part(session, number % 3, piece(session, CONTENT, number % 3)).status
        except ConnectionError:
            return 0

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(send, range(36))) <= {200, 0}
    client.send(session, CONTENT)
    assert client.complete(session, sha256(CONTENT)).status == 200
    assert (home / "target").read_bytes() == CONTENT
