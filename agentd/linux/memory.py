"""Files in memory: memfd_create(2)."""

import errno
import os

from agentd.errors import NotSupported


def memory_file(name: str) -> int:
    """A close-on-exec fd of an empty one. NotSupported where none are to be had, OSError (EMFILE, ENFILE, ENOMEM)."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        what = "it takes a file in memory, and the kernel, or its seccomp filter, gives none (memfd_create)"
        raise NotSupported(f"this cannot be done here: {what}; have that call allowed") from error
