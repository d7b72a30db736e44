"""The files of a Blackbox task."""

import base64
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.conftest import Answer, Daemon, StartDaemon
from tests.toolbox import FORM, Field, form

RUN = "/blackbox/api/v1/tasks/run-1/files"


class Blackbox:
    def __init__(self, daemon: Daemon, home: Path) -> None:
        self.daemon = daemon
        self.place = f"/workspace/{home.name}"

    def call(self, method: str, route: str = "", body: Any = None, **query: str) -> Answer:
        return self.daemon.call(method, f"{RUN}{route}?{urlencode(query)}", body)

    def file(self, method: str, name: str, body: dict[str, str] | None = None) -> Answer:
        return self.call(method, quote(f"{self.place}/{name}"), body)

    def upload(self, *parts: Field) -> Answer:
        return self.daemon.call("POST", f"{RUN}/upload", form(parts), FORM)

    def left(self) -> list[str]:
        return os.listdir(self.daemon.root / "workspace/.nullspace/writes")


@pytest.fixture
def blackbox(shared: Daemon, home: Path) -> Blackbox:
    return Blackbox(shared, home)


def refused(answer: Answer) -> tuple[int, str]:
    """Status and text."""
    assert list(answer.json()) == ["error"]
    return answer.status, answer.json()["error"]


@pytest.mark.parametrize("order", [1, -1], ids=["path last", "path first"])
def test_the_files_of_a_form_go_into_its_directory_wherever_that_is_named(
    blackbox: Blackbox, home: Path, order: int
) -> None:
    parts = [("file", "a", b"1"), ("file", "b.bin", b"22"), ("path", None, f"{blackbox.place}/new/dir".encode())]
    answer = blackbox.upload(*parts[::order])
    told = [{"name": n, "path": f"{blackbox.place}/new/dir/{n}", "size": s} for n, s in (("a", 1), ("b.bin", 2))]
    assert (answer.status, answer.json()) == (201, {"uploaded": told[::order]})
    assert ((home / "new/dir/a").read_bytes(), (home / "new/dir/b.bin").read_bytes()) == (b"1", b"22")


def test_without_a_directory_files_go_into_the_workspace(blackbox: Blackbox, home: Path) -> None:
    told = blackbox.upload(("file", f"{home.name}.txt", b"1")).json()["uploaded"]
    assert told == [{"name": f"{home.name}.txt", "path": f"/workspace/{home.name}.txt", "size": 1}]


def test_a_file_replaces_the_one_of_its_name(blackbox: Blackbox, home: Path) -> None:
    (home / "f").write_text("old")
    os.chmod(home / "f", 0o640)
    assert blackbox.upload(("file", "f", b"new"), ("path", None, blackbox.place.encode())).status == 201
    assert ((home / "f").read_text(), (home / "f").stat().st_mode & 0o777) == ("new", 0o640)


@pytest.mark.parametrize("name", ["../up", "/abs/up", "a/b/up"])
def test_a_file_name_is_no_path(blackbox: Blackbox, home: Path, name: str) -> None:
    told = blackbox.upload(("file", name, b"1"), ("path", None, f"{blackbox.place}/in".encode())).json()
    assert told["uploaded"][0]["path"] == f"{blackbox.place}/in/up"


@pytest.mark.parametrize("names", [["a", "dir", "b"], ["dir", "a"], ["a", "b", "a"], ["a", ".."], ["a", ""]])
def test_one_failing_file_fails_all_and_is_named(blackbox: Blackbox, home: Path, names: list[str]) -> None:
    (home / "dir").mkdir()
    parts = [("file", name, b"new") for name in names]
    status, why = refused(blackbox.upload(*parts, ("path", None, blackbox.place.encode())))
    assert status == 400
    assert any(f"{name}'" in why for name in ({"dir", "a"} & {*names} if names[-1] == "a" else {"dir", "..", ""}))
    assert (os.listdir(home), blackbox.left()) == (["dir"], [])


def test_a_form_that_breaks_off_leaves_nothing(blackbox: Blackbox, home: Path) -> None:
    body = form([("path", None, blackbox.place.encode()), ("file", "a", b"1"), ("file", "b", b"2")])
    answer = blackbox.daemon.call("POST", f"{RUN}/upload", body[:-15], FORM)
    assert refused(answer)[0] == 400
    assert (os.listdir(home), blackbox.left()) == ([], [])


@pytest.mark.parametrize("body", [form([]), form([("path", None, b"/workspace")]), form([("other", "f", b"1")]), b"x"])
def test_a_form_without_a_file_is_refused(blackbox: Blackbox, body: bytes) -> None:
    assert refused(blackbox.daemon.call("POST", f"{RUN}/upload", body, FORM))[0] == 400


def test_a_directory_that_is_a_file_is_refused(blackbox: Blackbox, home: Path) -> None:
    (home / "f").touch()
    assert refused(blackbox.upload(("file", "x", b"1"), ("path", None, f"{blackbox.place}/f".encode())))[0] == 400


