"""What the kernel tells of changes to files: inotify(7). Blocking.

Watches are added by fd, never by path, so what is watched is what was opened and checked.
"""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from inotify_simple import INotify, flags

from agentd.errors import CapacityExceeded, NotSupported
from agentd.linux.descriptor import Descriptor
from agentd.linux.oserrors import os_errors

CREATE, DELETE, MODIFY, ATTRIB = int(flags.CREATE), int(flags.DELETE), int(flags.MODIFY), int(flags.ATTRIB)
MOVED_FROM, MOVED_TO = int(flags.MOVED_FROM), int(flags.MOVED_TO)
DELETE_SELF, MOVE_SELF = int(flags.DELETE_SELF), int(flags.MOVE_SELF)
UNMOUNT, Q_OVERFLOW, IGNORED, ISDIR = int(flags.UNMOUNT), int(flags.Q_OVERFLOW), int(flags.IGNORED), int(flags.ISDIR)
ONLYDIR, EXCL_UNLINK = int(flags.ONLYDIR), int(flags.EXCL_UNLINK)

_PAIR_MILLISECONDS = 10

# The first use looks for the C library, by way of the whole process.
_first = threading.Lock()


class Notice(NamedTuple):
    """One inotify_event. wd: the watch, -1 for none. cookie: the same in both halves of a rename. name: of the entry in
    the watched directory, "" for that itself."""

    wd: int
    mask: int
    cookie: int
    name: str


class Inotify(Descriptor):
    """One instance, with a queue of its own in the kernel. Its fd is readable when something is in it."""

    def __init__(self) -> None:
        """CapacityExceeded where the kernel allows no further instance, NotSupported where it knows none."""
        try:
            with _limited("fs.inotify.max_user_instances", "the kernel allows no further watch"), _first:
                self._instance = INotify(nonblocking=True, closefd=False)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            what = "the kernel, or its seccomp filter, has no inotify; have its calls allowed"
            raise NotSupported(f"changes cannot be watched here: {what}") from error
        super().__init__(self._instance.fileno())

    def add(self, fd: int, mask: int, path: str) -> int:
        """Watches what ``fd`` is open on (an O_PATH fd will do), for which this thread needs the right to read it. The
        number of the watch; the same as before for what is watched already, with the new mask.

        path: for the errors. CapacityExceeded where the kernel allows no further watch, PermissionDenied.
        """
        with os_errors("watch", path):
            with _limited("fs.inotify.max_user_watches", f"cannot watch {path!r}: the kernel watches no more files"):
                wd: int = self._instance.add_watch(f"/proc/self/fd/{fd}", mask)
                return wd

    def remove(self, wd: int) -> None:
        """Ends a watch; one that the kernel has ended is fine."""
        with suppress(OSError):
            self._instance.rm_watch(wd)

    def read(self) -> list[Notice]:
        """All that is queued, in order. Where a rename's first half is the end of it, the second half is waited for a
        moment: it is told by the same system call, unless the entry went where nothing is watched."""
        found = [Notice._make(event) for event in self._instance.read(timeout=0)]
        if _halves(found):
            found += [Notice._make(event) for event in self._instance.read(timeout=_PAIR_MILLISECONDS)]
        return found


def _halves(notices: list[Notice]) -> set[int]:
    arrived = {notice.cookie for notice in notices if notice.mask & MOVED_TO}
    return {notice.cookie for notice in notices if notice.mask & MOVED_FROM} - arrived


@contextmanager
def _limited(knob: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENOSPC):
            raise
        raise CapacityExceeded(f"{what}; end other watches, or have {knob} raised (sysctl)", limit=knob) from error
