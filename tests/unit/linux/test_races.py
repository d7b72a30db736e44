"""A process that swaps things under the resolver gains nothing by it."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agentd.errors import AgentError
from agentd.linux import syscalls
from agentd.linux.identity import Identity
from agentd.linux.root import Root

Link = Callable[..., Path]

SECONDS = 0.3


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Meanwhile a thread exchanges two entries as fast as it can, and puts them back."""
    fds = [os.open(path.parent, os.O_PATH) for path in (one, other)]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with suppress(FileNotFoundError):
                for _ in range(2):
                    syscalls.renameat2(fds[0], one.name, fds[1], other.name, syscalls.RENAME_EXCHANGE)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for fd in fds:
            os.close(fd)


def outcomes(attempt: Callable[[], str]) -> Counter[str]:
    """What came of it, how often: the text, or the name of the error."""
    seen: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            seen[attempt()] += 1
        except AgentError as error:
            seen[type(error).__name__] += 1
    return seen


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


def test_dot_dot_of_a_directory_that_is_moved_meanwhile_does_not_lead_elsewhere(
    root: Root, read: Callable[[str], str], victim: Path, top: Path
) -> None:
    for parent in (victim, top / "private"):
        (parent / "deep").mkdir()
    with swapping(victim / "deep", top / "private/deep"):
        seen = outcomes(lambda: read("/workspace/victim/deep/../secret"))
    assert seen["harmless"]
    assert set(seen) <= {"harmless", "Unavailable"}


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


def test_directory_put_in_the_place_of_a_new_one_is_not_given_away(root: Root, top: Path, bob: Identity) -> None:
    (top / "workspace/roots").mkdir(mode=0o700)
    (top / "workspace/roots/file").touch()

    def make() -> str:
        with suppress(OSError):
            (top / "workspace/new").rmdir()
        with root.locate("/workspace/new/x", make_parents=bob) as location:
            return location.path

    with swapping(top / "workspace/new", top / "workspace/roots"):
        seen = outcomes(make)
    status = (top / "workspace/roots").stat()
    assert seen["/workspace/new/x"]
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o700)
