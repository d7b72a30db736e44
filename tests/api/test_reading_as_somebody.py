"""What reads many entries reads them as the user whose rights bound it, to the last file."""

import json
import os
from collections.abc import Iterator

import pytest

from tests.api.trees import NDJSON, Reader, make
from tests.conftest import Answer, Daemon

ALICE, EVE = 4001, 4002
READINGS = ["files", "entries", "archive", "find", "search", "usage"]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The file system decides as the named user: alice and eve have each a directory that is theirs alone."""
    place = tmp_path_factory.mktemp("strict")
    top = place / "root"
    make(top, "etc/group", "secret/needle", "place/alice/needle", "place/eve/needle", "place/needle", "place/private")
    (top / "etc/passwd").write_text(f"alice:x:{ALICE}:{ALICE}::/a:/bin/sh\neve:x:{EVE}:{EVE}::/e:/bin/sh\n")
    for name, uid, mode in (("alice", ALICE, 0o700), ("eve", EVE, 0o700), ("private", EVE, 0o600)):
        os.chown(top / "place" / name, uid, uid)
        (top / "place" / name).chmod(mode)
    (top / "secret").chmod(0o700)
    for name, target in (("to-secret", "/secret"), ("to-place", "/place")):
        (top / name).symlink_to(target)
        os.chown(top / name, ALICE, ALICE, follow_symlinks=False)
    daemon = Daemon(top, place / "stderr", ("--user-access", "kernel"), {})
    yield daemon
    assert daemon.term() == 0


def ask(daemon: Daemon, reading: str, path: str, user: str | None = "alice") -> Answer:
    reader = Reader(daemon, daemon.root)
    named = {"path": path} | ({} if user is None else {"user": user})
    if reading in ("files", "entries", "archive"):
        more = {"skip_unreadable": "true"} if reading == "archive" else {"depth": 9}
        return reader.get(reading, **named, **more)
    more = {} if reading == "usage" else {"pattern": "needle"}
    return daemon.call("POST", f"/v1/files/{reading}", {**named, **more})


@pytest.mark.parametrize("reading", READINGS)
def test_a_directory_of_somebody_else_is_refused(strict: Daemon, reading: str) -> None:
    answer = ask(strict, reading, "/place/eve")
    assert (answer.status, answer.json()["code"]) == (403, "permission_denied")
    assert b"needle" not in answer.body


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("user", [None, "alice"])
def test_a_link_opens_no_door_that_its_owner_cannot(strict: Daemon, reading: str, user: str | None) -> None:
    assert ask(strict, reading, "/to-secret", user).status == 403


@pytest.mark.parametrize(("path", "user"), [("/place", "alice"), ("/to-place", None)])
def test_below_it_only_what_may_be_read_is_read(strict: Daemon, path: str, user: str | None) -> None:
    listed = [entry["path"] for entry in ask(strict, "files", path, user).json()]
    assert listed == [f"/place/{name}" for name in ("alice", "alice/needle", "eve", "needle", "private")]
    assert [match["file"] for match in ask(strict, "find", path, user).json()] == [
        "/place/alice/needle",
        "/place/needle",
    ]
    assert ask(strict, "search", path, user).json() == ["/place/alice/needle", "/place/needle"]
    assert ask(strict, "usage", path, user).json()["unread"] == 1
    archive = ask(strict, "archive", path, user).body
    assert archive.count(b"place/needle") == 1
    assert b"place/eve/needle" not in archive
    assert b"place/private" not in archive


def test_what_could_not_be_read_is_told(strict: Daemon) -> None:
    page = ask(strict, "entries", "/place").json()
    assert page["errors"] == [{"path": "/place/eve", "error": "Permission denied"}]
    lines = strict.call("GET", "/v1/entries?path=/place&depth=9&user=alice", None, NDJSON).body.splitlines()
    assert [line for line in map(json.loads, lines) if "error" in line] == page["errors"]


def test_lines_of_a_search_tell_what_could_not_be_searched(strict: Daemon) -> None:
    body = {"path": "/place", "pattern": "nowhere", "user": "alice"}
    lines = strict.call("POST", "/v1/files/find", body, NDJSON).body.splitlines()
    denied = [{"path": f"/place/{name}", "error": "Permission denied"} for name in ("eve", "private")]
    assert [json.loads(line) for line in lines] == denied


def test_an_archive_that_would_lack_something_is_cut_off(strict: Daemon) -> None:
    with strict.connect() as connection:
        request = f"GET /v1/archive?path=/place&user=alice HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {strict.token}"
        connection.sendall(f"{request}\r\n\r\n".encode())
        with connection.makefile("rb") as answer, pytest.raises(ConnectionResetError):
            answer.read()
    assert strict.log()[-1]["code"] == "storage_failed"
