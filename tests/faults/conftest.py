"""Disks that fill and fail, and a daemon that stops in the middle of something."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.faults import fuse

Mount = Callable[..., Path]
Volume = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """``mount("tmpfs" or "ext4", MiB, place=...)``: a small file system, unmounted after the test.

    To be named before ``start_daemon``, so that the daemon ends first.
    """
    mounted: list[Path] = []

    def make(kind: str = "tmpfs", size: int = 8, *, place: Path | None = None) -> Path:
        place = place or tmp_path / f"disk-{len(mounted)}"
        place.mkdir(exist_ok=True)
        if kind == "tmpfs":
            run("mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "tmpfs", str(place))
        else:
            image = tmp_path / f"image-{len(mounted)}"
            with image.open("wb") as file:
                file.truncate(size << 20)
            run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
            run("mount", "-o", "loop", str(image), str(place))
        mounted.append(place)
        return place

    yield make
    for place in reversed(mounted):
        run("umount", "--lazy", str(place))


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Callable[[Path, Path], None]]:
    """``bind(source, place)``: shows one directory at another place too, until the test ends."""
    bound: list[Path] = []

    def make(source: Path, place: Path) -> None:
        run("mount", "--bind", str(source), str(place))
        bound.append(place)

    yield make
    for place in reversed(bound):
        run("umount", "--lazy", str(place))


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def wait_until_stopped(daemon: Daemon) -> None:
    """Returns once a failpoint has stopped the daemon."""
    assert os.waitid(os.P_PID, daemon.pid, os.WSTOPPED) is not None


def fill(place: Path, leave: int) -> Path:
    """A file that takes all of the disk but about ``leave`` bytes."""
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        found = os.fstatvfs(file.fileno())
        os.posix_fallocate(file.fileno(), 0, max(found.f_bavail * found.f_frsize - leave, 1))
    return ballast


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """``volume(*refused, unknown=(), fixed=None)``: what is behind /volume of the sandbox, see `fuse.Volume`.

    To be named before ``start_daemon``."""
    with ExitStack() as stack:

        def make(*refused: int, unknown: tuple[int, ...] = (), fixed: int | None = None) -> Path:
            source, place = tmp_path / "source", tmp_path / "root/volume"
            source.mkdir()
            place.mkdir(parents=True)
            try:
                stack.enter_context(fuse.volume(source, place, *refused, unknown=unknown, fixed=fixed))
            except OSError as error:
                pytest.skip(f"{error}")
            return source

        yield make
