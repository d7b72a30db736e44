"""Records that outlive the daemon: a small file each, in a directory of the daemon's own. Everything blocks."""

import os
from collections.abc import Iterator
from contextlib import suppress

from agentd.linux.descriptor import Descriptor
from agentd.linux.oserrors import os_errors
from agentd.linux.workspace import keep, kept

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Records(Descriptor):
    """All records in ``name`` in the directory with the fd ``parent``; made where it is missing. Names are words,
    without a dot."""

    def __init__(self, parent: int, name: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        super().__init__(os.open(name, _DIRECTORY, dir_fd=parent))

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all, and on the disk. NoSpace, StorageFailed."""
        with os_errors("write", name):
            keep(self.fd, name, content)

    def remove(self, name: str) -> None:
        """Again is harmless."""
        with os_errors("remove", name), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def all(self) -> Iterator[tuple[str, bytes]]:
        """Name and content, none where it cannot be read; what a write left unfinished is removed."""
        for name in sorted(os.listdir(self.fd)):
            if "." in name:
                self.remove(name)
                continue
            content: bytes | None = b""
            with suppress(OSError):
                content = kept(self.fd, name)
            if content is not None:
                yield name, content
