"""What all topics of the native API share: the NullSpace wire contract's names and shapes.

Session, ``limits``, the reply of complete, FileInfo and ``error_detail`` have closed key sets: a client of that service
fails on one key more. The quota's key depends on the prefix that the request came in by.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from agentd import errors
from agentd.errors import AgentError, InvalidRequest, UploadError
from agentd.files.operations import Entry
from agentd.http.endpoint import Call

KEY = "Idempotency-Key"

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}(?![\s\S])", description="SHA-256 in hex")]
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]

PATH_ERRORS = (
    errors.NotFound,
    errors.NotADirectory,
    errors.InvalidPath,
    errors.PathReserved,
    errors.PermissionDenied,
    errors.TooManyLinks,
    errors.UnknownUser,
)


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


def moment(seconds: float) -> datetime:
    """UTC; where no calendar has it (a file may have any time), the first or last that one has."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)


def rfc3339(seconds: float) -> str:
    """RFC 3339, UTC."""
    return moment(seconds).isoformat(timespec="microseconds").replace("+00:00", "Z")


def digest(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def user_name(name: str | None) -> str | None:
    """Trimmed; blank is absent (wire contract, section 1.2)."""
    return (name or "").strip() or None


def text_bytes(text: str) -> bytes:
    """UTF-8, with the bytes that lone surrogates stand for (see `http.codec`). InvalidRequest where they are none."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest("the text has lone surrogates, which are no characters: send it in base64") from None


def idempotency_key(call: Call) -> str | None:
    key = call.headers.get(KEY)
    if key is not None and not (0 < len(key) <= 255 and key.isprintable()):
        raise InvalidRequest(f"the header {KEY} has to be 1 to 255 printable characters")
    return key
