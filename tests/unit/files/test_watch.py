"""What a watch tells, driven without a server in between."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from agentd.errors import CapacityExceeded, InvalidRequest, NotFound, PathReserved, PermissionDenied
from agentd.files.directories import Names
from agentd.files.event import Event
from agentd.files.watch import Watch, Watches, WatchLimits
from agentd.linux.identity import Identity
from agentd.linux.places import Place
from agentd.linux.root import Root
from agentd.linux.syscalls import AT_FDCWD, RENAME_EXCHANGE, renameat2
from tests.conftest import UNIT

BOB = Identity(40001, 40001, (40001,), "bob", "/home/bob")
LAST = "the last one"


class Seen:
    """What a watch told so far. here: the watched directory as the test sees it."""

    def __init__(self, watch: Watch, here: Path) -> None:
        self.watch = watch
        self.here = here
        self.events: list[Event] = []

    async def all(self) -> list[tuple[str, str]]:
        """Kinds and names of what was told up to now."""
        (self.here / LAST).mkdir()
        await self.until(lambda event: event.name == LAST)
        (self.here / LAST).rmdir()
        await self.until(lambda event: event.name == LAST and event.kind == "remove")
        told = [(event.kind, event.name) for event in self.events if event.name != LAST]
        self.events.clear()
        return told

    async def until(self, wanted: Callable[[Event], bool]) -> None:
        async with asyncio.timeout(10 * UNIT):
            async for batch in self.watch:
                self.events += batch
                if any(map(wanted, batch)):
                    return

    async def end(self) -> str | None:
        await self.until(lambda event: False)
        return self.watch.ended


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """The sandbox's / on this machine."""
    top = tmp_path / "top"
    (top / "workspace/.nullspace").mkdir(parents=True)
    (top / "workspace/tree").mkdir()
    (top / "outside").mkdir()
    return top


@pytest.fixture
def root(top: Path) -> Iterator[Root]:
    root = Root(str(top))
    fd = os.open(top / "workspace/.nullspace", os.O_PATH)
    root.reserve(fd)
    os.close(fd)
    yield root
    root.close()


@pytest.fixture
def watches(root: Root) -> Watches:
    return Watches(root, WatchLimits(watches=2, directories=50, directories_in_all=80))


Follow = Callable[..., AbstractAsyncContextManager[Seen]]


@pytest.fixture
def follow(watches: Watches, top: Path) -> Follow:
    @asynccontextmanager
    async def follow(path: str = "/workspace/tree", *rights: Identity, recursive: bool = True) -> AsyncIterator[Seen]:
        async with watches.watch(Place(path, None, BOB, rights), recursive=recursive) as watch:
            yield Seen(watch, top / path[1:])

    return follow


async def test_each_change_has_its_word(follow: Follow, top: Path) -> None:
    file = top / "workspace/tree/file"
    async with follow() as seen:
        file.write_text("new")
        assert await seen.all() == [("create", "file"), ("write", "file")]
        file.write_text("other")
        file.chmod(0o600)
        file.unlink()
        assert await seen.all() == [("write", "file"), ("chmod", "file"), ("remove", "file")]


async def test_a_path_is_absolute_in_the_sandbox_and_a_name_begins_at_the_watched_directory(
    follow: Follow, top: Path
) -> None:
    (top / "workspace/tree/a").mkdir()
    async with follow() as seen:
        (top / "workspace/tree/a/b").mkdir()
        await seen.all()
        (top / "workspace/tree/a/b/file").touch()
        await seen.until(lambda event: event.path == "/workspace/tree/a/b/file" and event.name == "a/b/file")


async def test_a_rename_tells_of_both_names(follow: Follow, top: Path) -> None:
    (top / "workspace/tree/old").touch()
    (top / "workspace/tree/below").mkdir()
    async with follow() as seen:
        (top / "workspace/tree/old").rename(top / "workspace/tree/below/new")
        await seen.until(lambda event: event.kind == "rename")
        assert seen.events[-1].old_path == "/workspace/tree/old"
        assert seen.events[-1].path == "/workspace/tree/below/new"


