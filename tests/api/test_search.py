"""What a search finds: lines by their content, paths by their names, and nothing of the daemon's."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from agentd.files.search import BLOCK, LINE_LIMIT
from tests.api.test_listing import fds_below
from tests.api.trees import NDJSON, Reader, make
from tests.conftest import UNIT, Daemon
from tests.process.harness.waiting import eventually


def found(reader: Reader, pattern: str, **how: object) -> list[tuple[str, int, str]]:
    answer = reader.post("find", pattern=pattern, **how)
    assert answer.status == 200, answer.body
    return [(m["file"].removeprefix(f"{reader.path}/"), m["line"], m["content"]) for m in answer.json()]


def names(reader: Reader, pattern: str, **how: object) -> list[str]:
    return [path.removeprefix(f"{reader.path}/") for path in reader.post("search", pattern=pattern, **how).json()]


def test_lines_come_with_their_file_and_number_and_nothing_else(reader: Reader) -> None:
    make(reader.here, "b/")
    (reader.here / "a.txt").write_text("one\ntwo needle\r\nthree\n")
    (reader.here / "b/c.txt").write_text("needle needle")
    answer = reader.post("find", pattern="needle")
    assert answer.json() == [
        {"file": f"{reader.path}/a.txt", "line": 2, "content": "two needle"},
        {"file": f"{reader.path}/b/c.txt", "line": 1, "content": "needle needle"},
    ]
    assert "x-truncated" not in answer.headers


@pytest.mark.parametrize(
    ("pattern", "how", "lines"),
    [
        ("b.g", {}, [1, 2]),
        ("b.g", {"literal": True}, [2]),
        ("B.G", {"literal": True, "ignore_case": True}, [2]),
        ("^b", {}, [2]),
        ("g$", {}, [1, 2]),
        ("(?i)BIG", {}, [1]),
        ("a(", {}, [3]),
        (r"[^x]+", {}, [1, 2, 3, 4]),
        ("", {}, None),
        ("a(", {"literal": False}, None),
        ("é", {}, [4]),
    ],
)
def test_a_pattern_is_an_expression_or_a_text(
    reader: Reader, pattern: str, how: dict[str, bool], lines: list[int] | None
) -> None:
    (reader.here / "file").write_text("a big\nb.g\na(\né")
    if lines is None:
        assert reader.post("find", pattern=pattern, **how).status == 400
    else:
        assert [line for _, line, _ in found(reader, pattern, **how)] == lines


def test_the_same_lines_are_found_as_by_grep(reader: Reader) -> None:
    for source in Path(json.__file__).parent.parent.glob("*.py"):
        (reader.here / source.name).write_bytes(source.read_bytes())
    for pattern in ("import os$", r"def \w+\(self\)", "^class [A-Z]", "self"):
        command = ["grep", "-rnE", pattern, "."]
        lines = subprocess.run(command, cwd=reader.here, capture_output=True, check=True).stdout.splitlines()
        expected = {tuple(line.decode("utf-8", "replace")[2:].split(":", 2)) for line in lines}
        ours = {(file, str(line), text) for file, line, text in found(reader, pattern, limit=100_000)}
        assert {one[:2] for one in ours} == {one[:2] for one in expected}


@pytest.mark.parametrize("end", ["\n", ""])
def test_lines_are_found_wherever_the_blocks_end(reader: Reader, end: str) -> None:
    filler = "x" * 99 + "\n"
    count = 2 * BLOCK // len(filler)
    (reader.here / "file").write_text(filler * count + "needle\n" + filler * count + "needle" + end)
    assert [line for _, line, _ in found(reader, "^needle$")] == [count + 1, 2 * count + 2]


def test_of_a_long_line_what_is_around_the_match_is_given(reader: Reader) -> None:
    (reader.here / "file").write_text("x" * 10_000 + "needle" + "y" * (2 * BLOCK) + "\nneedle")
    (_, first, text), (_, second, _) = found(reader, "needle")
    assert (first, second) == (1, 2)
    assert "xneedley" in text
    assert (text[0], text[-1]) == ("…", "…")
    assert len(text) == LINE_LIMIT + 2


def test_what_is_no_text_file_is_passed_over(reader: Reader) -> None:
    make(reader.here, "needle")
    (reader.here / "binary").write_bytes(b"needle\0")
    (reader.here / "link").symlink_to("needle")
    os.mkfifo(reader.here / "fifo")
    (reader.here / "latin").write_bytes(b"n\xe9edle needle\n")
    assert found(reader, "needle") == [("latin", 1, "n�edle needle"), ("needle", 1, "needle")]


def test_one_file_can_be_searched(reader: Reader) -> None:
    make(reader.here, "a", "b")
    assert found(reader, "a|b", path=f"{reader.path}/b") == [("b", 1, "b")]


def test_more_matches_than_the_limit_are_cut_and_the_answer_says_so(reader: Reader) -> None:
    (reader.here / "file").write_text("x\n" * 10_001)
    answer = reader.post("find", pattern="x", limit=3)
    assert ([m["line"] for m in answer.json()], answer.headers["x-truncated"]) == ([1, 2, 3], "3")
    assert reader.post("find", pattern="x").headers["x-truncated"] == "10000"
    assert "x-truncated" not in reader.post("find", pattern="x", limit=10_001).headers


def test_lines_say_more_and_are_cut_by_a_line(reader: Reader) -> None:
    (reader.here / "file").write_text("x\n" * 20_000)
    lines = reader.post("find", NDJSON, pattern="x").body.splitlines()
    assert len(lines) == 20_000
    *matches, last = [json.loads(line) for line in reader.post("find", NDJSON, pattern="x", limit=2).body.splitlines()]
    assert (len(matches), last) == (2, {"truncated": True})


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(?:a?){1000}a{1000}"])
def test_no_pattern_keeps_the_daemon_from_others(reader: Reader, pattern: str) -> None:
    (reader.here / "file").write_text(("a" * 5000 + "!\n") * 20)
    thread = threading.Thread(target=reader.post, args=("find",), kwargs={"pattern": pattern})
    thread.start()
    longest = 0.0
    for _ in range(20):
        began = time.monotonic()
        reader.daemon.call("GET", "/healthz", token=None)
        longest = max(longest, time.monotonic() - began)
    thread.join()
    assert longest < UNIT


def test_a_client_that_leaves_ends_the_search_however_slow_the_pattern_is(reader: Reader) -> None:
    (reader.here / "file").write_text(("a" * 5000 + "!\n") * 600)
    body = json.dumps({"path": reader.path, "pattern": "(?:a?){1000}a{1000}b"})
    head = f"POST /v1/files/find HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {reader.daemon.token}\r\n"
    with reader.daemon.connect() as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert eventually(lambda: fds_below(reader) == 2)
    assert eventually(lambda: fds_below(reader) == 0)


def test_names_are_found_at_any_depth(reader: Reader) -> None:
    make(reader.here, "a.py", "b/c.py", "b/d/e.py", "b/d/e.txt", ".git/f.py")
    assert names(reader, "*.py") == [".git/f.py", "a.py", "b/c.py", "b/d/e.py"]
    assert names(reader, "b/*.py") == ["b/c.py"]
    assert names(reader, "b/**/*.py") == ["b/c.py", "b/d/e.py"]
    assert names(reader, "d") == ["b/d"]
    assert names(reader, "*.py", ignore=[".git", "/b/d/"]) == ["a.py", "b/c.py"]


def test_names_of_every_kind_are_found(reader: Reader) -> None:
    make(reader.here, "new\nline.x", "byte\udcff.x", "é.x")
    assert names(reader, "*.x") == ["byte\udcff.x", "new\nline.x", "é.x"]


def test_what_is_ignored_is_not_searched(reader: Reader) -> None:
    make(reader.here, "node_modules/needle", "src/needle", "src/needle.log")
    assert [file for file, _, _ in found(reader, "needle", ignore=["node_modules/", "*.log"])] == ["src/needle"]


def test_the_reserved_tree_is_not_searched(shared: Daemon) -> None:
    secret = (shared.root / "workspace/.nullspace/token").read_text().strip()
    assert shared.call("POST", "/v1/files/find", {"path": "/", "pattern": secret}).json() == []
    assert shared.call("POST", "/v1/files/search", {"path": "/", "pattern": "token"}).json() == []
    for path in ("/workspace/.nullspace", "/workspace/.nullspace/token"):
        assert shared.call("POST", "/v1/files/find", {"path": path, "pattern": "x"}).status == 403


@pytest.mark.parametrize(("route", "pattern"), [("find", "x"), ("search", "x"), ("search", "[z-a]"), ("search", "")])
def test_what_cannot_be_searched_is_refused(reader: Reader, route: str, pattern: str) -> None:
    path = reader.path if pattern != "x" else f"{reader.path}/none"
    assert reader.post(route, pattern=pattern, path=path).status == (404 if pattern == "x" else 400)
