"""Daytona's toolbox: whole files, one or many in a request."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.toolbox import FORM, Field, Toolbox, form, parts_of

MIB = 1 << 20


@pytest.fixture
def toolbox(shared: Daemon, home: Path) -> Toolbox:
    return Toolbox(shared, home)


def pair(toolbox: Toolbox, index: int, name: str, content: bytes) -> tuple[Field, Field]:
    """The path and the file, as the bulk upload takes them."""
    return (
        (f"files[{index}].path", None, toolbox.path(name).encode()),
        (f"files[{index}].file", name, content),
    )


def staged(toolbox: Toolbox) -> list[str]:
    return os.listdir(toolbox.daemon.root / "workspace/.nullspace/writes")


@pytest.mark.parametrize("as_form", [True, False])
def test_one_file_is_uploaded_as_a_form_or_as_it_is(toolbox: Toolbox, home: Path, as_form: bool) -> None:
    fields = [("other", None, b"x"), ("file", "local.txt", b"content")]
    if as_form:
        answer = toolbox.send("/files/upload-v2", fields, path=toolbox.path("d/a"))
    else:
        answer = toolbox("POST", "/files/upload-v2", b"content", path=toolbox.path("d/a"))
    assert answer.json() == {"name": "a", "path": toolbox.path("d/a"), "type": "file"}
    assert (answer.status, (home / "d/a").read_bytes()) == (200, b"content")


def test_into_a_directory_a_file_comes_by_its_own_name(toolbox: Toolbox, home: Path) -> None:
    answer = toolbox.send("/files/upload-v2", [("file", "x/local.txt", b"1")], path=toolbox.path("d") + "/")
    assert (answer.json()["name"], (home / "d/local.txt").read_bytes()) == ("local.txt", b"1")


def test_the_old_upload_answers_without_a_body(toolbox: Toolbox, home: Path) -> None:
    answer = toolbox.send("/files/upload", [("file", "a", b"1")], path=toolbox.path("a"))
    assert (answer.status, answer.body, (home / "a").read_bytes()) == (200, b"", b"1")


def test_a_form_without_a_file_or_with_two_writes_nothing(toolbox: Toolbox, home: Path) -> None:
    one = ("file", "a", b"1")
    for fields in ([("other", None, b"x")], [one, one]):
        assert toolbox.send("/files/upload-v2", fields, path=toolbox.path("a")).status == 400
    assert (list(home.iterdir()), staged(toolbox)) == ([], [])


@pytest.mark.parametrize("paths_first", [True, False])
def test_many_files_are_uploaded_in_either_order(toolbox: Toolbox, home: Path, paths_first: bool) -> None:
    pairs = [pair(toolbox, index, f"d/{index}", b"%d" % index * MIB) for index in range(3)]
    fields = [field for one in pairs for field in one]
    answer = toolbox.send_many(sorted(fields, key=lambda field: field[1] is not None) if paths_first else fields)
    taken = [{"path": toolbox.path(f"d/{index}"), "bytes": MIB} for index in range(3)]
    assert (answer.status, answer.json()) == (200, {"files": taken})
    assert [(home / f"d/{index}").read_bytes() for index in range(3)] == [b"%d" % index * MIB for index in range(3)]


def test_one_failing_file_is_told_of_and_the_others_are_there(toolbox: Toolbox, home: Path) -> None:
    (home / "dir").mkdir()
    fields = [*pair(toolbox, 0, "a", b"1"), *pair(toolbox, 1, "dir", b"x" * MIB), *pair(toolbox, 2, "b", b"2")]
    answer = toolbox.send_many(fields)
    said = answer.json()
    assert (answer.status, [one["path"] for one in said["files"]]) == (400, [toolbox.path("a"), toolbox.path("b")])
    assert len(said["errors"]) == 1
    assert toolbox.path("dir") in said["errors"][0]
    assert (sorted(os.listdir(home)), staged(toolbox)) == (["a", "b", "dir"], [])


def test_a_file_before_its_path_is_told_of(toolbox: Toolbox, home: Path) -> None:
    path, file = pair(toolbox, 0, "a", b"1")
    answer = toolbox.send_many([file, path])
    assert answer.status == 400
    assert "path" in answer.json()["errors"][0]
    assert list(home.iterdir()) == []


def test_a_form_that_breaks_off_leaves_no_partial_file(toolbox: Toolbox, home: Path) -> None:
    whole = form([*pair(toolbox, 0, "a", b"1"), *pair(toolbox, 1, "b", b"x" * 1000)])
    answer = toolbox("POST", "/files/bulk-upload", whole[:-200], FORM)
    assert (answer.status, [one["path"] for one in answer.json()["files"]]) == (400, [toolbox.path("a")])
    assert (os.listdir(home), staged(toolbox)) == (["a"], [])


def test_a_large_upload_takes_little_memory(toolbox: Toolbox, home: Path) -> None:
    def peak() -> int:
        lines = Path(f"/proc/{toolbox.daemon.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

    size = 64 * MIB
    toolbox.send_many(pair(toolbox, 0, "first", b"x" * 8 * MIB))
    before = peak()
    assert toolbox.send_many(pair(toolbox, 0, "a", b"x" * size)).json()["files"][0]["bytes"] == size
    assert peak() - before < size // 4
    (home / "a").unlink()


def test_a_client_that_leaves_within_a_file_leaves_no_part_of_it(toolbox: Toolbox, home: Path) -> None:
    whole = form([*pair(toolbox, 0, "a", b"1"), *pair(toolbox, 1, "b", b"x" * MIB)])
    head = {"Host": "x", "Authorization": f"Bearer {toolbox.daemon.token}", "Content-Length": str(len(whole)), **FORM}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    with toolbox.daemon.connect() as connection:
        connection.sendall(f"POST /daytona/files/bulk-upload HTTP/1.1\r\n{lines}\r\n".encode() + whole[: MIB // 2])
        while not (home / "a").exists() or not staged(toolbox):
            pass
    while staged(toolbox):
        pass
    assert os.listdir(home) == ["a"]


@pytest.mark.parametrize("body", [b"", form([])])
def test_an_upload_of_nothing_is_refused(toolbox: Toolbox, body: bytes) -> None:
    answer = toolbox("POST", "/files/bulk-upload", body, FORM)
    assert (answer.status, answer.json()["files"]) == (400, [])


def test_a_file_is_downloaded_whole_or_in_part(toolbox: Toolbox, home: Path) -> None:
    (home / "ä").write_bytes(b"0123456789")
    whole = toolbox("GET", "/files/download", path=toolbox.path("ä"))
    part = toolbox("GET", "/files/download", None, {"Range": "bytes=2-3"}, path=toolbox.path("ä"))
    assert (whole.status, whole.body, part.status, part.body) == (200, b"0123456789", 206, b"23")
    assert "filename*=UTF-8''%C3%A4" in whole.headers["content-disposition"]


def test_many_files_are_downloaded_as_parts_and_each_failure_is_one(toolbox: Toolbox, home: Path) -> None:
    content = {"a": b"x" * (2 * MIB + 1), "empty": b""}
    for name, text in content.items():
        (home / name).write_bytes(text)
    paths = [toolbox.path(name) for name in ("a", "missing", "empty")]
    answer = toolbox("POST", "/files/bulk-download", {"paths": paths})
    parts = parts_of(answer)
    assert [(field, name) for field, name, _ in parts] == list(zip(("file", "error", "file"), paths, strict=True))
    assert (parts[0][2], parts[2][2]) == (content["a"], b"")
    said = json.loads(parts[1][2])
    assert (said["code"], said["statusCode"], said["path"]) == ("FILE_NOT_FOUND", 404, paths[1])


def test_no_content_can_hold_the_boundary(toolbox: Toolbox, home: Path) -> None:
    (home / "a").write_bytes(b"\r\n--DAYTONA-FILE-BOUNDARY--\r\n")
    first, second = (toolbox("POST", "/files/bulk-download", {"paths": [toolbox.path("a")]}) for _ in range(2))
    assert first.headers["content-type"] != second.headers["content-type"]
    assert parts_of(first)[0][2] == (home / "a").read_bytes()


def test_a_download_of_nothing_is_refused(toolbox: Toolbox) -> None:
    answer = toolbox("POST", "/files/bulk-download", {"paths": []})
    assert (answer.status, answer.json()["code"]) == (400, "BAD_REQUEST")


def test_a_file_that_gets_shorter_meanwhile_cuts_the_answer(toolbox: Toolbox, home: Path) -> None:
    (home / "a").touch()
    os.truncate(home / "a", 256 * MIB)
    body = json.dumps({"paths": [toolbox.path("a")]})
    head = f"Host: x\r\nAuthorization: Bearer {toolbox.daemon.token}\r\nContent-Length: {len(body)}\r\n"
    with toolbox.daemon.connect() as connection:
        connection.sendall(f"POST /daytona/files/bulk-download HTTP/1.1\r\n{head}\r\n{body}".encode())
        received = b""
        while b"octet-stream" not in received:
            received += connection.recv(1000)
        os.truncate(home / "a", 10)
        with pytest.raises(ConnectionResetError):
            connection.makefile("rb").read()
