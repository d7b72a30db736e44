"""Every way to hand a path to the daemon by the Daytona toolbox API: its table (see `tests.asking`)."""

import json
import os
import socket
import struct
from typing import Any
from urllib.parse import urlencode

from tests.asking import CLONED, Ask, Caller, Key, More, form, post
from tests.conftest import ANSWER_SECONDS, Answer
from tests.filing import FORM
from tests.filing import form as form_of

PREFIX = "/daytona"


def _is_denied(answer: Answer) -> bool:
    return answer.status == 403


def _is_refused(answer: Answer) -> bool:
    return answer.status >= 400


def _query(method: str, route: str, field: str = "path", *, follows: bool = True, **query: Any) -> Ask:
    """In the query, whatever the method."""
    return Ask(
        lambda caller, path, more: caller.query(method, route, {**query, field: path}),
        follows,
        _is_denied,
    )


def _listed(route: str, field: str, refused: Any, **body: Any) -> Ask:
    send = post(route, field, **body).send
    return Ask(lambda caller, path, more: send(caller, [path], {}), refused=refused)  # type: ignore[arg-type]


def _bulk(caller: Caller, path: str, more: More) -> Answer:
    body = form_of(("files[0].path", path.encode()), ("files[0].file", b"new"))
    return caller.request("POST", f"{caller.prefix}/files/bulk-upload", body, FORM)


def _delete(route: str, **body: Any) -> Ask:
    """In a body of JSON."""

    def send(caller: Caller, path: str, more: More) -> Answer:
        content = json.dumps({**body, "path": path}).encode()
        return caller.request("DELETE", PREFIX + route, content, {"Content-Type": "application/json"})

    return Ask(send, refused=_is_denied)


def _git(route: str, **body: Any) -> Ask:
    return Ask(post(f"/git/{route}", **body).send, refused=_is_denied)


def _terminal(caller: Caller, path: str, more: More) -> Answer:
    ident = f"t{os.urandom(6).hex()}"
    answer = caller.post("/process/pty", {"id": ident, "cwd": path, **more})
    caller.request("DELETE", f"{PREFIX}/process/pty/{ident}")
    return answer


def _connected(caller: Caller, path: str, more: More) -> Answer:
    """What the first message of the socket says, 400 for an error."""
    ident = f"t{os.urandom(6).hex()}"
    target = f"{PREFIX}/process/pty/create-connect?{urlencode({'id': ident, 'cwd': path}, errors='surrogateescape')}"
    with socket.create_connection(("127.0.0.1", caller.port), timeout=ANSWER_SECONDS) as connection:
        lines = [f"GET {target} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in caller.token.items())]
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        connection.sendall("\r\n".join([*lines, f"Sec-WebSocket-Key: {'A' * 22}==", "", ""]).encode())
        stream = connection.makefile("rb")
        while stream.readline().strip():
            pass
        _, length = stream.read(2)
        said = stream.read(length if length < 126 else struct.unpack("!H", stream.read(2))[0])
    caller.request("DELETE", f"{PREFIX}/process/pty/{ident}")
    return Answer(400 if json.loads(said)["status"] == "error" else 200, {}, said)


# The path is in the query, the form has the content alone.
_UPLOAD_OLD = Ask(form("/files/upload", ("file", b"new")).send, refused=_is_denied)
_UPLOAD = Ask(form("/files/upload-v2", ("file", b"new")).send, refused=_is_denied)

ASKS: dict[Key, Ask] = {
    ("files.list", "path"): _query("GET", "/files", depth=9),
    ("files.list.slash", "path"): _query("GET", "/files/"),
    ("files.delete", "path"): _query("DELETE", "/files", follows=False, recursive="true"),
    ("files.delete.slash", "path"): _query("DELETE", "/files/", follows=False, recursive="true"),
    ("files.info", "path"): _query("GET", "/files/info"),
    ("files.folder", "path"): _query("POST", "/files/folder", mode="0755"),
    ("files.move", "source"): _query("POST", "/files/move", "source", follows=False, destination="/workspace/made/d"),
    ("files.move", "destination"): _query("POST", "/files/move", "destination", follows=False, source="given/one"),
    ("files.permissions", "path"): _query("POST", "/files/permissions", mode="0777", owner="40001"),
    ("files.find", "path"): _query("GET", "/files/find", pattern="e"),
    ("files.search", "path"): _query("GET", "/files/search", pattern="*"),
    ("files.replace", "files"): _listed(
        *("/files/replace", "files", lambda answer: not answer.json()[0]["success"]), pattern="e", newValue="E"
    ),
    ("files.download", "path"): _query("GET", "/files/download"),
    ("files.bulk_download", "paths"): _listed(
        *("/files/bulk-download", "paths", lambda answer: b'name="error"' in answer.body)
    ),
    **dict.fromkeys((("files.upload_old", "path"), ("files.upload_old", "form")), _UPLOAD_OLD),
    **dict.fromkeys((("files.upload", "path"), ("files.upload", "form")), _UPLOAD),
    ("files.bulk_upload", "form"): Ask(_bulk, refused=_is_refused),
    ("process.execute", "cwd"): Ask(
        post("/process/execute", "cwd", command="ls -a").send, refused=lambda answer: answer.json()["exitCode"] == -1
    ),
    ("pty.create", "cwd"): Ask(_terminal, refused=_is_denied),
    ("pty.create_connect", "cwd"): Ask(_connected, refused=_is_refused),
    ("git.clone", "path"): _git("clone", url=CLONED),
    ("git.status", "path"): _query("GET", "/git/status"),
    ("git.history", "path"): _query("GET", "/git/history"),
    ("git.branches", "path"): _query("GET", "/git/branches"),
    ("git.create_branch", "path"): _git("branches", name="other"),
    ("git.delete_branch", "path"): _delete("/git/branches", name="other"),
    ("git.checkout", "path"): _git("checkout", branch="other"),
    ("git.add", "path"): _git("add", files=["."]),
    ("git.add", "files"): _listed("/git/add", "files", _is_refused, path="/workspace/given"),
    ("git.commit", "path"): _git("commit", message="m", author="a", email="a@b.c"),
    ("git.pull", "path"): _git("pull"),
    ("git.push", "path"): _git("push"),
}
