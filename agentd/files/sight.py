"""What there is of a watched tree at this moment, as a caller may see it: `View`. Blocking.

The kernel's notices tell of the past. What they name is looked for by its path, and by then another directory may have
the path of the one that the notice came from; so each look makes sure that it went through that one.
"""

import os
import stat
from contextlib import suppress
from enum import Enum

from agentd.errors import AgentError, InvalidPath, NotADirectory, NotFound, PathReserved, PermissionDenied, TooManyLinks
from agentd.files.directories import Directory
from agentd.linux.oserrors import os_errors
from agentd.linux.places import Place
from agentd.linux.reserved import Inode, inode
from agentd.linux.root import Opened, Root
from agentd.linux.workspace import RESERVED

PRIVATE = ".agentd-"  # so begin the names of directories in which the daemon stages beside a target

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Sight(Enum):
    """What there is to see of a directory that was not opened: nothing; its name alone; what nobody may know of."""

    GONE, CLOSED, HIDDEN = range(3)


class View:
    """asked: the path of the top as the caller gave it; path: absolute and resolved, in sandbox terms."""

    def __init__(self, root: Root, asked: str, path: str, place: Place) -> None:
        self._root = root
        self._asked = asked
        self._rights = place.rights
        self.path = path

    def absolute(self, name: str) -> str:
        """name: from the top on."""
        return f"{self.path.rstrip('/')}/{name}"

    def look(self, where: Directory, name: str) -> Opened | Sight:
        """The directory ``name`` in ``where``, opened for reading. Never by a link, never the daemon's own."""
        try:
            opened = self._root.open(self._path(where, name), _OPEN, rights=self._rights)
            with os_errors("open", opened.path):
                above = os.stat("..", dir_fd=opened.fd)
        except PathReserved:
            return Sight.HIDDEN
        except (PermissionDenied, InvalidPath):
            return Sight.CLOSED
        except (NotFound, NotADirectory, TooManyLinks):
            return Sight.GONE
        if inode(above) != where.identity:
            return Sight.GONE
        found = opened.stat
        if name.startswith(PRIVATE) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700:
            return Sight.HIDDEN
        return opened

    def status(self, where: Directory, name: str) -> os.stat_result | None:
        """Of the entry itself; None where it is not there, or cannot be seen."""
        path = self._path(where, name)
        with suppress(AgentError), self._root.locate(path, follow=False, rights=self._rights) as found:
            if inode(os.fstat(found.dir_fd)) == where.identity:
                return found.stat
        return None

    def is_reserved(self, where: Directory, name: str) -> bool:
        """Whether it is the place of the daemon's tree, whatever stands there."""
        if name == RESERVED:
            try:
                self._root.locate(self._path(where, name), follow=False, rights=self._rights).close()
            except PathReserved:
                return True
            except AgentError:
                pass
        return False

    def has_top(self, identity: Inode) -> bool:
        """Whether the top is where it was: of the renaming of a directory above it the kernel tells nothing."""
        with suppress(AgentError), self._root.open(self._asked, os.O_PATH, rights=self._rights) as opened:
            return inode(opened.stat) == identity
        return False

    def _path(self, where: Directory, name: str) -> str:
        return f"{self._asked.rstrip('/')}/{where.path(name)}"
