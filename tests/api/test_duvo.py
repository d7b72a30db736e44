"""Duvo's sandboxes: the shapes of its published description, closed as they are there."""

import json
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
import pytest
from msgspec import Struct

from tests.conftest import Answer, Daemon, StartDaemon
from tests.toolbox import FORM, Field, form

MIB = 1 << 20


class File(Struct, forbid_unknown_fields=True):
    name: str
    path: str
    type: Literal["file", "dir"]
    size_bytes: int


class Listed(Struct, forbid_unknown_fields=True):
    files: list[File]


class Stored(Struct, forbid_unknown_fields=True):
    path: str
    size_bytes: int


class UploadUrl(Struct, forbid_unknown_fields=True):
    upload_url: str
    path: str
    expires_in_seconds: int


class Failure(Struct, forbid_unknown_fields=True):
    error: str
    message: str = ""


class Duvo:
    def __init__(self, daemon: Daemon, home: Path) -> None:
        self.daemon = daemon
        self.home = home
        self.place = f"/workspace/{home.name}"

    def call(self, method: str, route: str, body: bytes | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.daemon.call(method, f"/duvo/v1/sandboxes/sb_1/{route}", body, sent)

    def url(self, path: str, **headers: str) -> Answer:
        body = json.dumps({"path": path}).encode()
        return self.call("POST", "upload-urls", body, Content_Type="application/json", **headers)

    def upload(self, *parts: Field, **headers: str) -> Answer:
        return self.call("POST", "files", form(parts), **{**FORM, **headers})

    def put(self, url: str, content: bytes) -> Answer:
        where = urlsplit(url)
        return self.daemon.call("PUT", f"{where.path}?{where.query}", content, token=None)

    def left(self) -> int:
        return len(list((self.daemon.root / "workspace/.nullspace/writes").iterdir()))


@pytest.fixture
def duvo(shared: Daemon, home: Path) -> Duvo:
    return Duvo(shared, home)


def refused(answer: Answer) -> tuple[int, str]:
    return answer.status, msgspec.json.decode(answer.body, type=Failure).error


def test_a_directory_is_listed_one_level_deep(duvo: Duvo, home: Path) -> None:
    (home / "dir/deep").mkdir(parents=True)
    (home / "file").write_bytes(b"12345")
    answer = duvo.call("GET", f"files?path={duvo.place}")
    assert answer.status == 200
    assert msgspec.json.decode(answer.body, type=Listed).files == [
        File("dir", f"{duvo.place}/dir", "dir", 0),
        File("file", f"{duvo.place}/file", "file", 5),
    ]


def test_an_empty_directory_has_no_files(duvo: Duvo) -> None:
    assert duvo.call("GET", f"files?path={duvo.place}").json() == {"files": []}


def test_without_a_path_the_workspace_is_listed(duvo: Duvo, home: Path) -> None:
    found = msgspec.json.decode(duvo.call("GET", "files").body, type=Listed).files
    assert home.name in [file.name for file in found]
    assert ".nullspace" not in [file.name for file in found]


@pytest.mark.parametrize("order", [1, -1], ids=["path last", "path first"])
def test_a_form_has_the_file_and_its_path_in_any_order(duvo: Duvo, home: Path, order: int) -> None:
    parts = [("file", "any.bin", b"content"), ("path", None, f"{duvo.place}/a/b".encode())][::order]
    answer = duvo.upload(*parts)
    assert answer.status == 201
    assert msgspec.json.decode(answer.body, type=Stored) == Stored(f"{duvo.place}/a/b", 7)
    assert (home / "a/b").read_bytes() == b"content"


def test_a_path_with_a_slash_at_its_end_is_a_directory(duvo: Duvo, home: Path) -> None:
    duvo.upload(("path", None, f"{duvo.place}/".encode()), ("file", "../x/name", b"content"))
    assert (home / "name").read_bytes() == b"content"


def test_without_a_path_a_file_goes_into_the_workspace(duvo: Duvo, home: Path) -> None:
    assert duvo.upload(("file", f"{home.name}.txt", b"1")).json()["path"] == f"/workspace/{home.name}.txt"


def test_a_form_takes_ten_mebibytes_and_no_more(duvo: Duvo, home: Path) -> None:
    path = ("path", None, f"{duvo.place}/large".encode())
    assert duvo.upload(("file", "f", bytes(10 * MIB)), path).status == 201
    before = (home / "large").stat()
    assert refused(duvo.upload(("file", "f", bytes(10 * MIB + 1)), path)) == (413, "request_too_large")
    assert (home / "large").stat() == before
    assert duvo.left() == 0


@pytest.mark.parametrize(
    "parts", [[], [("path", None, b"/workspace/x")], [("a", "a", b"1"), ("b", "b", b"2")], [("file", "..", b"1")]]
)
def test_a_form_without_one_usable_file_is_refused(duvo: Duvo, home: Path, parts: list[Field]) -> None:
    assert refused(duvo.upload(*parts)) == (400, "invalid_request")
    assert duvo.left() == 0


def test_a_form_that_breaks_off_leaves_nothing(duvo: Duvo, home: Path) -> None:
    body = form([("path", None, f"{duvo.place}/new".encode()), ("file", "f", b"content")])
    assert refused(duvo.call("POST", "files", body[:-12], **FORM)) == (400, "invalid_request")
    assert (list(home.iterdir()), duvo.left()) == ([], 0)


def test_an_upload_url_takes_the_raw_bytes_of_a_file_of_any_size_without_a_token(duvo: Duvo, home: Path) -> None:
    answer = duvo.url(f"{duvo.place}/a b/ü?&")
    told = msgspec.json.decode(answer.body, type=UploadUrl)
    assert (answer.status, told.path) == (200, f"{duvo.place}/a b/ü?&")
    assert told.upload_url.startswith(f"{duvo.daemon.url}/duvo/v1/sandboxes/sb_1/")
    content = bytes(range(256)) * (12 * MIB // 256)
    stored = duvo.put(told.upload_url, content)
    assert msgspec.json.decode(stored.body, type=Stored) == Stored(told.path, len(content))
    assert (home / "a b/ü?&").read_bytes() == content


def test_an_upload_url_is_for_its_own_path_alone(duvo: Duvo, home: Path) -> None:
    url = duvo.url(f"{duvo.place}/mine").json()["upload_url"]
    assert duvo.put(url.replace("mine&", "other&"), b"x").status in (401, 403)
    assert duvo.put(url[:-2], b"x").status == 401
    assert list(home.iterdir()) == []


def test_a_url_that_was_signed_for_a_user_is_for_that_user_here_too(duvo: Duvo, home: Path) -> None:
    asked = {"path": f"{duvo.place}/f", "user": "nobody"}
    token = duvo.daemon.call("POST", "/v1/files/upload-url", asked).json()["token"]
    answer = duvo.put(f"/duvo/v1/sandboxes/sb_1/upload?path={duvo.place}/f&file_token={token}", b"x")
    assert (answer.status, (home / "f").stat().st_uid) == (200, 65534)


@pytest.mark.parametrize("body", [b"{}", b'{"path":""}', b'{"path":"/x","more":1}', b"[]"])
def test_a_body_has_a_path_and_nothing_else(duvo: Duvo, body: bytes) -> None:
    answer = duvo.call("POST", "upload-urls", body, Content_Type="application/json")
    assert refused(answer) == (400, "invalid_request")


def test_a_missing_directory_is_not_found(duvo: Duvo) -> None:
    assert refused(duvo.call("GET", "files?path=/nowhere")) == (404, "not_found")


def test_a_repeated_upload_is_not_done_again(duvo: Duvo, home: Path) -> None:
    parts = [("file", "f", b"content"), ("path", None, f"{duvo.place}/f".encode())]
    key = {"Idempotency_Key": home.name}
    first = duvo.upload(*parts, **key)
    (home / "f").write_bytes(b"changed since")
    again = duvo.upload(*parts, **key)
    assert (first.status, first.body) == (again.status, again.body)
    assert (home / "f").read_bytes() == b"changed since"
    other = duvo.upload(("file", "f", b"others"), parts[1], **key)
    assert refused(other) == (400, "idempotency_key_reused")


def test_a_repeated_request_for_an_url_gets_the_same(duvo: Duvo, home: Path) -> None:
    key = {"Idempotency_Key": f"{home.name} url"}
    assert duvo.url(f"{duvo.place}/f", **key).json() == duvo.url(f"{duvo.place}/f", **key).json()
    assert refused(duvo.url("/other", **key)) == (400, "idempotency_key_reused")


def test_a_caller_that_asks_too_often_without_a_token_is_told_when_to_come_back(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--limits-unauthenticated-per-second", "1")
    where = "/duvo/v1/sandboxes/sb_1/files"
    answers = [daemon.call("GET", where, token="wrong") for _ in range(4)]
    told = answers[-1]
    assert (answers[0].status, *refused(told)) == (401, 429, "rate_limit_exceeded")
    assert int(told.headers["retry-after"]) >= 1
    assert told.headers["x-ratelimit-limit"] == "1"
    assert told.headers["x-ratelimit-remaining"] == "0"
    assert told.headers["x-ratelimit-reset"] == told.headers["retry-after"]


def test_only_the_named_sandbox_is_answered_for(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--sandbox-id", "sb_1")
    assert daemon.call("GET", "/duvo/v1/sandboxes/sb_1/files").status == 200
    assert refused(daemon.call("GET", "/duvo/v1/sandboxes/sb_2/files")) == (404, "sandbox_not_found")


def test_sandboxes_are_not_made_here(duvo: Duvo) -> None:
    assert refused(duvo.daemon.call("POST", "/duvo/v1/sandboxes", {})) == (404, "not_found")
