"""Entries moved and copied: what each conflict mode makes of what is there, and what a copy has of its original."""

import os
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.filing import Filing, code, facts
from tests.process.harness.leases import leased

NOBODY, OTHER = 65534, 4242


@pytest.fixture
def files(shared: Daemon, home: Path) -> Filing:
    return Filing(shared, home)


@pytest.fixture
def tree(home: Path) -> Path:
    """A tree with one of everything."""
    top = home / "tree"
    (top / "sub/empty").mkdir(parents=True)
    (top / "file").write_text("content")
    os.link(top / "file", top / "sub/same")
    (top / "link").symlink_to("sub/nowhere")
    os.mkfifo(top / "fifo", 0o620)
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 24)
    os.setxattr(top / "file", "user.note", b"kept")
    os.chown(top / "file", OTHER, OTHER)
    (top / "file").chmod(0o4751)
    (top / "sub").chmod(0o1730)
    os.utime(top / "sub", ns=(10**18, 10**18 + 1))
    return top


def shape(top: Path) -> dict[str, object]:
    """What a copy has too, by path."""
    return {
        str(path.relative_to(top)): (
            path.lstat().st_mode & 0o171777,
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
            path.lstat().st_nlink,
        )
        for path in [top, *top.rglob("*")]
    }


# -- rename, as rename(2)


def test_a_renamed_entry_is_the_same_entry_elsewhere(files: Filing, home: Path, tree: Path) -> None:
    before, inode = shape(tree), tree.stat().st_ino
    answer = files.rename("tree", "new/parents/name", user=None)
    assert (answer.status, answer.json()["path"], answer.json()["is_dir"]) == (
        200,
        files.path("new/parents/name"),
        True,
    )
    assert (shape(home / "new/parents/name"), (home / "new/parents/name").stat().st_ino) == (before, inode)
    assert not tree.exists()


def test_a_link_itself_is_renamed(files: Filing, home: Path, tree: Path) -> None:
    answer = files.rename("tree/link", "moved").json()
    assert (answer["type"], answer["symlink_target"], os.readlink(home / "moved")) == ("symlink",) + (
        "sub/nowhere",
    ) * 2


def test_a_file_replaces_a_file_and_a_link(files: Filing, home: Path) -> None:
    (home / "there").write_text("old")
    (home / "link").symlink_to("there")
    for place in ("there", "link"):
        (home / "file").write_text("new")
        assert files.rename("file", place).status == 200
        assert (home / place).read_text() == "new"
    assert not (home / "link").is_symlink()


def test_a_directory_replaces_an_empty_directory_only(files: Filing, home: Path) -> None:
    for name in ("one", "two", "three/full"):
        (home / name).mkdir(parents=True)
    assert files.rename("one", "two").status == 200
    assert code(files.rename("two", "three")) == (409, "conflict")
    assert sorted(path.name for path in home.iterdir()) == ["three", "two"]


def test_a_file_and_a_directory_do_not_replace_each_other(files: Filing, home: Path) -> None:
    (home / "dir").mkdir()
    (home / "file").write_text("x")
    for conflict in ("merge", "replace"):
        assert code(files.move("file", "dir", conflict=conflict)) == (409, "is_a_directory")
        assert code(files.move("dir", "file", conflict=conflict)) == (409, "not_a_directory")
        assert code(files.copy("file", "dir", conflict=conflict)) == (409, "is_a_directory")
        assert code(files.copy("dir", "file", conflict=conflict)) == (409, "not_a_directory")
    assert code(files.rename("file", "dir")) == (409, "is_a_directory")
    assert code(files.rename("dir", "file")) == (409, "not_a_directory")


@pytest.mark.parametrize("act", ["rename", "move", "copy"])
def test_a_directory_does_not_come_into_itself(files: Filing, home: Path, tree: Path, act: str) -> None:
    before = shape(tree)
    for place in ("tree/sub/new", "tree/new/deeper"):
        answer = getattr(files, act)("tree", place)
        assert code(answer) == (409, "conflict")
    assert shape(tree) == before


@pytest.mark.parametrize("act", ["move", "copy"])
@pytest.mark.parametrize("conflict", ["merge", "replace"])
def test_a_directory_does_not_take_the_place_of_one_above_it(
    files: Filing, tree: Path, act: str, conflict: str
) -> None:
    (tree / "sub/sub/empty").mkdir(parents=True)
    before = shape(tree)
    assert code(getattr(files, act)("tree/sub/sub", "tree", conflict=conflict)) == (409, "conflict")
    assert code(files.rename("tree/sub", "tree")) == (409, "conflict")
    assert shape(tree) == before


@pytest.mark.parametrize("act", ["rename", "move", "copy"])
def test_what_is_missing_is_not_found(files: Filing, home: Path, act: str) -> None:
    assert code(getattr(files, act)("missing", "new")) == (404, "not_found")
    assert list(home.iterdir()) == []


def test_an_entry_keeps_its_own_name(files: Filing, home: Path, tree: Path) -> None:
    before = shape(tree)
    assert files.rename("tree", "tree").status == files.move("tree", "tree", conflict="replace").status == 200
    assert files.rename("tree/file", "tree/file").status == 200
    assert shape(tree) == before


def test_of_two_names_of_one_file_the_old_one_goes(files: Filing, home: Path, tree: Path) -> None:
    assert files.rename("tree/file", "tree/sub/same").status == 200
    assert not (tree / "file").exists()
    assert (tree / "sub/same").read_text() == "content"


