"""Entries made, moved, removed and changed: section 2.1 of the wire contract, and rows of our own beside it."""

import re
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from agentd import errors
from agentd.core.conflict import ConflictMode
from agentd.dialects.failures import PATH_ERRORS, WRITE_ERRORS
from agentd.dialects.nullspace.files import PathBody
from agentd.dialects.nullspace.wire import FileInfo, file_info
from agentd.dialects.values import place_of
from agentd.errors import InvalidRequest
from agentd.files.changes import Changes
from agentd.files.editing import Editing
from agentd.files.entries import CHANGES
from agentd.files.moving import Moving
from agentd.files.operations import Entry
from agentd.http.endpoint import Call, Endpoint
from agentd.linux.places import Place, Places
from agentd.linux.steps import Steps, in_steps
from agentd.linux.threads import in_thread

_CHANGE_ERRORS = (*PATH_ERRORS, errors.Conflict, errors.ReadOnlyFileSystem, errors.NoSpace)
_MOVE_ERRORS = (*_CHANGE_ERRORS, errors.IsADirectory)
_OCTAL = re.compile(r"(0o)?[0-7]{1,5}(?![\s\S])")
_MODES = 0o7777


class PermissionsBody(Struct):
    path: str
    permissions: str
    user: str | None = None


class OwnerBody(Struct):
    path: str
    owner: str | None = None
    group: str | None = None
    user: str | None = None
    follow: bool = True


class LinkBody(Struct):
    path: str
    target: str
    hard: bool = False
    user: str | None = None


class ReplaceBody(Struct):
    files: Annotated[list[str], Meta(max_length=10_000)]
    pattern: str
    replacement: str
    user: str | None = None
    literal: bool | None = None


class RenameBody(Struct):
    old_path: str
    new_path: str
    user: str | None = None


class MoveBody(Struct):
    source: str
    target: str
    conflict: ConflictMode = ConflictMode.MERGE
    user: str | None = None


class Replacements(Struct):
    replacements: int
    files_modified: int
    files_skipped: int
    binary_files_skipped: int


class EntryRows:
    def __init__(self, changes: Changes, moving: Moving, editing: Editing, places: Places) -> None:
        self._changes = changes
        self._moving = moving
        self._editing = editing
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", "/files/mkdir", "files.mkdir", self.make_directory),
                body=PathBody,
                status=204,
                summary="Make a directory and those missing above it; one that is there stays as it is",
                errors=_CHANGE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/permissions", "files.permissions", self.set_permissions),
                body=PermissionsBody,
                status=204,
                summary="Set the permission bits, in octal, of what a path leads to",
                errors=_CHANGE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/owner", "files.owner", self.set_owner),
                body=OwnerBody,
                result=FileInfo,
                summary="Give an entry to a user, a group or both, by names or numbers",
                errors=_CHANGE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/link", "files.link", self.link),
                body=LinkBody,
                result=FileInfo,
                summary="Make a symbolic link with any target, or a hard link to an existing file",
                errors=(*_CHANGE_ERRORS, errors.IsADirectory),
            ),
            Endpoint(
                *("POST", "/files/remove", "files.remove", self.remove),
                body=PathBody,
                status=204,
                summary="Delete a file, a link itself, or a directory with all that is in it",
                errors=_CHANGE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/rename", "files.rename", self.rename),
                body=RenameBody,
                result=FileInfo,
                summary="Give an entry another path, as rename(2), on other file systems too; missing parents are made",
                errors=_MOVE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/move", "files.move", self.move),
                body=MoveBody,
                result=FileInfo,
                summary="As rename, with a conflict mode: merge unites directories, replace puts one for the other",
                errors=_MOVE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/copy", "files.copy", self.copy),
                body=MoveBody,
                result=FileInfo,
                summary="Copy a file, a link itself, or a tree, without the bytes passing through where possible",
                errors=_MOVE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/replace", "files.replace", self.replace),
                body=ReplaceBody,
                result=Replacements,
                summary="Replace a text or an expression (RE2) in files; each is changed as a whole, binary ones never",
                errors=WRITE_ERRORS,
            ),
        )

    async def make_directory(self, call: Call) -> None:
        await in_thread(lambda: self._changes.make_directory(self._place(call.data.path, call.data.user)))

    async def set_permissions(self, call: Call) -> None:
        body: PermissionsBody = call.data
        mode = _mode(body.permissions)
        await in_thread(lambda: self._changes.set_mode(self._place(body.path, body.user), mode))

    async def set_owner(self, call: Call) -> FileInfo:
        body: OwnerBody = call.data
        if body.owner is None and body.group is None:
            raise InvalidRequest("name an owner, a group or both", field="owner")

        def change() -> Entry:
            place = self._place(body.path, body.user)
            return self._changes.set_owner(place, body.owner, body.group, follow=body.follow)

        return file_info(await in_thread(change))

    async def link(self, call: Call) -> FileInfo:
        body: LinkBody = call.data

        def make() -> Entry:
            place = self._place(body.path, body.user)
            if body.hard:
                return self._changes.link_hard(place, self._place(body.target, body.user))
            return self._changes.link(place, body.target)

        return file_info(await in_thread(make))

    async def remove(self, call: Call) -> None:
        await in_thread(lambda: self._changes.remove(self._place(call.data.path, call.data.user)), pool=CHANGES)

    async def rename(self, call: Call) -> FileInfo:
        body: RenameBody = call.data

        def move() -> Entry:
            return self._moving.rename(self._place(body.old_path, body.user), self._place(body.new_path, body.user))

        return file_info(await in_thread(move, pool=CHANGES))

    async def move(self, call: Call) -> FileInfo:
        return await self._between(self._moving.move, call.data)

    async def copy(self, call: Call) -> FileInfo:
        return await self._between(self._moving.copy, call.data)

    async def replace(self, call: Call) -> Replacements:
        body: ReplaceBody = call.data

        def change() -> Steps[Replacements]:
            places = [self._place(path, body.user) for path in body.files]
            done = yield from self._editing.replace(places, body.pattern, body.replacement, literal=body.literal)
            return Replacements(done.replacements, done.modified, done.skipped, done.binary)

        return await in_steps(change(), CHANGES)

    async def _between(self, act: Callable[[Place, Place, ConflictMode], Entry], body: MoveBody) -> FileInfo:
        def run() -> Entry:
            return act(self._place(body.source, body.user), self._place(body.target, body.user), body.conflict)

        return file_info(await in_thread(run, pool=CHANGES))

    def _place(self, path: str, user: str | None) -> Place:
        return place_of(self._places, path, user)


def _mode(text: str) -> int:
    mode = int(text, 8) if _OCTAL.match(text) else _MODES + 1
    if mode > _MODES:
        raise InvalidRequest(
            f'{text!r} are no permission bits: give them in octal, such as "0640"', field="permissions"
        )
    return mode
