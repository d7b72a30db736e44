"""The files of a Blackbox task, v1 (docs.blackbox.ai, API reference): uploads in forms, listings, single files, and the
workspace as an archive. The path of a single file stands in the URL without its leading slash."""

import mimetypes
from stat import S_ISDIR
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec import field as named

from agentd import errors
from agentd.dialects.failures import PATH_ERRORS, WRITE_ERRORS
from agentd.dialects.plain import (
    JSON_LIMIT,
    READ_ERRORS,
    READ_LIMIT,
    ErrorBody,
    admits,
    bytes_of,
    file_name,
    listed,
    tells,
    text_of,
)
from agentd.dialects.values import place_of
from agentd.errors import AgentError, InvalidRequest, SandboxNotFound
from agentd.files.archive import Archive, Archives
from agentd.files.changes import Changes
from agentd.files.globs import Ignore
from agentd.files.listing import Found, Listing
from agentd.files.operations import Entry, Files
from agentd.files.traversal import WHOLE, batches
from agentd.files.writing import BODY_LIMIT, Writing
from agentd.http.endpoint import FORM, Call, Dialect, Endpoint, FileField, StreamResult
from agentd.linux.places import Place, Places
from agentd.linux.threads import in_thread

if TYPE_CHECKING:
    from agentd.http.multipart import Form

PATH_BYTES = 4096
_TYPES = {"tar": "application/x-tar", "zip": "application/zip"}


class ListParams(Struct):
    run_id: str
    path: Annotated[str, Meta(description="absent: the workspace")] = ""
    recursive: bool = False


class FileParams(Struct):
    """path: without its leading slash."""

    run_id: str
    path: str


class ArchiveParams(Struct):
    run_id: str
    path: Annotated[str, Meta(description="absent: the workspace")] = ""
    format: Literal["zip", "tar"] = "zip"


class FilesForm(Struct):
    """file: one or several. path: the directory that they are put into; absent: the workspace."""

    file: list[FileField]
    path: str = ""


class WriteBody(Struct):
    content: str
    encoding: Literal["text", "base64"] = "text"


class Uploaded(Struct):
    name: str
    path: str
    size: int


class Uploads(Struct):
    uploaded: list[Uploaded]


class File(Struct):
    """size: null of a directory."""

    name: str
    path: str
    type: Literal["file", "directory"]
    size: int | None


class Listed(Struct):
    files: list[File]
    path: str
    recursive: bool


class Content(Struct):
    path: str
    content: str
    encoding: Literal["text", "base64"]
    mime_type: str = named(name="mimeType")
    size: int = 0


class Deleted(Struct):
    path: str
    deleted: bool = True


