"""Every way to hand a path to the daemon by Duvo's, Blackbox's and Conway's APIs: their tables (see `tests.asking`)."""

from urllib.parse import quote, urlsplit

from tests.asking import Ask, Caller, Key, More, post, query
from tests.conftest import Answer
from tests.filing import FORM
from tests.uploading import IDENT

# By the dialect's name.
PREFIXES = {
    "duvo": f"/duvo/v1/sandboxes/{IDENT}",
    "blackbox": f"/blackbox/api/v1/tasks/{IDENT}",
    "conway": f"/conway/v1/sandboxes/{IDENT}",
}


def _is_denied(answer: Answer) -> bool:
    return answer.status == 403


def _plain(ask: Ask) -> Ask:
    """These APIs say by the status alone that they refuse."""
    return Ask(ask.send, ask.follows, _is_denied)


def _body(route: str, **body: str) -> Ask:
    return _plain(post(route, **body))


def _query(route: str, **more: str) -> Ask:
    return _plain(query("GET", route, **more))


def _form(route: str, directory: str = "") -> Ask:
    """The path comes last. directory: what is put before the file's name to make a directory of it."""

    def send(caller: Caller, path: str, more: More) -> Answer:
        head = 'Content-Disposition: form-data; name="{}"'
        file = f'{head.format("file")}; filename="new"\r\n\r\nnew'.encode()
        named = f"{head.format('path')}\r\n\r\n{path}{directory}".encode()
        body = b"".join(b"--edge\r\n" + part + b"\r\n" for part in (file, named)) + b"--edge--\r\n"
        return caller.request("POST", caller.prefix + route, body, FORM)

    # Below a file there is nothing that could be refused.
    return Ask(send, refused=lambda answer: answer.status == 403 or (bool(directory) and answer.status == 400))


def _put(caller: Caller, path: str, more: More) -> Answer:
    """By the URL that was asked for, without a token."""
    answer = caller.post("/upload-urls", {"path": path})
    if answer.status != 200:
        return answer
    url = urlsplit(answer.json()["upload_url"])
    return caller.request("PUT", f"{url.path}?{url.query}", b"new", token=False)


def _path(method: str, body: bytes | None = None, *, follows: bool = True) -> Ask:
    """In the path, where it is absolute."""

    def send(caller: Caller, path: str, more: More) -> Answer:
        absolute = path if path.startswith("/") else f"/workspace/{path}"
        where = f"{caller.prefix}/files{quote(absolute, errors='surrogateescape')}"
        return caller.request(method, where, body, {"Content-Type": "application/json"} if body else {})

    return Ask(send, follows, _is_denied)


DUVO: dict[Key, Ask] = {
    ("upload_urls.create", "path"): Ask(_put, refused=_is_denied),
    ("upload_urls.put", "path"): _plain(query("PUT", "/upload", b"new")),
    ("files.list", "path"): _query("/files"),
    ("files.upload", "form"): _form("/files"),
}
BLACKBOX: dict[Key, Ask] = {
    ("files.upload", "form"): _form("/files/upload", "/"),
    ("files.list", "path"): _query("/files", recursive="true"),
    ("files.download", "path"): _query("/files/download", format="zip"),
    ("files.read", "path"): _path("GET"),
    ("files.write", "path"): _path("PUT", b'{"content":"new"}'),
    ("files.remove", "path"): _path("DELETE", follows=False),
}
CONWAY: dict[Key, Ask] = {
    ("files.write", "path"): _body("/files", content="new"),
    ("files.upload", "path"): _body("/files/upload/json", content="new"),
    ("files.read", "path"): _query("/files"),
    ("files.list", "path"): _query("/files/list"),
}
