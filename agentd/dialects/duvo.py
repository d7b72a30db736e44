"""Duvo's sandboxes, v1 (docs.duvo.ai, API reference): a listing, uploads in forms of at most 10 MB, and signed URLs for
what is larger. Objects are closed: clients refuse a key more."""

import time
from collections.abc import Callable
from hashlib import blake2b
from stat import S_ISDIR
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlencode

from msgspec import Meta, Struct

from agentd.dialects.failures import PATH_ERRORS, WRITE_ERRORS
from agentd.dialects.plain import admits, file_name, listed, tells
from agentd.dialects.values import REPEATS, place_of
from agentd.errors import AgentError, InvalidPath, InvalidRequest, KeyReused, SandboxNotFound, UnsupportedMediaType
from agentd.files.listing import Found, Listing
from agentd.files.operations import Entry
from agentd.files.writing import BODY_LIMIT, Writing
from agentd.http.endpoint import FORM, Call, Dialect, Endpoint, FileField, StreamResult
from agentd.http.repeats import KEY, Repeats
from agentd.http.signing import Grant
from agentd.linux.places import Place, Places
from agentd.linux.threads import in_thread

if TYPE_CHECKING:
    from agentd.http.multipart import Form

FORM_FILE_BYTES = 10 << 20
FORM_BYTES = FORM_FILE_BYTES + (64 << 10)  # with what is around the file
PATH_BYTES = 4096
URL_SECONDS = 3600
REPEAT_SECONDS = 600  # for which a key is remembered; an URL that is given again is good for long still

Take = Callable[[memoryview], None]


class SandboxParams(Struct):
    sandbox_id: str


class ListParams(Struct):
    sandbox_id: str
    path: Annotated[str, Meta(description="absent: the workspace")] = ""


class UrlBody(Struct, forbid_unknown_fields=True):
    path: Annotated[str, Meta(min_length=1)]


class FileForm(Struct):
    """path: of the file, or with a slash at its end of the directory that it is put into by its own name."""

    file: FileField
    path: str = ""


class PutParams(Struct):
    sandbox_id: str
    path: str


class UploadUrl(Struct, forbid_unknown_fields=True):
    upload_url: str
    path: str
    expires_in_seconds: int


class File(Struct, forbid_unknown_fields=True):
    """size_bytes: 0 of a directory."""

    name: str
    path: str
    type: Literal["file", "dir"]
    size_bytes: int


class Files(Struct, forbid_unknown_fields=True):
    files: list[File]


class Stored(Struct, forbid_unknown_fields=True):
    path: str
    size_bytes: int


