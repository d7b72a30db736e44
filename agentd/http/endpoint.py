"""A row of a dialect, and what its handler gets and gives.

    Endpoint("PUT", "/uploads/{upload_id}/parts/{n}", "uploads.part", put_part, params=PartParams, result=Session)

One row drives routing, decoding, the OpenAPI document, metric labels and the documented errors.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any

import msgspec

from agentd.errors import AgentError
from agentd.http.access import Access
from agentd.http.body import Body
from agentd.http.ending import Ending
from agentd.http.signing import Grant

RAW, FORM = "application/octet-stream", "multipart/form-data"
FILE = ((206, RAW), (304, None))  # what a `FileResult` is sent as, beside 200
SOCKET = "WEBSOCKET"  # what stands for the method of a row that is a socket


# Bytes that are the content of a field of a form, in a Struct that describes one.
FileField = Annotated[str, msgspec.Meta(extra_json_schema={"contentMediaType": RAW})]


class Call(msgspec.Struct, frozen=True):
    """One request, understood.

    params: the row's ``params`` Struct, from path and query. data: its ``body`` Struct, from JSON. headers: by name, in
    any case. body: the raw bytes where the row has no ``body``. mount: the template of the prefix it came in by, such
    as ``/v1/machines/{id}``. ending: of the server, or of the sandbox that is asked.

    grant: of the signed URL that the call came by; its path, user and limit are binding. public_url(): the origin that
    the caller reaches the daemon by. sign(grant): the token of a signed URL, for its query's ``file_token``.
    """

    params: Any
    data: Any
    headers: Mapping[str, str]
    body: Body
    request_id: str
    mount: str
    ending: Ending
    public_url: Callable[[], str]
    sign: Callable[[Grant], str]
    grant: Grant | None = None


class FileResult(msgspec.Struct, frozen=True):
    """An answer made of the first ``size`` bytes of an open file, or of what the request wants of them.

    fd: closed once they are sent. mtime: Unix seconds, for Last-Modified. name: what a browser should call it.
    version: ASCII letters, digits and dashes, others whenever the content is another; "" where nothing tells.
    """

    fd: int
    size: int
    mtime: float
    name: str
    version: str = ""


class StreamResult(msgspec.Struct, frozen=True):
    """An answer that is sent while it is made; what can be refused is refused before there is one.

    chunks: closed (``aclose``) as soon as the answer ends, the client leaves or one fails. A failure cuts the
    connection. held: closed after them, also where none was asked for. name: what a browser should call it; "" for what
    is no file. lasting: ends only with what it follows, so it is cut a second after ``Call.ending``. filler: sent where
    nothing else was for ``idle_seconds``.
    """

    chunks: AsyncIterator[bytes]
    content_type: str = "application/octet-stream"
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    status: int = 200
    name: str = ""
    lasting: bool = False
    filler: bytes = b""
    idle_seconds: float = 15.0
    held: AsyncExitStack | None = None


class TextResult(msgspec.Struct, frozen=True):
    """An answer that is no JSON, or that is sent with another ``status`` than that of its row."""

    text: str
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class Endpoint(msgspec.Struct, frozen=True):
    """One operation.

    path: below the mounts of its dialect, or below ``mounts`` where it has its own; ``{name}`` stands for one segment,
    ``{name...}`` for all that are left.
    name: the metric and log label. handler: returns JSON (Struct, list, dict) sent with ``status``, None (no body), a
    `FileResult`, a `StreamResult` or a `TextResult`. socket: the row is a WebSocket and
    ``handler(call, socket)`` its conversation; the method is GET, and a plain GET may have the same path.
    longest_message: bytes of a message that its client may send.
    signed: a signed URL does in place of a token, and ``Call.grant`` tells what it grants; that of a socket grants the
    method `SOCKET`, which no other row takes. public: no token is asked for. access: who may ask, where that is not
    whoever may ask for the others.
    params, body, result: Structs; ``body=None`` leaves the body raw. body_limit: bytes of JSON, where the server's
    limit is too small for what the row takes. errors: those of its own, for the documentation, as is all that follows.
    takes and sends: the media types of a raw body (none where it has no body) and of an answer that is no JSON.
    form: the fields of a form. also: further answers, each a status and a Struct, a media type, or None for no body.
    headers: of the request, by name what they mean. example: a body.
    """

    method: str
    path: str
    name: str
    handler: Callable[..., Awaitable[object]]
    params: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    result: Any = None
    errors: tuple[type[AgentError], ...] = ()
    status: int = 200
    summary: str = ""
    body_limit: int | None = None
    socket: bool = False
    longest_message: int = 1 << 20
    signed: bool = False
    public: bool = False
    access: Access | None = None
    takes: tuple[str, ...] = (RAW,)
    sends: tuple[str, ...] = ()
    form: type[msgspec.Struct] | None = None
    also: tuple[tuple[int, Any], ...] = ()
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    example: Any = None
    mounts: tuple[str, ...] = ()


class Stand(msgspec.Struct, frozen=True):
    """Who answers a call in place of its row. handler: as the row's. ending: of what answers. sandbox: the one that the
    call's signed URLs are good for; None for the machine itself."""

    handler: Callable[..., Awaitable[object]]
    ending: Ending
    sandbox: str | None = None


class Failed(msgspec.Struct, frozen=True):
    """A request that failed, as a dialect may have to tell of it. path: raw, without the query."""

    error: AgentError
    request_id: str
    method: str
    path: str


class Dialect(msgspec.Struct, frozen=True):
    """An API: rows below one or several mounts, and the error body that its clients expect.

    render(error, request_id, mount) gives the JSON object of an error; None stands for RFC 9457 problem+json.
    tell: in place of render, for an API that has statuses of its own or names the request: status and JSON object.
    admit: raises where the segments of the path, by name, are not for this daemon.
    ids: the segments that name a sandbox.
    stand_in: who answers for a row and these segments, where it is not the row's own handler, within the server's
    `Ending`; raises as ``admit`` does.
    close: the code and the reason (123 bytes) that a socket is closed with whose handler raised.
    errors: those of ``admit``. failure: the error body, for the documentation; None stands for problem+json.
    """

    name: str
    mounts: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    render: Callable[[AgentError, str, str], dict[str, Any]] | None = None
    admit: Callable[[Mapping[str, str]], None] | None = None
    stand_in: Callable[[Endpoint, Mapping[str, str], Ending], Stand] | None = None
    close: Callable[[AgentError], tuple[int, str]] = lambda error: (1011, error.code)
    tell: Callable[[Failed], tuple[int, dict[str, Any]]] | None = None
    errors: tuple[type[AgentError], ...] = ()
    failure: type[msgspec.Struct] | None = None
    ids: tuple[str, ...] = ("machine_id", "sandbox_id")

    @property
    def rows(self) -> list[tuple[str, Endpoint]]:
        """Each row with each mount that it is below."""
        return [(mount, row) for row in self.endpoints for mount in row.mounts or self.mounts]
