"""Uploads as an earlier daemon would have left them, made without one: thousands of them take no time."""

import os
import time
from pathlib import Path

from agentd.core.conflict import ConflictMode, Kind
from agentd.core.parts import Digests
from agentd.uploads import journal
from agentd.uploads.staging import BOOT_ID

PART = 4096


def leave_uploads(uploads: Path, count: int, parts: int) -> None:
    """In ``uploads``: ``count`` of them, each with ``parts`` accepted parts and one that is missing."""
    uploads.mkdir(mode=0o700, parents=True)
    for number in range(count):
        place = uploads / f"up_{number:032x}"
        place.mkdir(mode=0o700)
        with (place / "data").open("wb") as data:
            data.truncate((parts + 1) * PART)
        with (place / "journal").open("w+b") as file:
            made = journal.create(file.fileno(), _header(place.name, parts + 1), parts + 1)
            made.append(file.fileno(), [_part(part) for part in range(parts)])


def accept_before_boot(path: Path) -> None:
    """Makes the parts of the journal at ``path`` look accepted before the machine booted."""
    with path.open("r+b") as file:
        read, records, _ = journal.read(file.fileno())
        read.used = 0
        read.append(
            file.fileno(), [one._replace(boot=os.urandom(16)) for one in records if isinstance(one, journal.Part)]
        )


def _part(number: int) -> journal.Part:
    return journal.Part.of(number, PART, Digests(os.urandom(16), os.urandom(32)), time.time(), BOOT_ID)


def _header(upload_id: str, parts: int) -> journal.Header:
    return journal.Header(
        upload_id=upload_id,
        secret=upload_id,
        kind=Kind.FILE,
        source_kind="restartable_file",
        target=f"/nowhere/{upload_id}".encode(),
        conflict=ConflictMode.MERGE,
        size=parts * PART,
        part_size=PART,
        durability="process",
        user=None,
        metadata=b"{}",
        whole_sha256=None,
        created=time.time(),
        lifetime=86_400.0,
        key=os.urandom(32),
        fingerprint=os.urandom(32),
        limits=journal.Limits(1 << 40, PART, 4, 1 << 40),
    )
