"""What may stand at a target, and what then happens to it.

The three modes of the wire contract (section 1.10), for both kinds, as one table. ``decide`` is asked twice: at create,
before a byte is sent, and again, with authority, when the result is published.
"""

import stat
from enum import Enum

from agentd.errors import TargetConflict


class Kind(Enum):
    FILE = "file"
    DIRECTORY_TAR = "directory_tar"


class ConflictMode(Enum):
    MERGE = "merge"
    REPLACE = "replace"
    ERROR = "error"


class Existing(Enum):
    """What is at the target now."""

    NOTHING = "nothing"
    FILE = "a file"
    DIRECTORY = "a directory"
    OTHER = "neither a file nor a directory"

    @classmethod
    def of(cls, mode: int | None) -> "Existing":
        """From ``st_mode``; None where there is no entry."""
        if mode is None:
            return cls.NOTHING
        if stat.S_ISREG(mode):
            return cls.FILE
        return cls.DIRECTORY if stat.S_ISDIR(mode) else cls.OTHER


class Method(Enum):
    """How the staged object becomes the target. The numbers are part of the journal's format."""

    CREATE = 1  # rename that refuses to replace
    RENAME = 2  # rename over whatever file is there by then
    EXCHANGE = 3  # swap the trees, then delete the old one
    MERGE = 4  # entry by entry into the existing tree


_FILE, _TREE = Kind.FILE, Kind.DIRECTORY_TAR
_MERGE, _REPLACE, _ERROR = ConflictMode.MERGE, ConflictMode.REPLACE, ConflictMode.ERROR

_TABLE = {
    (_FILE, _MERGE, Existing.NOTHING): Method.RENAME,
    (_FILE, _MERGE, Existing.FILE): Method.RENAME,
    (_FILE, _REPLACE, Existing.NOTHING): Method.RENAME,
    (_FILE, _REPLACE, Existing.FILE): Method.RENAME,
    (_FILE, _ERROR, Existing.NOTHING): Method.CREATE,
    (_TREE, _MERGE, Existing.NOTHING): Method.CREATE,
    (_TREE, _MERGE, Existing.DIRECTORY): Method.MERGE,
    (_TREE, _REPLACE, Existing.NOTHING): Method.CREATE,
    (_TREE, _REPLACE, Existing.DIRECTORY): Method.EXCHANGE,
    (_TREE, _ERROR, Existing.NOTHING): Method.CREATE,
}


def decide(kind: Kind, mode: ConflictMode, existing: Existing, path: str) -> Method:
    """The way to publish; TargetConflict where the mode forbids it or the kinds clash."""
    method = _TABLE.get((kind, mode, existing))
    if method is None:
        wanted = "a file" if kind is Kind.FILE else "a directory"
        rule = "conflict mode 'error' needs a free target" if mode is _ERROR else f"{wanted} cannot take its place"
        raise TargetConflict(f"{path} exists and is {existing.value}: {rule}", path=path)
    return method