async def test_a_file_renamed_into_place_from_elsewhere_was_written(follow: Follow, top: Path) -> None:
    async with follow() as seen:
        for number in range(2):
            (top / "outside/staged").write_text(str(number))
            (top / "outside/staged").rename(top / "workspace/tree/file")
        created = [("create", "file"), ("chmod", "file"), ("write", "file")]
        assert await seen.all() in (created, [*created, ("write", "file")])
        (top / "outside/staged").touch()
        (top / "outside/staged").rename(top / "workspace/tree/file")
        assert await seen.all() == [("write", "file")]


async def test_what_leaves_the_tree_was_removed_and_is_not_followed(follow: Follow, top: Path) -> None:
    (top / "workspace/tree/a/b").mkdir(parents=True)
    async with follow() as seen:
        (top / "workspace/tree/a").rename(top / "outside/a")
        assert await seen.all() == [("remove", "a")]
        (top / "outside/a/b/file").touch()
        (top / "outside/a/file").touch()
        assert await seen.all() == []


async def test_a_tree_that_comes_is_told_of_entry_by_entry_and_followed(follow: Follow, top: Path) -> None:
    (top / "outside/a/b").mkdir(parents=True)
    (top / "outside/a/b/file").write_text("content")
    async with follow() as seen:
        (top / "outside/a").rename(top / "workspace/tree/a")
        told = [("create", "a"), ("create", "a/b"), ("create", "a/b/file"), ("write", "a/b/file")]
        assert await seen.all() == told
        (top / "workspace/tree/a/b/file").chmod(0o600)
        assert await seen.all() == [("chmod", "a/b/file")]


async def test_a_directory_that_is_renamed_in_the_tree_keeps_its_watches_under_the_right_name(
    follow: Follow, top: Path
) -> None:
    (top / "workspace/tree/a/b").mkdir(parents=True)
    async with follow() as seen:
        (top / "workspace/tree/a").rename(top / "workspace/tree/c")
        assert await seen.all() == [("rename", "c")]
        (top / "workspace/tree/c/b/file").touch()
        (top / "workspace/tree/c/b").rename(top / "workspace/tree/b")
        (top / "workspace/tree/b/file").chmod(0o600)
        assert await seen.all() == [("create", "c/b/file"), ("rename", "b"), ("chmod", "b/file")]


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_two_that_change_places_are_both_followed(follow: Follow, top: Path, kind: str) -> None:
    tree = top / "workspace/tree"
    for name in ("a", "b"):
        (tree / name).mkdir() if kind == "directory" else (tree / name).touch()
    async with follow() as seen:
        renameat2(AT_FDCWD, str(tree / "a"), AT_FDCWD, str(tree / "b"), RENAME_EXCHANGE)
        told = await seen.all()
        assert told[:2] == [("rename", "b"), ("create", "a")]
        for name in ("a", "b"):
            (tree / name / "in").touch() if kind == "directory" else (tree / name).chmod(0o600)
        told = [("create", "a/in"), ("create", "b/in")] if kind == "directory" else [("chmod", "a"), ("chmod", "b")]
        assert await seen.all() == told


async def test_a_tree_exchanged_for_one_from_elsewhere_is_followed(follow: Follow, top: Path) -> None:
    old, new = top / "workspace/tree/a", top / "outside/a"
    for place in (old / "x", new / "y"):
        place.mkdir(parents=True)
    async with follow() as seen:
        renameat2(AT_FDCWD, str(new), AT_FDCWD, str(old), RENAME_EXCHANGE)
        assert await seen.all() == [("remove", "a"), ("create", "a"), ("create", "a/y")]
        (new / "x/unseen").touch()
        (old / "y/seen").touch()
        assert await seen.all() == [("create", "a/y/seen")]


async def test_without_recursion_nested_changes_are_not_told(follow: Follow, top: Path) -> None:
    (top / "workspace/tree/a").mkdir()
    async with follow(recursive=False) as seen:
        (top / "workspace/tree/a/file").touch()
        (top / "workspace/tree/b").mkdir()
        (top / "workspace/tree/b/file").touch()
        assert await seen.all() == [("create", "b")]


async def test_what_is_made_before_a_new_directory_is_watched_is_found(follow: Follow, top: Path) -> None:
    async with follow() as seen:
        for number in range(10):
            (top / f"workspace/tree/{number}/b/c").mkdir(parents=True)
            (top / f"workspace/tree/{number}/b/c/file").write_text("content")
        told = await seen.all()
        wanted = [f"{n}{below}" for n in range(10) for below in ("", "/b", "/b/c", "/b/c/file")]
        assert sorted(name for kind, name in told if kind == "create") == sorted(wanted)
        assert {name for kind, name in told if kind == "write"} == {name for name in wanted if "file" in name}


