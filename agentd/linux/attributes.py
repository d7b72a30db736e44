"""Extended attributes (xattr(7)): access control lists, capabilities and security labels among them. All block.

An entry is named by an fd, of any kind: through /proc even an O_PATH one and that of a symbolic link is the entry.
"""

import errno
import os
import struct

# The file system knows none, or not for this kind of entry, or not from us, or not so large ones; or one changed.
_NONE = frozenset(
    {
        *(errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENODATA, errno.EINVAL),
        *(errno.E2BIG, errno.ERANGE, errno.ENOSPC, errno.EDQUOT),
    }
)
# linux/posix_acl_xattr.h, posix_acl.h: after a version, lines of tag, rights and id.
_HEADER, _LINE = 4, struct.Struct("<HHI")
_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x10, 0x20


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


def set_inherited_list(above: int, fd: int, mode: int) -> None:
    """Gives the new file the access control list, and by that the permissions, with which the kernel would have made it
    in the directory ``above``, asked for ``mode``. Nothing happens where that has no default list (acl(5))."""
    try:
        default = os.getxattr(_entry(above), "system.posix_acl_default")
        lines = [*_LINE.iter_unpack(default[_HEADER:])]
        group = _MASK if any(tag == _MASK for tag, _, _ in lines) else _GROUP
        asked = {_OWNER: mode >> 6, group: mode >> 3, _OTHERS: mode}
        made = b"".join(_LINE.pack(tag, rights & asked.get(tag, 7), whose) for tag, rights, whose in lines)
        os.setxattr(_entry(fd), "system.posix_acl_access", default[:_HEADER] + made)
    except OSError as error:
        if error.errno not in _NONE:
            raise


def _entry(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
