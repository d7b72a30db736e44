"""What uploads promise, as plain dictionaries: the answers that a daemon has to give, whatever happened to it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

PART = 64
OK = "ok"


def right(upload: int, number: int, length: int) -> bytes:
    return hashlib.shake_128(f"{upload} {number}".encode()).digest(length)


def wrong(upload: int, number: int, length: int) -> bytes:
    return bytes(length - 1) + b"\1"


@dataclass
class Session:
    """serial: which upload of the model it is; id: what the daemon calls it."""

    serial: int
    id: Any
    target: str
    size: int
    conflict: str
    state: str = "created"
    parts: dict[int, bytes] = field(default_factory=dict)
    digest_known: bool = False

    @property
    def count(self) -> int:
        return -(-self.size // PART)

    def length(self, number: int) -> int:
        return min(PART, self.size - number * PART)

    @property
    def content(self) -> bytes:
        return b"".join(self.parts[number] for number in range(self.count))

    @property
    def missing(self) -> list[int]:
        return [number for number in range(self.count) if number not in self.parts]

    @property
    def said(self) -> tuple[str, int, int | None]:
        """status, accepted_bytes, next_part."""
        return self.state, sum(map(len, self.parts.values())), min(self.missing, default=None)


ENDED = {"completed": "upload_already_completed", "aborted": "upload_aborted"}


class Model:
    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.files: dict[str, bytes] = {}
        self.keys: dict[str, tuple[tuple[str, int, str], Session]] = {}

    def create(self, target: str, size: int, conflict: str, key: str | None) -> str | Session:
        """The reason of the refusal, or the session to be expected: without an id where it is new."""
        asked = (target, size, conflict)
        if key in self.keys:
            before, session = self.keys[key or ""]
            return session if before == asked else "idempotency_key_reused"
        if conflict == "error" and target in self.files:
            return "target_conflict"
        session = Session(len(self.sessions), None, target, size, conflict, "created" if size else "staged")
        self.sessions.append(session)
        if key is not None:
            self.keys[key] = asked, session
        return session

    def put(self, session: Session, number: int, body: bytes) -> str:
        if session.state in ENDED:
            return ENDED[session.state]
        if not 0 <= number < session.count:
            return "part_out_of_range"
        if len(body) != session.length(number):
            return "part_size_mismatch"
        if session.parts.setdefault(number, body) != body:
            return "invalid_part_checksum"
        session.state = "uploading" if session.missing else "staged"
        return OK

    def complete(self, session: Session, digest: str | None) -> str:
        if session.state == "completed":
            other = digest not in (None, hashlib.sha256(session.content).hexdigest())
            return ENDED["completed"] if other and session.digest_known else OK
        if session.state in ENDED:
            return ENDED[session.state]
        if session.missing:
            return "missing_parts"
        if digest not in (None, hashlib.sha256(session.content).hexdigest()):
            return "whole_checksum_mismatch"
        if session.conflict == "error" and session.target in self.files:
            return "target_conflict"
        session.state, session.digest_known = "completed", digest is not None
        self.files[session.target] = session.content
        return OK

    def abort(self, session: Session) -> str:
        if session.state == "completed":
            return ENDED["completed"]
        session.state = "aborted"
        return OK