async def test_what_comes_and_goes_at_once_is_told_of_to_the_end(follow: Follow, top: Path) -> None:
    async with follow() as seen:
        for _ in range(3):
            (top / "workspace/tree/a/b").mkdir(parents=True)
            shutil.rmtree(top / "workspace/tree/a")
        (top / "workspace/tree/a").mkdir()
        told = [kind for kind, name in await seen.all() if name == "a"]
        assert told[0::2] == ["create"] * 4
        assert told[1::2] == ["remove"] * 3


async def test_a_removed_tree_frees_its_watches(follow: Follow, top: Path) -> None:
    async with follow() as seen:
        for _ in range(4):
            for number in range(30):
                (top / f"workspace/tree/{number}").mkdir()
            await seen.all()
            for number in range(30):
                (top / f"workspace/tree/{number}").rmdir()
            await seen.all()


async def test_the_removal_of_the_watched_directory_is_the_end_also_while_somebody_works_in_it(
    follow: Follow, top: Path
) -> None:
    async with follow() as seen:
        held = os.open(seen.here, os.O_RDONLY)
        seen.here.rmdir()
        assert await seen.end() == "removed"
        assert [(event.kind, event.name) for event in seen.events] == [("remove", "")]
        os.close(held)


async def test_the_watched_directory_moved_away_is_the_end(follow: Follow, top: Path) -> None:
    async with follow() as seen:
        seen.here.rename(top / "outside/tree")
        assert await seen.end() == "moved"


async def test_a_directory_above_moved_away_is_the_end_when_something_new_comes(follow: Follow, top: Path) -> None:
    (top / "outside/a/b").mkdir(parents=True)
    async with follow("/outside/a/b") as seen:
        (top / "outside/a").rename(top / "outside/c")
        (top / "outside/c/b/new").mkdir()
        assert await seen.end() == "moved"


async def test_a_watched_file_may_be_replaced_and_may_come_back(follow: Follow, top: Path) -> None:
    file = top / "workspace/tree/file"
    file.touch()
    async with follow("/workspace/tree/file") as seen:
        (top / "workspace/tree/another").touch()
        (top / "outside/new").touch()
        (top / "outside/new").rename(file)
        file.unlink()
        file.touch()
        await seen.until(lambda event: event.kind == "create")
        assert [event.kind for event in seen.events] == ["write", "remove", "create"]
        assert {(event.path, event.name) for event in seen.events} == {("/workspace/tree/file", "file")}


