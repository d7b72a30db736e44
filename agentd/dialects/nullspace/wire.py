"""What all topics of the native API share: the NullSpace wire contract's names and shapes.

Session, ``limits``, the reply of complete, FileInfo and ``error_detail`` have closed key sets: a client of that service
fails on one key more. The quota's key depends on the prefix that the request came in by.
"""

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from agentd.dialects.values import moment
from agentd.errors import AgentError, UploadError
from agentd.files.operations import Entry

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}(?![\s\S])", description="SHA-256 in hex")]
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class FileInfo(Struct):
    name: str
    path: str
    is_dir: bool
    size: int
    type: str
    mode: str
    permissions: str
    owner: str
    group: str
    modified_time: datetime
    symlink_target: str | UnsetType = UNSET


class ErrorDetail(Struct, kw_only=True, forbid_unknown_fields=True):
    reason: str
    message: str
    retryable: bool
    request_id: str
    upload_id: str | UnsetType = UNSET
    part_number: int | UnsetType = UNSET
    path: str | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET


class ErrorBody(Struct, kw_only=True):
    error: str
    code: str
    request_id: str
    retryable: bool
    error_detail: ErrorDetail | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET


def render(error: AgentError, request_id: str, mount: str) -> dict[str, Any]:
    """`ErrorBody`, the contract's flat one (section 1.12); ``error_detail`` belongs to upload errors alone."""
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


def file_info(entry: Entry) -> FileInfo:
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
        modified_time=moment(entry.modified),
        symlink_target=UNSET if entry.target is None else entry.target,
    )


def digest(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
