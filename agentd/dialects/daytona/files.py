"""Entries: described, listed, made, moved, removed, changed, and searched."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from agentd import errors
from agentd.core.conflict import ConflictMode
from agentd.dialects.daytona.wire import CHANGE_ERRORS, JSON, PATH_ERRORS, FileInfo, described, empty, listed
from agentd.dialects.streams import array
from agentd.dialects.values import place_of
from agentd.errors import AgentError, InvalidRequest
from agentd.files.changes import Changes
from agentd.files.editing import Editing
from agentd.files.entries import CHANGES
from agentd.files.globs import Glob, Ignore
from agentd.files.listing import Listed, Listing
from agentd.files.moving import Moving
from agentd.files.operations import Files
from agentd.files.patterns import compiled
from agentd.files.search import Failure, Match, Matches, Names, Search
from agentd.files.traversal import batches
from agentd.http.codec import encode
from agentd.http.endpoint import Call, Endpoint, StreamResult, TextResult
from agentd.linux.places import Place, Places
from agentd.linux.steps import Steps, in_steps
from agentd.linux.threads import in_thread

_TOGETHER = 500  # entries
_OCTAL = re.compile(r"(0o)?[0-7]{1,5}(?![\s\S])")
_MODES = 0o7777


class PathParams(Struct):
    path: str


class ListParams(Struct):
    path: str = "."
    depth: Annotated[int, Meta(ge=1, description="1: what is in the directory; 2: also what is in those")] = 1


class FolderParams(Struct):
    path: str
    mode: Annotated[str, Meta(description="permission bits of a new one, in octal")] = "0755"


class DeleteParams(Struct):
    path: str
    recursive: bool = False


class MoveParams(Struct):
    source: str
    destination: str


class PermissionsParams(Struct):
    """owner, group: names or numbers. mode: in octal."""

    path: str
    owner: str = ""
    group: str = ""
    mode: str = ""


class SearchParams(Struct):
    path: str
    pattern: str


class ReplaceBody(Struct, rename="camel"):
    files: Annotated[list[str], Meta(max_length=10_000)]
    pattern: str
    new_value: str


class Replaced(Struct):
    file: str
    success: bool
    error: str | UnsetType = UNSET


class Searched(Struct):
    files: list[str]


class FileRows:
    def __init__(
        self,
        files: Files,
        changes: Changes,
        moving: Moving,
        editing: Editing,
        listing: Listing,
        search: Search,
        places: Places,
    ) -> None:
        self._files = files
        self._changes = changes
        self._moving = moving
        self._editing = editing
        self._listing = listing
        self._search = search
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        both = (("/files", ""), ("/files/", ".slash"))
        return (
            *(
                Endpoint(
                    *("GET", path, f"files.list{suffix}", self.read_directory),
                    params=ListParams,
                    result=list[FileInfo],
                    summary="List a directory, or those below it too",
                    errors=PATH_ERRORS,
                )
                for path, suffix in both
            ),
            *(
                Endpoint(
                    *("DELETE", path, f"files.delete{suffix}", self.delete),
                    params=DeleteParams,
                    status=204,
                    summary="Delete a file, or with `recursive` a directory and all that is in it",
                    errors=CHANGE_ERRORS,
                )
                for path, suffix in both
            ),
            Endpoint(
                *("GET", "/files/info", "files.info", self.describe),
                params=PathParams,
                result=FileInfo,
                summary="Describe what a path leads to",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/folder", "files.folder", self.make_directory),
                params=FolderParams,
                takes=(),
                status=201,
                summary="Make a directory and those missing above it; one that is there stays as it is",
                errors=CHANGE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/move", "files.move", self.move),
                params=MoveParams,
                takes=(),
                summary="Give an entry another path, where nothing is",
                errors=CHANGE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/permissions", "files.permissions", self.set_permissions),
                params=PermissionsParams,
                takes=(),
                summary="Set owner, group and permission bits of what a path leads to",
                errors=(*CHANGE_ERRORS, errors.UnknownUser),
            ),
            Endpoint(
                *("GET", "/files/find", "files.find", self.find),
                params=SearchParams,
                result=list[Match],
                summary="Find the lines that hold a text",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("GET", "/files/search", "files.search", self.search),
                params=SearchParams,
                result=Searched,
                summary="Find paths by a pattern for names",
                errors=(*PATH_ERRORS, InvalidRequest),
            ),
            Endpoint(
                *("POST", "/files/replace", "files.replace", self.replace),
                body=ReplaceBody,
                result=list[Replaced],
                summary="Replace a text in files, each as a whole; a result for each",
                errors=(InvalidRequest,),
            ),
        )

    async def read_directory(self, call: Call) -> StreamResult:
        def begin() -> Listed:
            return self._listing.stream(self._place(call.params.path), call.params.depth)

        found = await in_thread(begin)
        return StreamResult(array(batches(found.entries, found.rights, _TOGETHER, listed)), JSON)

    async def describe(self, call: Call) -> FileInfo:
        return described(await in_thread(lambda: self._files.status(self._place(call.params.path), follow=True)))

    async def make_directory(self, call: Call) -> TextResult:
        mode = _mode(call.params.mode)
        await in_thread(lambda: self._changes.make_directory(self._place(call.params.path), mode))
        return empty(201)

    async def delete(self, call: Call) -> None:
        params: DeleteParams = call.params

        def remove() -> None:
            self._changes.remove(self._place(params.path), recursive=params.recursive)

        await in_thread(remove, pool=CHANGES)

    async def move(self, call: Call) -> TextResult:
        params: MoveParams = call.params

        def move() -> None:
            source, target = self._place(params.source), self._place(params.destination)
            self._moving.move(source, target, ConflictMode.ERROR)

        await in_thread(move, pool=CHANGES)
        return empty(200)

    async def set_permissions(self, call: Call) -> TextResult:
        params: PermissionsParams = call.params
        mode = _mode(params.mode) if params.mode else None

        def change() -> None:
            place = self._place(params.path)
            if params.owner or params.group or mode is None:
                self._changes.set_owner(place, params.owner or None, params.group or None)
            if mode is not None:
                self._changes.set_mode(place, mode)

        await in_thread(change)
        return empty(200)

    async def find(self, call: Call) -> StreamResult:
        def begin() -> Matches:
            pattern = compiled(call.params.pattern, literal=True, in_line=True)
            return self._search.content(self._place(call.params.path), pattern, Ignore([]))

        return StreamResult(array(_matches(await in_thread(begin))), JSON)

    async def search(self, call: Call) -> StreamResult:
        def begin() -> Names:
            return self._search.names(self._place(call.params.path), Glob(call.params.pattern), Ignore([]))

        return StreamResult(_object("files", await in_thread(begin)), JSON)

    async def replace(self, call: Call) -> list[Replaced]:
        body: ReplaceBody = call.data

        def change(path: str) -> Steps[Replaced]:
            try:
                yield from self._editing.replace([self._place(path)], body.pattern, body.new_value, literal=True)
            except AgentError as error:
                return Replaced(path, False, error.detail)
            return Replaced(path, True)

        return [await in_steps(change(path), CHANGES) for path in body.files]

    def _place(self, path: str) -> Place:
        return place_of(self._places, path)


async def _matches(found: Matches) -> AsyncGenerator[bytes, None]:
    """JSON arrays of matches, none of them empty."""

    def form(batch: list[Match | Failure]) -> bytes:
        matches = [one for one in batch if isinstance(one, Match)]
        return encode(matches) if matches else b""

    async with aclosing(batches(found.chunks, found.rights, _TOGETHER, form)) as chunks:
        async for chunk in chunks:
            if chunk:
                yield chunk


async def _object(key: str, names: Names) -> AsyncGenerator[bytes, None]:
    """A JSON object with an array."""
    yield b'{"%s":' % key.encode()
    async with aclosing(array(batches(names.chunks, names.rights, _TOGETHER, encode))) as chunks:
        async for chunk in chunks:
            yield chunk
    yield b"}"


def _mode(text: str) -> int:
    mode = int(text, 8) if _OCTAL.match(text) else _MODES + 1
    if mode > _MODES:
        raise InvalidRequest(f'{text!r} are no permission bits: give them in octal, such as "0640"', field="mode")
    return mode
