"""Whole files in one request, as they are or in forms, and signed URLs: sections 2.4 and 2.5 of the wire contract."""

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta, Struct

from agentd.core.conflict import ConflictMode
from agentd.dialects.failures import WRITE_ERRORS
from agentd.dialects.nullspace.files import granted
from agentd.dialects.nullspace.wire import FileInfo, file_info
from agentd.dialects.values import place_of, user_name
from agentd.errors import AgentError, InvalidPath, InvalidRequest, UnknownUser
from agentd.files.operations import Entry
from agentd.files.writing import BODY_LIMIT, Writing
from agentd.http.codec import decode_json
from agentd.http.endpoint import FORM, RAW, Call, Endpoint, FileField
from agentd.http.signing import Grant
from agentd.linux.places import Place, Places
from agentd.linux.threads import in_thread

if TYPE_CHECKING:
    from agentd.http.multipart import Form, Part

LONGEST_GRANT = 7 * 86400  # seconds
MANIFEST_LIMIT = 16 << 20  # bytes
FILES_AT_ONCE = 10_000
_URL_ERRORS = (InvalidPath, UnknownUser)


class PutParams(Struct):
    path: str
    user: str | None = None
    conflict: ConflictMode = ConflictMode.MERGE


class MountParams(Struct):
    machine_id: str = ""
    sandbox_id: str = ""


class UrlBody(Struct):
    """expires_in: seconds."""

    path: str
    user: str | None = None
    expires_in: Annotated[float, Meta(gt=0, le=LONGEST_GRANT)] = 900


class DownloadUrl(Struct):
    url: str


class UploadUrl(Struct):
    url: str
    token: str


class FileForm(Struct):
    file: FileField


class BatchForm(Struct):
    """manifest: a `Manifest`, as JSON. The other fields are those that it names, each a file's content."""

    manifest: str


class ManifestFile(Struct):
    path: str
    field: str


class Manifest(Struct):
    files: Annotated[list[ManifestFile], Meta(max_length=FILES_AT_ONCE)]
    user: str | None = None


class BatchSuccess(Struct, tag="success", tag_field="status"):
    path: str
    info: FileInfo


class BatchError(Struct, tag="error", tag_field="status"):
    path: str
    error: str


class BatchResults(Struct):
    results: list[BatchSuccess | BatchError]


class TransferRows:
    def __init__(self, writing: Writing, places: Places) -> None:
        self._writing = writing
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("PUT", "/file", "files.put", self.put),
                params=PutParams,
                status=204,
                signed=True,
                summary="Make the body the content of a file, all of it at once; missing directories are made",
                errors=WRITE_ERRORS,
            ),
            Endpoint(
                *("POST", "/file", "files.post", self.post),
                params=PutParams,
                status=204,
                signed=True,
                takes=(FORM, RAW),
                form=FileForm,
                summary="As PUT; a body that is a form holds the content in its field `file`",
                errors=WRITE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/batch-write", "files.batch_write", self.batch_write),
                result=BatchResults,
                takes=(FORM,),
                form=BatchForm,
                summary="Write several files: a form with a `manifest` first, then its fields; a result for each file",
                errors=(InvalidRequest,),
            ),
            Endpoint(
                *("POST", "/files/download-url", "files.download_url", self.download_url),
                params=MountParams,
                body=UrlBody,
                result=DownloadUrl,
                summary="Give a URL by which whoever has it may get one file for a while",
                errors=_URL_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/upload-url", "files.upload_url", self.upload_url),
                params=MountParams,
                body=UrlBody,
                result=UploadUrl,
                summary="Give a URL by which whoever has it may write one file for a while, by PUT or POST",
                errors=_URL_ERRORS,
            ),
        )

    async def put(self, call: Call) -> None:
        place = await self._place(*granted(call))
        await self._writing.receive(
            place, call.body.receive, call.body.length, replace=_replaces(call), limit=_limit(call)
        )

    async def post(self, call: Call) -> None:
        if not call.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
            await self.put(call)
            return
        place = await self._place(*granted(call))
        form = _form(call, parts=100)
        async with self._writing.begun(place, replace=_replaces(call)) as pending:
            found = 0
            async for part in form:
                if part.name == "file":
                    found += 1
                    await part.receive(pending.write, _limit(call))
            if found != 1:
                raise InvalidRequest("the form needs one field `file` with the content", field="file")
            await pending.publish()

    async def download_url(self, call: Call) -> DownloadUrl:
        return DownloadUrl((await self._url(call, ("GET", "HEAD"))).url)

    async def upload_url(self, call: Call) -> UploadUrl:
        return await self._url(call, ("PUT", "POST"))

    async def _url(self, call: Call, methods: tuple[str, ...]) -> UploadUrl:
        """The path is resolved as far as words go, so that it means the same whoever uses the URL."""
        body: UrlBody = call.data
        user = user_name(body.user)
        path = (await self._place(body.path, user)).path
        token = call.sign(Grant(methods, path, user, time.time() + body.expires_in))
        mount = call.mount.format(
            **{
                name: quote(value, errors="surrogateescape")
                for name, value in msgspec.structs.asdict(call.params).items()
            }
        )
        where = urlencode({"path": path, "file_token": token}, errors="surrogateescape", quote_via=quote)
        return UploadUrl(f"{call.public_url()}{mount}/file?{where}", token)

    async def batch_write(self, call: Call) -> BatchResults:
        form = _form(call, parts=FILES_AT_ONCE + 1)
        manifest: Manifest | None = None
        done: dict[str, Entry | AgentError] = {}
        async for part in form:
            if manifest is None:
                manifest = await _manifest(part)
                paths = {file.field: file.path for file in manifest.files}
            elif part.name in paths and part.name not in done:
                find = partial(place_of, self._places, paths[part.name], manifest.user)
                written = await self._writing.receive_one(find, part.receive)
                done[part.name] = written if isinstance(written, AgentError) else written[0]
        if manifest is None:
            raise _without_manifest()
        return BatchResults([_result(file, done.get(file.field)) for file in manifest.files])

    async def _place(self, path: str, user: str | None) -> Place:
        return await in_thread(place_of, self._places, path, user)


def _replaces(call: Call) -> bool:
    return call.params.conflict is not ConflictMode.ERROR


def _limit(call: Call) -> int:
    """Bytes of content."""
    most = None if call.grant is None else call.grant.max_bytes
    return BODY_LIMIT if most is None else most


def _form(call: Call, parts: int) -> "Form":
    from agentd.http.multipart import FormLimits  # loads the parser, which most daemons do without

    return call.body.multipart(FormLimits(BODY_LIMIT, parts=parts))


async def _manifest(part: "Part") -> Manifest:
    if part.name != "manifest":
        raise _without_manifest()
    manifest: Manifest = decode_json(await part.read(MANIFEST_LIMIT), Manifest)
    if len({file.field for file in manifest.files}) < len(manifest.files):
        raise InvalidRequest("two files of the manifest have the same field: give each its own", field="manifest")
    return manifest


def _without_manifest() -> InvalidRequest:
    return InvalidRequest("the form has to begin with the part `manifest`", field="manifest")


def _result(file: ManifestFile, outcome: Entry | AgentError | None) -> BatchSuccess | BatchError:
    if isinstance(outcome, Entry):
        return BatchSuccess(file.path, file_info(outcome))
    reason = f"the form has no field {file.field!r}" if outcome is None else outcome.detail
    return BatchError(file.path, reason)
