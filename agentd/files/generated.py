"""Files whose content the kernel makes when they are read: /proc, /sys and their like. All functions here block.

They say 0 or a page as their size, whatever they hold. Those below a process's own directory of /proc tell of that
process; the daemon's are nobody's affair, as its environment and memory hold what its callers must not learn.
"""

import os

from agentd.errors import Conflict, InvalidRequest, PermissionDenied
from agentd.linux import syscalls
from agentd.linux.descriptor import Descriptor
from agentd.linux.memory import memory_file
from agentd.linux.root import Opened, Root

SMALL = 1 << 20  # what says to be larger is believed
LIMIT = 64 << 20
_PIECE = 1 << 20
_PROC_TOP = 1  # PROC_ROOT_INO, linux/proc_ns.h
# Where the machine's /proc/mounts and /proc/net lead.
_HARMLESS = ("mounts", "net")
# linux/magic.h: proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, configfs, selinux, binfmt_misc, bpf,
# devpts, pstore, efivarfs, fusectl, mqueue, nsfs.
_OF_KERNEL = frozenset(
    {
        *(syscalls.PROC_SUPER_MAGIC, 0x62656572, 0x27E0EB, 0x63677270, 0x64626720, 0x74726163, 0x73636673, 0x62656570),
        *(0xF97CFF8C, 0x42494E4D, 0xCAFE4A11, 0x1CD1, 0x6165676C, 0xDE5E81E4, 0x65735543, 0x19800202, 0x6E736673),
    }
)


def is_of_kernel(fd: int) -> bool:
    """Whether the kernel makes up what is in the file system of ``fd``: a file there acts, and cannot be replaced."""
    return syscalls.file_system_type(fd) in _OF_KERNEL


def refuse_own(root: Root, opened: Opened, asked: str) -> None:
    """PermissionDenied for what tells of this process or holds its memory (proc(5): ``/proc/PID``, ``/proc/kcore``).

    Decided by the proc file system that the file is in, under whatever path it is mounted and whatever number that one
    has for this process. A thread's number names the same process, listed or not.
    """
    if syscalls.file_system_type(opened.fd) != syscalls.PROC_SUPER_MAGIC:
        return
    names = opened.path.split("/")[1:]
    for depth in range(len(names)):
        with root.open("/" + "/".join(names[:depth]), os.O_PATH | os.O_DIRECTORY) as place:
            if (place.stat.st_dev, place.stat.st_ino) == (opened.stat.st_dev, _PROC_TOP):
                owner, *rest = names[depth:]
                if owner == "kcore" or (_is_own(owner, place.fd) and rest[0] not in _HARMLESS):
                    break
                return
    raise PermissionDenied(f"{asked!r} is the daemon's own; it is not given out", path=asked)


def _is_own(name: str, proc: int) -> bool:
    if not name.isdigit():
        return False
    try:
        os.stat(f"self/task/{name}", dir_fd=proc)
    except FileNotFoundError:
        return False
    return True


def copied(opened: Opened, asked: str) -> Descriptor | None:
    """All that can be read from the file now, in memory of its own; None where the file's size tells the truth.

    Raises Conflict where the kernel gives nothing, InvalidRequest for more than `LIMIT` bytes.
    """
    if opened.stat.st_blocks or opened.stat.st_size > SMALL:
        return None
    copy = Descriptor(memory_file("generated"))
    size = 0
    while piece := _piece(opened.fd, asked, size):
        size += os.write(copy.fd, piece)
        if size > LIMIT:
            raise InvalidRequest(f"{asked!r} has no end within {LIMIT} bytes; read it by a command", path=asked)
    return None if size == opened.stat.st_size else copy


def _piece(fd: int, asked: str, size: int) -> bytes:
    try:
        return os.read(fd, _PIECE)
    except OSError as error:
        if size and isinstance(error, BlockingIOError):
            return b""
        raise Conflict(f"cannot read {asked!r}: the kernel says {error.strerror!r}", path=asked) from error
