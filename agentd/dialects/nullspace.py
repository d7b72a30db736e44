"""The native API: the NullSpace wire contract. Names and shapes only; what they mean is decided in the rooms.

Session, ``limits``, the reply of complete, FileInfo and ``error_detail`` have closed key sets: a client of that service
fails on one key more. The quota's key depends on the prefix that the request came in by.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from agentd import errors
from agentd.core.conflict import ConflictMode, Kind
from agentd.core.paths import absolute
from agentd.errors import AgentError, InvalidRequest, UploadError
from agentd.files.operations import Content, Entry, Files
from agentd.http.codec import encode
from agentd.http.endpoint import Call, Dialect, Endpoint, FileResult
from agentd.linux.identity import Identity
from agentd.linux.threads import in_thread
from agentd.uploads.publish import Publisher
from agentd.uploads.registry import Uploads
from agentd.uploads.terms import NewUpload, Places
from agentd.uploads.upload import Upload

MOUNTS = ("/v1/machines/{machine_id}", "/v1/sandboxes/{sandbox_id}", "/v1")
PART_DIGEST = "x-nullspace-part-sha256"
KEY = "Idempotency-Key"

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}(?![\s\S])", description="SHA-256 in hex")]
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


_PATH_ERRORS = (
    errors.NotFound,
    errors.NotADirectory,
    errors.InvalidPath,
    errors.PathReserved,
    errors.PermissionDenied,
    errors.TooManyLinks,
    errors.UnknownUser,
)
_READ_ERRORS = (
    *_PATH_ERRORS,
    errors.IsADirectory,
    errors.Conflict,
    errors.PreconditionFailed,
    errors.RangeNotSatisfiable,
)
_CREATE_ERRORS = (
    errors.SizeLimitExceeded,
    errors.InsufficientStagingSpace,
    errors.TargetConflict,
    errors.KeyReused,
    errors.CapacityExceeded,
    errors.UnknownUser,
    errors.InvalidPath,
    errors.NotFound,
    errors.PathReserved,
    errors.PermissionDenied,
    errors.TooManyLinks,
)
_PART_ERRORS = (
    errors.UploadNotFound,
    errors.PartOutOfRange,
    errors.PartSizeMismatch,
    errors.InvalidPartChecksum,
    errors.PartConflict,
    errors.InsufficientStagingSpace,
    errors.UploadAborted,
    errors.UploadExpired,
    errors.UploadAlreadyCompleted,
    errors.UploadFailed,
    errors.RateLimited,
)
_COMPLETE_ERRORS = (
    errors.UploadNotFound,
    errors.MissingParts,
    errors.WholeChecksumMismatch,
    errors.TargetConflict,
    errors.ArchivePathInvalid,
    errors.ArchiveLinkInvalid,
    errors.ArchiveEntryUnsupported,
    errors.SizeLimitExceeded,
    errors.InsufficientStagingSpace,
    errors.PathReserved,
    errors.PermissionDenied,
    errors.Conflict,
    errors.UploadAborted,
    errors.UploadExpired,
    errors.UploadFailed,
    errors.UploadAlreadyCompleted,
)


class CreateBody(Struct, kw_only=True):
    kind: Kind
    source_kind: Literal["restartable_file", "spooled_stream", "directory_archive"]
    target_path: str
    content_length: Bytes
    conflict: ConflictMode = ConflictMode.MERGE
    archive_format: Literal["tar"] | None = None
    checksum_algorithm: Literal["sha256"] = "sha256"
    whole_checksum_sha256: Sha256 | None = None
    metadata: dict[str, Any] = {}
    user: str | None = None


class CompleteBody(Struct):
    whole_checksum_sha256: Sha256 | None = None


class PathBody(Struct):
    path: str
    user: str | None = None


class UploadParams(Struct):
    upload_id: str


class PartParams(Struct):
    upload_id: str
    part_number: int


class FileParams(Struct):
    path: str
    user: str | None = None


class Session(Struct, kw_only=True):
    upload_id: str
    kind: str
    source_kind: str
    target_path: str
    content_length: int
    accepted_bytes: int
    reserved_staging_bytes: int
    part_size: int
    part_count: int
    max_concurrency: int
    status: str
    conflict: str
    checksum_algorithm: str
    limits: dict[str, int]
    created_at: str
    updated_at: str
    expires_at: str
    user: str | None
    next_part: int | None
    archive_format: str | None
    whole_checksum_sha256: str | None


class Created(Struct):
    session: Session


class Completed(Struct):
    session: Session
    published_bytes: int
    published_file_count: int


class Sessions(Struct):
    items: list[Session]
    quarantined: list[str]


class FileInfo(Struct, kw_only=True):
    name: str
    path: str
    is_dir: bool
    size: int
    type: str
    mode: str
    permissions: str
    owner: str
    group: str
    modified_time: str
    symlink_target: str | UnsetType = UNSET


class NullSpace:
    """The handlers. places: what a relative path means here. sandbox_id: the name that is answered to, None for any."""

    def __init__(
        self, uploads: Uploads, files: Files, publisher: Publisher, places: Places, sandbox_id: str | None
    ) -> None:
        self._sandbox_id = sandbox_id
        self._uploads = uploads
        self._files = files
        self._publisher = publisher
        self._places = places

    def dialect(self) -> Dialect:
        return Dialect("nullspace", MOUNTS, self._endpoints(), render, self._admit)

    def _endpoints(self) -> tuple[Endpoint, ...]:
        upload = "/uploads/{upload_id}"
        return (
            Endpoint(
                *("POST", "/uploads", "uploads.create", self.create),
                body=CreateBody,
                result=Created,
                summary="Create an upload",
                errors=_CREATE_ERRORS,
            ),
            Endpoint(
                *("GET", "/uploads", "uploads.list", self.list),
                result=Sessions,
                summary="List this daemon's uploads, the ended ones too",
            ),
            Endpoint(
                *("GET", upload, "uploads.status", self.status),
                params=UploadParams,
                result=Session,
                summary="Say where an upload stands",
                errors=(errors.UploadNotFound,),
            ),
            Endpoint(
                *("PUT", upload + "/parts/{part_number}", "uploads.part", self.put_part),
                params=PartParams,
                result=Session,
                summary="Send a part; repeating it is harmless",
                errors=_PART_ERRORS,
            ),
            Endpoint(
                *("POST", upload + "/complete", "uploads.complete", self.complete),
                params=UploadParams,
                body=CompleteBody,
                result=Completed,
                summary="Publish the upload at its target; repeating it is harmless",
                errors=_COMPLETE_ERRORS,
            ),
            Endpoint(
                *("DELETE", upload, "uploads.abort", self.abort),
                params=UploadParams,
                status=204,
                summary="Abort an upload and free its space; repeating it is harmless",
                errors=(errors.UploadNotFound, errors.UploadAlreadyCompleted),
            ),
            Endpoint(
                *("POST", "/files/info", "files.info", self.info),
                body=PathBody,
                result=FileInfo,
                summary="Describe an entry",
                errors=_PATH_ERRORS,
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

    def _admit(self, values: Mapping[str, str]) -> None:
        for name, error in (("machine_id", errors.MachineNotFound), ("sandbox_id", errors.SandboxNotFound)):
            if self._sandbox_id is not None and values.get(name, self._sandbox_id) != self._sandbox_id:
                raise error(f"this is not {values[name]!r}: the request reached the wrong daemon")

    async def create(self, call: Call) -> Created:
        body: CreateBody = call.data
        if body.kind is Kind.FILE and body.archive_format is not None:
            raise InvalidRequest("archive_format is for kind 'directory_tar': leave it out for a file")
        new = NewUpload(
            kind=body.kind,
            source_kind=body.source_kind,
            target_path=body.target_path,
            size=body.content_length,
            conflict=body.conflict,
            whole_sha256=_digest(body.whole_checksum_sha256),
            metadata=encode(body.metadata),
            user=_user(body.user),
        )
        return Created(_session(await self._uploads.create(new, _key(call)), call.mount))

    async def list(self, call: Call) -> Sessions:
        items = [_session(upload, call.mount) for upload in self._uploads.list()]
        return Sessions(items, self._uploads.quarantined)

    async def status(self, call: Call) -> Session:
        return _session(self._uploads.get(call.params.upload_id), call.mount)

    async def put_part(self, call: Call) -> Session:
        sha256 = call.headers.get(PART_DIGEST)
        if sha256 is not None:
            try:
                sha256 = msgspec.convert(sha256, Sha256)
            except msgspec.ValidationError:
                raise InvalidRequest(f"the header {PART_DIGEST} has to be a SHA-256 in hex, 64 characters") from None
        params: PartParams = call.params
        upload = await self._uploads.put_part(params.upload_id, params.part_number, call.body, _digest(sha256))
        return _session(upload, call.mount)

    async def complete(self, call: Call) -> Completed:
        _key(call)
        upload = await self._uploads.complete(call.params.upload_id, _digest(call.data.whole_checksum_sha256))
        assert upload.published is not None
        return Completed(_session(upload, call.mount), upload.published.size, upload.published.files)

    async def abort(self, call: Call) -> None:
        await self._uploads.abort(call.params.upload_id)

    async def info(self, call: Call) -> FileInfo:
        return _file_info(await in_thread(self._info, call.data.path, _user(call.data.user)))

    async def read(self, call: Call) -> FileResult:
        file = await in_thread(self._open, call.params.path, _user(call.params.user))
        return FileResult(file.detach(), file.size, file.modified, file.name, file.version)

    def _info(self, path: str, user: str | None) -> Entry:
        where, rights = self._resolve(path, user)
        return self._files.info(where, rights)

    def _open(self, path: str, user: str | None) -> Content:
        where, rights = self._resolve(path, user)
        return self._files.open(where, rights)

    def _resolve(self, path: str, user: str | None) -> tuple[str, tuple[Identity, ...]]:
        identity = self._publisher.user(user)
        home = None if identity is None else identity.home
        where = absolute(path, cwd=self._places.cwd, home=home, workspace=self._places.workspace)
        return where, self._publisher.rights(identity)


def render(error: AgentError, request_id: str, mount: str) -> dict[str, Any]:
    """The contract's flat error body (section 1.12); ``error_detail`` belongs to upload errors alone."""
    body: dict[str, Any] = {
        "error": error.detail,
        "code": error.code,
        "request_id": request_id,
        "retryable": error.retryable,
    }
    facts = dict(error.facts)
    if isinstance(error, UploadError):
        detail = {
            "reason": error.reason,
            "message": error.detail,
            "retryable": error.retryable,
            "request_id": request_id,
        }
        detail |= {key: facts.pop(key) for key in ("upload_id", "part_number", "path") if key in facts}
        if facts:
            detail["details"] = facts
        body["error_detail"] = detail
    elif facts:
        body["details"] = facts
    return body


