"""Directories and what is in them: section 2.2 of the wire contract, and ``/entries`` of our own, which says more."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_IMODE
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agentd import errors
from agentd.dialects.failures import PATH_ERRORS
from agentd.dialects.nullspace.wire import FileInfo
from agentd.dialects.streams import JSON, array, lines, wants_lines
from agentd.dialects.values import moment, user_name
from agentd.files.listing import Found, Listed, Listing, Owners
from agentd.files.traversal import batches
from agentd.http.codec import encode
from agentd.http.endpoint import Call, Endpoint, StreamResult
from agentd.http.events import NDJSON
from agentd.linux.places import Places
from agentd.linux.threads import in_thread

_TOGETHER = 500  # entries
_PAGE = 1000
_LARGEST_PAGE = 10_000

_WORDS = {
    S_IFREG: "file",
    S_IFDIR: "dir",
    S_IFLNK: "symlink",
    S_IFIFO: "fifo",
    S_IFSOCK: "socket",
    S_IFBLK: "block",
    S_IFCHR: "char",
}


class ListParams(Struct):
    path: str = "."
    depth: Annotated[int, Meta(ge=0, description="0 and 1: what is in the directory; 2: also what is in those")] = 1
    user: str | None = None


class EntriesParams(Struct):
    path: str = "."
    depth: Annotated[int, Meta(ge=1, description="1: what is in the directory; 2: also what is in those")] = 1
    limit: Annotated[int, Meta(ge=1, le=_LARGEST_PAGE, description="entries of a page")] | None = None
    cursor: Annotated[str, Meta(description="of the page before")] | None = None
    sort: Literal["name", "-name", "size", "-size", "modified", "-modified"] | None = None
    hidden: Annotated[bool, Meta(description="with names that begin with a dot")] = True
    user: str | None = None


class Entry(Struct):
    """type: file, dir, symlink, fifo, socket, block, char. size, allocated: bytes. Times: nanoseconds since the epoch.
    target: of a symbolic link, as it is written there."""

    name: str
    path: str
    type: str
    size: int
    allocated: int
    mode: str
    uid: int
    gid: int
    owner: str
    group: str
    device: int
    inode: int
    links: int
    modified_ns: int
    changed_ns: int
    accessed_ns: int
    target: str | UnsetType = UNSET


class Unread(Struct):
    """error: why the entry, or what is in it, could not be read."""

    path: str
    error: str


class EntryPage(Struct):
    """cursor: of the next page; absent where nothing is left. errors: what is missing here."""

    entries: list[Entry]
    errors: list[Unread]
    cursor: str | UnsetType = UNSET


class ListingRows:
    def __init__(self, listing: Listing, places: Places) -> None:
        self._listing = listing
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/files", "files.list", self.list),
                params=ListParams,
                result=list[FileInfo],
                summary="List a directory, or those below it too, as one JSON array",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("GET", "/entries", "entries.list", self.entries),
                params=EntriesParams,
                result=EntryPage,
                sends=(NDJSON,),
                summary="List a directory in pages, or whole as NDJSON: an entry, an error or the cursor a line",
                errors=(*PATH_ERRORS, errors.InvalidRequest),
            ),
        )

    async def list(self, call: Call) -> StreamResult:
        listed = await in_thread(self._stream, call.params.path, max(call.params.depth, 1), call.params.user, True)
        form = _infos(self._listing.owners())
        return StreamResult(array(batches(listed.entries, listed.rights, _TOGETHER, form)), JSON)

    async def entries(self, call: Call) -> StreamResult | EntryPage:
        params = call.params
        by_lines = wants_lines(call)
        if by_lines and params.limit is None and params.cursor is None and params.sort is None:
            listed = await in_thread(self._stream, params.path, params.depth, params.user, params.hidden)
            return StreamResult(self._lines(listed), NDJSON)
        listed = await in_thread(self._page, params, params.cursor, by_lines)
        if by_lines:
            return StreamResult(self._pages(params, listed), NDJSON)
        form = _entries(self._listing.owners())
        async with aclosing(batches(listed.entries, listed.rights, _TOGETHER, form)) as found:
            entries = [entry async for batch in found for entry in batch]
        return EntryPage(entries, _unread(listed), listed.cursor or UNSET)

    async def _lines(self, listed: Listed) -> AsyncGenerator[bytes, None]:
        entries = _entries(self._listing.owners())

        def form(batch: list[Found]) -> bytes:
            return lines([*entries(batch), *_unread(listed)])

        async with aclosing(batches(listed.entries, listed.rights, _TOGETHER, form)) as chunks:
            async for chunk in chunks:
                yield chunk
        yield lines(_unread(listed))

    async def _pages(self, params: EntriesParams, listed: Listed) -> AsyncGenerator[bytes, None]:
        """One page where a limit is given, else all that are left."""
        while True:
            async with aclosing(self._lines(listed)) as chunks:
                async for chunk in chunks:
                    yield chunk
            if listed.cursor is None:
                return
            if params.limit is not None:
                yield lines([{"cursor": listed.cursor}])
                return
            listed = await in_thread(self._page, params, listed.cursor, True)

    def _stream(self, path: str, depth: int, user: str | None, hidden: bool) -> Listed:
        return self._listing.stream(self._places.find(path, user_name(user)), depth, hidden=hidden)

    def _page(self, params: EntriesParams, cursor: str | None, by_lines: bool) -> Listed:
        place = self._places.find(params.path, user_name(params.user))
        limit = params.limit or (_LARGEST_PAGE if by_lines else _PAGE)
        return self._listing.page(place, params.depth, limit, params.sort or "name", cursor, hidden=params.hidden)


def _unread(listed: Listed) -> list[Unread]:
    return [Unread(path, why) for path, why in listed.take_failures()]


def _infos(owners: Owners) -> Callable[[list[Found]], bytes]:
    """Entries as FileInfo: a JSON array."""
    modes = _Modes()
    users, groups = owners.user, owners.group

    def info(found: Found) -> FileInfo:
        name, path, status, target = found
        mode, _, _, _, uid, gid, size, _, _, _ = status
        word, text = modes[mode]
        if word not in ("file", "dir", "symlink"):
            word = "other"
        link = UNSET if target is None else target
        when = moment(status.st_mtime)
        return FileInfo(name, path, word == "dir", size, word, text, text, users[uid], groups[gid], when, link)

    return lambda batch: encode([*map(info, batch)])


def _entries(owners: Owners) -> Callable[[list[Found]], list[Entry]]:
    modes = _Modes()
    users, groups = owners.user, owners.group

    def entry(found: Found) -> Entry:
        name, path, status, target = found
        mode, inode, device, links, uid, gid, size, _, _, _ = status
        word, text = modes[mode]
        return Entry(
            *(name, path, word, size, status.st_blocks * 512, text, uid, gid, users[uid], groups[gid]),
            *(device, inode, links, status.st_mtime_ns, status.st_ctime_ns, status.st_atime_ns),
            UNSET if target is None else target,
        )

    return lambda batch: [*map(entry, batch)]


class _Modes(dict[int, tuple[str, str]]):
    """The word for the type, and the permission bits in octal, by st_mode."""

    def __missing__(self, mode: int) -> tuple[str, str]:
        self[mode] = found = (_WORDS.get(S_IFMT(mode), "other"), f"{S_IMODE(mode):04o}")
        return found