class DuvoRows:
    """workspace: what is listed, and written to, where no path is given."""

    def __init__(self, listing: Listing, writing: Writing, places: Places, workspace: str) -> None:
        self._listing = listing
        self._writing = writing
        self._places = places
        self._workspace = workspace
        self._repeats = Repeats(seconds=REPEAT_SECONDS)

    def endpoints(self) -> tuple[Endpoint, ...]:
        sandbox = "/v1/sandboxes/{sandbox_id}"
        return (
            Endpoint(
                *("POST", f"{sandbox}/upload-urls", "upload_urls.create", self.upload_url),
                params=SandboxParams,
                body=UrlBody,
                result=UploadUrl,
                headers=REPEATS,
                summary="Give a URL by which whoever has it may write one file for a while, by PUT",
                errors=(InvalidPath, KeyReused),
            ),
            Endpoint(
                *("PUT", f"{sandbox}/upload", "upload_urls.put", self.put),
                params=PutParams,
                result=Stored,
                signed=True,
                summary="Make the body the content of a file; what an upload URL leads to",
                errors=WRITE_ERRORS,
            ),
            Endpoint(
                *("GET", f"{sandbox}/files", "files.list", self.list),
                params=ListParams,
                result=Files,
                summary="List a directory",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("POST", f"{sandbox}/files", "files.upload", self.upload),
                params=SandboxParams,
                result=Stored,
                status=201,
                takes=(FORM,),
                form=FileForm,
                headers=REPEATS,
                summary="Write one file of at most 10 MiB: a form with the file and its `path`, in any order",
                errors=(*WRITE_ERRORS, KeyReused, UnsupportedMediaType),
            ),
        )

    async def upload_url(self, call: Call) -> UploadUrl:
        """Repeated with its key, it is the same URL."""
        asked = call.params.sandbox_id, call.data.path

        async def make() -> UploadUrl:
            path = (await self._place(call.data.path)).path
            token = call.sign(Grant(("PUT",), path, None, time.time() + URL_SECONDS))
            sandbox = quote(call.params.sandbox_id, safe="", errors="surrogateescape")
            where = urlencode({"path": path, "file_token": token}, errors="surrogateescape", quote_via=quote)
            url = f"{call.public_url()}{call.mount}/v1/sandboxes/{sandbox}/upload?{where}"
            return UploadUrl(url, path, URL_SECONDS)

        return await self._repeats.once(call.headers.get(KEY), asked, make)

    async def put(self, call: Call) -> Stored:
        """A grant binds, also one of another API: for its user, and for so many bytes."""
        grant, limit = call.grant, BODY_LIMIT
        if grant is not None and grant.max_bytes is not None:
            limit = grant.max_bytes
        place = await self._place(call.params.path, None if grant is None else grant.user)
        return _stored(await self._writing.receive(place, call.body.receive, call.body.length, limit=limit))

    async def list(self, call: Call) -> StreamResult:
        place = await self._place(call.params.path or self._workspace)
        return await listed(self._listing, place, _file)

    async def upload(self, call: Call) -> Stored:
        content = blake2b()
        name = path = None
        async with self._writing.batch() as batch:
            async for part in _form(call):
                if part.name == "path":
                    path = (await part.read(PATH_BYTES)).decode(errors="surrogateescape")
                elif part.filename is not None and name is None:
                    name = file_name(part.filename)
                    await part.receive(_both(content.update, await batch.begin(name)), FORM_FILE_BYTES)
                elif part.filename is not None:
                    raise InvalidRequest("the form has two files: send one", field="file")
            if name is None:
                raise InvalidRequest("the form needs a file: a part with a filename", field="file")
            place = await self._place(_target(path, self._workspace, name))

            async def publish() -> Stored:
                return _stored((await batch.publish([place]))[0])

            return await self._repeats.once(call.headers.get(KEY), (place.path, content.digest()), publish)

    async def _place(self, path: str, user: str | None = None) -> Place:
        return await in_thread(place_of, self._places, path, user)


class ErrorBody(Struct, forbid_unknown_fields=True):
    error: str
    message: str


def duvo(rows: DuvoRows, sandbox_id: str | None) -> Dialect:
    """sandbox_id: the name that is answered to, None for any."""
    admit = admits("sandbox_id", sandbox_id)
    return Dialect(
        "duvo",
        ("/duvo",),
        rows.endpoints(),
        admit=admit,
        tell=tells(_failure),
        errors=(SandboxNotFound,),
        failure=ErrorBody,
    )


def _failure(error: AgentError) -> dict[str, Any]:
    return {"error": error.code, "message": error.detail}


def _target(path: str | None, workspace: str, name: str) -> str:
    """The file's own path, or with a slash at its end the directory that it is put into."""
    path = path or f"{workspace}/"
    return path + name if path.endswith("/") else path


def _both(first: Take, second: Take) -> Take:
    def take(piece: memoryview) -> None:
        first(piece)
        second(piece)

    return take


def _form(call: Call) -> "Form":
    from agentd.http.multipart import FormLimits  # loads the parser, which most daemons do without

    return call.body.multipart(FormLimits(FORM_BYTES, parts=16))


def _file(found: Found) -> File:
    name, path, status, _ = found
    is_directory = S_ISDIR(status.st_mode)
    return File(name, path, "dir" if is_directory else "file", 0 if is_directory else status.st_size)


def _stored(entry: Entry) -> Stored:
    return Stored(entry.path, entry.size)