@pytest.mark.parametrize("act", ["rename", "move"])
@pytest.mark.parametrize("path", ["/workspace", "/workspace/.nullspace", "/workspace/.nullspace/token", "/"])
def test_the_daemons_own_tree_is_not_moved_nor_what_holds_it(files: Filing, act: str, path: str) -> None:
    assert getattr(files, act)(path, "/elsewhere").status in (400, 403)
    assert getattr(files, act)("/etc", "/workspace/.nullspace/etc").status in (400, 403, 404)
    assert (files.daemon.root / "workspace/.nullspace/token").exists()


# -- move and copy, by conflict mode


@pytest.fixture
def there(home: Path) -> Path:
    """What is at the target already."""
    place = home / "there"
    (place / "sub/old").mkdir(parents=True)
    (place / "file").write_text("old")
    (place / "kept").write_text("old")
    os.chown(place, OTHER, OTHER)
    place.chmod(0o750)
    return place


@pytest.mark.parametrize("act", ["move", "copy"])
def test_merge_unites_directories_and_replaces_files(files: Filing, tree: Path, there: Path, act: str) -> None:
    assert getattr(files, act)("tree", "there").status == 200
    assert (there / "file").read_text() == "content"
    assert (there / "kept").read_text() == "old"
    assert sorted(path.name for path in (there / "sub").iterdir()) == ["empty", "old", "same"]
    assert tree.exists() is (act == "copy")
    assert files.left() == []


@pytest.mark.parametrize("act", ["move", "copy"])
def test_replace_puts_one_tree_for_the_other(files: Filing, tree: Path, there: Path, act: str) -> None:
    before = shape(tree)
    assert getattr(files, act)("tree", "there", conflict="replace").status == 200
    assert not (there / "kept").exists()
    assert {key: value for key, value in shape(there).items() if key not in (".", "file", "sub/same")} == {
        key: value for key, value in before.items() if key not in (".", "file", "sub/same")
    }
    assert facts(there) == ((0, 0, "0755") if act == "move" else (OTHER, OTHER, "0750"))
    assert tree.exists() is (act == "copy")
    assert files.left() == []


@pytest.mark.parametrize("act", ["move", "copy"])
@pytest.mark.parametrize("source", ["tree", "tree/file", "tree/link"])
def test_error_leaves_what_is_there(files: Filing, tree: Path, there: Path, act: str, source: str) -> None:
    before = shape(tree), shape(there)
    for place in ("there", "there/kept"):
        assert code(getattr(files, act)(source, place, conflict="error")) == (409, "conflict")
    assert (shape(tree), shape(there)) == before
    assert getattr(files, act)(source, "free", conflict="error").status == 200


def test_a_merge_of_clashing_kinds_moves_nothing(files: Filing, tree: Path, there: Path) -> None:
    (there / "fifo").mkdir()
    before = shape(tree)
    assert code(files.move("tree", "there")) == (409, "conflict")
    assert code(files.copy("tree", "there")) == (409, "conflict")
    assert shape(tree) == before
    assert files.left() == []


# -- what a copy is


def test_a_copy_of_a_tree_has_all_but_its_originals_owner_and_set_id_bits(
    files: Filing, home: Path, tree: Path
) -> None:
    before = shape(tree)
    assert files.copy("tree", "a/copy", user=None).json()["path"] == files.path("a/copy")
    copy = home / "a/copy"
    same = {"file": 0o100751, "sub/same": 0o100751}
    assert shape(copy) == {k: (same.get(k, v[0]), *v[1:]) for k, v in before.items()}  # type: ignore[index]
    assert (copy / "file").samefile(copy / "sub/same")
    assert os.getxattr(copy / "file", "user.note") == b"kept"
    assert ((copy / "sparse").stat().st_blocks, facts(copy / "file")[:2]) == (0, (0, 0))
    assert shape(tree) == before


def test_a_copy_is_the_users(files: Filing, home: Path, tree: Path) -> None:
    source, target = files.path("tree"), files.path("copy")
    assert files.op("copy", source=source, target=target, user="nobody").status == 200
    assert {facts(path)[:2] for path in [home / "copy", *(home / "copy").rglob("*")]} == {(NOBODY, NOBODY)}


def test_a_copied_file_is_new_or_takes_over_what_it_replaces(files: Filing, home: Path, tree: Path) -> None:
    (home / "old").write_text("a longer content")
    os.chown(home / "old", OTHER, OTHER)
    (home / "old").chmod(0o600)
    assert files.copy("tree/file", "new").json()["mode"] == "0751"
    assert files.copy("tree/file", "old").json()["mode"] == "0600"
    assert (facts(home / "new"), facts(home / "old")) == ((0, 0, "0751"), (OTHER, OTHER, "0600"))
    assert (home / "new").read_text() == (home / "old").read_text() == "content"
    assert os.getxattr(home / "old", "user.note") == b"kept"


def test_a_copied_link_is_a_link(files: Filing, home: Path, tree: Path) -> None:
    assert files.copy("tree/link", "copy").json()["symlink_target"] == "sub/nowhere"


def test_a_copy_of_what_holds_the_daemons_own_tree_leaves_it_out(files: Filing, home: Path, tree: Path) -> None:
    assert files.op("copy", source="/", target="/copy-of-all").status == 400
    assert files.op("copy", source="/workspace", target="/copy").status == 200
    copy = files.daemon.root / "copy"
    assert (copy / home.name / "tree/file").exists()
    assert not (copy / ".nullspace").exists()
    assert files.op("remove", "/copy").status == 204


def test_what_somebody_has_a_lease_on_is_not_waited_for(files: Filing, home: Path) -> None:
    (home / "tree").mkdir()
    with leased(os.geteuid(), home / "tree", "file"):
        assert code(files.op("read", "tree/file")) == (409, "conflict")
        assert code(files.copy("tree/file", "other")) == (409, "conflict")
        assert code(files.copy("tree", "other")) == (409, "conflict")
        assert sorted(os.listdir(home)) == ["tree"]
