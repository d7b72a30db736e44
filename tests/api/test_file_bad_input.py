"""What is no path, no user and no text is refused in so many words, whatever the route and the field."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Daemon
from tests.filing import Filing

GOOD: dict[str, dict[str, Any]] = {
    "write": {"path": "?", "content": "x"},
    "append": {"path": "?", "content": "x"},
    "read": {"path": "?"},
    "exists": {"path": "?"},
    "info": {"path": "?"},
    "stat": {"path": "?"},
    "mkdir": {"path": "?"},
    "remove": {"path": "?"},
    "permissions": {"path": "?", "permissions": "0644"},
    "owner": {"path": "?", "owner": "root", "group": "root"},
    "link": {"path": "?", "target": "x", "hard": True},
    "rename": {"old_path": "?", "new_path": "?"},
    "move": {"source": "?", "target": "?"},
    "copy": {"source": "?", "target": "?"},
    "replace": {"files": ["?"], "pattern": "x", "replacement": "y"},
    "download-url": {"path": "?"},
    "upload-url": {"path": "?"},
}
JSON = {"Content-Type": "application/json"}
BAD = {
    "lone surrogate": "\ud800",
    "NUL": "a\0b",
    "empty": "",
    "long name": "x" * 300,
    "long path": "y/" * 3000,
    "blank": " ",
    "from nowhere": "no/such/../x",
    "list": [],
    "number": 7,
}


@pytest.fixture
def files(shared: Daemon, home: Path) -> Filing:
    (home / "file").write_text("x")
    return Filing(shared, home)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("act", GOOD)
def test_no_field_of_a_file_route_makes_a_fault(files: Filing, act: str, bad: str) -> None:
    here = json.loads(json.dumps(GOOD[act]).replace("?", files.path("file")))
    for field in [*here, "user"]:
        body = {**here, field: BAD[bad]}
        answer = files.daemon.call("POST", f"/v1/files/{act}", json.dumps(body).encode(), JSON)
        assert answer.status < 500, answer.body
        assert answer.status < 300 or answer.json()["code"] not in ("internal_error", "storage_failed")
    assert not [line for line in files.daemon.log() if line["level"] == "error"]


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("path", ["%ed%a0%80", "a%00b", "", "x" * 300, "y/" * 3000])
def test_no_path_of_a_raw_write_makes_a_fault(files: Filing, method: str, path: str) -> None:
    answer = files.daemon.call(method, f"/v1/file?path={quote(path, safe='%/')}", b"x")
    assert answer.status in (204, 400)
    if answer.status == 204:
        assert files.daemon.call("POST", "/v1/files/remove", {"path": "\udced\udca0\udc80"}).status == 204
