"""A walk sees what is there and what its owner may see, whatever others do to the tree meanwhile."""

import gc
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentd.errors import InvalidRequest, StorageFailed
from agentd.files import traversal
from agentd.files.traversal import DIRECTORY, WHOLE, Descent, deciding
from agentd.linux.identity import Identity
from agentd.linux.root import Root
from tests.conftest import UNIT
from tests.swapping import SECONDS, swapping

BOB = Identity(40001, 40001, (40001,), "bob", "/")
EVE = Identity(40002, 40002, (40002,), "eve", "/")

MOUNTS = """
import json, os, subprocess, sys
from agentd.files.traversal import DIRECTORY, Descent
from agentd.linux.root import Root
top = sys.argv[1]
for name in ("workspace/.nullspace/uploads", "workspace/x", "whole", "part", "again"):
    os.makedirs(f"{top}/{name}")
for name in ("workspace/.nullspace/uploads/data", "workspace/x/data", "file"):
    open(f"{top}/{name}", "w").close()
root = Root(top)
root.reserve(os.open(top + "/workspace/.nullspace", os.O_PATH))
for source, target in (
    ("workspace/.nullspace", "whole"), ("workspace/.nullspace/uploads", "part"), ("workspace", "again"),
    ("workspace/.nullspace/uploads/data", "file"),
):
    subprocess.run(["mount", "--bind", f"{top}/{source}", f"{top}/{target}"], check=True)
descent = Descent(root, root.open("/", DIRECTORY))
print(json.dumps([descent.path + name for steps in descent.steps() for name, _ in steps]))
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    for name in ("workspace/.nullspace", "private"):
        (top / name).mkdir(parents=True)
        (top / name).chmod(0o700)
    (top / "private/secret").touch()
    (top / "workspace/.nullspace/secret").touch()
    return top


@pytest.fixture
def root(top: Path) -> Iterator[Root]:
    root = Root(str(top))
    fd = os.open(top / "workspace/.nullspace", os.O_PATH)
    root.reserve(fd)
    os.close(fd)
    yield root
    root.close()


def walk(
    root: Root, path: str = "/", rights: tuple[Identity, ...] = (), depth: int = WHOLE, **how: object
) -> list[str]:
    with deciding(rights):
        descent = Descent(root, root.open(path, DIRECTORY & ~os.O_NOFOLLOW, rights=rights), depth, **how)
    with deciding(descent.rights):
        return [descent.path + name for steps in descent.steps() for name, _ in steps]


def make(top: Path, *names: str, owner: Identity | None = None, mode: int = 0o755) -> None:
    for name in names:
        (top / name).mkdir(parents=True, exist_ok=True)
        (top / name / "file").touch()
        if owner is not None:
            os.chown(top / name, owner.uid, owner.gid)
        (top / name).chmod(mode)


def test_a_tree_is_walked_by_name_each_directory_before_what_is_in_it(root: Root, top: Path) -> None:
    make(top, "workspace/b/c", "workspace/a")
    assert walk(root, "/workspace") == [f"/workspace/{name}" for name in ("a", "a/file", "b", "b/c", "b/c/file")]


def test_the_reserved_tree_is_left_out_under_every_name(root: Root, top: Path) -> None:
    (top / "workspace/.nullspace").rename(top / "workspace/moved")
    (top / "workspace/link").symlink_to("moved")
    assert walk(root) == ["/private", "/private/secret", "/workspace", "/workspace/link"]


def test_mounts_that_show_the_reserved_tree_are_left_out(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", MOUNTS, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=Path.cwd()).stdout)
    expected = ["/again", "/again/x", "/again/x/data", "/workspace", "/workspace/x", "/workspace/x/data"]
    assert found == expected


def test_a_file_system_whose_content_the_kernel_makes_is_not_read() -> None:
    root = Root("/")
    assert any(path.startswith("/proc/self") for path in walk(root, "/", depth=2))
    assert not any(path.startswith("/proc/") for path in walk(root, "/", depth=2, reads=True))
    with pytest.raises(InvalidRequest):
        walk(root, "/proc", reads=True)
    root.close()


def test_only_what_its_user_may_see_is_walked_and_the_rest_is_told(root: Root, top: Path) -> None:
    make(top, "bobs", owner=BOB, mode=0o700)
    make(top, "eves", owner=EVE, mode=0o700)
    failed: list[str] = []
    found = walk(root, "/", (BOB,), failed=lambda path, why: failed.append(f"{path}: {why}"))
    assert found == ["/bobs", "/bobs/file", "/eves", "/private", "/workspace"]
    assert failed == ["/eves: Permission denied", "/private: Permission denied"]


def test_a_directory_that_may_be_read_but_not_searched_gives_no_entries(root: Root, top: Path) -> None:
    make(top, "names", mode=0o744)
    assert walk(root, "/names", (BOB,)) == []


def test_a_link_lends_its_owners_rights_for_the_whole_walk(root: Root, top: Path) -> None:
    make(top, "shared/open")
    make(top, "shared/closed", mode=0o700)
    (top / "workspace/link").symlink_to("/shared")
    os.chown(top / "workspace/link", BOB.uid, BOB.gid, follow_symlinks=False)
    assert walk(root, "/workspace/link") == ["/shared/closed", "/shared/open", "/shared/open/file"]


def test_where_two_lend_their_rights_both_must_be_allowed(root: Root, top: Path) -> None:
    make(top, "shared")
    make(top, "shared/bobs", owner=BOB, mode=0o700)
    make(top, "shared/eves", owner=EVE, mode=0o700)
    make(top, "shared/open")
    for name, target, owner in (("one", "/workspace/two", BOB), ("two", "/shared", EVE)):
        (top / "workspace" / name).symlink_to(target)
        os.chown(top / "workspace" / name, owner.uid, owner.gid, follow_symlinks=False)
    assert walk(root, "/workspace/one") == [f"/shared/{name}" for name in ("bobs", "eves", "file", "open", "open/file")]


@pytest.mark.parametrize("target", ["/private", "/workspace/.nullspace", "..", "."])
def test_a_directory_swapped_for_a_link_is_never_walked_through_it(root: Root, top: Path, target: str) -> None:
    make(top, "workspace/victim/deeper")
    (top / "trap").symlink_to(f"{top}{target}" if target.startswith("/") else target)
    seen: set[str] = set()
    with swapping(top / "workspace/victim", top / "trap"), clock(SECONDS) as expired:
        while not expired():
            seen.update(walk(root, "/workspace"))
    assert seen == {f"/workspace/{name}" for name in ("victim", "victim/deeper", "victim/deeper/file")}


def test_a_walk_goes_on_after_a_directory_was_moved_from_under_it(root: Root, top: Path) -> None:
    make(top, "workspace/a/b/c", "workspace/z")
    failed: list[str] = []
    descent = Descent(root, root.open("/workspace", DIRECTORY), failed=lambda path, why: failed.append(path))
    found = []
    for steps in descent.steps():
        found += [descent.path + name for name, _ in steps]
        if steps and found[-1] == "/workspace/a/b/c/file":
            (top / "workspace/a/b").rename(top / "moved")
    assert found[-2:] == ["/workspace/z", "/workspace/z/file"]
    assert failed == []


def test_a_walk_gives_up_what_was_taken_away_with_it_inside(root: Root, top: Path) -> None:
    make(top, "workspace/a/b/c", "workspace/z")
    failed: list[str] = []
    descent = Descent(root, root.open("/workspace", DIRECTORY), failed=lambda path, why: failed.append(path))
    found = []
    for steps in descent.steps():
        found += [descent.path + name for name, _ in steps]
        if steps and found[-1] == "/workspace/a/b/c/file":
            (top / "workspace/a/b/c").rename(top / "private/c")
            (top / "workspace/a").rename(top / "private/a")
    assert found[-2:] == ["/workspace/z", "/workspace/z/file"]
    assert failed == ["/workspace/a/b", "/workspace/a"]


def test_a_tree_that_is_deleted_during_the_walk_ends_it_quietly(root: Root, top: Path) -> None:
    make(top, *(f"workspace/{number}/x" for number in range(50)))
    descent = Descent(root, root.open("/workspace", DIRECTORY))
    steps = descent.steps()
    next(steps)
    subprocess.run(["rm", "-r", *(str(top / "workspace" / str(number)) for number in range(50))], check=True)
    assert [name for chunk in steps for name, _ in chunk] == []


@pytest.mark.parametrize("count", [5, 20])
def test_a_walk_holds_few_fds_and_gives_them_back(
    root: Root, top: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traversal, "SORTED", 10)
    monkeypatch.setattr(traversal, "_SORTED_DEEPER", 10)
    make(top, "many/a/b/c/d")
    for number in range(count):
        os.mknod(top / f"many/{number}")
    before = fds()
    descent = Descent(root, root.open("/many", DIRECTORY))
    steps = descent.steps()
    while not descent.path.endswith("/d/"):
        next(steps)
    assert len(fds() - before) == (2 if count < 10 else 3)
    steps.close()
    assert fds() == before


def test_a_walk_that_never_began_leaves_no_fd(root: Root) -> None:
    before = fds()
    with pytest.raises(InvalidRequest):
        Descent(Root("/"), Root("/").open("/proc", DIRECTORY), reads=True)
    Descent(root, root.open("/", DIRECTORY)).steps()
    gc.collect()
    assert len(fds() - before) <= 2  # those of the two roots


def fds() -> set[str]:
    return {f"{fd}:{os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if is_open(fd)}


def is_open(fd: str) -> bool:
    try:
        return not stat.S_ISFIFO(os.fstat(int(fd)).st_mode)
    except OSError:
        return False


@contextmanager
def clock(seconds: float) -> Iterator[Callable[[], bool]]:
    expired = threading.Event()
    timer = threading.Timer(seconds, expired.set)
    timer.start()
    yield expired.is_set
    timer.cancel()
    timer.join()


async def test_batches_are_made_in_threads_and_end_with_their_reader(root: Root, top: Path) -> None:
    make(top, *(f"many/{number}" for number in range(30)))
    threads: set[int] = set()
    descent = Descent(root, root.open("/many", DIRECTORY))

    def form(found: list[traversal.Step]) -> int:
        threads.add(threading.get_ident())
        return len(found)

    batches = traversal.batches(descent.steps(), descent.rights, 4, form)
    assert [await anext(batches) for _ in range(3)]
    await batches.aclose()
    assert descent.fd == -1
    assert threading.get_ident() not in threads


async def test_a_failure_in_a_batch_is_the_readers(root: Root) -> None:
    def chunks() -> Iterator[list[int]]:
        yield [1]
        raise StorageFailed("it broke")

    with pytest.raises(StorageFailed):
        async for _ in traversal.batches(chunks(), (), 10, list):
            pass


async def test_steps_that_find_nothing_for_long_still_let_the_reader_go(root: Root) -> None:
    with clock(0.5 * UNIT) as expired:

        def chunks() -> Iterator[list[int]]:
            while not expired():
                yield []
            yield [1]

        assert [found async for found in traversal.batches(chunks(), (), 10, list)] == [[1]]


def test_what_comes_after_a_directory_that_is_not_entered_is_seen_in_its_own_place(root: Root, top: Path) -> None:
    make(top, "shared/a", "shared/b", "shared/c")
    (top / "shared/b").chmod(0o744)  # may be read by others, but not searched
    for name, target, owner in (("one", "/workspace/two", BOB), ("two", "/shared", EVE)):
        (top / "workspace" / name).symlink_to(target)
        os.chown(top / "workspace" / name, owner.uid, owner.gid, follow_symlinks=False)
    taken = [os.open(top / "private", os.O_PATH) for _ in range(3)]
    os.close(taken[1])  # fds are not given out in their order
    found = walk(root, "/workspace/one")
    os.close(taken[0])
    os.close(taken[2])
    assert found == [f"/shared/{name}" for name in ("a", "a/file", "b", "c", "c/file")]
