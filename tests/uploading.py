"""The upload routes of the native API, spoken to a daemon of a test, and what a test asks of the answers."""

import hashlib
import io
import json
import socket
import struct
import tarfile
from collections.abc import Mapping
from typing import Any

from tests.conftest import Answer, Daemon

IDENT = "m-1"
MACHINE = f"/v1/machines/{IDENT}"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content_of(size: int) -> bytes:
    """``size`` bytes of which no two pieces are alike."""
    return hashlib.shake_128(str(size).encode()).digest(size)


def tar_of(entries: Mapping[str, bytes | None]) -> bytes:
    """An archive of files, and of directories where the content is None."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if content is None else 0o644
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return packed.getvalue()


def reason(answer: Answer) -> tuple[int, str]:
    """Status and reason of an upload error, or its code where it is none."""
    body = answer.json()
    return answer.status, body.get("error_detail", {}).get("reason") or body["code"]


class Client:
    """prefix: the mount that is spoken to."""

    def __init__(self, daemon: Daemon, prefix: str = MACHINE) -> None:
        self.daemon = daemon
        self.prefix = prefix

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        return self.daemon.call(method, self.prefix + path, body, headers)

    def create(self, target: str, size: int, *, key: str | None = None, **more: Any) -> Answer:
        asked = {"kind": "file", "source_kind": "restartable_file", "target_path": target, "content_length": size}
        return self.call("POST", "/uploads", {**asked, **more}, {"Idempotency-Key": key} if key else {})

    def begin(self, target: str, size: int, **more: Any) -> Any:
        """The session of a new upload."""
        answer = self.create(target, size, **more)
        assert answer.status == 200, answer.body
        return answer.json()["session"]

    def begin_tar(self, target: str, archive: bytes, **more: Any) -> Any:
        more = {"source_kind": "directory_archive", "archive_format": "tar", **more}
        return self.begin(target, len(archive), kind="directory_tar", **more)

    def part(self, session: Any, number: int, body: bytes, digest: str | None = "") -> Answer:
        """digest: "" is the body's, None declares none."""
        headers = {} if digest is None else {"x-nullspace-part-sha256": digest or sha256(body)}
        return self.call("PUT", f"/uploads/{session['upload_id']}/parts/{number}", body, headers)

    def send(self, session: Any, content: bytes, numbers: Any = None) -> None:
        """The parts, all unless told, each accepted."""
        for number in range(session["part_count"]) if numbers is None else numbers:
            answer = self.part(session, number, piece(session, content, number))
            assert answer.status == 200, answer.body

    def complete(self, session: Any, digest: str | None = None) -> Answer:
        body = {} if digest is None else {"whole_checksum_sha256": digest}
        return self.call("POST", f"/uploads/{session['upload_id']}/complete", body)

    def status(self, session: Any) -> Any:
        answer = self.call("GET", f"/uploads/{session['upload_id']}")
        assert answer.status == 200, answer.body
        return answer.json()

    def abort(self, session: Any) -> Answer:
        return self.call("DELETE", f"/uploads/{session['upload_id']}")

    def put(self, target: str, content: bytes, **more: Any) -> Answer:
        """A whole upload of a file; the answer of its completion."""
        session = self.begin(target, len(content), **more)
        self.send(session, content)
        return self.complete(session)

    def put_tar(self, target: str, archive: bytes, **more: Any) -> Answer:
        session = self.begin_tar(target, archive, **more)
        self.send(session, archive)
        return self.complete(session)

    def open_part(self, session: Any, number: int, length: int, *headers: str) -> socket.socket:
        """A connection on which a part of ``length`` bytes is announced, and nothing of it sent yet."""
        connection = self.daemon.connect()
        path = f"{self.prefix}/uploads/{session['upload_id']}/parts/{number}"
        lines = [f"PUT {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.daemon.token}"]
        lines += [f"Content-Length: {length}", "Connection: close", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return connection


def running(client: Client, session: Any, number: int, length: int) -> socket.socket:
    """As `Client.open_part`, once the daemon has begun with the part."""
    connection = client.open_part(session, number, length, "Expect: 100-continue")
    asked = connection.recv(len(CONTINUE), socket.MSG_WAITALL)
    assert asked == CONTINUE, asked
    return connection


def reset(connection: socket.socket) -> None:
    """Ends it as a crashed client does: RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def piece(session: Any, content: bytes, number: int) -> bytes:
    size = session["part_size"]
    return content[number * size : (number + 1) * size]


def answer_on(connection: socket.socket) -> Answer | None:
    """What comes back on a raw connection that is closed then; None where nothing does."""
    received = b""
    with connection:
        try:
            while not (answer := _parsed(received)) and (more := connection.recv(65536)):
                received += more
        except ConnectionResetError:
            return None
    return answer


def _parsed(received: bytes) -> Answer | None:
    """The answer, where it is whole; an interim one before it does not count."""
    head, end, body = received.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    if not end or len(body) < int(fields.get("content-length", 0)):
        return None
    return Answer(int(lines[0].split()[1]), fields, body)


def as_json(value: Any) -> bytes:
    """With lone surrogates as escapes."""
    return json.dumps(value).encode()
