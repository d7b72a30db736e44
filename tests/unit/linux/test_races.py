"""A process that swaps things under the resolver gains nothing by it."""

import ctypes
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.errors import NotFound, PathReserved, Unavailable
from agentd.linux import syscalls
from agentd.linux.identity import Identity
from agentd.linux.root import Root
from agentd.linux.walk import Walk
from tests.swapping import outcomes, swapping

Link = Callable[..., Path]


@pytest.fixture
def victim(top: Path) -> Path:
    """bob's directory with a file that he may read, called as the secrets are."""
    victim = top / "workspace/victim"
    victim.mkdir()
    (victim / "secret").write_text("harmless")
    return victim


@pytest.mark.parametrize("target", ["/private", "/workspace/.nullspace", "../../../..", "../../private"])
@pytest.mark.parametrize("path", ["/workspace/victim/secret", "/workspace/victim/../victim/secret"])
def test_directory_swapped_for_a_link_never_shows_a_secret(
    root: Root, read: Callable[[str], str], victim: Path, link: Link, bob: Identity, target: str, path: str
) -> None:
    link("/workspace/trap", target, bob.uid)
    with swapping(victim, victim.parent / "trap"):
        seen = outcomes(lambda: read(path))
    assert seen["harmless"]
    assert set(seen) <= {"harmless", "PermissionDenied", "PathReserved", "NotFound", "Unavailable"}


def test_file_swapped_for_a_link_never_shows_a_secret(
    read: Callable[[str], str], victim: Path, link: Link, bob: Identity
) -> None:
    link("/workspace/victim/trap", "/private/secret", bob.uid)
    with swapping(victim / "secret", victim / "trap"):
        seen = outcomes(lambda: read("/workspace/victim/secret"))
    assert seen["harmless"]
    assert set(seen) <= {"harmless", "PermissionDenied", "Unavailable"}


def test_reserved_tree_swapped_for_another_directory_is_never_entered(
    root: Root, read: Callable[[str], str], victim: Path
) -> None:
    with swapping(victim, victim.parent / ".nullspace"):
        seen = outcomes(lambda: read("/workspace/victim/secret"))
    assert set(seen) == {"harmless", "PathReserved"}


@pytest.mark.parametrize("target", ["/private", "/workspace/.nullspace", "../../../.."])
def test_parents_are_never_made_beyond_a_swapped_link(
    root: Root, top: Path, tmp_path: Path, victim: Path, link: Link, bob: Identity, target: str
) -> None:
    link("/workspace/trap", target, bob.uid)
    number = itertools.count()

    def make() -> str:
        with root.locate(f"/workspace/victim/new{next(number)}/file", make_parents=bob) as location:
            return location.path.split("/new")[0]

    with swapping(victim, victim.parent / "trap"):
        seen = outcomes(make)
    assert seen["/workspace/victim"]
    assert os.listdir(top / "private") == os.listdir(top / "workspace/.nullspace") == ["secret"]
    assert sorted(os.listdir(tmp_path)) == ["secret", "top"]


@pytest.fixture
def exchange_before(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Two entries are exchanged once, just before a method is called: the worst moment, every time."""

    def arrange(owner: type, method: str, one: Path, other: Path) -> None:
        inner, moments = getattr(owner, method), iter([True])

        def late(*args: object, **kwargs: object) -> object:
            if next(moments, False):
                syscalls.renameat2(syscalls.AT_FDCWD, str(one), syscalls.AT_FDCWD, str(other), syscalls.RENAME_EXCHANGE)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, method, late)

    return arrange


def test_dot_dot_of_a_directory_that_was_moved_does_not_lead_elsewhere(
    read: Callable[[str], str], victim: Path, top: Path, exchange_before: Callable[..., None]
) -> None:
    for parent in (victim, top / "private"):
        (parent / "deep").mkdir()
    exchange_before(Walk, "_up", victim / "deep", top / "private/deep")
    assert read("/workspace/victim/deep/../secret") == "harmless"


def test_directory_put_in_the_place_of_a_new_one_is_not_given_away(
    root: Root, top: Path, bob: Identity, exchange_before: Callable[..., None]
) -> None:
    (top / "workspace/roots").mkdir(mode=0o700)
    (top / "workspace/roots/file").touch()
    exchange_before(Walk, "_hand_over", top / "workspace/new", top / "workspace/roots")
    root.locate("/workspace/new/x", make_parents=bob).close()
    status = (top / "workspace/new").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o700)


def test_reserved_tree_put_in_the_place_of_a_checked_directory_is_not_opened(
    root: Root, victim: Path, exchange_before: Callable[..., None]
) -> None:
    exchange_before(Root, "_open_entry", victim, victim.parent / ".nullspace")
    with pytest.raises(PathReserved):
        root.open("/workspace/victim", os.O_RDONLY)


def test_link_put_in_the_place_of_a_checked_file_is_not_even_opened(
    root: Root, victim: Path, link: Link, tmp_path: Path, exchange_before: Callable[..., None]
) -> None:
    libc, opened = ctypes.CDLL(None), 0x20
    watch = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(watch, os.fsencode(tmp_path / "secret"), opened)
    link("/workspace/victim/trap", str(tmp_path / "secret"))
    exchange_before(Root, "_open_entry", victim / "secret", victim / "trap")
    with pytest.raises(NotFound):
        root.open("/workspace/victim/secret", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        os.read(watch, 100)
    os.close(watch)


def test_path_that_never_settles_is_refused_for_now(
    read: Callable[[str], str], victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentd.linux.root.inode", lambda _: object())
    with pytest.raises(Unavailable):
        read("/workspace/victim/secret")
