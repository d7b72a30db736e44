"""From a method and a raw path to a row.

A path is split at ``/`` first and each segment is percent-decoded then, so an encoded slash stays inside its segment.
``{name...}`` at a path's end stands for all segments that are left, decoded and joined by ``/``, one or more.
Nothing is normalised: no trailing slash is added or removed, no ``//`` is joined, and nobody is redirected.
"""

from urllib.parse import unquote

import msgspec

from agentd.http.codec import list_fields
from agentd.http.endpoint import SOCKET, Dialect, Endpoint


class Route(msgspec.Struct, frozen=True):
    """A row at one of its mounts. lists: the names of its params that take a list. names: of its segments, in order."""

    dialect: Dialect
    mount: str
    endpoint: Endpoint
    lists: frozenset[str]
    names: tuple[str, ...]


class Place(msgspec.Struct, frozen=True):
    """Where a path leads: the dialect in charge (None: nobody), and its rows by method (none: not found).

    values: the decoded segments that stand for a ``{name}``, in order.
    """

    dialect: Dialect | None
    mount: str
    routes: dict[str, Route]
    values: tuple[str, ...]

    def route(self, method: str, upgrade: str) -> Route | None:
        """The row for a request. upgrade: its Upgrade header; without one, a socket gets a GET that has no row."""
        if method == "GET" and SOCKET in self.routes and (upgrade.lower() == "websocket" or "GET" not in self.routes):
            return self.routes[SOCKET]
        return self.routes.get(method)

    @property
    def methods(self) -> list[str]:
        return sorted({"GET" if method == SOCKET else method for method in self.routes})


class _Node(msgspec.Struct):
    literal: dict[str, "_Node"] = msgspec.field(default_factory=dict)
    variable: "_Node | None" = None
    rest: "_Node | None" = None
    routes: dict[str, Route] = msgspec.field(default_factory=dict)
    mounted: tuple[Dialect, str] | None = None


class Router:
    """All rows of all dialects, as a tree of segments. Two rows with one method and path raise ValueError."""

    def __init__(self, dialects: tuple[Dialect, ...]) -> None:
        self._top = _Node()
        for dialect in dialects:
            for mount in dialect.mounts:
                self._node(mount).mounted = (dialect, mount)
            for mount, row in dialect.rows:
                node = self._node(mount)
                node.mounted = node.mounted or (dialect, mount)
                self._add(dialect, mount, row)

    def _node(self, path: str) -> _Node:
        node = self._top
        for segment in path.split("/")[1:]:
            if segment.endswith("...}"):
                node.rest = node.rest or _Node()
                node = node.rest
            elif segment.startswith("{"):
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.literal.setdefault(segment, _Node())
        return node

    def _add(self, dialect: Dialect, mount: str, row: Endpoint) -> None:
        path = mount + row.path
        routes = self._node(path).routes
        method = SOCKET if row.socket else row.method
        if method in routes:
            raise ValueError(f"two rows are {method} {path}: {routes[method].endpoint.name} and {row.name}")
        names = tuple(segment.strip("{.}") for segment in path.split("/") if segment.startswith("{"))
        routes[method] = Route(dialect, mount, row, list_fields(row.params), names)

    def find(self, path: str) -> Place:
        """The place of a raw path that starts with ``/``."""
        return _walk(self._top, path.split("/"), 1, Place(None, "", {}, ()))


def _walk(node: _Node, segments: list[str], at: int, place: Place) -> Place:
    """The place below ``node``: that of the first rows found, literal segments first, else the deepest mount passed."""
    dialect, mount = node.mounted or (place.dialect, place.mount)
    if at == len(segments):
        for route in node.routes.values():  # two dialects may share a path; the first speaks for it
            dialect, mount = route.dialect, route.mount
            break
        return Place(dialect, mount, node.routes, place.values)
    nowhere = Place(dialect, mount, {}, ())
    children = [(node.literal.get(segments[at]), place.values)]
    if segments[at]:
        children.append((node.variable, (*place.values, unquote(segments[at], errors="surrogateescape"))))
    for child, values in children:
        if child is not None:
            found = _walk(child, segments, at + 1, Place(dialect, mount, {}, values))
            if found.routes:
                return found
            nowhere = max(nowhere, found, key=lambda one: len(one.mount))
    if node.rest is not None and any(segments[at:]):
        rest = unquote("/".join(segments[at:]), errors="surrogateescape")
        return Place(dialect, mount, node.rest.routes, (*place.values, rest))
    return Place(nowhere.dialect, nowhere.mount, {}, ())