@pytest.mark.parametrize("recursive", [False, True])
def test_a_directory_is_listed_as_deep_as_asked(blackbox: Blackbox, home: Path, recursive: bool) -> None:
    (home / "dir/deep").mkdir(parents=True)
    (home / "file").write_bytes(b"12345")
    told = blackbox.call("GET", path=blackbox.place, recursive=str(recursive).lower()).json()
    found = [("dir", "directory", None), ("dir/deep", "directory", None), ("file", "file", 5)]
    wanted = [one for one in found if recursive or "/" not in one[0]]
    place = blackbox.place
    files = [{"name": Path(n).name, "path": f"{place}/{n}", "type": t, "size": s} for n, t, s in wanted]
    assert told == {"files": files, "path": place, "recursive": recursive}


def test_an_empty_directory_has_no_files(blackbox: Blackbox) -> None:
    assert blackbox.call("GET", path=blackbox.place).json() == {
        "files": [],
        "path": blackbox.place,
        "recursive": False,
    }


@pytest.mark.parametrize(
    ("name", "content", "encoding", "kind"),
    [
        ("a.json", b"{}", "text", "application/json"),
        ("plain", "ü".encode(), "text", "text/plain"),
        ("a.png", b"\x89PNG\xff", "base64", "image/png"),
        ("binary", b"\xff", "base64", "application/octet-stream"),
    ],
)
def test_a_file_is_given_with_what_it_is(
    blackbox: Blackbox, home: Path, name: str, content: bytes, encoding: str, kind: str
) -> None:
    (home / name).write_bytes(content)
    told = blackbox.file("GET", name).json()
    text = content.decode() if encoding == "text" else base64.b64encode(content).decode()
    assert told.pop("path") == f"{blackbox.place}/{name}"
    assert told == {"content": text, "encoding": encoding, "mimeType": kind, "size": len(content)}


@pytest.mark.parametrize("name", ["f", "a/b/f", "two words/ü%2f?#"])
def test_a_file_gets_its_content_and_its_directories(blackbox: Blackbox, home: Path, name: str) -> None:
    for encoding, content in (("text", "text"), ("base64", "//4=")):
        answer = blackbox.file("PUT", name, {"content": content, "encoding": encoding})
        assert (answer.status, answer.json()["path"]) == (200, f"{blackbox.place}/{name}")
    assert (home / name).read_bytes() == b"\xff\xfe"


def test_an_encoded_slash_in_a_path_is_a_slash(blackbox: Blackbox, home: Path) -> None:
    (home / "f").write_text("x")
    where = quote(f"{blackbox.place}/f"[1:], safe="")
    assert blackbox.call("GET", f"/{where}").json()["content"] == "x"


def test_a_directory_is_deleted_with_all_that_is_in_it(blackbox: Blackbox, home: Path) -> None:
    (home / "dir/deep").mkdir(parents=True)
    answer = blackbox.file("DELETE", "dir")
    assert (answer.status, answer.json()) == (200, {"path": f"{blackbox.place}/dir", "deleted": True})
    assert os.listdir(home) == []
    assert refused(blackbox.file("DELETE", "dir"))[0] == 404


@pytest.mark.parametrize("path", ["workspace", "workspace/", "workspace/.", "x/../workspace", "workspace/../"])
def test_the_root_of_the_workspace_stays(blackbox: Blackbox, home: Path, path: str) -> None:
    (blackbox.daemon.root / "x").mkdir(exist_ok=True)
    assert refused(blackbox.call("DELETE", f"/{path}"))[0] in (400, 403)
    assert home.exists()


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_directory_comes_as_an_archive_that_is_called_after_the_task(
    blackbox: Blackbox, home: Path, form: str
) -> None:
    (home / "dir").mkdir()
    (home / "dir/f").write_text("x")
    answer = blackbox.call("GET", "/download", path=blackbox.place, format=form)
    assert f"workspace-run-1.{form}" in answer.headers["content-disposition"]
    content = io.BytesIO(answer.body)
    if form == "zip":
        names = zipfile.ZipFile(content).namelist()
    else:
        with tarfile.open(fileobj=content) as archive:
            names = archive.getnames()
    assert [name.rstrip("/") for name in names] == ["dir", "dir/f"]


@pytest.mark.parametrize(
    ("method", "route", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/workspace", 400),
        ("GET", "/workspace/.nullspace/token", 403),
        ("GET", "/", 404),
        ("GET", "?path=/nowhere", 404),
        ("GET", "?recursive=perhaps", 400),
        ("GET", "/download?format=rar", 400),
        ("GET", "/download?path=/nowhere", 404),
        ("PATCH", "/f", 405),
    ],
)
def test_failures_have_the_statuses_and_the_shape_of_this_api(
    blackbox: Blackbox, method: str, route: str, status: int
) -> None:
    assert refused(blackbox.daemon.call(method, RUN + route))[0] == status


def test_only_the_named_run_is_answered_for(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--sandbox-id", "run-1")
    assert daemon.call("GET", RUN).status == 200
    assert refused(daemon.call("GET", RUN.replace("run-1", "run-2")))[0] == 404
    assert refused(daemon.call("GET", RUN, token=None))[0] == 401
