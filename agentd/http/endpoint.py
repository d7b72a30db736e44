"""A row of a dialect, and what its handler gets and gives.

    Endpoint("PUT", "/uploads/{upload_id}/parts/{n}", "uploads.part", put_part, params=PartParams, result=Session)

One row drives routing, decoding, the OpenAPI document, metric labels and the documented errors.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agentd.errors import AgentError
from agentd.http.body import Body


@dataclass(frozen=True, slots=True)
class Call:
    """One request, understood.

    params: the row's ``params`` Struct, from path and query. data: its ``body`` Struct, from JSON. headers: by name, in
    any case. body: the raw bytes where the row has no ``body``. mount: the template of the prefix it came in by, such
    as ``/v1/machines/{id}``.
    """

    params: Any
    data: Any
    headers: Mapping[str, str]
    body: Body
    request_id: str
    mount: str


@dataclass(frozen=True, slots=True)
class FileResult:
    """An answer made of the first ``size`` bytes of an open file, or of what the request wants of them.

    fd: closed once they are sent. mtime: Unix seconds, for Last-Modified. name: what a browser should call it.
    version: ASCII letters, digits and dashes, others whenever the content is another; "" where nothing tells.
    """

    fd: int
    size: int
    mtime: float
    name: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class TextResult:
    """An answer that is no JSON."""

    text: str
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation.

    path: below the mounts of its dialect; ``{name}`` stands for one segment. name: the metric and log label.
    handler: returns JSON (Struct, list, dict) sent with ``status``, None (204), a `FileResult` or a `TextResult`.
    params, body, result: Structs; ``body=None`` leaves the body raw. errors: those of its own, for the documentation.
    """

    method: str
    path: str
    name: str
    handler: Callable[[Call], Awaitable[object]]
    params: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    result: Any = None
    errors: tuple[type[AgentError], ...] = ()
    status: int = 200
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """An API: rows below one or several mounts, and the error body that its clients expect.

    render(error, request_id, mount) gives the JSON object of an error; None stands for RFC 9457 problem+json.
    admit: raises where the segments of the path, by name, are not for this daemon.
    """

    name: str
    mounts: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    render: Callable[[AgentError, str, str], dict[str, Any]] | None = None
    admit: Callable[[Mapping[str, str]], None] | None = None
