"""What is in a directory, or in those below it too: all of it as a stream, or page by page (`paging`).

A stream comes in the order of `traversal`: by name, but for directories of more than 10,000 entries.
"""

import os
from collections.abc import Callable, Generator
from stat import S_ISLNK

from agentd.files.paging import Pages
from agentd.files.traversal import DIRECTORY, Descent, Names
from agentd.linux.identity import Identity, Users
from agentd.linux.places import Place
from agentd.linux.root import Opened, Root

# An entry: its name, its path (absolute and resolved), its lstat, and of a symbolic link what is written there.
Found = tuple[str, str, os.stat_result, str | None]


class Owners:
    """Names of users and groups, each looked up once. Blocking."""

    def __init__(self, users: Users) -> None:
        self.user = _Remembered(users.name)
        self.group = _Remembered(users.group)


class _Remembered(dict[int, str]):
    def __init__(self, find: Callable[[int], str]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, number: int) -> str:
        self[number] = found = self._find(number)
        return found


class Listed:
    """A listing that has begun. entries, rights: for `traversal.batches`. cursor: once the entries of a page have been
    taken, where the next one begins, None where nothing is left."""

    def __init__(self, root: Root, top: Opened, depth: int, *, hidden: bool, pages: Pages | None = None) -> None:
        self._failures: list[tuple[str, str]] = []
        names: Names | None = None if pages is None else pages.names
        skips = None if hidden else _is_hidden
        self._descent = Descent(root, top, depth, names=names, skips=skips, failed=self._failed)
        self._pages = pages
        self.rights: tuple[Identity, ...] = top.rights
        self.cursor: str | None = None
        self.entries: Generator[list[Found], None, None] = self._found() if pages is None else self._page(pages)

    def take_failures(self) -> list[tuple[str, str]]:
        """Paths that could not be read, with the reason, since the last call."""
        taken = self._failures[:]
        del self._failures[: len(taken)]
        return taken

    def _failed(self, path: str, why: str) -> None:
        self._failures.append((path, why))

    def _found(self) -> Generator[list[Found], None, None]:
        for steps in self._descent.steps():
            path = self._descent.path
            yield [
                (name, path + name, status, self._target(name) if S_ISLNK(status.st_mode) else None)
                for name, status in steps
            ]

    def _target(self, name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=self._descent.fd)
        except OSError:
            return None

    def _page(self, pages: Pages) -> Generator[list[Found], None, None]:
        left, last = pages.limit, ""
        for chunk in self._found():
            found = [entry for entry in chunk if not pages.has_passed(entry[1])]
            if len(found) > left:
                self.cursor = pages.cursor(*found[left - 1][1:3]) if left else last
                yield found[:left]
                return
            left -= len(found)
            if found:
                last = pages.cursor(*found[-1][1:3])
            yield found


class Listing:
    """Directories, read. All methods block, and raise what `Root.open` raises for a directory."""

    def __init__(self, root: Root, users: Users) -> None:
        self._root = root
        self._users = users

    def owners(self) -> Owners:
        return Owners(self._users)

    def stream(self, place: Place, depth: int, *, hidden: bool = True) -> Listed:
        """Everything. depth: 1 for what is in the directory alone. hidden: with names that begin with a dot."""
        return Listed(self._root, self._open(place), depth, hidden=hidden)

    def page(self, place: Place, depth: int, limit: int, sort: str, cursor: str | None, *, hidden: bool) -> Listed:
        """The next ``limit`` entries, in an order of `paging.ORDERS`. Raises InvalidRequest for a cursor that is of no
        such listing."""
        top = self._open(place)
        return Listed(self._root, top, depth, hidden=hidden, pages=Pages(top.path, limit, sort, depth, cursor))

    def _open(self, place: Place) -> Opened:
        return self._root.open(place.path, DIRECTORY & ~os.O_NOFOLLOW, rights=place.rights)


def _is_hidden(path: str, name: str, is_directory: bool) -> bool:
    return name.startswith(".")
