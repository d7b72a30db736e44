"""The one place where a failure becomes HTTP.

The body is what the dialect's ``render`` makes of the error, or problem details (RFC 9457) where no dialect is in
charge. The extension members are ``code``, ``retryable``, ``request_id`` and the error's own facts.
"""

import logging
import math
from typing import Any
from uuid import uuid4

import msgspec

from agentd.errors import AgentError, Internal, RangeNotSatisfiable, UpgradeRequired
from agentd.http import web
from agentd.http.codec import encode
from agentd.http.endpoint import Dialect, Failed
from agentd.telemetry import fields

CONTENT_TYPE = "application/problem+json"
SERVER = "agentd"  # aiohttp would name itself and the interpreter, with their versions

_log = logging.getLogger("agentd.http")


class Problem(msgspec.Struct):
    """Problem details as in RFC 9457 section 3, with the members that are always there."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str


def internal(exception: BaseException, what: str) -> Internal:
    """What the caller may learn of an unforeseen failure: the id under which the log has its traceback."""
    instance = uuid4().hex
    _log.error("unexpected failure in %s", what, exc_info=exception, extra=fields(instance=instance))
    return Internal(f"an unexpected failure; the daemon's log has it as {instance}", instance=instance)


def problem(error: AgentError, request_id: str) -> dict[str, Any]:
    """`Problem`, with the error's own facts."""
    return {
        **error.facts,
        "type": f"urn:agentd:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": request_id,
    }


def respond(
    error: AgentError,
    request_id: str,
    dialect: Dialect | None = None,
    mount: str = "",
    asked: tuple[str, str] = ("", ""),
) -> web.Response:
    """The answer to a request that failed with ``error``. asked: its method and raw path."""
    status = error.status
    if dialect is not None and dialect.tell is not None:
        status, said = dialect.tell(Failed(error, request_id, *asked))
        body, content_type = encode(said), "application/json"
    elif dialect is None or dialect.render is None:
        body, content_type = encode(problem(error, request_id)), CONTENT_TYPE
    else:
        body, content_type = encode(dialect.render(error, request_id, mount)), "application/json"
    headers = {"Content-Type": content_type, "Server": SERVER, "X-Request-Id": request_id}
    response = web.Response(status=status, body=body, headers=headers)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="agentd"'
    if isinstance(wait := error.facts.get("retry_after"), int | float):
        response.headers["Retry-After"] = str(math.ceil(wait))
    if error.status == 429:
        wait = response.headers.setdefault("Retry-After", "1")
        response.headers.update({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": wait})
        if isinstance(limit := error.facts.get("limit"), int):
            response.headers["X-RateLimit-Limit"] = str(limit)
    if isinstance(allow := error.facts.get("allow"), list):
        response.headers["Allow"] = ", ".join(allow)
    if isinstance(error, RangeNotSatisfiable):
        response.headers["Content-Range"] = f"bytes */{error.facts['size']}"
    if isinstance(error, UpgradeRequired):
        response.headers.update({"Upgrade": "websocket", "Connection": "upgrade", "Sec-WebSocket-Version": "13"})
    return response
