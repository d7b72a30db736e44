"""The workspace's file system: what it can do, how much is left of it, whether its clock is ours."""

import errno
import os
import time
from collections.abc import Iterator

from agentd.cli.diagnosis import BROKEN, DEGRADED, NOTE, OK, Check, Finding, Place, said
from agentd.cli.progress import size
from agentd.errors import AgentError
from agentd.linux import syscalls
from agentd.linux.features import ATTEMPTS, features
from agentd.linux.identity import acting_as
from agentd.uploads.staging import can_sync

SKEW_SECONDS = 2.0
FEW_INODES = 1000
LITTLE = 0.05  # of all space
TREE_WRITABLE = 0o002

# What is done without a feature that the daemon makes use of.
WITHOUT = {
    "openat2": "paths are resolved step by step, which is slower",
    "rename_exchange": "a directory that is replaced is missing for an instant",
    "rename_noreplace": "entries are linked and unlinked instead of renamed",
    "fallocate": "a full disk is noticed in the middle of a part, not before",
    "sync_file_range": "large writes go to the disk in bursts",
    "copy_file_range": "copies take more time and memory traffic",
    "fdatasync": "nothing can be made to last over a loss of power",
    "o_tmpfile": "files that are being written have a hidden name, which a crash may leave",
}
ELSEWHERE = "a workspace on ext4, xfs or btrfs (a volume) and Linux 5.6 or later have everything"


def file_system(place: Place) -> Iterator[Finding]:
    if place.scratch is None:
        yield Finding(
            *("file system", BROKEN, "nothing can be made in the workspace, nor where it would be"),
            "run this, and the daemon, as a user who may write there",
        )
        return
    try:
        found = features(place.scratch)
    except OSError as error:
        yield Finding("file system", BROKEN, f"the workspace's file system fails: {said(error)}", ELSEWHERE)
        return
    named = {name: works for name, works in _named(found["features"]).items() if name in ATTEMPTS}
    known = {**named, "o_tmpfile": _has_nameless_files(place.scratch)}
    missing = [name for name, works in known.items() if not works]
    what = f"{found['filesystem']}: {', '.join(name for name in known if name not in missing)}"
    yield Finding("file system", OK, what)
    for name in missing:
        yield Finding("file system", DEGRADED, f"no {name}: {WITHOUT.get(name, 'something else is done')}", ELSEWHERE)


def durability(place: Place) -> Iterator[Finding]:
    if place.scratch is None:
        return
    wanted = place.config.uploads.durability
    if wanted == "process":
        yield Finding("durability", OK, "process: what is acknowledged survives the daemon's death")
    elif can_sync(place.scratch):
        yield Finding("durability", OK, "power: files and directories can be synced")
    else:
        what = "power is asked for, but this file system cannot sync: only the daemon's death is survived"
        yield Finding("durability", DEGRADED, what, ELSEWHERE)


def space(place: Place) -> Iterator[Finding]:
    if place.scratch is None:
        return
    found = os.fstatvfs(place.scratch)
    free, whole = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    what = f"{size(free)} of {size(whole)} are free"
    if free <= place.config.uploads.min_free_bytes:
        kept = size(place.config.uploads.min_free_bytes)
        yield Finding("space", BROKEN, f"{what}, and {kept} have to stay free", "make room; --uploads-min-free-bytes")
    else:
        yield Finding("space", DEGRADED if free < LITTLE * whole else OK, what)
    # File systems without a table of inodes report none at all.
    if found.f_files:
        level = BROKEN if not found.f_favail else DEGRADED if found.f_favail < FEW_INODES else OK
        advice = "" if level == OK else "delete files: many small ones use inodes up"
        yield Finding("inodes", level, f"{found.f_favail} of {found.f_files} are free", advice)


def clock(place: Place) -> Iterator[Finding]:
    if place.scratch is None:
        return
    before = time.time()
    fd = os.open("clock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=place.scratch)
    skew = os.fstat(fd).st_mtime - before
    os.close(fd)
    if abs(skew) > SKEW_SECONDS:
        what = f"the file system's clock differs from this machine's by {skew:.0f} s: times of files look wrong"
        yield Finding("clock", DEGRADED, what, "synchronise both (NTP)")
    else:
        yield Finding("clock", OK, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def workspace(place: Place) -> Iterator[Finding]:
    """Whether it is good for its user, who may be bound by rights or start commands there."""
    if place.workspace is None or place.owner is None:
        return
    name, path = place.owner.name, place.config.workspace
    if os.fstatvfs(place.workspace).f_flag & os.ST_RDONLY:
        yield Finding("workspace", BROKEN, f"{path} is on a read-only file system", "mount it for writing")
        return
    try:
        with acting_as(place.owner):
            syscalls.faccessat2(place.workspace, ".", os.W_OK | os.X_OK, syscalls.AT_EACCESS)
    except AgentError:
        return  # said by `users`
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return
        advice = f"chown {name} {path}, or name its owner with --default-user"
        yield Finding("workspace", DEGRADED, f"user {name} may not write to {path}: commands will fail there", advice)
    else:
        yield Finding("workspace", OK, f"{path}, where user {name} may write")
    if os.fstat(place.workspace).st_mode & TREE_WRITABLE:
        yield Finding("workspace", NOTE, f"every user of the sandbox may write to {path}")


def _named(found: object) -> dict[str, bool]:
    assert isinstance(found, dict)
    return found


def _has_nameless_files(directory: int) -> bool:
    try:
        os.close(os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory))
    except OSError:
        return False
    return True


CHECKS: tuple[Check, ...] = (workspace, file_system, durability, space, clock)
