"""The reserved tree is refused under every name it can be given."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import InvalidPath, PathReserved, PermissionDenied
from agentd.linux.identity import Identity
from agentd.linux.reserved import Reserved
from agentd.linux.root import Root

Read = Callable[..., str]
Link = Callable[..., Path]

NAMES = [
    "/workspace/.nullspace",
    "/workspace/.nullspace/",
    "/workspace/./.nullspace/.",
    "//workspace//.nullspace",
    "/workspace/x/../.nullspace",
    "/workspace/.nullspace/secret",
    "/workspace/.nullspace/absent",
    "/workspace/.nullspace/absent/file",
    "/workspace/.nullspace/secret/x",
    "/workspace/.nullspace/..",
    "/workspace/.nullspace/../x",
    "/workspace/link",
    "/workspace/link/secret",
    "/workspace/link/../x",
    "/workspace/dangling",
]


@pytest.fixture(autouse=True)
def tree(top: Path, link: Link) -> None:
    (top / "workspace/x/y").mkdir(parents=True)
    link("/workspace/link", ".nullspace")
    link("/workspace/dangling", "/workspace/.nullspace/absent/file")


@pytest.mark.parametrize("path", NAMES)
def test_reserved_tree_is_refused_under_all_its_names(root: Root, top: Path, bob: Identity, path: str) -> None:
    for attempt in (
        lambda: root.open(path, os.O_PATH),
        lambda: root.open(path, os.O_RDONLY),
        lambda: root.locate(path),
        lambda: root.locate(path, make_parents=bob),
    ):
        with pytest.raises(PathReserved):
            attempt()
    assert os.listdir(top / "workspace/.nullspace") == ["secret"]


@pytest.mark.parametrize("path", NAMES)
def test_reserved_place_is_refused_before_anything_is_there(top: Path, bob: Identity, path: str) -> None:
    (top / "workspace/.nullspace/secret").unlink()
    (top / "workspace/.nullspace").rmdir()
    for use_openat2 in (True, False):
        root = Root(str(top), use_openat2=use_openat2)
        with pytest.raises(PathReserved):
            root.locate(path, make_parents=bob)
        root.close()
    assert not (top / "workspace/.nullspace").exists()


def test_link_to_the_reserved_tree_can_be_named_itself(root: Root) -> None:
    with root.locate("/workspace/link", follow=False) as location:
        assert location.name == "link"


def test_reserved_tree_is_refused_where_it_was_moved_to(root: Root, top: Path, read: Read) -> None:
    (top / "workspace/.nullspace").rename(top / "workspace/x/y/moved")
    for path in ("/workspace/x/y/moved", "/workspace/x/y/moved/secret", "/workspace/x/y/moved/.."):
        with pytest.raises(PathReserved):
            read(path)
    with pytest.raises(PathReserved):
        root.locate("/workspace/x/y/moved/new")


@pytest.mark.parametrize("path", ["/workspace/.nullspace", "/workspace/.nullspace/new", "/workspace/.nullspace/../x"])
def test_place_of_the_reserved_tree_stays_refused_after_a_move(root: Root, top: Path, path: str) -> None:
    (top / "workspace/.nullspace").rename(top / "workspace/moved")
    (top / "workspace/.nullspace").mkdir()
    with pytest.raises(PathReserved):
        root.locate(path)


def test_tree_that_was_reserved_stays_so_when_another_is(root: Root, top: Path, read: Read) -> None:
    (top / "workspace/.nullspace").rename(top / "workspace/old")
    (top / "workspace/.nullspace").mkdir(mode=0o700)
    fd = os.open(top / "workspace/.nullspace", os.O_PATH)
    root.reserve(fd)
    root.reserve(fd)
    os.close(fd)
    (top / "workspace/.nullspace").rename(top / "workspace/new")
    for path in ("/workspace/old/secret", "/workspace/new/x"):
        with pytest.raises(PathReserved):
            read(path)


def test_tree_moved_with_its_parent_is_refused_by_its_new_name(root: Root, top: Path, read: Read) -> None:
    (top / "workspace").rename(top / "renamed")
    with pytest.raises(PathReserved):
        read("/renamed/.nullspace/secret")
    assert root.locate("/renamed/x").path == "/renamed/x"


def test_ancestors_of_the_reserved_tree_are_known(root: Root, top: Path) -> None:
    for path, above in (("/", True), ("/workspace", True), ("/workspace/x", False), ("/etc", False)):
        with root.open(path, os.O_PATH) as opened:
            assert root.contains_reserved(opened.fd) is above
    (top / "workspace/.nullspace").rename(top / "workspace/x/y/moved")
    with root.open("/workspace/x", os.O_PATH) as opened:
        assert root.contains_reserved(opened.fd)


def test_names_that_only_look_reserved_are_free(read: Read, top: Path) -> None:
    for name in (".nullspace2", ".nullspac", ".Nullspace", ".nullspace "):
        (top / "workspace" / name).write_text(name)
        assert read(f"/workspace/{name}") == name


def test_directory_that_left_the_root_is_refused(root: Root, top: Path, tmp_path: Path) -> None:
    reserved = Reserved(root.fd, "/workspace/.nullspace")
    (top / "workspace/.nullspace2").mkdir()
    with root.open("/workspace/x/y", os.O_PATH) as inside, root.open("/workspace/.nullspace2", os.O_PATH) as tree:
        reserved.add(tree.fd)
        reserved.check_directory(inside.fd, "/workspace/x/y")
        (top / "workspace/x").rename(tmp_path / "x")
        with pytest.raises(PermissionDenied, match="out of the sandbox's root"):
            reserved.check_directory(inside.fd, "/workspace/x/y")
    reserved.close()


def test_directories_deeper_than_the_limit_are_refused(root: Root, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.linux.reserved.DEPTH_LIMIT", 9)
    (top / "workspace/1/2/3/4/5/6/7/8/9/10").mkdir(parents=True)
    root.open("/workspace/1/2/3/4/5/6/7/8/9", os.O_PATH).close()
    with pytest.raises(InvalidPath, match="9 directories deep"):
        root.open("/workspace/1/2/3/4/5/6/7/8/9/10", os.O_PATH)
