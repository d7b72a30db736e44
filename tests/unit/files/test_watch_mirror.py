"""Whatever happens to a tree, and however fast: a list of names to which a watch's events are applied is the tree's."""

import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agentd.files.directories import Allowance
from agentd.files.event import Event
from agentd.files.watched import Watched
from agentd.linux.identity import Identity
from agentd.linux.places import Place
from agentd.linux.root import Root
from agentd.linux.syscalls import AT_FDCWD, RENAME_EXCHANGE, renameat2

NOBODY = Identity(65534, 65534, (), "nobody", "/")
STEPS = 600
NAMES = "abc"


class Mirror:
    """The names of a tree, kept by events; read anew where some were lost. Whether each is a directory."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self.names: dict[str, bool] = {}
        self.lost = 0

    def apply(self, event: Event) -> None:
        path = event.path
        match event.kind:
            case "create":
                self.names[path] = event.is_dir
            case "remove":
                self._take(path)
            case "rename":
                assert event.old_path is not None
                if taken := self._take(event.old_path):  # else the tree was read after it
                    self._take(path)
                self.names |= {path + below: is_dir for below, is_dir in taken.items()}
            case "overflow":
                self.lost += 1
                self.names = actual(self._top)

    def _take(self, path: str) -> dict[str, bool]:
        taken = [name for name in self.names if name == path or name.startswith(path + "/")]
        return {name[len(path) :]: self.names.pop(name) for name in taken}


def actual(top: Path) -> dict[str, bool]:
    found = {}
    for directory, below, files in os.walk(top / "tree"):
        place = "/" + os.path.relpath(directory, top)
        found |= {f"{place}/{name}": True for name in below} | {f"{place}/{name}": False for name in files}
    return found


def disturb(top: Path, chance: random.Random) -> None:
    """One change somewhere, or one that is not possible."""

    def some() -> Path:
        return (
            top
            / chance.choice(["tree", "tree", "tree", "outside"])
            / "/".join(chance.choices(NAMES, k=chance.choice([1, 1, 2, 2, 3])))
        )

    with suppress(OSError, shutil.Error):
        match chance.randrange(9):
            case 0 | 1:
                some().mkdir()
            case 2:
                some().mkdir(parents=True)
            case 3 | 4:
                some().write_text("content")
            case 5:
                shutil.rmtree(some())
            case 6:
                some().unlink()
            case 7:
                some().rename(some())
            case 8:
                renameat2(AT_FDCWD, str(some()), AT_FDCWD, str(some()), RENAME_EXCHANGE)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    for name in ("tree", "outside"):
        (tmp_path / name).mkdir()
    root = Root(str(tmp_path))
    watched = Watched(root, Place("/tree", None, NOBODY, ()), recursive=True, limit=1000, allowance=Allowance(1000))
    yield watched
    watched.close()
    root.close()


def follow(watched: Watched, mirror: Mirror) -> None:
    """As long as there is something to read."""
    while events := watched.read():
        for event in events:
            mirror.apply(event)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("at_once", [1, 3, 30])
def test_a_mirror_fed_with_events_shows_the_tree(tmp_path: Path, watched: Watched, seed: int, at_once: int) -> None:
    mirror, chance = Mirror(tmp_path), random.Random(seed)
    for _ in range(STEPS // at_once):
        for _ in range(at_once):
            disturb(tmp_path, chance)
        follow(watched, mirror)
        assert mirror.names == actual(tmp_path)
    assert mirror.lost <= (0 if at_once == 1 else STEPS // at_once / 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_mirror_fed_while_the_tree_changes_shows_it_in_the_end(tmp_path: Path, watched: Watched, seed: int) -> None:
    mirror, chance = Mirror(tmp_path), random.Random(seed)

    def change() -> None:
        for _ in range(STEPS):
            disturb(tmp_path, chance)

    changing = threading.Thread(target=change)
    changing.start()
    while changing.is_alive():
        follow(watched, mirror)
    follow(watched, mirror)
    assert mirror.names == actual(tmp_path)


def test_once_nobody_wants_the_rest_no_notice_more_is_looked_at(watched: Watched, tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / "tree" / str(number)).mkdir()
    asked = iter([False] * 5)
    assert len(watched.read(lambda: next(asked, True))) < 10
