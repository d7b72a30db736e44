"""Every way to hand a path to the daemon: one table, which tests go through, and what it has to hold.

A dialect's table (here that of the native API; all are in `tests.tables`) has a line for each text of a row's
parameters, body or frames that is a path, and for each form. What else is text is named in `NO_PATHS`, so that a new
field belongs to neither, until somebody decides which (`undecided`).
"""

import base64
import http.client
import importlib
import json
import os
import pkgutil
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import inspect

from agentd import dialects as packages
from agentd.http.endpoint import FORM as MULTIPART
from agentd.http.endpoint import Dialect
from tests.archives import entry, tar
from tests.conftest import ANSWER_SECONDS, Answer, Daemon
from tests.filing import FORM
from tests.filing import form as form_of
from tests.uploading import MACHINE

Key = tuple[str, str]
More = Mapping[str, Any]
CLONED = "/nowhere/repository"


class Caller:
    """A client of one thread, which keeps its connection. prefix: the mount that it speaks to."""

    def __init__(self, daemon: Daemon, prefix: str = MACHINE) -> None:
        self.prefix = prefix
        self.port = daemon.port
        self.token = {"Authorization": f"Bearer {daemon.token}"}
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)

    def close(self) -> None:
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: More | None = None,
        *,
        token: bool = True,
        lines: int = 0,
    ) -> Answer:
        """lines: how many of an endless answer are read."""
        connection = self._connection
        try:
            connection.request(method, path, body, {**(self.token if token else {}), **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            if not lines or answer.status != 200:
                return Answer(answer.status, found, answer.read())
            with answer:
                return Answer(answer.status, found, b"".join(answer.readline() for _ in range(lines)))
        except BaseException:
            connection.close()
            raise
        finally:
            if lines:
                connection.close()

    def post(self, route: str, body: More, **options: Any) -> Answer:
        content = json.dumps(body).encode()
        return self.request("POST", self.prefix + route, content, {"Content-Type": "application/json"}, **options)

    def query(self, method: str, route: str, query: More, body: bytes | None = None, **options: Any) -> Answer:
        text = urlencode({name: value for name, value in query.items() if value is not None}, errors="surrogateescape")
        return self.request(method, f"{self.prefix}{route}?{text}", body, **options)

    def upload(self, body: More, content: bytes) -> Answer:
        """Created, sent in one part, and completed; the first answer that says no."""
        created = self.post("/uploads", {**body, "content_length": len(content)})
        if created.status != 200:
            return created
        route = f"/uploads/{created.json()['session']['upload_id']}"
        sent = self.request("PUT", f"{self.prefix}{route}/parts/0", content)
        answer = sent if sent.status != 200 else self.post(f"{route}/complete", {})
        if answer.status != 200:
            self.request("DELETE", self.prefix + route)
        return answer

    def frame(self, channel: str, frame: More) -> Answer:
        """The first frame that comes back on a new socket; an error as the status that it had elsewhere."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS) as connection:
            query = f"?channel={channel}" if channel else ""
            lines = [f"GET {self.prefix}/ws{query} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in self.token.items())]
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            connection.sendall("\r\n".join([*lines, f"Sec-WebSocket-Key: {'A' * 22}==", "", ""]).encode())
            stream = connection.makefile("rb")
            while stream.readline().strip():
                pass
            text = json.dumps(frame).encode()
            connection.sendall(struct.pack("!BBHI", 0x81, 0x80 | 126, len(text), 0) + text)
            told = _received(stream)
        kind = told.get("type")
        status = 403 if told.get("code") == "permission_denied" else 400
        return Answer(status if kind == "error" else 200, {}, json.dumps(told).encode())


def _received(stream: Any) -> dict[str, Any]:
    """A frame of the server's: never masked (RFC 6455, section 5.1)."""
    kind, length = stream.read(2)
    if length == 126:
        (length,) = struct.unpack("!H", stream.read(2))
    content = stream.read(length)
    frame: dict[str, Any] = json.loads(content) if kind == 0x81 else {"type": "closed"}
    return frame


def is_denied(answer: Answer) -> bool:
    return answer.status == 403 and (not answer.body or answer.json()["code"] == "permission_denied")


def _is_left_out(answer: Answer) -> bool:
    return answer.status == 200 and [one["status"] for one in answer.json()["results"]] == ["error"]


@dataclass(frozen=True)
class Ask:
    """send: asks with the path; ``more`` is said besides. follows: a link at the end is followed. refused: whether an
    answer refuses, and says so in the way of this row."""

    send: Callable[[Caller, str, More], Answer]
    follows: bool = True
    refused: Callable[[Answer], bool] = is_denied

    def __call__(self, caller: Caller, path: str, **more: Any) -> Answer:
        return self.send(caller, path, more)


def post(route: str, field: str = "path", *, follows: bool = True, **body: Any) -> Ask:
    return Ask(lambda caller, path, more: caller.post(route, {**body, field: path, **more}), follows)


def query(method: str, route: str, content: bytes | None = None, lines: int = 0, **query: Any) -> Ask:
    return Ask(
        lambda caller, path, more: caller.query(method, route, {**query, "path": path, **more}, content, lines=lines)
    )


def _frame(channel: str, kind: str, field: str = "cwd", **frame: Any) -> Ask:
    wanted = {"type": kind, "id": "one", **frame}
    return Ask(lambda caller, path, more: caller.frame(channel, {**wanted, field: path, **more}))


def _git(route: str, **body: Any) -> Ask:
    """Git is asked in a place of its own for each path, and says no itself where that is no repository."""
    return post(f"/git/{route}", **body)


def _files_of_git(route: str, **body: Any) -> Ask:
    send = post(f"/git/{route}", "files", **body).send
    return Ask(lambda caller, path, more: send(caller, [path], more), refused=lambda answer: answer.status >= 400)  # type: ignore[arg-type]


def _replace(caller: Caller, path: str, more: More) -> Answer:
    return caller.post("/files/replace", {"files": [path], "pattern": "e", "replacement": "E", **more})


def _upload(kind: str, **body: Any) -> Ask:
    asked = {"kind": kind, "source_kind": "spooled_stream", **body}
    content = b"new" if kind == "file" else tar(entry("secret", content=b"new"))
    return Ask(lambda caller, path, more: caller.upload({**asked, "target_path": path, **more}, content))


def _batch(caller: Caller, path: str, more: More) -> Answer:
    manifest = json.dumps({"files": [{"path": path, "field": "file0"}], **more}).encode()
    body = form_of(("manifest", manifest), ("file0", b"new"))
    return caller.request("POST", f"{caller.prefix}/files/batch-write", body, FORM)


def form(route: str, *parts: tuple[str, bytes]) -> Ask:
    def send(caller: Caller, path: str, more: More) -> Answer:
        wanted = {"path": path, **{name: value for name, value in more.items() if value is not None}}
        text = urlencode(wanted, errors="surrogateescape")
        return caller.request("POST", f"{caller.prefix}{route}?{text}", form_of(*parts), FORM)

    return Ask(send)


def _signed(route: str, method: str, content: bytes | None = None) -> Ask:
    """By the URL that was asked for, without a token."""

    def send(caller: Caller, path: str, more: More) -> Answer:
        answer = caller.post(f"/files/{route}", {"path": path, **more})
        if answer.status != 200:
            return answer
        url = urlsplit(answer.json()["url"])
        return caller.request(method, f"{url.path}?{url.query}", content, token=False)

    return Ask(send)


def _session(caller: Caller, path: str, more: More) -> Answer:
    answer = caller.post("/sessions", {"session_id": f"s{os.urandom(6).hex()}", "cwd": path, **more})
    if answer.status < 300:
        caller.request("DELETE", f"{caller.prefix}/sessions/{answer.json()['session_id']}")
    return answer


def _context(caller: Caller, path: str, more: More) -> Answer:
    answer = caller.post("/code/contexts", {"cwd": path, "language": "bash", **more})
    if answer.status < 300:
        caller.request("DELETE", f"{caller.prefix}/code/contexts/{answer.json()['id']}")
    return answer


Table = Mapping[Key, Ask]

_NEW = base64.b64encode(b"new").decode()
_COMMAND: More = {"command": "ls", "args": ["-a"]}

# By the name of the row, or of the Struct where it is none's parameters or body, and of the field; "form" for a form.
ASKS: dict[Key, Ask] = {
    ("uploads.create", "target_path"): _upload("file"),
    ("files.info", "path"): post("/files/info", follows=False),
    ("files.stat", "path"): post("/files/stat", follows=False),
    ("files.exists", "path"): post("/files/exists", follows=False),
    ("files.read_text", "path"): post("/files/read"),
    ("files.write", "path"): post("/files/write", content=_NEW, encoding="base64"),
    ("files.append", "path"): post("/files/append", content="new"),
    ("files.read", "path"): query("GET", "/file"),
    ("files.head", "path"): query("HEAD", "/file"),
    ("files.put", "path"): query("PUT", "/file", b"new"),
    ("files.post", "path"): query("POST", "/file", b"new"),
    ("files.post", "form"): form("/file", ("file", b"new")),
    ("files.mkdir", "path"): post("/files/mkdir"),
    ("files.permissions", "path"): post("/files/permissions", permissions="0777"),
    ("files.owner", "path"): post("/files/owner", owner="40001"),
    ("files.link", "path"): post("/files/link", follows=False, target="/etc/passwd"),
    ("files.link", "target"): post("/files/link", "target", follows=False, path="/workspace/made/hard", hard=True),
    ("files.remove", "path"): post("/files/remove", follows=False),
    ("files.rename", "old_path"): post("/files/rename", "old_path", follows=False, new_path="/workspace/made/renamed"),
    ("files.rename", "new_path"): post("/files/rename", "new_path", follows=False, old_path="/workspace/given/one"),
    ("files.move", "source"): post("/files/move", "source", follows=False, target="/workspace/made/moved"),
    ("files.move", "target"): post("/files/move", "target", follows=False, source="/workspace/given/one"),
    ("files.copy", "source"): post("/files/copy", "source", follows=False, target="/workspace/made/copied"),
    ("files.copy", "target"): post("/files/copy", "target", follows=False, source="/workspace/given/one"),
    ("files.replace", "files"): Ask(_replace),
    ("transfers.ManifestFile", "path"): Ask(_batch, refused=_is_left_out),
    ("files.batch_write", "form"): Ask(_batch, refused=_is_left_out),
    ("files.download_url", "path"): _signed("download-url", "GET"),
    ("files.upload_url", "path"): _signed("upload-url", "PUT", b"new"),
    ("files.list", "path"): query("GET", "/files", depth=9),
    ("entries.list", "path"): query("GET", "/entries", depth=9, hidden="true"),
    ("files.find", "path"): post("/files/find", pattern="e"),
    ("files.search", "path"): post("/files/search", pattern="*"),
    ("archive.read", "path"): query("GET", "/archive", format="tar", skip_unreadable="true"),
    ("files.usage", "path"): post("/files/usage"),
    ("files.checksum", "path"): post("/files/checksum"),
    ("files.watch", "path"): query("GET", "/watch", lines=1, recursive="true"),
    ("watching.FileWatch", "path"): _frame("", "file_watch", "path", recursive=True),
    ("processes.exec", "cwd"): post("/exec", "cwd", **_COMMAND),
    ("processes.exec_stream", "cwd"): post("/exec/stream", "cwd", **_COMMAND),
    ("exec_socket.Start", "cwd"): _frame("exec", "exec_start", **_COMMAND),
    ("terminals.Start", "cwd"): _frame("pty", "pty_start", command="ls -a"),
    ("sessions.open", "cwd"): Ask(_session),
    ("code.contexts.create", "cwd"): Ask(_context),
    ("git.clone", "path"): _git("clone", url=CLONED),
    ("git.status", "path"): query("GET", "/git/status"),
    ("git.log", "path"): query("GET", "/git/log"),
    ("git.branches", "path"): query("GET", "/git/branch"),
    ("git.branch", "path"): _git("branch", name="other"),
    ("git.checkout", "path"): _git("checkout", ref="other"),
    ("git.add", "path"): _git("add"),
    ("git.add", "files"): _files_of_git("add", path="/workspace/given"),
    ("git.commit", "path"): _git("commit", message="m", author_name="a", author_email="a@b.c"),
    ("git.commit", "files"): _files_of_git("commit", path="/workspace/given", message="m"),
    ("git.pull", "path"): _git("pull"),
    ("git.push", "path"): _git("push"),
}
# The other ways of rows that have several.
VARIANTS: dict[str, Ask] = {
    "uploads.create tree": _upload("directory_tar", conflict="merge"),
    "uploads.create replace": _upload("directory_tar", conflict="replace"),
    "files.stat followed": post("/files/stat", follow=True),
    "files.owner link": post("/files/owner", follows=False, follow=False, owner="40001"),
    "files.move tree": post("/files/move", "target", follows=False, source="/workspace/given/tree", conflict="replace"),
    "files.copy tree": post("/files/copy", "target", follows=False, source="/workspace/given/tree", conflict="merge"),
    "archive.read zip": query("GET", "/archive", format="zip", skip_unreadable="true"),
}

# What is text and no path of the daemon's: who, which of its own things by the name that it gave them, content, a
# pattern, a command and what is told to it; and what git is told of a repository, by the rights of its user.
_NO_PATHS = """
user owner group upload_id session_id command_id context_id run_id id pid cursor source_kind machine_id sandbox_id field
content pattern replacement ignore permissions metadata whole_checksum_sha256 command args envs tags tag stdin
stdin_base64 data data_base64 signal code language url branch name ref remote message author_name author_email
username password private_key passphrase mode newValue dialect sessionId argv set unset unsetValuePrefix port commit_id
author email token default_user environment template snapshot_id snapshot state states next_token fields network desktop
volumes labels env secrets
networkAllowList domainAllowList outboundProxyUrl linkedSandbox sandbox contextId
"""
NO_PATHS = frozenset(_NO_PATHS.split())
# What is the operator's to say, and the name of a page's own file.
OTHERS = {("init", "cwd"), ("console.file", "file")}
# Structs that are told and never asked, and are no row's result because they come in a stream or a frame.
TOLD = frozenset(
    (
        *("nullspace.terminals.Started", "nullspace.terminals.Shown", "nullspace.terminals.Exited"),
        *("nullspace.terminals.Failed", "nullspace.commands.Written", "nullspace.commands.Exit"),
        *("nullspace.listing.Entry", "nullspace.listing.ListedInfo", "nullspace.listing.Unread"),
        *("nullspace.listing.EntryPage", "daytona.transfers.PartlyTaken"),
        "nullspace.machines.MachineParts",
        *("daytona.sessions.Begun", "daytona.terminals.Control"),
    )
)


def undecided(dialect: Dialect, table: Table) -> set[Key]:
    """Texts that its clients send, of which the table does not say whether they are paths."""
    return {key for key in _texts(dialect) if key not in table and key[1] not in NO_PATHS and key not in OTHERS}


def stale(dialect: Dialect, table: Table) -> set[Key]:
    """Lines of the table for which there is nothing in the code."""
    return {*table} - {*_texts(dialect)}


def _texts(dialect: Dialect) -> Iterator[Key]:
    """(row or Struct, field) of every text that a client may send. A form's fields are the form's, as one."""
    told: set[type] = _structs(dialect.failure)
    asked: set[type] = set()
    for row in dialect.endpoints:
        told |= _structs(row.result) | _structs(row.form)
        if MULTIPART in row.takes and row.body is None:
            yield row.name, "form"
        for struct_ in (row.params, row.body):
            if struct_ is not None:
                asked |= {*struct_.__mro__}
                yield from ((row.name, field) for field in _text_fields(struct_))
    for struct_ in _declared(dialect.name):
        name = struct_.__module__.removeprefix("agentd.dialects.")
        if struct_ not in told | asked and f"{name}.{struct_.__name__}" not in TOLD:
            yield from ((f"{name.rpartition('.')[2]}.{struct_.__name__}", field) for field in _text_fields(struct_))


def _declared(dialect: str) -> Iterator[type[msgspec.Struct]]:
    """In the dialect's module or package, which is called as it is."""
    for module in pkgutil.walk_packages(packages.__path__, "agentd.dialects."):
        if module.name.split(".")[2] != dialect:
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.name:
                yield value


def _text_fields(struct_: type[msgspec.Struct]) -> list[str]:
    found = inspect.type_info(struct_)
    assert isinstance(found, inspect.StructType)
    return [field.encode_name for field in found.fields if _holds_text(field.type)]


def _holds_text(kind: inspect.Type) -> bool:
    match kind:
        case inspect.Metadata():
            return _holds_text(kind.type)
        case inspect.UnionType():
            return any(map(_holds_text, kind.types))
        case inspect.CollectionType():
            return _holds_text(kind.item_type)
        case inspect.DictType():
            return True
    return isinstance(kind, inspect.StrType | inspect.BytesType)


def _structs(kind: Any) -> set[type]:
    """All that a type is made of."""
    found: set[type] = set()

    def look(one: Any) -> None:
        if isinstance(one, inspect.StructType) and one.cls not in found:
            found.add(one.cls)
            for field in one.fields:
                look(field.type)
        for inner in (*getattr(one, "types", ()), getattr(one, "item_type", None), getattr(one, "type", None)):
            if isinstance(inner, inspect.Type):
                look(inner)

    if kind is not None:
        look(inspect.type_info(kind))
    return found
