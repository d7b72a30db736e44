"""The power fails for real: ext4, with its journal, is shut down without flushing anything (EXT4_IOC_SHUTDOWN), mounted
again, and the kernel says that it has booted. What was acknowledged at durability ``power`` is there."""

import fcntl
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import UNIT, Daemon
from tests.process.harness.sender import NO_ANSWER, Refused, Sender
from tests.process.harness.waiting import eventually
from tests.uploading import tar_of

pytestmark = pytest.mark.slow

PART = 40_000
FLAGS = ("--insecure", "--uploads-durability", "power", "--uploads-part-size", str(PART))
ROOM = ("--uploads-min-free-bytes", "0", "--uploads-quota-bytes", "64MiB")
SHUTDOWN = 0x8004587D  # linux/fs/ext4/ext4.h: EXT4_IOC_SHUTDOWN
NO_LOG_FLUSH = struct.pack("I", 2)


class Disk:
    """An ext4 file system at ``place``, and the boot that the daemons on it see."""

    def __init__(self, top: Path) -> None:
        self.place, self._image, self._boot = top / "root", top / "image", top / "boot"
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(128 << 20)
        self.mounted = self._run("mkfs.ext4", "-q", "-m", "0", str(self._image)) and self.mount()
        shown = f'mount --bind {self._boot} /proc/sys/kernel/random/boot_id && exec "$@"'
        self.prefix = ("unshare", "--mount", "sh", "-c", shown, "sh")

    def mount(self) -> bool:
        self._boot.write_text(f"{uuid4()}\n")
        return self._run("mount", "-o", "loop", str(self._image), str(self.place))

    def fail(self) -> None:
        """From now on nothing is written, and what the kernel kept to itself never will be."""
        fd = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(fd, SHUTDOWN, NO_LOG_FLUSH)
        os.close(fd)

    def unmount(self) -> bool:
        """Its loop device goes with it, once the last process of the daemon's is gone, which has a mount of its own."""
        return self._run("umount", str(self.place)) and eventually(self._is_detached)

    def _is_detached(self) -> bool:
        return not subprocess.run(["losetup", "-j", self._image], capture_output=True, check=True).stdout

    def _run(self, *command: str) -> bool:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    if not made.mounted:
        pytest.skip("no loop devices, or no right to mount")
    yield made
    assert made.unmount()


@pytest.fixture
def daemon(disk: Disk, tmp_path: Path) -> Iterator[Daemon]:
    class Booted(Daemon):
        prefix = disk.prefix

    started = Booted(disk.place, tmp_path / "log", (*FLAGS, *ROOM), {})
    yield started
    started.kill9()


class Worker:
    """Uploads one thing after the other, until that fails. completed: those whose answer came."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.begun: list[Sender] = []
        self.completed: list[Sender] = []
        self._daemon = daemon
        self._chance = random.Random(seed)

    def work(self) -> None:
        with suppress(*NO_ANSWER, Refused):
            while True:
                self.begun.append(self._next())
                self.begun[-1].send(self._daemon)
                if self._chance.random() < 0.8:
                    self.begun[-1].complete(self._daemon)
                    self.completed.append(self.begun[-1])

    def check(self, place: Path) -> None:
        """What was promised was kept, and what is still open goes on to its end. place: the sandbox's root."""
        for sender in self.begun:
            if sender.session:
                status = sender.status(self._daemon)["status"]
                assert status == "completed" or sender not in self.completed
                sender.send(self._daemon)
                sender.complete(self._daemon)
                target = place / sender.target.relative_to("/")
                found = target.read_bytes() if sender.kind == "file" else tar_of({"f": (target / "f").read_bytes()})
                assert found == sender.content

    def _next(self) -> Sender:
        content = self._chance.randbytes(self._chance.choice([1, PART, 3 * PART + 5]))
        target = Path("/workspace") / f"{uuid4()}/target"
        if self._chance.random() < 0.3:
            return Sender(target, tar_of({"f": content}), "directory_tar", "error")
        return Sender(target, content)


def test_what_was_acknowledged_is_there_when_the_power_is_back(disk: Disk, daemon: Daemon) -> None:
    for seed in range(3):
        workers = [Worker(daemon, 10 * seed + number) for number in range(3)]
        with ThreadPoolExecutor() as pool:
            jobs = [pool.submit(worker.work) for worker in workers]
            time.sleep((0.5 + seed / 3) * UNIT)  # noqa: TID251 - the moment is the test
            disk.fail()
            daemon.kill9()
        assert [job.result() for job in jobs] == [None] * 3
        assert disk.unmount()
        assert disk.mount()
        daemon.restart()
        for worker in workers:
            worker.check(disk.place)
        assert any(worker.completed for worker in workers)
