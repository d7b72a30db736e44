"""Whose rights decide: a link lends its owner's and never the daemon's, and with kernel access a user has his own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Answer, Daemon
from tests.filing import Filing, code, facts

EVE, NOBODY = 4242, 65534


def calls(files: Filing, door: str, mine: str, **more: str) -> dict[str, Answer]:
    """Everything that could be done to ``file`` and ``dir`` behind ``door``. mine: a file that is allowed."""
    return {
        "write": files.write(f"{door}/file", **more),
        "write new": files.write(f"{door}/new", **more),
        "write deep": files.write(f"{door}/new/deep", **more),
        "put": files.put(f"{door}/file", b"new", **more),
        "append": files.op("append", f"{door}/file", content="new", **more),
        "append new": files.op("append", f"{door}/new", content="new", **more),
        "read": files.op("read", f"{door}/file", **more),
        "mkdir": files.op("mkdir", f"{door}/new", **more),
        "permissions": files.op("permissions", f"{door}/file", permissions="0777", **more),
        "permissions of a directory": files.op("permissions", door, permissions="0777", **more),
        "owner": files.op("owner", f"{door}/file", owner=str(EVE), **more),
        "owner of a link": files.op("owner", f"{door}/link", owner=str(EVE), follow=False, **more),
        "remove": files.op("remove", f"{door}/file", **more),
        "remove a directory": files.op("remove", f"{door}/dir", **more),
        "rename": files.rename(f"{door}/file", f"{door}/new", **more),
        "rename out": files.rename(f"{door}/file", "stolen", **more),
        "rename in": files.rename(mine, f"{door}/new", **more),
        "rename over": files.rename(mine, f"{door}/file", **more),
        "rename a directory": files.rename(f"{door}/dir", "stolen", **more),
        "move": files.move(f"{door}/dir", "stolen", conflict="replace", **more),
        "copy out": files.copy(f"{door}/file", "stolen", **more),
        "copy a tree out": files.copy(f"{door}/dir", "stolen", **more),
        "copy in": files.copy(mine, f"{door}/new", **more),
        "link in": files.op("link", f"{door}/new", target="x", **more),
        "hard link out": files.op("link", "stolen", target=files.path(f"{door}/file"), hard=True, **more),
        "hard link in": files.op("link", f"{door}/new", target=files.path(mine), hard=True, **more),
        "replace": files.op("replace", files=[files.path(f"{door}/file")], pattern="secret", replacement="", **more),
    }


def state(top: Path) -> dict[str, object]:
    found = {str(path.relative_to(top)): facts(path) for path in [top, *top.rglob("*")]}
    return {**found, "content": (top / "file").read_text()}


@pytest.fixture
def private(home: Path, shared: Daemon) -> Path:
    """A directory that root alone may enter."""
    made = shared.root / f"private-{home.name}"
    (made / "dir/sub").mkdir(parents=True)
    (made / "dir/file").write_text("secret")
    (made / "file").write_text("secret")
    (made / "link").symlink_to("file")
    made.chmod(0o700)
    return made


@pytest.fixture
def files(shared: Daemon, home: Path) -> Filing:
    """In a directory of eve's."""
    os.chown(home, EVE, EVE)
    return Filing(shared, home)


def plant(place: Path, target: str) -> None:
    """A link of eve's."""
    place.symlink_to(target)
    os.chown(place, EVE, EVE, follow_symlinks=False)


READING = ("read", "copy out", "copy a tree out", "hard link out")


@pytest.mark.parametrize(("mode", "allowed"), [(0o700, ()), (0o755, READING)], ids=["closed", "readable"])
def test_a_planted_link_turns_no_call_against_what_its_owner_may_not_touch(
    files: Filing, home: Path, private: Path, mode: int, allowed: tuple[str, ...]
) -> None:
    plant(home / "door", f"/{private.name}")
    (home / "mine").write_text("mine")
    private.chmod(mode)
    before = state(private)
    answers = calls(files, "door", "mine")
    done = {name for name, answer in answers.items() if answer.status != 403}
    assert done <= {*allowed}
    assert state(private) == before
    assert sorted(path.name for path in home.iterdir() if path.name != "stolen") == ["door", "mine"]


def test_a_planted_link_to_one_file_lends_no_more(files: Filing, home: Path, private: Path) -> None:
    private.chmod(0o755)
    (private / "file").chmod(0o644)
    plant(home / "door", f"/{private.name}/file")
    before = state(private)
    for act, more in (
        ("write", {"content": "x"}),
        ("append", {"content": "x"}),
        ("permissions", {"permissions": "0666"}),
    ):
        assert code(files.op(act, "door", **more)) == (403, "permission_denied")
    assert code(files.op("owner", "door", owner=str(EVE))) == (403, "permission_denied")
    assert state(private) == before
    assert files.op("read", "door").json()["content"] == "secret"


