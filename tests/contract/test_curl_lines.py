"""The lines of the documentations of Blackbox and Conway, run as they stand by curl(1): only the host, the key, the ids
and the directory of the test are others."""

import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ANSWER_SECONDS, Daemon

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl(1)")


class Sandbox(Daemon):
    """Its workspace is the one of Blackbox's documentation."""

    @property
    def token(self) -> str:
        return (self.root / "vercel/sandbox/.nullspace/token").read_text().strip()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("curl")
    (place / "root/vercel/sandbox").mkdir(parents=True)
    made = Sandbox(place / "root", place / "stderr", ("--workspace", "/vercel/sandbox"), {})
    yield made
    assert made.term() == 0


class Curl:
    """here: where it runs, and finds ``@./files``. status: of the last answer."""

    def __init__(self, daemon: Daemon, here: Path) -> None:
        self.key = daemon.token
        self.task = f"{daemon.url}/blackbox/api/v1/tasks/a1b2c3d4-e5f6-7890-abcd-ef1234567890"
        self.box = f"{daemon.url}/conway/v1/sandboxes/abc123"
        self.here = here
        self.status = 0

    def __call__(self, *arguments: str) -> Any:
        """The JSON of the answer, or its text."""
        key = ("-H", f"Authorization: Bearer {self.key}")
        command = ["curl", "-sS", "--max-time", str(ANSWER_SECONDS), "-w", "\n%{http_code}", *arguments, *key]
        ran = subprocess.run(command, cwd=self.here, capture_output=True, text=True, check=True)
        text, _, status = ran.stdout.rpartition("\n")
        self.status = int(status)
        return json.loads(text) if text.startswith("{") else text


@pytest.fixture
def curl(daemon: Daemon, tmp_path: Path) -> Curl:
    (tmp_path / "data.csv").write_text("a,b\n" * 1024)
    (tmp_path / "config.json").write_text("{}")
    return Curl(daemon, tmp_path)


# -- Blackbox


def test_blackbox_uploads_a_file_and_names_its_directory_afterwards(curl: Curl) -> None:
    where = ("-X", "POST", f"{curl.task}/files/upload")
    told = curl(*where, "-F", "file=@./data.csv", "-F", "path=/vercel/sandbox/data")
    uploaded = {"name": "data.csv", "path": "/vercel/sandbox/data/data.csv", "size": 4096}
    assert (curl.status, told) == (201, {"uploaded": [uploaded]})


def test_blackbox_uploads_several_files_into_the_workspace(curl: Curl, daemon: Daemon) -> None:
    told = curl("-X", "POST", f"{curl.task}/files/upload", "-F", "file=@./data.csv", "-F", "file=@./config.json")
    assert curl.status == 201
    assert [one["path"] for one in told["uploaded"]] == ["/vercel/sandbox/data.csv", "/vercel/sandbox/config.json"]
    assert (daemon.root / "vercel/sandbox/config.json").read_text() == "{}"


def test_blackbox_lists_files(curl: Curl) -> None:
    curl("-X", "POST", f"{curl.task}/files/upload", "-F", "file=@./data.csv", "-F", "path=/vercel/sandbox/listed/sub")
    told = curl("-X", "GET", f"{curl.task}/files?path=/vercel/sandbox/listed&recursive=true")
    assert [(file["path"], file["type"]) for file in told["files"]] == [
        ("/vercel/sandbox/listed/sub", "directory"),
        ("/vercel/sandbox/listed/sub/data.csv", "file"),
    ]


def test_blackbox_writes_reads_and_deletes_a_file(curl: Curl) -> None:
    where, json_type = f"{curl.task}/files/vercel/sandbox/src/new.js", ("-H", "Content-Type: application/json")
    body = '{"content": "console.log(1)\\n", "encoding": "text"}'
    assert curl("-X", "PUT", where, *json_type, "-d", body)["path"] == "/vercel/sandbox/src/new.js"
    told = curl("-X", "GET", where)
    assert (told["content"], told["encoding"], told["size"]) == ("console.log(1)\n", "text", 15)
    assert told["mimeType"] in ("text/javascript", "application/javascript")
    curl("-X", "DELETE", where)
    assert curl.status == 200
    assert (curl("-X", "GET", where).keys(), curl.status) == ({"error"}, 404)


def test_blackbox_gives_the_workspace_as_an_archive(curl: Curl) -> None:
    curl("-X", "POST", f"{curl.task}/files/upload", "-F", "file=@./data.csv", "-F", "path=/vercel/sandbox/packed")
    curl("-X", "GET", f"{curl.task}/files/download?format=zip", "-o", "workspace.zip")
    names = zipfile.ZipFile(curl.here / "workspace.zip").namelist()
    assert (curl.status, "packed/data.csv" in names) == (200, True)
    assert not [name for name in names if name.startswith(".nullspace")]


def test_blackbox_asks_for_a_key(curl: Curl) -> None:
    curl.key = "wrong"
    assert (curl(f"{curl.task}/files").keys(), curl.status) == ({"error"}, 401)


# -- Conway


@pytest.mark.parametrize("route", ["files", "files/upload/json"])
def test_conway_writes_and_reads_a_file(curl: Curl, route: str) -> None:
    body = '{"path": "/root/hello.txt", "content": "Hello, World!"}'
    told = curl("-X", "POST", f"{curl.box}/{route}", "-H", "Content-Type: application/json", "-d", body)
    assert (curl.status, told) == (201, "")
    assert curl(f"{curl.box}/files?path=/root/hello.txt") == {"content": "Hello, World!"}


def test_conway_lists_files(curl: Curl) -> None:
    body = '{"path": "/root/listed/f", "content": "12345"}'
    curl("-X", "POST", f"{curl.box}/files", "-H", "Content-Type: application/json", "-d", body)
    assert curl(f"{curl.box}/files/list?path=/root/listed") == {"files": [{"name": "f", "isDir": False, "size": 5}]}


def test_conway_runs_a_command(curl: Curl) -> None:
    body = '{"command": "echo Hello && uname -s", "timeout": 30}'
    told = curl("-X", "POST", f"{curl.box}/exec", "-H", "Content-Type: application/json", "-d", body)
    assert told == {"stdout": "Hello\nLinux\n", "stderr": "", "exitCode": 0, "exit_code": 0}
