"""Files, one at a time: section 2 of the wire contract, and of our own ``append`` and ``stat``."""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from agentd import errors
from agentd.core.conflict import ConflictMode
from agentd.dialects.failures import PATH_ERRORS, WRITE_ERRORS
from agentd.dialects.nullspace.wire import FileInfo, file_info
from agentd.dialects.values import place_of
from agentd.errors import InvalidRequest
from agentd.files.operations import Content, Files, Status
from agentd.files.writing import Writing
from agentd.http.endpoint import FILE, RAW, Call, Endpoint, FileResult
from agentd.linux.places import Place, Places
from agentd.linux.threads import in_thread

READ_LIMIT = 64 << 20  # bytes of content in one JSON answer
WRITE_LIMIT = 96 << 20  # bytes of a JSON body with content: 64 MiB and more, as text or in base64

_READ_ERRORS = (
    *PATH_ERRORS,
    errors.IsADirectory,
    errors.Conflict,
    errors.PreconditionFailed,
    errors.RangeNotSatisfiable,
)
Encoding = Literal["utf8", "base64"]


class PathBody(Struct):
    path: str
    user: str | None = None


class FileParams(Struct):
    path: str
    user: str | None = None


class ReadBody(Struct):
    path: str
    encoding: Encoding = "utf8"
    user: str | None = None


class WriteBody(Struct):
    path: str
    content: str
    encoding: Encoding = "utf8"
    user: str | None = None
    conflict: ConflictMode = ConflictMode.MERGE


class AppendBody(Struct):
    path: str
    content: str
    encoding: Encoding = "utf8"
    user: str | None = None


class StatBody(Struct):
    path: str
    user: str | None = None
    follow: bool = False


class Text(Struct):
    content: str
    encoding: Encoding
    size: int


class Exists(Struct):
    exists: bool


class Stat(Struct, kw_only=True):
    """Times in nanoseconds since the epoch; blocks of 512 bytes; xattrs: the names of the extended attributes."""

    name: str
    path: str
    type: str
    size: int
    mode: str
    owner: str
    group: str
    uid: int
    gid: int
    inode: int
    device: int
    nlink: int
    blocks: int
    accessed_ns: int
    modified_ns: int
    changed_ns: int
    xattrs: list[str]
    symlink_target: str | UnsetType = UNSET


class FileRows:
    def __init__(self, files: Files, writing: Writing, places: Places) -> None:
        self._files = files
        self._writing = writing
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                *("POST", "/files/info", "files.info", self.info),
                body=PathBody,
                result=FileInfo,
                summary="Describe an entry",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/stat", "files.stat", self.stat),
                body=StatBody,
                result=Stat,
                summary="Say all that is known of an entry, a link itself unless it is to be followed",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/exists", "files.exists", self.exists),
                body=PathBody,
                result=Exists,
                summary="Say whether something is at a path",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/read", "files.read_text", self.read_text),
                body=ReadBody,
                result=Text,
                summary="Give the content of a file as text (what is no UTF-8 is replaced) or in base64",
                errors=(*_READ_ERRORS[:-2], errors.RequestTooLarge),
            ),
            Endpoint(
                *("POST", "/files/write", "files.write", self.write),
                body=WriteBody,
                body_limit=WRITE_LIMIT,
                result=FileInfo,
                example={"path": "/workspace/hello.txt", "content": "hello\n"},
                summary="Give a file its content, all of it at once; missing directories are made",
                errors=WRITE_ERRORS,
            ),
            Endpoint(
                *("POST", "/files/append", "files.append", self.append),
                body=AppendBody,
                body_limit=WRITE_LIMIT,
                result=FileInfo,
                summary="Put content behind that of a file in one piece; a missing file is made",
                errors=WRITE_ERRORS,
            ),
            Endpoint(
                *("GET", "/file", "files.read", self.read),
                params=FileParams,
                signed=True,
                sends=(RAW,),
                also=FILE,
                headers={"Range": "bytes=FIRST-LAST", "If-None-Match": "the ETag of what the caller has"},
                summary="Send the bytes of a file, or a range of them (RFC 9110)",
                errors=_READ_ERRORS,
            ),
            Endpoint(
                *("HEAD", "/file", "files.head", self.read),
                params=FileParams,
                signed=True,
                also=((304, None),),
                summary="Describe the bytes of a file by headers",
                errors=_READ_ERRORS,
            ),
        )

    async def info(self, call: Call) -> FileInfo:
        return file_info(await in_thread(lambda: self._files.info(self._place(call.data))))

    async def stat(self, call: Call) -> Stat:
        return _stat(await in_thread(lambda: self._files.status(self._place(call.data), follow=call.data.follow)))

    async def exists(self, call: Call) -> Exists:
        return Exists(await in_thread(lambda: self._files.exists(self._place(call.data))))

    async def read_text(self, call: Call) -> Text:
        return await in_thread(self._read_text, call.data)

    async def write(self, call: Call) -> FileInfo:
        body: WriteBody = call.data
        replace = body.conflict is not ConflictMode.ERROR
        write = self._writing.write
        return file_info(await in_thread(lambda: write(self._place(body), _content(body), replace=replace)))

    async def append(self, call: Call) -> FileInfo:
        body: AppendBody = call.data
        return file_info(await in_thread(lambda: self._writing.append(self._place(body), _content(body))))

    async def read(self, call: Call) -> FileResult:
        file = await in_thread(self._open, *granted(call))
        return FileResult(file.detach(), file.size, file.modified, file.name, file.version)

    def _place(self, body: PathBody | ReadBody | WriteBody | AppendBody | StatBody) -> Place:
        return place_of(self._places, body.path, body.user)

    def _open(self, path: str, user: str | None) -> Content:
        return self._files.open(place_of(self._places, path, user))

    def _read_text(self, body: ReadBody) -> Text:
        content = self._files.read(self._place(body), READ_LIMIT)
        text = content.decode("utf-8", "replace") if body.encoding == "utf8" else b64encode(content).decode()
        return Text(text, body.encoding, len(content))


def granted(call: Call) -> tuple[str, str | None]:
    """Path and user of a call with `FileParams`, or those of the signed URL that it came by."""
    asked = call.params if call.grant is None else call.grant
    return asked.path, asked.user


def _content(body: WriteBody | AppendBody) -> bytes:
    if body.encoding == "utf8":
        try:
            return body.content.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise InvalidRequest("content has lone surrogates, which are no text: send it in base64") from None
    try:
        return b64decode(body.content, validate=True)
    except (NotBase64, ValueError) as error:
        raise InvalidRequest(f"content is not base64 (RFC 4648): {error}") from None


def _stat(status: Status) -> Stat:
    entry = status.entry
    return Stat(
        name=entry.name,
        path=entry.path,
        type=entry.type,
        size=entry.size,
        mode=f"{entry.mode:04o}",
        owner=entry.owner,
        group=entry.group,
        uid=status.uid,
        gid=status.gid,
        inode=status.inode,
        device=status.device,
        nlink=status.links,
        blocks=status.blocks,
        accessed_ns=status.accessed,
        modified_ns=status.modified,
        changed_ns=status.changed,
        xattrs=status.attributes,
        symlink_target=UNSET if entry.target is None else entry.target,
    )
