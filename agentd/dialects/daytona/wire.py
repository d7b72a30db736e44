"""What all topics of the Daytona toolbox API share: its error envelope, and how it describes an entry.

Names and shapes are those of its published description and clients. Clients read a status that the description has
not for a call as no answer at all, and no JSON from anything but ``application/json``.
"""

import stat
import time
from typing import Any

from msgspec import Struct

from agentd import errors
from agentd.dialects.values import rfc3339
from agentd.errors import AgentError
from agentd.files.listing import Found
from agentd.files.operations import Status
from agentd.http.codec import encode
from agentd.http.endpoint import Failed, TextResult

SOURCE = "DAYTONA_DAEMON"
JSON = "application/json"

PATH_ERRORS = (
    errors.NotFound,
    errors.NotADirectory,
    errors.InvalidPath,
    errors.PathReserved,
    errors.PermissionDenied,
    errors.TooManyLinks,
)
CHANGE_ERRORS = (*PATH_ERRORS, errors.IsADirectory, errors.Conflict, errors.ReadOnlyFileSystem, errors.NoSpace)

# Status and code of what the API tells apart. Of several classes that an error has, the first here counts.
_MEANINGS: tuple[tuple[type[AgentError], int, str], ...] = (
    (errors.InvalidPath, 400, "INVALID_FILE_PATH"),
    (errors.ProcessNotFound, 404, "PROCESS_NOT_FOUND"),
    (errors.PermissionDenied, 403, "FILE_ACCESS_DENIED"),
    (errors.ReadOnlyFileSystem, 403, "FILE_ACCESS_DENIED"),
    (errors.StorageFailed, 500, "FILE_READ_FAILED"),
    (errors.IsADirectory, 400, "BAD_REQUEST"),
    (errors.NotADirectory, 400, "BAD_REQUEST"),
    (errors.TooManyLinks, 400, "BAD_REQUEST"),
    (errors.NotSupported, 400, "BAD_REQUEST"),
    (errors.ExecFailed, 400, "BAD_REQUEST"),
    (errors.ExecTimeout, 408, "PROCESS_EXECUTION_TIMEOUT"),
    (errors.SessionEnded, 410, "SESSION_ENDED"),
    (errors.CommandEnded, 410, "COMMAND_ALREADY_COMPLETED"),
)
_CODES = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    410: "GONE",
    422: "UNPROCESSABLE_ENTITY",
}
# What git says (in the C locale) where the API has a name for it.
_GIT: tuple[tuple[str, int, str], ...] = (
    ("not a git repository", 404, "GIT_REPO_NOT_FOUND"),
    ("Authentication failed", 401, "GIT_AUTH_FAILED"),
    ("could not read Username", 401, "GIT_AUTH_FAILED"),
    ("could not read Password", 401, "GIT_AUTH_FAILED"),
    ("terminal prompts disabled", 401, "GIT_AUTH_FAILED"),
    ("Permission denied (publickey", 401, "GIT_AUTH_FAILED"),
    ("returned error: 403", 403, "FORBIDDEN"),
    ("does not appear to be a git repository", 404, "GIT_REPO_NOT_FOUND"),
    ("repository not found", 404, "GIT_REPO_NOT_FOUND"),
    ("not found in upstream", 404, "GIT_BRANCH_NOT_FOUND"),
    ("couldn't find remote ref", 404, "GIT_BRANCH_NOT_FOUND"),
    ("does not match any", 404, "GIT_BRANCH_NOT_FOUND"),
    ("did not match any file(s) known to git", 404, "GIT_BRANCH_NOT_FOUND"),
    ("unable to read tree", 404, "GIT_BRANCH_NOT_FOUND"),
    ("invalid reference", 404, "GIT_BRANCH_NOT_FOUND"),
    ("reference is not a tree", 404, "GIT_BRANCH_NOT_FOUND"),
    ("not found.", 404, "GIT_BRANCH_NOT_FOUND"),
    ("' not found", 404, "GIT_REPO_NOT_FOUND"),
    ("does not exist", 404, "GIT_REPO_NOT_FOUND"),
    ("already exists and is not an empty directory", 409, "CONFLICT"),
    ("already exists", 409, "GIT_BRANCH_EXISTS"),
    ("would be overwritten", 409, "GIT_DIRTY_WORKTREE"),
    ("CONFLICT", 409, "GIT_MERGE_CONFLICT"),
    ("not possible because you have unmerged files", 409, "GIT_MERGE_CONFLICT"),
    ("nothing to commit", 409, "CONFLICT"),
    ("nothing added to commit", 409, "CONFLICT"),
    ("remote rejected", 409, "GIT_REMOTE_REJECTED"),
    ("[rejected]", 409, "GIT_PUSH_REJECTED"),
    ("divergent branches", 409, "GIT_MERGE_CONFLICT"),
    ("unable to access", 400, "GIT_TRANSPORT_FAILED"),
    ("Could not read from remote repository", 400, "GIT_TRANSPORT_FAILED"),
)


