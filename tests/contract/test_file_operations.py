"""What the published client experiences with its file methods, those that list and search apart."""

import os
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.contract.clients import Client, Refused
from tests.contract.conftest import ALICE, MIB, MakeFile

NAMES = ["two words", 'it\'s "quoted" `$HOME`; \\ %2F ?a=b&c#d', "naïve-日本", "a" * 255, "\n\t", "+&=", "-rf", "%"]


def refused(client: Client, method: str, *positional: object, **named: object) -> tuple[str, str | None]:
    """The class and the code of what the client raises."""
    with pytest.raises(Refused) as error:
        client(method, *positional, **named)
    return error.value.kind, error.value.code


# -- writing and reading


@pytest.mark.parametrize("text", ["", "text", "ä\r\n日本\0\U0001f600", "x" * 2 * MIB])
def test_text_that_is_written_can_be_read(client: Client, place: str, here: Path, text: str) -> None:
    info = client("files.write", f"{place}/a/file", text)
    assert (info.path, info.size, info.type, info.is_dir) == (f"{place}/a/file", len(text.encode()), "file", False)
    assert (here / "a/file").read_bytes() == text.encode()
    assert client("files.read", f"{place}/a/file") == text


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1])
def test_bytes_arrive_by_every_way_that_the_client_knows(
    client: Client, place: str, here: Path, make_file: MakeFile, size: int
) -> None:
    source = make_file(size)
    client("files.write", f"{place}/written", {"read": source, "offset": 0, "length": size})
    client("files.write", f"{place}/streamed", {"stream": source})
    client("files.upload_file", source, f"{place}/uploaded")
    for name in ("written", "streamed", "uploaded"):
        assert (here / name).read_bytes() == source.read_bytes()


def test_text_that_is_no_utf_8_is_read_with_replacements(client: Client, place: str, here: Path) -> None:
    here.mkdir()
    (here / "file").write_bytes(b"a\xffb")
    assert client("files.read", f"{place}/file") == "a�b"


def test_a_user_owns_what_he_writes_and_makes(client: Client, place: str, here: Path, sandbox: Daemon) -> None:
    client("files.write", f"{place}/a/file", "x", user="alice")
    client("files.make_dir", f"{place}/b/c", user="alice")
    client("files.write", f"{here.name}-home", "x", user="alice")
    written = [here / name for name in ("a", "a/file", "b", "b/c")] + [sandbox.root / f"home/alice/{here.name}-home"]
    assert {path.stat().st_uid for path in written} == {ALICE}
    written[-1].unlink()


@pytest.mark.parametrize(("user", "owner"), [(None, ALICE + 1), ("alice", ALICE)])
def test_an_overwritten_file_keeps_its_mode_and_changes_its_owner_only_for_a_user(
    client: Client, place: str, here: Path, user: str | None, owner: int
) -> None:
    here.mkdir()
    for name in ("json", "stream", "batch", "edited"):
        (here / name).write_text("old")
        os.chown(here / name, ALICE + 1, ALICE + 1)
        (here / name).chmod(0o640)
    client("files.write", f"{place}/json", "new", user=user)
    client("files.write", f"{place}/stream", {"stream": here / "json"}, user=user)
    client("files.write_files", [[f"{place}/batch", "new"]], user=user)
    assert client("files.replace_in_files", [f"{place}/edited"], "old", "new", user=user) == 1
    found = [path.stat() for path in here.iterdir()]
    assert {(one.st_uid, one.st_mode & 0o7777, one.st_size) for one in found} == {(owner, 0o640, 3)}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_it_is(client: Client, place: str, here: Path, name: str) -> None:
    path = f"{place}/{name}"
    assert client("files.write", path, "x").name == name
    assert os.listdir(here) == [name]
    assert client("files.exists", path) is True
    assert (client("files.read", path), client("files.info", path).path) == ("x", path)
    client("files.remove", path)
    assert os.listdir(here) == []


# -- several files


def test_several_files_are_written_at_once(client: Client, place: str, here: Path) -> None:
    files = [[f"{place}/a/{number}", f"content {number}"] for number in range(20)]
    infos = client("files.write_files", files, user="alice")
    assert [info.path for info in infos] == [path for path, _ in files]
    assert {(info.owner, info.mode) for info in infos} == {("alice", "0644")}
    assert [(here / f"a/{number}").read_text() for number in range(20)] == [content for _, content in files]


def test_the_other_files_are_written_where_one_cannot_be(client: Client, place: str, here: Path) -> None:
    (here / "dir").mkdir(parents=True)
    files = [[f"{place}/one", "1"], [f"{place}/dir", "2"], [f"{place}/three", "3"]]
    kind, _ = refused(client, "files.write_files", files)
    assert kind == "BatchWriteError"
    assert ((here / "one").read_text(), (here / "three").read_text()) == ("1", "3")


