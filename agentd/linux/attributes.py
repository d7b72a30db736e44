"""Extended attributes (xattr(7)): access control lists, capabilities and security labels among them. All block.

An entry is named by an fd, of any kind: through /proc even an O_PATH one and that of a symbolic link is the entry.
"""

import errno
import os

# The file system knows none, or not for this kind of entry, or not from us, or not so large ones; or one changed.
_NONE = frozenset(
    {
        *(errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENODATA, errno.EINVAL),
        *(errno.E2BIG, errno.ERANGE, errno.ENOSPC, errno.EDQUOT),
    }
)


def attribute_names(fd: int) -> list[str]:
    """Sorted; none where the file system has no such thing."""
    try:
        return sorted(os.listxattr(_entry(fd)))
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return []


def copy_attributes(source: int, target: int, kinds: tuple[str, ...] = ("",)) -> None:
    """Gives ``target`` the attributes of ``source`` whose names begin with one of ``kinds``. What the target's file
    system does not take is left out."""
    for name in attribute_names(source):
        if not name.startswith(kinds):
            continue
        try:
            os.setxattr(_entry(target), name, os.getxattr(_entry(source), name))
        except OSError as error:
            if error.errno not in _NONE:
                raise


def _entry(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