class FileInfo(Struct, rename="camel"):
    """size: bytes. mode: such as ``-rw-r--r--``; permissions: such as ``0644``. owner, group: numbers, as text."""

    name: str
    path: str
    size: int
    mode: str
    mod_time: str
    modified_at: str
    is_dir: bool
    owner: str
    group: str
    permissions: str


class ErrorBody(Struct, rename="camel"):
    """With the error's own facts."""

    status_code: int
    message: str
    code: str
    timestamp: str
    path: str
    method: str
    source: str
    request_id: str


def tell(failed: Failed) -> tuple[int, dict[str, Any]]:
    """Status and `ErrorBody`. Its further keys are the error's own facts: clients keep what they do not know."""
    status, code = _meaning(failed.error)
    facts = {key: value for key, value in failed.error.facts.items() if key not in ("path", "status", "allow")}
    return status, facts | {
        "statusCode": status,
        "message": failed.error.detail,
        "code": code,
        "timestamp": rfc3339(time.time()),
        "path": failed.path,
        "method": failed.method,
        "source": SOURCE,
        "requestId": failed.request_id,
    }


def _meaning(error: AgentError) -> tuple[int, str]:
    if isinstance(error, errors.GitFailed):
        said = f"{error.detail} {error.facts.get('stderr', '')}"
        found = next(((status, code) for words, status, code in _GIT if words in said), None)
        return found or (400, "BAD_REQUEST")
    for kind, status, code in _MEANINGS:
        if isinstance(error, kind):
            return status, code
    if type(error) is errors.NotFound and "path" in error.facts:
        return 404, "FILE_NOT_FOUND"
    return error.status, _CODES.get(error.status, "BAD_REQUEST" if error.status < 500 else "INTERNAL_SERVER_ERROR")


def close(error: AgentError) -> tuple[int, str]:
    """How a socket ends whose handler failed."""
    return 1011, error.code


def empty(status: int) -> TextResult:
    """An answer without a body, where the API has one with another status than 204."""
    return TextResult("", JSON, status)


def answer(value: object, status: int) -> TextResult:
    """JSON with another status than that of its row."""
    return TextResult(encode(value).decode(), JSON, status)


_KINDS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK}


def described(status: Status) -> FileInfo:
    entry = status.entry
    mode = _KINDS.get(entry.type, 0) | entry.mode
    return _info(entry.name, entry.path, mode, entry.size, entry.modified, status.uid, status.gid)


def listed(found: list[Found]) -> bytes:
    """A JSON array."""
    return encode(
        [_info(name, path, s.st_mode, s.st_size, s.st_mtime, s.st_uid, s.st_gid) for name, path, s, _ in found]
    )


def _info(name: str, path: str, mode: int, size: int, modified: float, uid: int, gid: int) -> FileInfo:
    when = rfc3339(modified)
    bits = f"{stat.S_IMODE(mode):04o}"
    is_directory = stat.S_ISDIR(mode)
    return FileInfo(name, path, size, stat.filemode(mode), when, when, is_directory, str(uid), str(gid), bits)
