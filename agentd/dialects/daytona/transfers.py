"""Whole files, one or many in a request: both ways as forms (RFC 7578), or as they are.

What comes is staged as it comes and takes its place once it is whole, file by file; what goes out is read as the client
takes it.
"""

import os
import re
import secrets
from collections.abc import AsyncGenerator
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from msgspec import Meta, Struct, field

from agentd import errors
from agentd.dialects.daytona.files import PathParams
from agentd.dialects.daytona.wire import CHANGE_ERRORS, PATH_ERRORS, SOURCE, answer, empty, tell
from agentd.dialects.values import place_of
from agentd.errors import AgentError, InvalidRequest, RequestTooLarge, StorageFailed
from agentd.files.operations import Content, Entry, Files
from agentd.files.writing import BODY_LIMIT, Writing
from agentd.http.codec import encode
from agentd.http.endpoint import FILE, RAW, Call, Endpoint, Failed, FileField, FileResult, StreamResult, TextResult
from agentd.linux.places import Places
from agentd.linux.threads import in_thread

if TYPE_CHECKING:
    from agentd.http.multipart import Form

FILES_AT_ONCE = 10_000
FORM = "multipart/form-data"
_PIECE = 1 << 20
_PATH_BYTES = 8192
_FIELD = re.compile(r"files\[(?P<index>[0-9]{1,9})\]\.(?P<what>path|file)")
_PLAIN = re.compile(r'[\x00-\x1f\x7f"\\]')


class FileForm(Struct):
    file: FileField


class FilesForm(Struct):
    """And so on, with 1 and more."""

    first_path: str = field(name="files[0].path")
    first_file: FileField = field(name="files[0].file")


class Uploaded(Struct):
    name: str
    path: str
    type: str


class Taken(Struct):
    path: str
    bytes: int


class TakenFiles(Struct):
    files: list[Taken]


class PartlyTaken(Struct):
    """errors: what failed, in words; files: what did not."""

    errors: list[str]
    files: list[Taken]


class DownloadBody(Struct):
    paths: Annotated[list[str], Meta(max_length=FILES_AT_ONCE)]