def _session(upload: Upload, mount: str) -> Session:
    header, limits = upload.header, upload.header.limits
    quota_key = "sandbox_staging_quota_bytes" if "sandboxes" in mount else "machine_staging_quota_bytes"
    whole = header.whole_sha256
    return Session(
        upload_id=header.upload_id,
        kind=header.kind.value,
        source_kind=header.source_kind,
        target_path=header.path,
        content_length=header.size,
        accepted_bytes=upload.parts.accepted_bytes,
        reserved_staging_bytes=header.size,
        part_size=header.part_size,
        part_count=upload.parts.count,
        max_concurrency=limits.max_concurrency,
        status=upload.state.value,
        conflict=header.conflict.value,
        checksum_algorithm="sha256",
        limits={
            "max_upload_bytes": limits.max_upload_bytes,
            "max_part_bytes": limits.max_part_bytes,
            "max_concurrency": limits.max_concurrency,
            quota_key: limits.quota_bytes,
        },
        created_at=_time(header.created),
        updated_at=_time(upload.updated),
        expires_at=_time(upload.expires),
        user=header.user,
        next_part=upload.parts.next_part,
        archive_format="tar" if header.kind is Kind.DIRECTORY_TAR else None,
        whole_checksum_sha256=None if whole is None else whole.hex(),
    )


def _file_info(entry: Entry) -> FileInfo:
    mode = f"{entry.mode:04o}"
    return FileInfo(
        name=entry.name,
        path=entry.path,
        is_dir=entry.type == "dir",
        size=entry.size,
        type=entry.type,
        mode=mode,
        permissions=mode,
        owner=entry.owner,
        group=entry.group,
        modified_time=_time(entry.modified),
        symlink_target=UNSET if entry.target is None else entry.target,
    )


def _time(seconds: float) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _digest(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _user(name: str | None) -> str | None:
    """Trimmed; blank is absent (wire contract, section 1.2)."""
    return (name or "").strip() or None


def _key(call: Call) -> str | None:
    key = call.headers.get(KEY)
    if key is not None and not (0 < len(key) <= 255 and key.isprintable()):
        raise InvalidRequest(f"the header {KEY} has to be 1 to 255 printable characters")
    return key
