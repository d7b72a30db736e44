"""Which dialects are served, and which of them without its mount."""

import re
from collections.abc import Sequence
from dataclasses import replace

from agentd.http.endpoint import Dialect, Endpoint


def chosen(dialects: Sequence[Dialect], names: Sequence[str]) -> list[Dialect]:
    """Those of these names (several may stand in one, with commas between them), all where none are given. ValueError
    for a name that none has."""
    names = [name for some in names for name in some.split(",")]
    if unknown := set(names) - {dialect.name for dialect in dialects}:
        raise ValueError(_unknown(unknown.pop(), dialects))
    return [dialect for dialect in dialects if not names or dialect.name in names]


def with_root(dialects: Sequence[Dialect], own: Dialect, name: str | None) -> list[Dialect]:
    """The dialects, and that of this name without its own prefix too. own: the daemon's pages, which are at ``/``.

    There the daemon's pages come first: a row of the dialect with the same method and path is left out. Of the other
    dialects, a mount that has a row in common with what is at ``/`` is left to that as a whole, so that what is below
    it is of one API; their other mounts stay. ValueError for a name that none of them has.
    """
    if name is None:
        return [*dialects]
    found = [dialect for dialect in dialects if dialect.name == name]
    if not found:
        raise ValueError(_unknown(name, dialects))
    prefix, pages = f"/{name}", _keys(own, "")
    roots = [
        replace(
            found[0],
            mounts=(mount.removeprefix(prefix),),
            endpoints=tuple(row for row in found[0].endpoints if _key(mount.removeprefix(prefix), row) not in pages),
        )
        for mount in found[0].mounts
        if f"{mount}/".startswith(f"{prefix}/")
    ]
    taken = {key for root in roots for key in _keys(root, root.mounts[0])}
    others = [
        replace(dialect, mounts=tuple(mount for mount in dialect.mounts if not _keys(dialect, mount) & taken))
        for dialect in dialects
    ]
    return [*others, *roots]


def _keys(dialect: Dialect, mount: str) -> set[tuple[str, str]]:
    return {_key(mount, row) for row in dialect.endpoints}


def _key(mount: str, row: Endpoint) -> tuple[str, str]:
    """What only one row may have: whatever its segments are called."""
    return "WEBSOCKET" if row.socket else row.method, re.sub(r"\{\w+", "{", mount + row.path)


def _unknown(name: str, dialects: Sequence[Dialect]) -> str:
    return f"there is no dialect {name!r} here; there are {', '.join(dialect.name for dialect in dialects)}"
