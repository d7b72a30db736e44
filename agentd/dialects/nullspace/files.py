"""Files, one at a time: section 2 of the wire contract."""

from msgspec import Struct

from agentd import errors
from agentd.dialects.nullspace.wire import PATH_ERRORS, FileInfo, file_info, user_name
from agentd.files.operations import Content, Entry, Files
from agentd.http.endpoint import Call, Endpoint, FileResult
from agentd.linux.places import Places
from agentd.linux.threads import in_thread

_READ_ERRORS = (
    *PATH_ERRORS,
    errors.IsADirectory,
    errors.Conflict,
    errors.PreconditionFailed,
    errors.RangeNotSatisfiable,
)


class PathBody(Struct):
    path: str
    user: str | None = None


class FileParams(Struct):
    path: str
    user: str | None = None


class FileRows:
    def __init__(self, files: Files, places: Places) -> None:
        self._files = files
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
                *("GET", "/file", "files.read", self.read),
                params=FileParams,
                summary="Send the bytes of a file, or a range of them (RFC 9110)",
                errors=_READ_ERRORS,
            ),
            Endpoint(
                *("HEAD", "/file", "files.head", self.read),
                params=FileParams,
                summary="Describe the bytes of a file by headers",
                errors=_READ_ERRORS,
            ),
        )

    async def info(self, call: Call) -> FileInfo:
        return file_info(await in_thread(self._info, call.data.path, user_name(call.data.user)))

    async def read(self, call: Call) -> FileResult:
        file = await in_thread(self._open, call.params.path, user_name(call.params.user))
        return FileResult(file.detach(), file.size, file.modified, file.name, file.version)

    def _info(self, path: str, user: str | None) -> Entry:
        return self._files.info(self._places.find(path, user))

    def _open(self, path: str, user: str | None) -> Content:
        return self._files.open(self._places.find(path, user))
