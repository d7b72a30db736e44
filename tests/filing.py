"""The file routes of the native API, spoken to a daemon of a test."""

import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.conftest import Answer, Daemon
from tests.uploading import MACHINE

FORM = {"Content-Type": "multipart/form-data; boundary=edge"}


class Filing:
    """home: a directory of the sandbox, as the test sees it; relative paths are meant from there."""

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self.daemon = daemon
        self.home = home

    def path(self, name: str) -> str:
        """As the sandbox calls it."""
        return name if name.startswith("/") else f"/{self.home.relative_to(self.daemon.root)}/{name}"

    def op(self, name: str, path: str | None = None, **body: Any) -> Answer:
        """``POST files/NAME``; what is a path in the body is completed as ``path`` is."""
        if path is not None:
            body["path"] = self.path(path)
        for key in ("old_path", "new_path", "source"):
            if key in body:
                body[key] = self.path(body[key])
        return self.daemon.call("POST", f"{MACHINE}/files/{name}", body)

    def write(self, path: str, content: str = "new", **more: Any) -> Answer:
        return self.op("write", path, content=content, **more)

    def rename(self, old: str, new: str, **more: Any) -> Answer:
        return self.op("rename", old_path=old, new_path=new, **more)

    def move(self, source: str, target: str, **more: Any) -> Answer:
        return self.op("move", source=source, target=self.path(target), **more)

    def copy(self, source: str, target: str, **more: Any) -> Answer:
        return self.op("copy", source=source, target=self.path(target), **more)

    def send(self, path: str, content: bytes, method: str = "PUT", query: str = "", **headers: str) -> Answer:
        where = f"{MACHINE}/file?path={quote(self.path(path))}{query}"
        return self.daemon.call(method, where, content, headers)

    def put(self, path: str, content: bytes, **query: str) -> Answer:
        return self.send(path, content, query="".join(f"&{name}={value}" for name, value in query.items()))

    def left(self) -> list[str]:
        """What was staged and has not become a file."""
        beside = [path.name for path in self.home.rglob(".agentd-*")]
        return [*os.listdir(self.daemon.root / "workspace/.nullspace/writes"), *beside]


def code(answer: Answer) -> tuple[int, str]:
    """Status and code of an error."""
    return answer.status, answer.json()["code"]


def facts(path: Path) -> tuple[int, int, str]:
    """Owner, group, mode."""
    found = path.lstat()
    return found.st_uid, found.st_gid, f"{stat.S_IMODE(found.st_mode):04o}"


def form(*parts: tuple[str, bytes]) -> bytes:
    """A body for FORM: names and contents."""
    head = 'Content-Disposition: form-data; name="{}"; filename="{}.bin"\r\n\r\n'
    pieces = [b"--edge\r\n" + head.format(name, name).encode() + content + b"\r\n" for name, content in parts]
    return b"".join(pieces) + b"--edge--\r\n"
