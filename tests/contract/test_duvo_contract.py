"""Duvo's published contract, as ``duvo.json`` has it, against the answers of a real daemon, one by one."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Answer, Daemon, StartDaemon
from tests.contract.clients import Driver, environment
from tests.toolbox import FORM, form

CONTRACT = Path(__file__).with_name("duvo.json")
URLS, FILES = "/v1/sandboxes/{sandbox_id}/upload-urls", "/v1/sandboxes/{sandbox_id}/files"
JSON = {"Content-Type": "application/json"}

Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    place = tmp_path_factory.mktemp("judge") / "python"
    with environment(place, "jsonschema==4.26.0") as python:
        driver = Driver(None, str(python), "judge.py", str(CONTRACT))
        yield driver
        driver.close()


def asking(daemon: Daemon, judge: Driver) -> Ask:
    """Makes one request, and gives the answer after it was held against the contract."""

    def ask(
        method: str, path: str, body: bytes | None = None, *, query: str = "", token: str | None = "", **more: str
    ) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in more.items()}
        answer = daemon.call(method, f"/duvo{path.format(sandbox_id='sb_1')}{query}", body, sent, token=token)
        told = {"status": answer.status, "headers": answer.headers, "body": answer.body.decode()}
        judge.send({"method": method, "path": path, **told})
        assert json.loads(judge.read()) == []
        return answer

    return ask


@pytest.fixture
def ask(daemon: Daemon, judge: Driver) -> Ask:
    return asking(daemon, judge)


def url_for(path: object) -> bytes:
    return json.dumps({"path": path}).encode()


def upload(ask: Ask, name: str, content: bytes, path: str | None = None, **headers: str) -> Answer:
    fields = [("file", name, content), *([("path", None, path.encode())] if path is not None else [])]
    return ask("POST", FILES, form(fields), **{**FORM, **headers})


def test_a_directory_is_listed_as_published(ask: Ask) -> None:
    upload(ask, "a.txt", b"hello", "/workspace/d/a.txt")
    listed = ask("GET", FILES).json()["files"]
    assert [(one["name"], one["type"]) for one in listed] == [("d", "dir")]
    (file,) = ask("GET", FILES, query="?path=/workspace/d").json()["files"]
    assert file == {"name": "a.txt", "path": "/workspace/d/a.txt", "type": "file", "size_bytes": 5}
    assert ask("GET", FILES, query="?path=/workspace/missing").status == 404


def test_a_file_is_uploaded_as_published(ask: Ask) -> None:
    stored = upload(ask, "a.txt", b"hello")
    assert (stored.status, stored.json()) == (201, {"path": "/workspace/a.txt", "size_bytes": 5})
    assert upload(ask, "a.txt", b"x", "/workspace/made/").json()["path"] == "/workspace/made/a.txt"
    assert upload(ask, "a.txt", bytes((10 << 20) + 1)).status == 413
    assert ask("POST", FILES, b"", **FORM).status == 400


def test_an_upload_url_is_given_as_published_and_needs_no_token(ask: Ask, daemon: Daemon) -> None:
    given = ask("POST", URLS, url_for("/workspace/big"), **JSON).json()
    url = urlsplit(given["upload_url"])
    assert f"{url.scheme}://{url.netloc}" == daemon.url
    content = os.urandom(11 << 20)
    assert daemon.call("PUT", f"{url.path}?{url.query}", content, token=None).status == 200
    assert (daemon.root / "workspace/big").read_bytes() == content


@pytest.mark.parametrize("body", [b"{}", url_for(""), url_for(7), b'{"path": "/workspace/a", "more": 1}', b"["])
def test_a_bad_request_for_an_url_is_refused_as_published(ask: Ask, body: bytes) -> None:
    assert ask("POST", URLS, body, **JSON).status == 400


def test_another_sandbox_is_not_found(start_daemon: StartDaemon, judge: Driver) -> None:
    ask = asking(start_daemon("--sandbox-id", "sb_2"), judge)
    assert ask("GET", FILES).status == ask("POST", URLS, url_for("/workspace/a"), **JSON).status == 404
    assert upload(ask, "a", b"1").status == 404


def test_a_sandbox_is_created_as_published(start_daemon: StartDaemon, judge: Driver) -> None:
    ask = asking(start_daemon("--standalone"), judge)
    created = ask("POST", "/v1/sandboxes")
    assert created.status == 201
    assert ask("GET", FILES).status == 404
    assert ask("POST", "/v1/sandboxes").json()["sandbox_id"] != created.json()["sandbox_id"]


def test_what_is_repeated_with_its_key_is_done_once(ask: Ask, daemon: Daemon) -> None:
    first, again = (ask("POST", URLS, url_for("/workspace/a"), Idempotency_Key="k1", **JSON).json() for _ in "12")
    assert first == again
    assert ask("POST", URLS, url_for("/workspace/b"), Idempotency_Key="k1", **JSON).status == 400
    upload(ask, "once", b"1", Idempotency_Key="k2")
    (daemon.root / "workspace/once").unlink()
    assert upload(ask, "once", b"1", Idempotency_Key="k2").status == 201
    assert not (daemon.root / "workspace/once").exists()


def test_who_has_no_token_is_told_so_and_then_to_wait(start_daemon: StartDaemon, judge: Driver) -> None:
    ask = asking(start_daemon("--limits-unauthenticated-per-second", "2"), judge)
    answers = [ask("GET", FILES, token="wrong") for _ in range(25)]
    assert {one.status for one in answers} == {401, 429}
    limited = next(one for one in answers if one.status == 429)
    assert int(limited.headers["retry-after"]) >= 1
    assert limited.headers["x-ratelimit-limit"] == "2"
