"""Conway's sandboxes, v1 (docs.conway.tech): files as JSON, a listing, and commands. Its documentation and its own
client disagree on the route that uploads and on the name of the exit code: both are here."""

from stat import S_ISDIR
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from agentd.dialects.failures import PATH_ERRORS, START_ERRORS, WRITE_ERRORS
from agentd.dialects.plain import (
    JSON_LIMIT,
    READ_ERRORS,
    READ_LIMIT,
    ErrorBody,
    admits,
    bytes_of,
    listed,
    tells,
    text_of,
)
from agentd.dialects.values import place_of
from agentd.errors import AgentError, SandboxNotFound
from agentd.files.listing import Found, Listing
from agentd.files.operations import Files
from agentd.files.writing import Writing
from agentd.http.endpoint import Call, Dialect, Endpoint, StreamResult
from agentd.linux.places import Places
from agentd.linux.threads import in_thread
from agentd.processes.registry import Processes
from agentd.processes.terms import Order

_TIMED_OUT = 124  # the exit status of timeout(1)


class FileBody(Struct):
    """content: text, or with the encoding ``base64`` that."""

    path: Annotated[str, Meta(min_length=1)]
    content: str
    encoding: Literal["base64"] | None = None


class PathParams(Struct):
    sandbox_id: str
    path: Annotated[str, Meta(min_length=1)]


class ListParams(Struct):
    sandbox_id: str
    path: Annotated[str, Meta(description="absent: the workspace")] = ""


class Content(Struct):
    """encoding: there where the content is no text."""

    content: str
    encoding: Literal["base64"] | UnsetType = UNSET


class File(Struct):
    name: str
    is_dir: bool = field(name="isDir")
    size: int = 0


class Listed(Struct):
    files: list[File]


class ExecBody(Struct):
    """command: for the shell. timeout: seconds."""

    command: Annotated[str, Meta(min_length=1)]
    timeout: Annotated[float, Meta(gt=0)] | None = 30


class Result(Struct):
    """Both exit codes are the same: 128 and the signal's number where one ended it, 124 where its time was up."""

    stdout: str
    stderr: str
    exit_code: int
    exit_code_too: int = field(name="exitCode")


class ConwayRows:
    """workspace: what is listed where no path is given."""

    def __init__(
        self, files: Files, writing: Writing, listing: Listing, processes: Processes, places: Places, workspace: str
    ) -> None:
        self._files = files
        self._writing = writing
        self._listing = listing
        self._processes = processes
        self._places = places
        self._workspace = workspace

    def endpoints(self) -> tuple[Endpoint, ...]:
        sandbox = "/v1/sandboxes/{sandbox_id}"
        return (
            Endpoint(
                *("POST", f"{sandbox}/files", "files.write", self.write),
                body=FileBody,
                body_limit=JSON_LIMIT,
                status=201,
                summary="Give a file its content; missing directories are made",
                errors=WRITE_ERRORS,
            ),
            Endpoint(
                *("POST", f"{sandbox}/files/upload/json", "files.upload", self.write),
                body=FileBody,
                body_limit=JSON_LIMIT,
                status=201,
                summary="The same, as the published client calls it",
                errors=WRITE_ERRORS,
            ),
            Endpoint(
                *("GET", f"{sandbox}/files", "files.read", self.read),
                params=PathParams,
                result=Content,
                summary="Give the content of a file, in base64 where it is no text",
                errors=READ_ERRORS,
            ),
            Endpoint(
                *("GET", f"{sandbox}/files/list", "files.list", self.list),
                params=ListParams,
                result=Listed,
                summary="List a directory",
                errors=PATH_ERRORS,
            ),
            Endpoint(
                *("POST", f"{sandbox}/exec", "exec", self.execute),
                body=ExecBody,
                result=Result,
                summary="Run a command of the shell to its end",
                errors=START_ERRORS,
            ),
        )

    async def write(self, call: Call) -> None:
        await in_thread(self._write, call.data)

    async def read(self, call: Call) -> Content:
        return await in_thread(self._read, call.params.path)

    async def list(self, call: Call) -> StreamResult:
        place = await in_thread(place_of, self._places, call.params.path or self._workspace)
        return await listed(self._listing, place, _file)

    async def execute(self, call: Call) -> Result:
        body: ExecBody = call.data
        argv = (self._processes.shell, "-c", body.command)
        done = await self._processes.run(Order(argv, command=body.command, timeout=body.timeout or 30))
        code = _TIMED_OUT if done.ending.reason == "timed_out" else done.ending.code
        stdout, stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return Result(stdout, stderr, code, code)

    def _write(self, body: FileBody) -> None:
        content = bytes_of(body.content, base64=body.encoding == "base64")
        self._writing.write(place_of(self._places, body.path), content)

    def _read(self, path: str) -> Content:
        text, is_base64 = text_of(self._files.read(place_of(self._places, path), READ_LIMIT))
        return Content(text, "base64" if is_base64 else UNSET)


def conway(rows: ConwayRows, sandbox_id: str | None) -> Dialect:
    """sandbox_id: the name that is answered to, None for any."""
    admit = admits("sandbox_id", sandbox_id)
    return Dialect(
        "conway",
        ("/conway",),
        rows.endpoints(),
        admit=admit,
        tell=tells(_failure),
        errors=(SandboxNotFound,),
        failure=ErrorBody,
    )


def _failure(error: AgentError) -> dict[str, Any]:
    return {"error": error.detail}


def _file(found: Found) -> File:
    name, _, status, _ = found
    return File(name, S_ISDIR(status.st_mode), status.st_size)
