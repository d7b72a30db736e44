"""Every way to hand a path to the daemon by the Daytona toolbox API: its table (see `tests.asking`)."""

from typing import Any

from tests.asking import Ask, Caller, Key, More, form, post
from tests.conftest import Answer
from tests.filing import FORM
from tests.filing import form as form_of

PREFIX = "/daytona"


def _is_denied(answer: Answer) -> bool:
    return answer.status == 403


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
    ("files.bulk_upload", "form"): Ask(_bulk, refused=lambda answer: answer.status >= 400),
}
