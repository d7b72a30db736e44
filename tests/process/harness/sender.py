"""A client of the native API that remembers what it was promised, and holds the daemon to it."""

import hashlib
import mmap
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.conftest import Answer, Daemon

Session = dict[str, Any]

NO_ANSWER = (OSError, HTTPException)  # what a client sees of a daemon that dies


class Refused(Exception):
    """The daemon said no."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status, answer.body)
        self.answer = answer
        self.reason = answer.json().get("error_detail", {}).get("reason", answer.json()["code"])


@dataclass
class Sender:
    """One upload of ``content`` to ``target``. accepted: the parts whose 2xx came. session: as last seen."""

    target: Path
    content: bytes | mmap.mmap
    kind: str = "file"
    conflict: str = "merge"
    key: str = field(default_factory=lambda: str(uuid4()))
    accepted: set[int] = field(default_factory=set)
    session: Session = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"/v1/uploads/{self.session['upload_id']}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def part(self, number: int) -> bytes:
        size = self.session["part_size"]
        return self.content[number * size : (number + 1) * size]

    def create(self, daemon: Daemon) -> Session:
        """Opens the upload; again, with the same key, finds it again."""
        wanted = {
            "kind": self.kind,
            "source_kind": "restartable_file" if self.kind == "file" else "directory_archive",
            "target_path": str(self.target),
            "content_length": len(self.content),
            "conflict": self.conflict,
            "archive_format": None if self.kind == "file" else "tar",
        }
        made = _asked(daemon, "POST", "/v1/uploads", wanted, {"Idempotency-Key": self.key})["session"]
        if made["upload_id"] != self.session.get("upload_id"):
            assert not self.accepted, "an upload with accepted parts was forgotten"
        self.session = made
        return self.session

    def put(self, daemon: Daemon, number: int) -> Session:
        body = self.part(number)
        headers = {"x-nullspace-part-sha256": hashlib.sha256(body).hexdigest()}
        self.session = _asked(daemon, "PUT", f"{self.url}/parts/{number}", body, headers)
        self.accepted.add(number)
        return self.session

    def send(self, daemon: Daemon) -> None:
        """Opens the upload if need be, and sends what was not accepted before."""
        if self.create(daemon)["status"] != "completed":
            for number in sorted(set(range(self.session["part_count"])) - self.accepted, key=lambda n: n ^ 1):
                self.put(daemon, number)

    def complete(self, daemon: Daemon) -> dict[str, Any]:
        answer: dict[str, Any] = _asked(
            daemon, "POST", f"{self.url}/complete", {"whole_checksum_sha256": self.sha256}, {}
        )
        return answer

    def abort(self, daemon: Daemon) -> None:
        answer = daemon.call("DELETE", self.url, token=None)
        if answer.status != 204:
            raise Refused(answer)

    def status(self, daemon: Daemon) -> Session:
        """Asks where the upload stands, and checks that nothing that was promised is missing."""
        now: Session = _asked(daemon, "GET", self.url, None, {})
        assert now["accepted_bytes"] >= sum(len(self.part(number)) for number in self.accepted)
        assert now["next_part"] not in self.accepted
        return now

    def renewed(self) -> "Sender":
        """The same wish with a new key."""
        return Sender(self.target, self.content, self.kind, self.conflict)


def _asked(daemon: Daemon, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
    answer = daemon.call(method, path, body, headers, token=None)
    if answer.status >= 400:
        raise Refused(answer)
    return answer.json()