class BlackboxRows:
    """workspace: what is meant where no path is given."""

    def __init__(
        self,
        files: Files,
        writing: Writing,
        changes: Changes,
        listing: Listing,
        archives: Archives,
        places: Places,
        workspace: str,
    ) -> None:
        self._files = files
        self._writing = writing
        self._changes = changes
        self._listing = listing
        self._archives = archives
        self._places = places
        self._workspace = workspace

    def endpoints(self) -> tuple[Endpoint, ...]:
        files = "/api/v1/tasks/{run_id}/files"
        return (
            Endpoint(
                *("POST", f"{files}/upload", "files.upload", self.upload),
                result=Uploads,
                status=201,
                takes=(FORM,),
                form=FilesForm,
                summary="Write all files of a form into its `path`, a directory, or none of them",
                errors=(*WRITE_ERRORS, errors.UnsupportedMediaType),
            ),
            Endpoint(
                *("GET", files, "files.list", self.list),
                params=ListParams,
                result=Listed,
                summary="List a directory, or all that is below it too",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("GET", f"{files}/download", "files.download", self.download),
                params=ArchiveParams,
                sends=tuple(_TYPES.values()),
                summary="Send a directory as one archive, made on the way",
                errors=(*PATH_ERRORS, errors.InvalidRequest),
            ),
            Endpoint(
                *("GET", f"{files}/{{path...}}", "files.read", self.read),
                params=FileParams,
                result=Content,
                summary="Give the content of a file, in base64 where it is no text",
                errors=READ_ERRORS,
            ),
            Endpoint(
                *("PUT", f"{files}/{{path...}}", "files.write", self.write),
                params=FileParams,
                body=WriteBody,
                body_limit=JSON_LIMIT,
                result=Uploaded,
                summary="Give a file its content; missing directories are made",
                errors=WRITE_ERRORS,
            ),
            Endpoint(
                *("DELETE", f"{files}/{{path...}}", "files.remove", self.remove),
                params=FileParams,
                result=Deleted,
                summary="Delete an entry, a directory with all that is in it; the workspace itself stays",
                errors=(*PATH_ERRORS, errors.Conflict),
            ),
        )

    async def upload(self, call: Call) -> Uploads:
        names: list[str] = []
        path = ""
        async with self._writing.batch() as batch:
            async for part in _form(call):
                if part.name == "path":
                    path = (await part.read(PATH_BYTES)).decode(errors="surrogateescape")
                elif part.name == "file":
                    names.append(_new(part.filename, names))
                    await part.receive(await batch.begin(names[-1]), BODY_LIMIT)
            if not names:
                raise InvalidRequest("the form has no field `file` with a file", field="file")
            directory = path or self._workspace
            places = [await in_thread(place_of, self._places, f"{directory}/{name}") for name in names]
            return Uploads([_uploaded(entry) for entry in await batch.publish(places)])

    async def list(self, call: Call) -> StreamResult:
        params: ListParams = call.params
        place = await in_thread(place_of, self._places, params.path or self._workspace)
        more = {"path": place.path, "recursive": params.recursive}
        return await listed(self._listing, place, _file, WHOLE if params.recursive else 1, more)

    async def download(self, call: Call) -> StreamResult:
        params: ArchiveParams = call.params
        archive = await in_thread(self._archive, params)
        chunks = batches(archive.chunks, archive.rights, 1, b"".join)
        return StreamResult(chunks, _TYPES[params.format], name=f"workspace-{params.run_id}.{params.format}")

    async def read(self, call: Call) -> Content:
        return await in_thread(self._read, call.params.path)

    async def write(self, call: Call) -> Uploaded:
        return _uploaded(await in_thread(self._write, call.params.path, call.data))

    async def remove(self, call: Call) -> Deleted:
        place = await in_thread(self._place, call.params.path)
        await in_thread(self._changes.remove, place)
        return Deleted(place.path)

    def _place(self, path: str) -> Place:
        return place_of(self._places, f"/{path}")

    def _archive(self, asked: ArchiveParams) -> Archive:
        place = place_of(self._places, asked.path or self._workspace)
        return self._archives.open(place, asked.format, Ignore([]))

    def _read(self, path: str) -> Content:
        place = self._place(path)
        content = self._files.read(place, READ_LIMIT)
        text, is_base64 = text_of(content)
        kind = mimetypes.guess_type(place.path)[0] or ("application/octet-stream" if is_base64 else "text/plain")
        return Content(place.path, text, "base64" if is_base64 else "text", kind, len(content))

    def _write(self, path: str, body: WriteBody) -> Entry:
        return self._writing.write(self._place(path), bytes_of(body.content, base64=body.encoding == "base64"))


def blackbox(rows: BlackboxRows, sandbox_id: str | None) -> Dialect:
    """sandbox_id: the run that is answered to, None for any."""
    admit = admits("run_id", sandbox_id)
    return Dialect(
        "blackbox",
        ("/blackbox",),
        rows.endpoints(),
        admit=admit,
        tell=tells(_failure),
        errors=(SandboxNotFound,),
        failure=ErrorBody,
        ids=("run_id",),
    )


def _failure(error: AgentError) -> dict[str, Any]:
    return {"error": error.detail}


def _form(call: Call) -> "Form":
    from agentd.http.multipart import FormLimits  # loads the parser, which most daemons do without

    return call.body.multipart(FormLimits(BODY_LIMIT))


def _new(sent: str | None, names: list[str]) -> str:
    name = file_name(sent)
    if name in names:
        raise InvalidRequest(f"the form has two files {name!r}: give each its own name", field="file")
    return name


def _uploaded(entry: Entry) -> Uploaded:
    return Uploaded(entry.name, entry.path, entry.size)


def _file(found: Found) -> File:
    name, path, status, _ = found
    is_directory = S_ISDIR(status.st_mode)
    return File(name, path, "directory" if is_directory else "file", None if is_directory else status.st_size)
