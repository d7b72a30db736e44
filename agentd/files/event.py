"""What a watch tells: `Event`, its words, and the words for a watch's end."""

import msgspec

CREATE, WRITE, REMOVE, RENAME, CHMOD, OVERFLOW = "create", "write", "remove", "rename", "chmod", "overflow"
REMOVED, MOVED, UNMOUNTED, DRAINING = "removed", "moved", "unmounted", "draining"


class Event(msgspec.Struct, frozen=True):
    """kind: `CREATE`, `WRITE`, ... path: absolute, in sandbox terms; name: the same from the watched directory on, ""
    for that itself, and the file's own for a watched file. old_path: where it was, for a rename alone. mask: the
    kernel's word (inotify(7)), 0 for what was found by looking."""

    kind: str
    path: str
    name: str
    is_dir: bool = False
    old_path: str | None = None
    mask: int = 0
