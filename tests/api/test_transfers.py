"""Whole files in one request: raw, in forms, in batches, and by signed URLs."""

import http.client
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import Answer, Daemon
from tests.filing import FORM, Filing, code, facts, form
from tests.uploading import MACHINE

NOBODY = 65534


@pytest.fixture
def files(shared: Daemon, home: Path) -> Filing:
    return Filing(shared, home)


# -- forms and batches


@pytest.mark.parametrize("parts", [[], [("other", b"x")], [("file", b"1"), ("file", b"2")]])
def test_a_form_has_one_file(files: Filing, home: Path, parts: list[tuple[str, bytes]]) -> None:
    assert code(files.send("new", form(*parts), "POST", **FORM)) == (400, "invalid_request")
    assert list(home.iterdir()) == []


def test_other_fields_of_a_form_mean_nothing(files: Filing, home: Path) -> None:
    body = form(("note", b"x"), ("file", b"content"), ("more", b"y"))
    assert files.send("new", body, "POST", **FORM).status == 204
    assert (home / "new").read_bytes() == b"content"


def batch(files: Filing, entries: list[dict[str, str]], *parts: tuple[str, bytes], user: str | None = None) -> Answer:
    manifest = json.dumps({"files": entries, "user": user}).encode()
    return files.daemon.call("POST", f"{MACHINE}/files/batch-write", form(("manifest", manifest), *parts), FORM)


def test_each_file_of_a_batch_has_its_own_result_in_the_manifests_order(files: Filing, home: Path) -> None:
    (home / "dir").mkdir()
    names = {"f1": "a/one", "f2": "dir", "f3": "/workspace/.nullspace/x", "f4": "b", "f5": "never sent"}
    entries = [{"path": files.path(name), "field": field} for field, name in names.items()]
    parts = [("f4", b"4"), ("f3", b"3"), ("unknown", b"?"), ("f2", b"2"), ("f1", b"1")]
    answer = batch(files, entries, *parts, user="nobody")
    results = answer.json()["results"]
    assert (answer.status, [result["path"] for result in results]) == (200, [entry["path"] for entry in entries])
    assert [result["status"] for result in results] == ["success", "error", "error", "success", "error"]
    assert results[0]["info"]["path"] == files.path("a/one")
    assert results[1]["error"]
    assert ((home / "a/one").read_text(), (home / "b").read_text()) == ("1", "4")
    assert facts(home / "a/one")[:2] == (NOBODY, NOBODY)


@pytest.mark.parametrize(
    "body",
    [
        form(),
        form(("file0", b"x")),
        form(("manifest", b"no json")),
        form(("manifest", b'{"files":[{"path":"a"}]}')),
        form(("manifest", b'{"files":[{"path":"a","field":"f"},{"path":"b","field":"f"}]}'), ("f", b"x")),
        b"no form",
    ],
)
def test_a_batch_without_a_usable_manifest_is_refused(files: Filing, body: bytes) -> None:
    answer = files.daemon.call("POST", f"{MACHINE}/files/batch-write", body, FORM)
    assert code(answer) == (400, "invalid_request")


def test_an_empty_batch_is_fine(files: Filing) -> None:
    assert batch(files, []).json() == {"results": []}


# -- signed URLs


def fetch(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Without a token."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["file", "two words & more?#%", "日本", "a+b"])
def test_a_signed_url_gives_one_file_to_whoever_has_it(files: Filing, home: Path, name: str) -> None:
    (home / name).write_text("content")
    answer = files.op("download-url", name)
    assert answer.json().keys() == {"url"}
    url = answer.json()["url"]
    assert url.startswith(f"{files.daemon.url}{MACHINE}/file?path=")
    assert (fetch(url), fetch(url, "HEAD")[0]) == ((200, b"content"), 200)
    assert fetch(url, "PUT", b"x")[0] in (401, 403)


def test_a_signed_url_takes_one_file_by_either_method_and_for_its_user(files: Filing, home: Path) -> None:
    found = files.op("upload-url", "a/new", user="nobody").json()
    assert found.keys() == {"url", "token"}
    assert parse_qs(urlsplit(found["url"]).query)["file_token"] == [found["token"]]
    assert fetch(found["url"], "PUT", b"put")[0] == 204
    assert (home / "a/new").read_bytes() == b"put"
    assert fetch(found["url"], "POST", form(("file", b"posted")), **FORM)[0] == 204
    assert (home / "a/new").read_bytes() == b"posted"
    assert facts(home / "a/new") == (NOBODY, NOBODY, "0644")
    assert fetch(found["url"])[0] in (401, 403)


def test_a_relative_path_is_signed_for_what_it_means_now(files: Filing) -> None:
    url = files.daemon.call("POST", "/v1/files/upload-url", {"path": "x/y", "user": "nobody"}).json()["url"]
    assert parse_qs(urlsplit(url).query)["path"] == ["/nonexistent/x/y"]
    assert urlsplit(url).path == "/v1/file"


def test_a_signed_url_is_for_its_path_and_time_alone(files: Filing, home: Path) -> None:
    (home / "file").write_text("content")
    (home / "other").write_text("secret")
    url = files.op("download-url", "file").json()["url"]
    assert fetch(url.replace("file&file_token", "other&file_token"))[0] in (401, 403)
    assert fetch(url[:-2])[0] == 401
    for seconds in (0, -1, 1e9):
        assert code(files.op("download-url", "file", expires_in=seconds)) == (400, "invalid_request")
    assert code(files.op("download-url", "file", user="no-such")) == (400, "unknown_user")
