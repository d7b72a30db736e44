"""A cgroup (cgroups(7), version 2) for each process and all that it starts, below the daemon's own.

What is in one cannot leave it without rights over its parent, is killed in one stroke, however fast it forks, and can
be bounded as a whole. Entering takes the kernel a quiet moment of all CPUs: up to 12 ms a start, 0.1 ms where many
follow each other; so this is an option.

The daemon's own cgroup has to be delegated to it (systemd.resource-control(5), Delegate=): no others may be in it where
memory and processes are to be bounded, since a cgroup that hands controllers on holds no processes itself. The daemon
goes into one named `OWN` for that. Everything blocks.
"""

import os
import secrets
from collections import deque
from contextlib import suppress
from copy import copy

from agentd.linux.descriptor import Descriptor

OWN = "agentd"
LEAF = "run-"
CONTROLLERS = ("memory", "pids")


class Cgroup:
    """One leaf, below the directory with this fd."""

    def __init__(self, directory: int, name: str, left: deque[str]) -> None:
        self.name = name
        self._directory = directory
        self._left = left

    def add(self, pid: int) -> None:
        """A process, with all of its threads and all that it will fork. OSError; ESRCH where it has ended."""
        _write(self._directory, f"{self.name}/cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """What is in it, zombies too; nothing where it was removed."""
        with suppress(OSError):
            return [int(line) for line in _read(self._directory, f"{self.name}/cgroup.procs").split()]
        return []

    def kill(self) -> None:
        """SIGKILL to everything in it, at once and together with what is being forked (Linux 5.14)."""
        with suppress(OSError):
            _write(self._directory, f"{self.name}/cgroup.kill", "1")

    def remove(self) -> None:
        """Where something is left in it, later: see `Cgroups.sweep`. Again is harmless."""
        try:
            os.rmdir(self.name, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        except OSError:
            self._left.append(self.name)


class Cgroups(Descriptor):
    """The daemon's part of the hierarchy. fd: its directory. controllers: by which leaves can be bounded."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._prefix = _new_prefix()
        self._left = deque(name for name in os.listdir(fd) if name.startswith(LEAF))
        with suppress(FileExistsError):
            os.mkdir(OWN, dir_fd=fd)
        _write(fd, f"{OWN}/cgroup.procs", str(os.getpid()))
        available = _read(fd, "cgroup.controllers").split()
        for name in {*CONTROLLERS} & {*available}:
            with suppress(OSError):  # EBUSY where others are in it
                _write(fd, "cgroup.subtree_control", f"+{name}")
        self.controllers = {*CONTROLLERS} & {*_read(fd, "cgroup.subtree_control").split()}
        self.sweep()

    def make(self, memory_bytes: int | None, processes: int | None) -> Cgroup:
        """A new leaf, of whose processes all end where they need more memory. OSError."""
        self.sweep()
        leaf = Cgroup(self.fd, self._prefix + secrets.token_hex(8), self._left)
        os.mkdir(leaf.name, dir_fd=self.fd)
        if "memory" in self.controllers and memory_bytes is not None:
            _write(self.fd, f"{leaf.name}/memory.oom.group", "1")
            _write(self.fd, f"{leaf.name}/memory.max", str(memory_bytes))
        if "pids" in self.controllers and processes is not None:
            _write(self.fd, f"{leaf.name}/pids.max", str(processes))
        return leaf

    def leaf(self, name: str) -> Cgroup:
        """One that an earlier daemon has made."""
        return Cgroup(self.fd, name, self._left)

    def leaves(self) -> list[Cgroup]:
        """Those that were made here and are there still, not those that another daemon has left."""
        return [Cgroup(self.fd, name, self._left) for name in os.listdir(self.fd) if name.startswith(self._prefix)]

    def part(self) -> "Cgroups":
        """The same directory, for leaves that `leaves` does not tell here, as it tells none of those there."""
        made = copy(self)
        made.fd = os.dup(self.fd)
        made._prefix = _new_prefix()
        return made

    def sweep(self) -> None:
        """Removes those leaves that could not be removed before."""
        with suppress(IndexError):
            for _ in range(len(self._left)):
                Cgroup(self.fd, self._left.popleft(), self._left).remove()


def _new_prefix() -> str:
    return f"{LEAF}{secrets.token_hex(4)}-"


def open_cgroups() -> Cgroups:
    """OSError, which says why, where the daemon has no cgroup of version 2 that it may use."""
    path = own_directory().rstrip("/")
    if os.path.basename(path) == OWN:
        path = os.path.dirname(path)
    if not os.path.exists(f"{path}/cgroup.type"):
        raise PermissionError(None, "the daemon's cgroup is the machine's own, which is delegated to nobody", path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return Cgroups(fd)
    except BaseException:
        os.close(fd)
        raise


def own_directory() -> str:
    """Of this process's cgroup, below the mount of the hierarchy that has it (proc_pid_mountinfo(5))."""
    with open("/proc/self/cgroup") as file:
        paths = [line.rstrip("\n").removeprefix("0::") for line in file if line.startswith("0::")]
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split()[3:5] for line in file if line.partition(" - ")[2].startswith("cgroup2 ")]
    for root, place in mounts:
        for path in paths:
            if (path + "/").startswith(root.rstrip("/") + "/"):
                return place + "/" + path[len(root.rstrip("/")) :].lstrip("/")
    raise FileNotFoundError(None, "no cgroup hierarchy of version 2 is mounted here")


def _write(directory: int, path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(directory: int, path: str) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)) as file:
        return file.read()