def test_what_the_links_owner_may_is_done(files: Filing, home: Path, private: Path) -> None:
    plant(home / "door", f"/{private.name}")
    for path in (private, *private.rglob("*")):
        os.chown(path, EVE, EVE, follow_symlinks=False)
    (home / "mine").write_text("mine")
    assert files.write("door/file").status == files.write("door/a/b").status == 200
    assert facts(private / "a")[:2] == (EVE, EVE)
    assert files.op("permissions", "door/file", permissions="0600").status == 204
    assert (
        files.op("append", "door/file", content="x").status == files.rename("door/file", "door/dir/new").status == 200
    )
    assert files.op("link", "door/l", target="x").status == files.copy("door/dir", "door/copy").status == 200
    assert {facts(path)[0] for path in (private / "copy", *(private / "copy").rglob("*"), private / "l")} == {EVE}
    assert files.op("remove", "door/dir").status == 204


def test_a_file_that_may_be_written_but_not_replaced_is_written_in_place(
    files: Filing, home: Path, private: Path
) -> None:
    private.chmod(0o755)
    (private / "file").chmod(0o666)
    inode = (private / "file").stat().st_ino
    plant(home / "door", f"/{private.name}/file")
    assert files.write("door", "new").status == 200
    assert ((private / "file").read_text(), (private / "file").stat().st_ino) == ("new", inode)
    assert facts(private / "file") == (0, 0, "0666")


# -- kernel access


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    place = tmp_path_factory.mktemp("strict")
    (place / "root").mkdir()
    daemon = Daemon(place / "root", place / "stderr", ("--user-access", "kernel"), {})
    yield daemon
    assert daemon.term() == 0


@pytest.fixture
def bound(strict: Daemon, tmp_path: Path) -> Filing:
    """In a directory of nobody's."""
    made = strict.root / "workspace" / tmp_path.name
    made.mkdir()
    os.chown(made, NOBODY, NOBODY)
    return Filing(strict, made)


def test_with_kernel_access_a_user_does_what_he_may(bound: Filing) -> None:
    user = {"user": "nobody"}
    assert bound.write("a/file", **user).status == bound.op("append", "a/file", content="!", **user).status == 200
    assert (
        bound.op("mkdir", "b", **user).status == bound.op("permissions", "b", permissions="0700", **user).status == 204
    )
    assert bound.rename("a/file", "b/file", **user).status == bound.copy("b", "c", **user).status == 200
    assert bound.op("link", "link", target="b", **user).status == 200
    assert bound.op("link", "name", target=bound.path("b/file"), hard=True, **user).status == 200
    assert bound.op("replace", files=[bound.path("c/file")], pattern="new", replacement="old", **user).status == 200
    assert {facts(path)[:2] for path in bound.home.rglob("*")} == {(NOBODY, NOBODY)}
    assert bound.op("remove", "b", **user).status == 204


def test_with_kernel_access_a_user_does_nothing_else(bound: Filing) -> None:
    private = bound.home / "private"
    (private / "dir/sub").mkdir(parents=True)
    for name in ("file", "dir/file"):
        (private / name).write_text("secret")
    (private / "link").symlink_to("file")
    private.chmod(0o700)
    bound.write("mine", user="nobody")
    before = state(private)
    answers = calls(bound, "private", "mine", user="nobody")
    assert {name: code(answer) for name, answer in answers.items() if code(answer) != (403, "permission_denied")} == {}
    assert state(private) == before
    assert sorted(path.name for path in bound.home.iterdir()) == ["mine", "private"]


def test_with_kernel_access_a_tree_is_removed_whole_or_not_at_all(bound: Filing) -> None:
    for name in ("tree/mine/file", "tree/yours/file"):
        bound.write(name, user="nobody")
    os.chown(bound.home / "tree/yours", 0, 0)
    assert code(bound.op("remove", "tree", user="nobody")) == (403, "permission_denied")
    assert (bound.home / "tree/mine/file").exists()
    assert bound.op("remove", "tree").status == 204


def test_with_kernel_access_nobody_gives_his_files_away(bound: Filing) -> None:
    bound.write("file", user="nobody")
    assert code(bound.op("owner", "file", owner="root", user="nobody")) == (403, "permission_denied")
    assert bound.op("owner", "file", owner="root").status == 200
    assert code(bound.op("permissions", "file", permissions="0777", user="nobody")) == (403, "permission_denied")


def test_with_kernel_access_a_sticky_directory_keeps_users_apart(bound: Filing) -> None:
    bound.home.chmod(0o1777)
    os.chown(bound.home, 0, 0)
    bound.write("theirs")
    for answer in (
        bound.op("remove", "theirs", user="nobody"),
        bound.rename("theirs", "mine", user="nobody"),
        bound.write("theirs", user="nobody"),
    ):
        assert code(answer) == (403, "permission_denied")
    assert (bound.home / "theirs").read_text() == "new"
