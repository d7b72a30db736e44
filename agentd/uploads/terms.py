"""What an upload is asked for with, and what is allowed."""

import hashlib
import os
import secrets
import time

import msgspec

from agentd.core.conflict import ConflictMode, Kind
from agentd.core.parts import part_size_for
from agentd.uploads.journal import Header, Limits


class UploadLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, times in seconds. ``quota_bytes`` None: 90 % of what is free at start."""

    part_size: int = 8 << 20
    max_parts: int = 10_000
    parts_per_upload: int = 4
    parts_at_once: int = 16
    max_upload_bytes: int = 64 << 30
    quota_bytes: int | None = None
    min_free_bytes: int = 64 << 20
    lifetime: float = 86_400.0
    retention: float = 86_400.0
    max_sessions: int = 1000
    durability: str = "process"


class NewUpload(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for at create (wire contract, section 1.2)."""

    kind: Kind
    source_kind: str
    target_path: str
    size: int
    conflict: ConflictMode
    whole_sha256: bytes | None
    metadata: bytes
    user: str | None

    def fingerprint(self) -> bytes:
        """The same for the same request alone."""
        return hashlib.sha256(repr(msgspec.structs.astuple(self)).encode()).digest()


def header_of(new: NewUpload, target: str, limits: UploadLimits, quota: int, key: bytes | None) -> Header:
    """What the journal says of a new upload: the request, and the limits of now, which hold for all its life."""
    part_size = part_size_for(new.size, limits.part_size, limits.max_parts)
    return Header(
        upload_id=f"up_{secrets.token_hex(16)}",
        kind=new.kind,
        source_kind=new.source_kind,
        target=os.fsencode(target),
        conflict=new.conflict,
        size=new.size,
        part_size=part_size,
        durability=limits.durability,
        user=new.user,
        metadata=new.metadata,
        whole_sha256=new.whole_sha256,
        created=time.time(),
        lifetime=limits.lifetime,
        key=key,
        fingerprint=new.fingerprint(),
        limits=Limits(limits.max_upload_bytes, part_size, limits.parts_per_upload, quota),
        secret=secrets.token_hex(16),
    )
