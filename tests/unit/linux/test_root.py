"""One suite for both resolvers: what a path names, and how it is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import (
    AgentError,
    Conflict,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotFound,
    PathReserved,
    PermissionDenied,
    TooManyLinks,
)
from agentd.linux.identity import Identity
from agentd.linux.root import Root
from tests.descriptors import nothing_stays_open

Read = Callable[..., str]
Link = Callable[..., Path]


@pytest.fixture(autouse=True)
def tree(top: Path) -> None:
    (top / "workspace/a/b").mkdir(parents=True)
    (top / "workspace/a/b/file").write_text("file")
    (top / "workspace/a/other").write_text("other")


@pytest.mark.parametrize(
    "path",
    [
        "/workspace/a/b/file",
        "//workspace///a/./b/file",
        "/./workspace/a/../a/b/file",
        "/../../workspace/a/b/../../a/b/file",
    ],
)
def test_spellings_of_one_path_open_one_file(root: Root, read: Read, path: str) -> None:
    assert read(path) == "file"
    with root.open(path, os.O_PATH) as opened:
        assert opened.path == root.real_path(opened.fd) == "/workspace/a/b/file"
        assert opened.stat.st_size == 4


@pytest.mark.parametrize("path", ["/", "//", "/.", "/..", "/workspace/..", "/workspace/a/../../.."])
def test_paths_of_the_root_open_it_and_are_no_place_for_an_entry(root: Root, path: str) -> None:
    with root.open(path, os.O_RDONLY | os.O_DIRECTORY) as opened:
        assert (opened.path, "workspace" in os.listdir(opened.fd)) == ("/", True)
    with pytest.raises(InvalidPath, match="names the root"):
        root.locate(path)


@pytest.mark.parametrize("path", ["/workspace/a", "/workspace/a//", "/workspace/a/.", "/workspace/./a/b/../"])
def test_directory_can_be_located_by_any_of_its_spellings(root: Root, top: Path, path: str) -> None:
    with root.locate(path) as location:
        assert (location.name, location.path) == ("a", "/workspace/a")
        assert os.fstat(location.dir_fd).st_ino == (top / "workspace").stat().st_ino
        assert location.stat is not None
        assert location.stat.st_ino == (top / "workspace/a").stat().st_ino


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/workspace/absent", NotFound),
        ("/absent/file", NotFound),
        ("/workspace/a/b/file/x", NotADirectory),
        ("/workspace/a/b/file/", NotADirectory),
        ("/workspace/a/b/file/.", NotADirectory),
        ("/workspace/a/b/file/..", NotADirectory),
        ("/workspace/absent/../a", NotFound),
        ("", InvalidPath),
        ("workspace/a", InvalidPath),
        ("~", InvalidPath),
        ("/workspace/\0", InvalidPath),
        ("/workspace/\ud800", InvalidPath),
        ("/workspace/" + "n" * 256, InvalidPath),
        ("/workspace/" + "é" * 128, InvalidPath),
        ("/n" * 2048, InvalidPath),
    ],
)
def test_path_that_leads_nowhere_is_refused_in_words(root: Root, path: str, error: type[AgentError]) -> None:
    with pytest.raises(error) as caught:
        root.open(path, os.O_RDONLY)
    assert type(caught.value) is error
    assert ";" in caught.value.detail
    assert repr(path.split("/")[-1][:40])[1:-1] in caught.value.detail


def test_both_resolvers_refuse_in_the_same_words(top: Path) -> None:
    words: list[list[str]] = []
    for use_openat2 in (True, False):
        root = Root(str(top), use_openat2=use_openat2)
        words.append([])
        for path in ("/absent", "/absent/x", "/workspace/a/other/x", "/workspace/.nullspace/x", "/workspace/a/other/"):
            with pytest.raises(AgentError) as caught:
                root.open(path, os.O_RDONLY)
            words[-1].append(f"{caught.type} {caught.value.detail}")
        root.close()
    assert words[0] == words[1]


def test_longest_names_and_paths_are_taken(root: Root, top: Path) -> None:
    (top / "workspace" / ("n" * 255)).touch()
    with root.open("/workspace/" + "n" * 255, os.O_PATH) as opened:
        assert opened.path.endswith("n" * 255)
    with root.locate("/" * 4080 + "workspace/file") as location:
        assert location.path == "/workspace/file"


def test_name_that_is_no_utf_8_is_found(root: Root, top: Path, read: Read) -> None:
    Path(os.fsdecode(os.fsencode(top) + b"/workspace/\xff\xfe")).write_text("bytes")
    assert read("/workspace/\udcff\udcfe") == "bytes"


def test_directory_is_no_file_to_write(root: Root) -> None:
    with pytest.raises(IsADirectory):
        root.open("/workspace/a", os.O_WRONLY)


def test_fifo_and_socket_do_not_hang_the_opener(root: Root, top: Path) -> None:
    os.mkfifo(top / "workspace/fifo")
    with root.open("/workspace/fifo", os.O_RDONLY) as opened:
        assert opened.path == "/workspace/fifo"
    with pytest.raises(Conflict):
        root.open("/workspace/fifo", os.O_WRONLY)


def test_links_are_followed_inside_the_root(read: Read, link: Link) -> None:
    link("/workspace/absolute", "/workspace/a")
    link("/workspace/a/relative", "b/../../a/b")
    link("/workspace/a/b/up", "../../../../../../workspace/a/other")
    assert read("/workspace/absolute/relative/file") == "file"
    assert read("/workspace/a/b/up") == "other"
    assert read("/workspace/absolute/relative/../other") == "other"


def test_links_cannot_leave_the_root(read: Read, link: Link, tmp_path: Path) -> None:
    link("/workspace/out", str(tmp_path / "secret"))
    link("/workspace/up", "../../secret")
    for path in ("/workspace/out", "/workspace/up", "/../secret", "/workspace/../../secret"):
        with pytest.raises(NotFound):
            read(path)


@pytest.mark.parametrize("target", ["loop", "./loop", "/workspace/loop", "loop/x"])
def test_links_in_a_circle_are_too_many(root: Root, link: Link, target: str) -> None:
    link("/workspace/loop", target)
    with pytest.raises(TooManyLinks):
        root.open("/workspace/loop", os.O_RDONLY)
    with pytest.raises(TooManyLinks):
        root.locate("/workspace/loop/x")


def test_forty_links_are_followed_and_one_more_is_not(read: Read, link: Link) -> None:
    link("/workspace/1", "a/b/file")
    for n in range(2, 42):
        link(f"/workspace/{n}", str(n - 1))
    assert read("/workspace/40") == "file"
    with pytest.raises(TooManyLinks):
        read("/workspace/41")


def test_link_itself_is_located_when_not_followed(root: Root, link: Link) -> None:
    link("/workspace/dangling", "nowhere")
    for path in ("/workspace/dangling", "/workspace/dangling/"):
        with root.locate(path, follow=False) as location:
            assert (location.name, os.readlink(location.name, dir_fd=location.dir_fd)) == ("dangling", "nowhere")
    with root.open("/workspace/dangling", os.O_PATH | os.O_NOFOLLOW) as opened:
        assert os.readlink("", dir_fd=opened.fd) == "nowhere"


def test_followed_dangling_link_locates_the_place_it_names(root: Root, link: Link) -> None:
    link("/workspace/first", "a/second")
    link("/workspace/a/second", "/workspace/a/b/new")
    with root.locate("/workspace/first") as location:
        assert (location.path, location.stat) == ("/workspace/a/b/new", None)


@pytest.mark.parametrize(
    "path",
    [
        *("/proc/self/root/etc/passwd", "/proc/thread-self/cwd", "/proc/1/root", "/proc/self/exe", "/proc/self/fd/0"),
        *("/proc/self/fd/../root", "/proc/self/ns/mnt"),
    ],
)
def test_magic_links_of_proc_are_not_followed(path: str) -> None:
    for use_openat2 in (True, False):
        root = Root("/", use_openat2=use_openat2)
        with pytest.raises(PermissionDenied, match="not followed"):
            root.open(path, os.O_PATH)
        root.close()


def test_textual_links_of_proc_are_followed() -> None:
    for use_openat2 in (True, False):
        root = Root("/", use_openat2=use_openat2)
        with root.open("/proc/mounts", os.O_RDONLY) as opened:
            assert opened.path == f"/proc/{os.getpid()}/mounts"
        root.close()


def test_reserved_place_is_refused_by_way_of_a_magic_link() -> None:
    root = Root("/")
    with pytest.raises(PathReserved):
        root.open("/proc/self/root/workspace/.nullspace/x", os.O_PATH)
    root.close()


def test_location_knows_what_is_there(root: Root) -> None:
    with root.locate("/workspace/a/b/file") as there, root.locate("/workspace/a/b/new") as new:
        assert there.stat is not None
        assert (there.stat.st_size, new.stat) == (4, None)
        assert (there.name, new.name) == ("file", "new")


def test_missing_parent_is_not_found_unless_it_is_to_be_made(root: Root, top: Path) -> None:
    with pytest.raises(NotFound) as caught:
        root.locate("/workspace/x/y/file")
    assert caught.value.facts == {"path": "/workspace/x/y/file"}
    assert not (top / "workspace/x").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_missing_parents_are_made_0755_for_their_user(root: Root, top: Path, bob: Identity, umask: int) -> None:
    before = os.umask(umask)
    try:
        root.locate("/workspace/x/./y/../y/file", make_parents=bob).close()
    finally:
        os.umask(before)
    for name in ("workspace/x", "workspace/x/y"):
        status = (top / name).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, bob.uid, bob.gid)
    assert not (top / "workspace/x/y/file").exists()


def test_parents_that_exist_keep_their_owner_and_mode(root: Root, top: Path, bob: Identity) -> None:
    (top / "workspace/kept").mkdir(mode=0o700)
    root.locate("/workspace/kept/new/file", make_parents=bob).close()
    status = (top / "workspace/kept").stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o700, 0)


def test_parents_are_made_where_a_dangling_link_points(root: Root, top: Path, link: Link, bob: Identity) -> None:
    link("/etc/dangling", "../far/away/file")
    with root.locate("/etc/dangling", make_parents=bob) as location:
        assert location.path == "/far/away/file"
    assert (top / "far/away").stat().st_uid == bob.uid


def test_file_in_the_place_of_a_parent_is_no_directory(root: Root, bob: Identity) -> None:
    with pytest.raises(NotADirectory) as caught:
        root.locate("/workspace/a/other/x", make_parents=bob)
    assert caught.value.facts == {"path": "/workspace/a/other/x"}


def test_real_path_follows_a_rename_and_ends_with_the_file(root: Root, top: Path) -> None:
    with root.open("/workspace/a/other", os.O_PATH) as opened:
        (top / "workspace/a/other").rename(top / "renamed")
        assert root.real_path(opened.fd) == "/renamed"
        (top / "renamed").unlink()
        with pytest.raises(NotFound):
            root.real_path(opened.fd)
    assert root.real_path(root.fd) == "/"


def test_descriptors_close_once_and_can_be_taken_over(root: Root) -> None:
    opened = root.open("/workspace/a/other", os.O_RDONLY)
    fd = opened.detach()
    opened.close()
    assert os.read(fd, 9) == b"other"
    os.close(fd)


def test_dropped_result_leaves_no_fd_open(root: Root, read: Read, link: Link) -> None:
    link("/workspace/l", "a/../a")
    none = ("/workspace/l/none", "/workspace/l/other/", "/workspace/.nullspace/x", "/workspace/l/../.nullspace")
    with nothing_stays_open():
        root.open("/workspace/a/other", os.O_RDONLY)
        root.locate("/workspace/l/other")
        for path in none:
            with pytest.raises(AgentError):
                read(path)
