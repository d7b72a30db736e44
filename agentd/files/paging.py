"""The next entries behind a cursor, in an order that does not depend on what happens between two pages.

The cursor is the place in that order of the last entry that was given, so what is there all the time is given once,
whatever comes and goes. Each page costs a look at all names of the directories on the way to it (and for an order by
size or time, at all entries), and memory for a few pages.
"""

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from operator import ge, gt, le, lt
from typing import Any

from agentd.errors import InvalidRequest

ORDERS = ("name", "-name", "size", "-size", "modified", "-modified")
_CHUNK = 4096  # names

# What an entry is ordered by: its name, or a number before it.
Key = tuple[int, str]


class Pages:
    """One page. limit: entries of it. sort: of `ORDERS`, with "-" from the last to the first; in a tree by name alone,
    each directory before what is in it."""

    def __init__(self, top: str, limit: int, sort: str, depth: int, cursor: str | None) -> None:
        """top: path of the directory. Raises InvalidRequest for a cursor that is not of such a listing."""
        if depth > 1 and sort.lstrip("-") != "name":
            raise InvalidRequest("an order by size or time is that of one directory; ask for depth=1", field="sort")
        self.limit = limit
        self._top = top.rstrip("/") + "/"
        self._sort = sort
        self._reverse = sort.startswith("-")
        self._behind: Callable[[Key, Key], bool] = lt if self._reverse else gt
        self._number = _NUMBERS.get(sort.lstrip("-"))
        self._trail: list[str] = []
        self._after: Key | None = None
        if cursor is not None:
            self._after, self._trail = _read(cursor, sort)

    def cursor(self, path: str, status: os.stat_result) -> str:
        number = 0 if self._number is None else getattr(status, self._number)
        text = json.dumps([self._sort, number, *path[len(self._top) :].split("/")], ensure_ascii=False)
        return base64.urlsafe_b64encode(os.fsencode(text)).decode().rstrip("=")

    def has_passed(self, path: str) -> bool:
        """Whether the entry was given before: the last one, or a directory on the way to it."""
        if not self._trail or self._number is not None:
            return False
        names = path[len(self._top) :].split("/")
        return names == self._trail[: len(names)]

    def names(self, fd: Callable[[], int], path: str, held: int) -> Iterator[str]:
        """Those of one directory from the cursor on, in the page's order (`traversal.Names`): as many as a page may
        need, and more of them if those were not enough."""
        level = path[len(self._top) :].split("/")[:-1]
        is_on_trail = level == self._trail[: len(level)] and len(level) < len(self._trail)
        after = None
        if self._number is not None:
            after = self._after
        elif is_on_trail:
            after = (0, self._trail[len(level)])
        behind = (le if self._reverse else ge) if self._number is None else self._behind
        # The entry that the cursor names is met again, and one more tells whether there is a next page.
        count = self.limit + 2
        while keys := self._first(self._keys(fd()), after, behind, count):
            for _, name in keys:
                yield name
            if len(keys) < count:
                return
            after, behind = keys[-1], self._behind

    def _keys(self, fd: int) -> Iterator[Key]:
        with os.scandir(fd) as entries:
            for entry in entries:
                if self._number is None:
                    yield 0, entry.name
                    continue
                with suppress(OSError):
                    status = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
                    yield getattr(status, self._number), entry.name

    def _first(
        self, keys: Iterator[Key], after: Key | None, behind: Callable[[Key, Key], bool], count: int
    ) -> list[Key]:
        """The ``count`` first ones of those that are ``behind`` the place ``after``."""
        kept: list[Key] = []
        while chunk := list(islice(keys, _CHUNK)):
            kept += chunk if after is None else [key for key in chunk if behind(key, after)]
            if len(kept) > 4 * (count + _CHUNK):
                kept = sorted(kept, reverse=self._reverse)[:count]
        return sorted(kept, reverse=self._reverse)[:count]


_NUMBERS = {"size": "st_size", "modified": "st_mtime_ns"}


def _read(cursor: str, sort: str) -> tuple[Key, list[str]]:
    try:
        found: Any = json.loads(os.fsdecode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))))
        order, number, *names = found
        if order == sort and isinstance(number, int) and names and all(isinstance(name, str) for name in names):
            return (number, names[-1]), names
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidRequest("the cursor is none of a listing in this order; begin again without it", field="cursor")
