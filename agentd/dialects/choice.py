"""Which dialects are served, and which of them without its mount."""

import re
from collections.abc import Sequence

from msgspec.structs import replace

from agentd.http.endpoint import Dialect, Endpoint


def chosen(dialects: Sequence[Dialect], names: Sequence[str]) -> list[Dialect]:
    """Those of these names, all where none are given."""
    return [dialect for dialect in dialects if not names or dialect.name in names]


def with_root(dialects: Sequence[Dialect], own: Dialect, name: str | None) -> list[Dialect]:
    """The dialects, and that of this name without its own prefix too. own: the daemon's pages, which are at ``/``.

    There the daemon's pages come first: a row of the dialect with the same method and path is left out. Of the other
    dialects, a mount that has a row in common with what is at ``/`` is left to that as a whole, so that what is below
    it is of one API; their other mounts stay.
    """
    if name is None:
        return [*dialects]
    found = next(dialect for dialect in dialects if dialect.name == name)
    prefix, pages = f"/{name}", _keys(own, "")
    below = [mount for mount in dict.fromkeys(mount for mount, _ in found.rows) if f"{mount}/".startswith(f"{prefix}/")]
    roots = [_moved(found, mount, mount.removeprefix(prefix), pages) for mount in below]
    taken = {key for root in roots for key in _keys(root, root.mounts[0])}
    return [*(_without(dialect, taken) for dialect in dialects), *roots]


def _moved(dialect: Dialect, mount: str, to: str, pages: set[tuple[str, str]]) -> Dialect:
    """What it has below a mount, below another one, but for ``pages``."""
    rows = [replace(row, mounts=()) for below, row in dialect.rows if below == mount]
    return replace(dialect, mounts=(to,), endpoints=tuple(row for row in rows if _key(to, row) not in pages))


def _without(dialect: Dialect, taken: set[tuple[str, str]]) -> Dialect:
    """Without the mounts that have a row in common with ``taken``."""
    lost = {mount for mount, row in dialect.rows if _key(mount, row) in taken}
    rows = [
        replace(row, mounts=tuple(mount for mount in row.mounts if mount not in lost))
        for row in dialect.endpoints
        if not row.mounts or {*row.mounts} - lost
    ]
    return replace(dialect, mounts=tuple(mount for mount in dialect.mounts if mount not in lost), endpoints=tuple(rows))


def _keys(dialect: Dialect, mount: str) -> set[tuple[str, str]]:
    return {_key(mount, row) for below, row in dialect.rows if below == mount}


def _key(mount: str, row: Endpoint) -> tuple[str, str]:
    """What only one row may have: whatever its segments are called."""
    return "WEBSOCKET" if row.socket else row.method, re.sub(r"\{\w+", "{", mount + row.path)