async def test_a_slow_reader_is_told_that_events_were_lost_and_sees_what_comes_then(follow: Follow, top: Path) -> None:
    queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    async with follow() as seen:
        for number in range(queued // 2 + 10):
            (top / f"workspace/tree/{number % 7}").touch()
            (top / f"workspace/tree/{number % 7}").unlink()
        (top / "workspace/tree/a").mkdir()
        await seen.until(lambda event: event.kind == "overflow")
        assert len(seen.events) <= queued + 1
        await seen.all()
        (top / "workspace/tree/a/file").touch()
        assert await seen.all() == [("create", "a/file")]


async def test_a_reader_that_leaves_does_not_wait_for_the_rest_of_what_happened(follow: Follow, top: Path) -> None:
    one, other, took = top / "workspace/tree/one", top / "workspace/tree/other", list[float]()
    one.mkdir()
    async with asyncio.TaskGroup() as group, follow() as seen:
        for leaves in (False, True):
            for _ in range(2000):
                one.rename(other)
                other.rename(one)
            began = time.perf_counter()
            reading = group.create_task(anext(seen.watch))
            await asyncio.wait([reading], timeout=0.01 if leaves else None)
            reading.cancel()
            await asyncio.wait([reading])
            took.append(time.perf_counter() - began)
    assert took[1] < took[0] / 2


async def test_a_watch_of_the_whole_sandbox_leaves_out_the_systems_own_files(follow: Follow, top: Path) -> None:
    async with follow("/") as seen:
        (top / "outside/a").mkdir()
        assert ("create", "outside/a") in await seen.all()


async def test_what_cannot_be_watched_is_refused(follow: Follow, top: Path) -> None:
    os.mkfifo(top / "workspace/fifo")
    (top / "workspace/link").symlink_to(".nullspace")
    refusals = {"missing": NotFound, "fifo": InvalidRequest, ".nullspace": PathReserved, "link": PathReserved}
    for name, error in refusals.items():
        with pytest.raises(error):
            async with follow(f"/workspace/{name}"):
                pass


async def test_too_many_watches_and_too_large_trees_are_refused(follow: Follow, top: Path) -> None:
    for number in range(60):
        (top / f"outside/{number}").mkdir()
    async with follow():
        with pytest.raises(CapacityExceeded, match="at most 50"):
            async with follow("/outside"):
                pass
        async with follow("/outside", recursive=False):
            with pytest.raises(CapacityExceeded, match="2 watches are open"):
                async with follow():
                    pass
    async with follow() as seen:
        for number in range(60):
            (top / f"workspace/tree/{number}").mkdir()
        with pytest.raises(CapacityExceeded):
            await seen.all()


async def test_whose_rights_bound_a_watch_must_be_able_to_read_what_is_watched(follow: Follow, top: Path) -> None:
    tree = top / "workspace/tree"
    (tree / "closed").mkdir(mode=0o700)
    (tree / "open").mkdir()
    async with follow("/workspace/tree", BOB) as seen:
        (tree / "closed/file").touch()
        (tree / "open/file").touch()
        assert await seen.all() == [("create", "open/file")]
    tree.chmod(0o711)
    with pytest.raises(PermissionDenied):
        async with follow("/workspace/tree", BOB):
            pass


async def test_a_link_lends_its_owners_rights_to_a_watch(follow: Follow, top: Path) -> None:
    (top / "private").mkdir(mode=0o700)
    (top / "workspace/link").symlink_to("/private")
    async with follow("/workspace/link") as seen:
        assert seen.watch.path == "/private"
    os.chown(top / "workspace/link", BOB.uid, BOB.gid, follow_symlinks=False)
    with pytest.raises(PermissionDenied):
        async with follow("/workspace/link"):
            pass


@pytest.mark.parametrize("recursive", [True, False])
async def test_what_the_daemon_keeps_for_itself_is_never_told(follow: Follow, top: Path, recursive: bool) -> None:
    (top / "workspace/.agentd-old").mkdir(mode=0o700)
    async with follow("/workspace", recursive=recursive) as seen:
        own, private = top / "workspace/.nullspace", top / "workspace/.agentd-new"
        own.rename(top / "workspace/other")
        private.mkdir(mode=0o700)
        for directory in (top / "workspace/other", private, top / "workspace/.agentd-old"):
            directory.chmod(0o700)
            (directory / "staged").touch()
        (private / "staged").rename(top / "workspace/file")
        (top / "workspace/other").rename(own)
        private.rmdir()
        assert await seen.all() == [("create", "file"), ("chmod", "file"), ("write", "file")]


async def test_a_directory_of_the_same_name_elsewhere_is_anybodys(follow: Follow, top: Path) -> None:
    (top / "workspace/tree/.nullspace").mkdir()
    async with follow() as seen:
        (top / "workspace/tree/.nullspace/file").touch()
        (top / "workspace/tree/.agentd-mine").mkdir(mode=0o755)
        assert await seen.all() == [("create", ".nullspace/file"), ("create", ".agentd-mine")]


async def test_the_daemons_tree_is_not_told_when_it_comes_from_elsewhere(follow: Follow, top: Path) -> None:
    own = top / "workspace/.nullspace"
    async with follow() as seen:
        for _ in range(20):
            own.rename(top / "outside/hidden")
            (top / "outside/hidden").rename(top / "workspace/tree/hidden")
            (top / "workspace/tree/hidden").rename(own)
        own.rename(top / "workspace/tree/hidden")
        assert await seen.all() == []
        (top / "workspace/tree/hidden").rename(own)


def test_names_are_known_until_they_are_discarded() -> None:
    names = Names(["b", "a"])
    names.add("c")
    names.add("a")
    assert [name in names for name in "abcd"] == [True, True, True, False]
    assert names.discard("a")
    assert not names.discard("a")
    assert "a" not in names
