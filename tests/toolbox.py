"""Daytona's toolbox API, spoken to a daemon of a test as its clients speak it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.conftest import Answer, Daemon

MOUNT = "/daytona"
EDGE = b"edge"
FORM = {"Content-Type": f"multipart/form-data; boundary={EDGE.decode()}"}

Field = tuple[str, str | None, bytes]  # name, file name, content


class Toolbox:
    """home: a directory of the sandbox, as the test sees it."""

    def __init__(self, daemon: Daemon, home: Path, mount: str = MOUNT) -> None:
        self.daemon = daemon
        self.home = home
        self.mount = mount

    def path(self, name: str = "") -> str:
        """As the sandbox calls it."""
        return f"/{(self.home / name).relative_to(self.daemon.root)}"

    def __call__(
        self,
        method: str,
        where: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        /,
        **query: str,
    ) -> Answer:
        target = f"{self.mount}{where}" + (f"?{urlencode(query)}" if query else "")
        return self.daemon.call(method, target, body, headers)

    def send(self, where: str, fields: Iterable[Field], /, **query: str) -> Answer:
        """A form."""
        return self("POST", where, form(fields), FORM, **query)

    def send_many(self, fields: Iterable[Field]) -> Answer:
        return self.send("/files/bulk-upload", fields)


def form(fields: Iterable[Field]) -> bytes:
    parts = []
    for name, filename, content in fields:
        file = f'; filename="{filename}"' if filename is not None else ""
        head = f'Content-Disposition: form-data; name="{name}"{file}'.encode()
        parts.append(b"--%b\r\n%b\r\n\r\n%b\r\n" % (EDGE, head, content))
    return b"".join(parts) + b"--%b--\r\n" % EDGE


def parts_of(answer: Answer) -> list[tuple[str, str, bytes]]:
    """Field, file name and content of each part of an answer that is a form."""
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    *parts, last = answer.body.split(b"--" + boundary)
    assert last == b"--\r\n"
    found = []
    for part in parts[1:]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        pieces = head.decode().split('"')
        found.append((pieces[1], pieces[3], content.removesuffix(b"\r\n")))
    return found
