"""What the kernel's errno means to the one who asked: `OSError` becomes `AgentError`, here and nowhere else.

The meaning depends on the operation (EXDEV is an escape when opening and another file system when renaming), so each
operation may bring a small table of its own. An errno that is in neither table is a fault of ours and stays an OSError.
"""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agentd.errors import (
    AgentError,
    Conflict,
    InvalidPath,
    IsADirectory,
    NoSpace,
    NotADirectory,
    NotFound,
    PermissionDenied,
    ReadOnlyFileSystem,
    RequestTooLarge,
    StorageFailed,
    TargetConflict,
    TooManyLinks,
    Unavailable,
)

Meaning = tuple[type[AgentError], str]
Table = Mapping[int, Meaning]

_DENIED = (PermissionDenied, "the file system refuses it; ask the owner, or use another path")
_FULL = (NoSpace, "the disk or the quota is full; free some space and repeat")
_LARGE = (RequestTooLarge, "no file may be as large there (its file system, or RLIMIT_FSIZE); send less, or raise it")
_BROKEN = (StorageFailed, "the disk failed under it; see the kernel's log before trusting its content")
_BUSY = (Conflict, "it is in use; try again when it is free")
_EXHAUSTED = (Unavailable, "the daemon ran out of file descriptors or memory; repeat later")

COMMON: Table = {
    errno.ENOENT: (NotFound, "nothing is there; check the path"),
    errno.ENOTDIR: (NotADirectory, "a part of the path is no directory; check the path"),
    errno.EISDIR: (IsADirectory, "it is a directory; name a file"),
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ELOOP: (TooManyLinks, "the links on the way lead in a circle; mend them, or name the file itself"),
    errno.ENAMETOOLONG: (InvalidPath, "a name in it is longer than the file system takes; shorten it"),
    errno.EILSEQ: (InvalidPath, "the file system takes no such name; use other characters"),
    errno.EROFS: (ReadOnlyFileSystem, "the file system is read-only; choose another place"),
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _LARGE,
    errno.EIO: _BROKEN,
    errno.EUCLEAN: _BROKEN,
    errno.ESTALE: (Conflict, "a directory of it was moved or removed meanwhile; repeat"),  # also `linux.branch`
    errno.ENOTCONN: _BROKEN,
    errno.EBUSY: _BUSY,
    errno.EAGAIN: (Conflict, "somebody holds a lease on it, or it takes nothing now; try again when it is free"),
    errno.ETXTBSY: (Conflict, "it is a program that runs; stop it first"),
    errno.EEXIST: (Conflict, "something is already there; remove it, or choose another name"),
    errno.ENOTEMPTY: (Conflict, "the directory is not empty; empty it first"),
    errno.EMFILE: _EXHAUSTED,
    errno.ENFILE: _EXHAUSTED,
    errno.ENOMEM: _EXHAUSTED,
}

# Where an ordinary file system would do as it is told.
UNABLE: Table = dict.fromkeys(
    (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP),
    (Conflict, "its file system does not do such a thing; choose another place"),
)
_TAKEN = (TargetConflict, "something else stands in its place; remove it, or choose another target")
# An object that is staged elsewhere takes its place at the target.
PUBLISH: Table = {
    errno.EEXIST: _TAKEN,
    errno.EISDIR: _TAKEN,
    errno.ENOTDIR: _TAKEN,
    errno.ENOTEMPTY: _TAKEN,
    errno.ENOENT: (Conflict, "its directory was moved or removed meanwhile; repeat"),
    errno.EXDEV: (Conflict, "its directory was moved to another file system meanwhile; repeat"),
    errno.EMLINK: (Conflict, "its directory is full; choose another target"),
    **UNABLE,
}


def translate(error: OSError, act: str, path: str, table: Table | None = None) -> AgentError | None:
    """The error to raise for ``error`` met while trying to ``act`` ("open", "make", ...) on ``path``; None if unknown.

    path: in sandbox terms; it is in the detail and in ``facts["path"]``. table: goes before `COMMON`.
    """
    code = error.errno or 0
    meaning = (table or {}).get(code) or COMMON.get(code)
    if meaning is None:
        return None
    kind, reason = meaning
    return kind(f"cannot {act} {path!r}: {reason}", path=path)


@contextmanager
def os_errors(act: str, path: str, table: Table | None = None) -> Iterator[None]:
    """Around system calls on ``path``: their `OSError` leaves as `translate` has it."""
    try:
        yield
    except OSError as error:
        translated = translate(error, act, path, table)
        if translated is None:
            raise
        raise translated from error