# -- entries


def test_an_entry_is_there_or_not(client: Client, place: str, here: Path) -> None:
    assert client("files.exists", f"{place}/file") is False
    client("files.write", f"{place}/file", "x")
    assert client("files.exists", f"{place}/file") is True
    assert client("files.exists", f"{place}/file/below") is False


def test_an_entry_is_described(client: Client, place: str, here: Path) -> None:
    client("files.write", f"{place}/file", "content", user="alice")
    client("files.set_permissions", f"{place}/file", "0640")
    info = client("files.get_info", f"{place}/file")
    assert (info.name, info.path, info.size, info.type) == ("file", f"{place}/file", 7, "file")
    assert (info.owner, info.group, info.mode, info.permissions) == ("alice", "alice", "0640", "0640")
    assert info.modified_time is not None
    directory = client("files.info", place)
    assert (directory.type, directory.is_dir) == ("dir", True)


def test_a_directory_is_made_once_and_again(client: Client, place: str, here: Path) -> None:
    for _ in range(2):
        client("files.make_dir", f"{place}/a/b")
        assert (here / "a/b").is_dir()


def test_an_entry_is_renamed(client: Client, place: str, here: Path) -> None:
    client("files.write", f"{place}/dir/file", "content")
    assert client("files.rename", f"{place}/dir/file", f"{place}/dir/new").path == f"{place}/dir/new"
    info = client("files.rename", f"{place}/dir", f"{place}/moved")
    assert (info.path, info.is_dir) == (f"{place}/moved", True)
    assert (here / "moved/new").read_text() == "content"


def test_a_file_and_a_tree_are_removed(client: Client, place: str, here: Path) -> None:
    for name in ("file", "tree/a", "tree/b/c"):
        client("files.write", f"{place}/{name}", "x")
    client("files.remove", f"{place}/file")
    client("files.remove", f"{place}/tree")
    assert list(here.iterdir()) == []


def test_replacements_are_counted(client: Client, place: str, here: Path) -> None:
    for name, text in (("one", "cat cat"), ("two", "dog"), ("three", "cat")):
        client("files.write", f"{place}/{name}", text)
    files = [f"{place}/{name}" for name in ("one", "two", "three")]
    assert client("files.replace_in_files", files, "cat", "cow") == 3
    assert [(here / name).read_text() for name in ("one", "two", "three")] == ["cow cow", "dog", "cow"]


# -- signed URLs


def test_urls_do_without_the_token(client: Client, place: str, here: Path) -> None:
    upload = client("files.upload_url", f"{place}/a b", user="alice")
    assert upload.token in upload.url
    request = urllib.request.Request(upload.url, b"content", {"Content-Type": "x/y"}, method="PUT")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 204
    assert (here / "a b").stat().st_uid == ALICE
    with urllib.request.urlopen(client("files.download_url", f"{place}/a b"), timeout=20) as answer:
        assert answer.read() == b"content"


# -- refusals


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("read", ()),
        ("info", ()),
        ("get_info", ()),
        ("remove", ()),
        ("rename", ("/workspace/elsewhere",)),
        ("set_permissions", ("0644",)),
    ],
)
def test_what_is_missing_is_not_found(client: Client, place: str, method: str, more: tuple[str, ...]) -> None:
    assert refused(client, f"files.{method}", f"{place}/missing", *more) == ("NotFoundError", "not_found")


def test_a_missing_file_is_not_edited(client: Client, place: str) -> None:
    assert refused(client, "files.replace_in_files", [f"{place}/missing"], "a", "b") == ("NotFoundError", "not_found")


@pytest.mark.parametrize(
    ("method", "more"),
    [("read", ()), ("write", ("x",)), ("make_dir", ()), ("remove", ()), ("rename", ("/workspace/elsewhere",))],
)
def test_the_daemons_own_tree_is_forbidden(client: Client, method: str, more: tuple[str, ...]) -> None:
    answer = refused(client, f"files.{method}", "/workspace/.nullspace/token", *more)
    assert answer == ("PermissionError", "permission_denied")


def test_other_refusals_have_a_code(client: Client, place: str, here: Path) -> None:
    here.mkdir()
    assert refused(client, "files.write", place, "x") == (client.any_error, "is_a_directory")
    assert refused(client, "files.read", place) == (client.any_error, "is_a_directory")
    assert refused(client, "files.write", f"{place}/x", "x", user="no-such") == (client.any_error, "unknown_user")
    assert refused(client, "files.set_permissions", place, "rwx") == (client.any_error, "invalid_request")
    assert refused(client, "files.write", f"{place}/{'n' * 256}", "x") == (client.any_error, "invalid_path")
