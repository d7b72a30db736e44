"""Everything that can go wrong, by name.

AgentError
├── InvalidRequest          what was sent cannot be understood
│   ├── InvalidPath         a path no file system takes
│   ├── UpgradeRequired     the path speaks WebSocket, the request does not
│   └── UnknownUser         no such user in the sandbox
├── Unauthorized            no token, or a wrong one
├── PermissionDenied        the file system, or one who lends a link on the way, may not
│   └── PathReserved        the daemon's own tree
├── NotFound                nothing is there
│   ├── MachineNotFound, SandboxNotFound    this daemon is not the one that is meant
│   ├── ProcessNotFound     no such process, or forgotten since
│   ├── SessionNotFound, CommandNotFound    no such shell session, or command in it
│   ├── TerminalNotFound    no such terminal, or forgotten since
│   ├── ContextNotFound     no such code context
│   └── UploadNotFound      no such upload, or forgotten since
├── MethodNotAllowed        the path exists, the method does not
├── NotADirectory, IsADirectory, TooManyLinks
├── Conflict                the thing is in another state
│   ├── KeyReused           an idempotency key came back with another request
│   └── MachineNotReady, SandboxNotReady    it was stopped
├── PreconditionFailed      the request's own condition does not hold
├── RangeNotSatisfiable     none of the bytes asked for are there
├── RequestTooLarge         a body that is longer than it may be
│   └── HeaderTooLarge      the request line and headers are
├── UnsupportedMediaType    a body of another kind than the endpoint reads
├── RateLimited             too much at once: wait and repeat
│   └── CapacityExceeded    no room for one more; something has to end first
├── RequestTimeout          the body stalled
├── ReadOnlyFileSystem, NoSpace, StorageFailed    what the disk says
├── ExecFailed              a program that cannot be started
│   └── ProgramNotFound     because it is not there
├── ExecTimeout             a program that had to be ended, because its time was up
├── GitFailed               git said no; its own words are in the detail
├── NotSupported            this sandbox lacks the program for it, or this daemon does not offer it
├── SessionEnded            the shell of a session has ended
├── CommandEnded            a command has, to which something was to be said
├── Unavailable             not now: starting, draining
├── Internal                our fault; the log has the rest under the same instance id
├── ClientGone              nobody is left to answer
└── UploadError             the upload engine's refusals; `reason` is the wire contract's word

A class carries what is true of every such error (`code`, `status`, `title`, `retryable`), an instance what
happened (`detail`, a sentence for the reader; `facts`, values for a program). `status` is the number of
RFC 9110 section 15 that describes it; nothing here knows how it is sent.
"""

from typing import ClassVar


class AgentError(Exception):
    """A refusal or a failure with a name.

    detail: one sentence: what was wrong, where, and what to do.
    facts: JSON values that a program may act on, such as ``path``, ``upload_id``, ``retry_after`` (seconds).
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class Internal(AgentError):
    retryable = True


class InvalidRequest(AgentError):
    code, status, title = "invalid_request", 400, "Invalid request"


class InvalidPath(InvalidRequest):
    code, title = "invalid_path", "Invalid path"


class UpgradeRequired(InvalidRequest):
    code, status, title = "upgrade_required", 426, "Upgrade required"


class UnknownUser(InvalidRequest):
    code, title = "unknown_user", "Unknown user"


class Unauthorized(AgentError):
    code, status, title = "unauthorized", 401, "Unauthorized"


class PermissionDenied(AgentError):
    code, status, title = "permission_denied", 403, "Permission denied"


class PathReserved(PermissionDenied):
    title = "Reserved path"


class NotFound(AgentError):
    code, status, title = "not_found", 404, "Not found"


class MachineNotFound(NotFound):
    code, title = "machine_not_found", "No such machine"


class SandboxNotFound(NotFound):
    code, title = "sandbox_not_found", "No such sandbox"


class UploadNotFound(NotFound):
    code, title = "upload_not_found", "No such upload"


class ProcessNotFound(NotFound):
    code, title = "process_not_found", "No such process"


class SessionNotFound(NotFound):
    code, title = "session_not_found", "No such session"


class CommandNotFound(NotFound):
    code, title = "command_not_found", "No such command in the session"


class TerminalNotFound(NotFound):
    code, title = "terminal_not_found", "No such terminal"


class ContextNotFound(NotFound):
    code, title = "context_not_found", "No such code context"


class MethodNotAllowed(AgentError):
    code, status, title = "method_not_allowed", 405, "Method not allowed"


class RequestTimeout(AgentError):
    code, status, title, retryable = "request_timeout", 408, "Request timed out", True


class NotADirectory(AgentError):
    code, status, title = "not_a_directory", 409, "Not a directory"


class IsADirectory(AgentError):
    code, status, title = "is_a_directory", 409, "Is a directory"


class TooManyLinks(AgentError):
    code, status, title = "too_many_links", 409, "Too many symbolic links"


class Conflict(AgentError):
    code, status, title = "conflict", 409, "Conflict"


class KeyReused(Conflict):
    code, status, title = "idempotency_key_reused", 422, "Idempotency key reused"


class MachineNotReady(Conflict):
    code, title = "machine_not_ready", "Machine is stopped"


class SandboxNotReady(Conflict):
    code, title = "sandbox_not_ready", "Sandbox is stopped"


class PreconditionFailed(AgentError):
    code, status, title = "precondition_failed", 412, "Precondition failed"


class RangeNotSatisfiable(AgentError):
    """``facts["size"]`` is how many bytes there are."""

    code, status, title = "range_not_satisfiable", 416, "Range not satisfiable"


class RequestTooLarge(AgentError):
    code, status, title = "request_too_large", 413, "Request too large"


class HeaderTooLarge(RequestTooLarge):
    code, status, title = "header_too_large", 431, "Request header too large"


class UnsupportedMediaType(AgentError):
    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class RateLimited(AgentError):
    code, status, title, retryable = "rate_limit_exceeded", 429, "Too many requests", True


class CapacityExceeded(RateLimited):
    code, title = "capacity_exceeded", "Capacity exceeded"


class ReadOnlyFileSystem(AgentError):
    code, status, title = "volume_read_only", 403, "Read-only file system"


class NoSpace(AgentError):
    code, status, title, retryable = "insufficient_storage", 507, "Insufficient storage", True


class StorageFailed(AgentError):
    code, status, title = "storage_failed", 500, "Storage failed"


class ExecFailed(AgentError):
    """``facts["program"]`` is what was to be started."""

    code, status, title = "exec_failed", 400, "Program cannot be started"


class ProgramNotFound(ExecFailed):
    status, title = 404, "No such program"


class ExecTimeout(AgentError):
    """``facts`` have ``pid``, and what the program wrote until then."""

    code, status, title = "exec_timeout", 504, "Program timed out"


class GitFailed(AgentError):
    """``facts`` have git's ``exit_code`` and the end of its ``stderr``, without any secret."""

    code, status, title = "git_error", 422, "Git failed"


