"""What is in a directory, and what changes there, as it comes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec

from agentd.client.calls import Broken, Calls, decoded

Sort = Literal["name", "-name", "size", "-size", "modified", "-modified"]


class Listed(msgspec.Struct, frozen=True):
    """An entry (type: file, dir, symlink, fifo, socket, block, char; mode: octal text; times in nanoseconds; target: of
    a symbolic link), or with ``error`` what could not be read, which has a path alone."""

    path: str
    name: str = ""
    type: str = ""
    size: int = 0
    mode: str = ""
    owner: str = ""
    group: str = ""
    links: int = 1
    modified_ns: int = 0
    target: str | None = None
    error: str | None = None


class Change(msgspec.Struct, frozen=True):
    """event: ``started`` (first, and again as ``resumed`` after a break: what happened in between is not told),
    ``create``, ``write``, ``remove``, ``rename`` (from ``old_path``), ``chmod``, ``overflow`` (some were lost), ``end``
    with its reason."""

    event: str
    path: str
    name: str = ""
    is_dir: bool = False
    old_path: str | None = None
    reason: str | None = None
    detail: str | None = None


class Listing(Calls):
    async def entries(
        self,
        path: str,
        *,
        depth: int = 1,
        sort: Sort | None = None,
        hidden: bool = True,
        user: str | None = None,
    ) -> AsyncGenerator[tuple[Listed, bytes], None]:
        """A directory's entries, each with the JSON that it came as; nothing is kept, however many there are.

        sort: None for whatever is fastest. A listing that breaks off is not begun again: Broken, as for any lost
        connection once something came.
        """
        query = {"path": path, "depth": str(depth), "hidden": str(hidden).lower()}
        query |= {name: text for name, text in (("sort", sort), ("user", user)) if text}
        begun = False

        async def lines() -> AsyncGenerator[bytes, None]:
            nonlocal begun
            if begun:
                raise Broken("the connection broke in the middle of the listing; list again")
            async with aclosing(self._lines("GET", f"/entries?{_encoded(query)}")) as found:
                async for line in found:
                    begun = True
                    yield line

        async with aclosing(self._unbroken(lines)) as found:
            async for line in found:
                yield decoded(line, Listed), line

    async def stat(self, path: str, user: str | None = None) -> Listed:
        """One entry, a link itself."""
        told = decoded(await self._call("POST", "/files/stat", json={"path": path, "user": user}), dict[str, Any])
        renamed = {"target": told.get("symlink_target"), "links": told.get("nlink", 1)}
        return msgspec.convert(told | renamed, Listed)

    async def watch(
        self, path: str, *, recursive: bool = False, user: str | None = None
    ) -> AsyncGenerator[tuple[Change, bytes], None]:
        """Changes as they happen, each with the JSON that it came as, until the directory is gone (``end``).

        A connection that breaks, or a daemon that ends, is followed by another one, which is told as ``resumed``.
        """
        query = {"path": path, "recursive": str(recursive).lower()} | ({"user": user} if user else {})
        begun = False

        async def changes() -> AsyncGenerator[tuple[Change, bytes], None]:
            nonlocal begun
            async with aclosing(self._lines("GET", f"/watch?{_encoded(query)}")) as lines:
                async for line in lines:
                    change = decoded(line, Change)
                    if change.event == "started" and begun:
                        change = msgspec.structs.replace(change, event="resumed")
                        line = msgspec.json.encode({"event": "resumed", "path": change.path})
                    begun = True
                    if change.reason == "draining":
                        break
                    yield change, line
                    if change.event == "end":
                        return
            raise Broken("the daemon ends")

        async with aclosing(self._unbroken(changes)) as told:
            async for item in told:
                yield item


def _encoded(query: dict[str, str]) -> str:
    """Names may hold bytes that are no UTF-8 (PEP 383)."""
    return urlencode(query, quote_via=quote, errors="surrogateescape")