class TransferRows:
    def __init__(self, files: Files, writing: Writing, places: Places) -> None:
        self._files = files
        self._writing = writing
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("GET", "/files/download", "files.download", self.download),
                params=PathParams,
                summary="Send the bytes of a file, or a range of them (RFC 9110)",
                errors=(*PATH_ERRORS, errors.IsADirectory, errors.PreconditionFailed, errors.RangeNotSatisfiable),
                sends=(RAW,),
                also=FILE,
            ),
            Endpoint(
                *("POST", "/files/bulk-download", "files.bulk_download", self.download_many),
                body=DownloadBody,
                summary="Send files as the parts of a form: `file`, or `error` where one cannot be had",
                errors=(InvalidRequest,),
                sends=(FORM,),
            ),
            Endpoint(
                *("POST", "/files/upload", "files.upload_old", self.upload_old),
                params=PathParams,
                summary="As upload-v2, for old clients, who take an answer without a body",
                errors=CHANGE_ERRORS,
                takes=(FORM, RAW),
                form=FileForm,
            ),
            Endpoint(
                *("POST", "/files/upload-v2", "files.upload", self.upload),
                params=PathParams,
                result=Uploaded,
                summary="Write a file: the body, or the field `file` of a form; missing directories are made",
                errors=CHANGE_ERRORS,
                takes=(FORM, RAW),
                form=FileForm,
            ),
            Endpoint(
                *("POST", "/files/bulk-upload", "files.bulk_upload", self.upload_many),
                result=TakenFiles,
                also=((400, PartlyTaken),),
                form=FilesForm,
                summary="Write files: a form with `files[N].path`, each before its `files[N].file`; one that fails "
                "is told of and leaves nothing",
                errors=(InvalidRequest,),
                takes=(FORM,),
            ),
        )

    async def download(self, call: Call) -> FileResult:
        file = await in_thread(self._open, call.params.path)
        return FileResult(file.detach(), file.size, file.modified, file.name, file.version)

    async def upload_old(self, call: Call) -> TextResult:
        await self.upload(call)
        return empty(HTTPStatus.OK)

    async def upload(self, call: Call) -> Uploaded:
        path: str = call.params.path
        if not call.headers.get("Content-Type", "").lower().startswith(FORM):
            place = await in_thread(place_of, self._places, path)
            written = await self._writing.receive(place, call.body.receive, call.body.length)
        else:
            written = await self._upload_form(_form(call, 100), path)
        return Uploaded(written.name, written.path, written.type)

    async def _upload_form(self, form: "Form", path: str) -> Entry:
        """A path that ends in a slash is a directory, and the file comes into it by its own name."""
        async for part in form:
            if part.name != "file":
                continue
            own = (part.filename or "").rpartition("/")[2] if path.endswith("/") else ""
            place = await in_thread(place_of, self._places, path + own)
            async with self._writing.begun(place) as pending:
                await part.receive(pending.write, BODY_LIMIT)
                async for other in form:
                    if other.name == "file":
                        raise InvalidRequest("the form has two fields `file`: send one", field="file")
                return await pending.publish()
        raise InvalidRequest("the form needs a field `file` with the content", field="file")

    async def upload_many(self, call: Call) -> TakenFiles | TextResult:
        form = _form(call, 2 * FILES_AT_ONCE)
        paths: dict[str, str] = {}
        done: list[Taken] = []
        failed: list[str] = []
        try:
            async for part in form:
                match = _FIELD.fullmatch(part.name)
                if match is None:
                    failed.append(f"{part.name[:80]!r}: the fields are files[N].path and files[N].file")
                elif match["what"] == "path":
                    content = await part.read(_PATH_BYTES)
                    paths[match["index"]] = content.decode("utf-8", "surrogateescape")
                elif (path := paths.pop(match["index"], None)) is None:
                    failed.append(f"{part.name}: its path has to come before it, and once")
                else:
                    written = await self._writing.receive_one(partial(place_of, self._places, path), part.receive)
                    if isinstance(written, AgentError):
                        failed.append(f"{path}: {written.detail}")
                    else:
                        done.append(Taken(written[0].path, written[1]))
        except (InvalidRequest, RequestTooLarge) as error:
            failed.append(error.detail)
        failed += [f"{path}: files[{index}].file is missing" for index, path in paths.items()]
        if failed or not done:
            return answer(PartlyTaken(failed or ["the form has no files"], done), HTTPStatus.BAD_REQUEST)
        return TakenFiles(done)

    async def download_many(self, call: Call) -> StreamResult:
        if not call.data.paths:
            raise InvalidRequest("name at least one path", field="paths")
        boundary = f"{SOURCE}-{secrets.token_hex(16)}"
        return StreamResult(self._parts(call, boundary.encode()), f"{FORM}; boundary={boundary}")

    async def _parts(self, call: Call, boundary: bytes) -> AsyncGenerator[bytes, None]:
        """A file that cannot be had is a part `error`; one that gets shorter meanwhile cuts the connection."""
        for path in call.data.paths:
            try:
                content = await in_thread(self._open, path)
            except AgentError as error:
                said = encode(tell(Failed(error, call.request_id, "POST", path))[1])
                yield _head(boundary, "error", path, "application/json", len(said)) + said + b"\r\n"
                continue
            with content:
                yield _head(boundary, "file", path, RAW, content.size)
                offset = 0
                while offset < content.size:
                    piece = await in_thread(_read, content, offset)
                    offset += len(piece)
                    yield piece
            yield b"\r\n"
        yield b"--%b--\r\n" % boundary

    def _open(self, path: str) -> Content:
        return self._files.open(place_of(self._places, path))


def _read(content: Content, offset: int) -> bytes:
    piece = os.pread(content.fd, min(_PIECE, content.size - offset), offset)
    if not piece:
        raise StorageFailed(f"{content.name} got shorter while it was sent")
    return piece


def _head(boundary: bytes, name: str, path: str, kind: str, length: int) -> bytes:
    """The path is named twice: for those who read filename* (RFC 8187), and for those who do not."""
    raw = os.fsencode(_PLAIN.sub(lambda found: quote(found[0]), path))
    extended = quote(os.fsencode(path), safe="").encode()
    return (
        b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="%b"; filename*=UTF-8\'\'%b\r\n'
        b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n"
    ) % (boundary, name.encode(), raw, extended, kind.encode(), length)


def _form(call: Call, parts: int) -> "Form":
    from agentd.http.multipart import FormLimits  # loads the parser, which most daemons do without

    return call.body.multipart(FormLimits(BODY_LIMIT, parts=parts))