class NotSupported(AgentError):
    code, status, title = "not_implemented", 501, "Not implemented"


class SessionEnded(AgentError):
    code, status, title = "session_ended", 410, "Session ended"


class CommandEnded(AgentError):
    code, status, title = "command_ended", 410, "Command ended"


class Unavailable(AgentError):
    code, status, title, retryable = "unavailable", 503, "Unavailable", True


class ClientGone(AgentError):
    """The client left before the end of its request: never a disk fault, and nobody reads the answer."""

    code, status, title, retryable = "client_gone", 400, "Client gone", True


class UploadError(AgentError):
    """A refusal of the upload engine. ``facts["upload_id"]`` is there whenever the session exists."""

    code = "file_upload_error"
    reason: ClassVar[str]


class InsufficientStagingSpace(UploadError):
    reason, status, title, retryable = "insufficient_staging_space", 507, "Insufficient staging space", True


class SizeLimitExceeded(UploadError):
    reason, status, title = "size_limit_exceeded", 413, "Size limit exceeded"


class InvalidPartChecksum(UploadError):
    reason, status, title, retryable = "invalid_part_checksum", 400, "Part checksum mismatch", True


class PartConflict(UploadError):
    """Other bytes than those that were accepted: accepted bytes never change."""

    reason, status, title = "invalid_part_checksum", 409, "Part already accepted with other content"


class WholeChecksumMismatch(UploadError):
    reason, status, title = "whole_checksum_mismatch", 409, "Whole checksum mismatch"


class TargetConflict(UploadError):
    reason, status, title = "target_conflict", 409, "Target conflict"


class UploadExpired(UploadError):
    reason, status, title = "upload_expired", 410, "Upload expired"


class ArchivePathInvalid(UploadError):
    reason, status, title = "directory_extract_invalid_path", 422, "Invalid path in the archive"


class ArchiveLinkInvalid(UploadError):
    reason, status, title = "directory_extract_invalid_symlink", 422, "Invalid symbolic link in the archive"


class ArchiveEntryUnsupported(UploadError):
    reason, status, title = "directory_extract_unsupported_entry", 422, "Unsupported entry in the archive"


class MissingParts(UploadError):
    reason, status, title = "missing_parts", 409, "Parts are missing"


class PartOutOfRange(UploadError):
    reason, status, title = "part_out_of_range", 400, "Part number out of range"


class PartSizeMismatch(UploadError):
    reason, status, title = "part_size_mismatch", 400, "Part size mismatch"


class UploadAborted(UploadError):
    reason, status, title = "upload_aborted", 409, "Upload aborted"


class UploadAlreadyCompleted(UploadError):
    reason, status, title = "upload_already_completed", 409, "Upload already completed"


class UploadFailed(AgentError):
    """The session cannot go on: accepted bytes were lost (``state_lost``) or the disk failed under it."""

    code, status, title = "upload_state_lost", 409, "Upload failed"
