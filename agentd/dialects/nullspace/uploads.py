"""Uploads: section 1 of the wire contract."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentd import errors
from agentd.core.conflict import ConflictMode, Kind
from agentd.dialects.nullspace.wire import Bytes, Sha256, digest
from agentd.dialects.values import REPEATS, idempotency_key, rfc3339, user_name
from agentd.errors import InvalidRequest
from agentd.http.codec import encode
from agentd.http.endpoint import Call, Endpoint
from agentd.linux.places import Places
from agentd.linux.threads import in_thread
from agentd.uploads.registry import Uploads
from agentd.uploads.terms import NewUpload
from agentd.uploads.upload import Upload

PART_DIGEST = "x-nullspace-part-sha256"

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


_EXAMPLE = {
    "kind": "file",
    "source_kind": "restartable_file",
    "target_path": "/workspace/data.bin",
    "content_length": 20 << 20,
}


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


class UploadParams(Struct):
    upload_id: str


class PartParams(Struct):
    upload_id: str
    part_number: int


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


class UploadRows:
    def __init__(self, uploads: Uploads, places: Places) -> None:
        self._uploads = uploads
        self._places = places

    def endpoints(self) -> tuple[Endpoint, ...]:
        upload = "/uploads/{upload_id}"
        return (
            Endpoint(
                *("POST", "/uploads", "uploads.create", self.create),
                body=CreateBody,
                result=Created,
                headers=REPEATS,
                example=_EXAMPLE,
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
                headers={PART_DIGEST: "the part's SHA-256 in hex, which it is checked by"},
                summary="Send a part; repeating it is harmless",
                errors=_PART_ERRORS,
            ),
            Endpoint(
                *("POST", upload + "/complete", "uploads.complete", self.complete),
                params=UploadParams,
                body=CompleteBody,
                result=Completed,
                headers=REPEATS,
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
        )

    async def create(self, call: Call) -> Created:
        body: CreateBody = call.data
        if body.kind is Kind.FILE and body.archive_format is not None:
            raise InvalidRequest("archive_format is for kind 'directory_tar': leave it out for a file")
        user = user_name(body.user)
        new = NewUpload(
            kind=body.kind,
            source_kind=body.source_kind,
            target_path=(await in_thread(self._places.find, body.target_path, user)).path,
            size=body.content_length,
            conflict=body.conflict,
            whole_sha256=digest(body.whole_checksum_sha256),
            metadata=encode(body.metadata),
            user=user,
        )
        return Created(_session(await self._uploads.create(new, idempotency_key(call)), call.mount))

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
        upload = await self._uploads.put_part(params.upload_id, params.part_number, call.body, digest(sha256))
        return _session(upload, call.mount)

    async def complete(self, call: Call) -> Completed:
        idempotency_key(call)
        upload = await self._uploads.complete(call.params.upload_id, digest(call.data.whole_checksum_sha256))
        assert upload.published is not None
        return Completed(_session(upload, call.mount), upload.published.size, upload.published.files)

    async def abort(self, call: Call) -> None:
        await self._uploads.abort(call.params.upload_id)


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
        created_at=rfc3339(header.created),
        updated_at=rfc3339(upload.updated),
        expires_at=rfc3339(upload.expires),
        user=header.user,
        next_part=upload.parts.next_part,
        archive_format="tar" if header.kind is Kind.DIRECTORY_TAR else None,
        whole_checksum_sha256=None if whole is None else whole.hex(),
    )
